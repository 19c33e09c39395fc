"""Video-R1: learning from the frames of films in order, against frames that are shuffled.

arXiv 2503.21776: T-GRPO gives a bonus where answers to frames in order are right more often than
answers to the same frames shuffled, so that a model cannot do without the order. What stands behind
it, in small: reinforcement on frames in order uses the order; on shuffled frames it cannot.

    python -m tools.arms --config=recipes/video_r1 --workdir=runs/video_r1

ordered     GRPO on films as they are
shuffled    on the same films and questions, with the frames in random order

Both are asked about new films in order, and about shuffled ones. The arms differ in `tuning.train`.

Other than in the paper: the bonus itself is not here, since a term of the reward sees the answers
to one prompt and not those to its shuffled twin; films of three drawn frames; a model from nothing.

What came out: docs/results/films.md.
"""

from dataclasses import replace

from r1v3_jax.config import GRPO, Evaluate, Optimizer, load_config
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.tasks.digit_frames import Frames
from r1v3_jax.tasks.digits import Digits

digits = load_config("digits")
TAUGHT = Frames(Digits(seed=4), reading=0.3, jumping=0.4)
ASKED = Digits(split="held_out", seed=5)
cold_start = replace(
    digits.stages["cold_start"],
    train=TAUGHT.mix(ends=1, next=1),
    validation=None,
    validate_every=0,
    steps=700,
    row_tokens=192,
    tiles=48,
)
tuning = GRPO(
    train=TAUGHT.mix(ends=1),
    steps=20,
    prompts=24,
    group_size=8,
    max_prompt_tokens=96,
    max_completion_tokens=40,
    tiles=72,
    aggregation=TokenMean(),
    loss=Clipped(high=0.28),
    optimizer=Optimizer(lr=2e-4, warmup_steps=3),
    checkpoint_every=20,
)
config = replace(
    digits,
    name="video_r1",
    stages={"base": digits.stages["base"], "cold_start": cold_start, "tuning": tuning},
    evaluate=Evaluate(
        sets=(
            ("ends", Frames(ASKED).mix(ends=1)),
            ("ends_shuffled", Frames(ASKED, shuffled=True).mix(ends=1)),
            ("next", Frames(ASKED).mix(next=1)),
        ),
        after=("tuning",),
        questions=1000,
        without_images=False,
        batch=125,
        tiles=375,
        max_prompt_tokens=96,
        max_tokens=40,
        select_by="last",
    ),
)
shuffled = replace(TAUGHT, shuffled=True)
arms = {
    "ordered": config,
    "shuffled": config.with_stages(tuning=replace(tuning, train=shuffled.mix(ends=1))),
}
