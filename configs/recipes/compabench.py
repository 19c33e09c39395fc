"""ComPABench: a model that learns two skills apart is tested on both at once.

arXiv 2505.19406. Trained on sums and on places in pictures, tested on `both`: the sum of the row
with the largest digit. Claims in small: reinforcement composes better than supervised tuning, and
RL-Ground, a reward for what is seen on the way, better still.

    python -m tools.arms --config=recipes/compabench --workdir=runs/compabench \\
        --metric=reward/facts

rl          rewarded for the right answer, and a little for the form
sft         learns the answers to as many questions, 24 a step
rl_ground   also rewarded for the share of facts that the chain says

The arms differ in `tuning`. Facts are measured in `rl` too: the paper's ground rates.

Other than in the paper: digits in a grid stand for shapes, which a model from nothing has not been
seen to read in minutes (`configs/shapes.py`); the caption is "A4 B7 C3 D8", without a tag; the cold
start asks `both` in words alone, and four of ten of its chains about pictures do not say what they
see. The formula of the progress reward is not published, nor what SFT learns from: both are ours.

What came out: docs/results/films.md.
"""

from dataclasses import replace

from r1v3_jax.config import GRPO, SFT, Evaluate, Optimizer, load_config
from r1v3_jax.data import Mixture
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct, facts, well_formed
from r1v3_jax.tasks.digit_skills import Skills
from r1v3_jax.tasks.digits import Digits

digits = load_config("digits")
SEEN = Digits(augment=True, seed=2)
HELD_OUT = Digits(split="held_out", seed=3)
APART = Skills(SEEN, reading=0.3, jumping=0.4).mix(sum=1, place=1)
IN_WORDS = Skills(SEEN, form="words").mix(sum=1, place=1, both=2)
asked = Skills(HELD_OUT)
in_words = Skills(HELD_OUT, form="words")

cold_start = replace(
    digits.stages["cold_start"],
    train=Mixture(((2, APART), (1, IN_WORDS))),
    validation=None,
    validate_every=0,
    steps=700,
)
rl = GRPO(
    train=APART,
    steps=20,
    prompts=24,
    group_size=8,
    max_prompt_tokens=48,
    max_completion_tokens=40,
    tiles=24,
    reward=Reward(((0.8, correct), (0.2, well_formed), (0.0, facts))),
    aggregation=TokenMean(),
    loss=Clipped(high=0.28),
    optimizer=Optimizer(lr=2e-4, warmup_steps=3),
    checkpoint_every=20,
)
GROUND = Reward(((0.5, correct), (0.2, well_formed), (0.3, facts)))
sft = SFT(
    train=Skills(SEEN, jumping=1.0).mix(sum=1, place=1),
    steps=rl.steps,
    rows=8,
    row_tokens=160,
    tiles=rl.prompts,
    optimizer=Optimizer(lr=3e-4, warmup_steps=3),
)
config = replace(
    digits,
    name="compabench",
    stages={"base": digits.stages["base"], "cold_start": cold_start, "tuning": rl},
    evaluate=Evaluate(
        sets=(
            ("sum", asked.mix(sum=1)),
            ("place", asked.mix(place=1)),
            ("both", asked.mix(both=1)),
            ("both_in_words", in_words.mix(both=1)),
        ),
        pooled=(("apart", ("sum", "place")),),
        after=("tuning",),
        questions=1000,
        without_images=False,
        batch=250,
        tiles=250,
        max_prompt_tokens=48,
        max_tokens=40,
        select_by="last",
    ),
)
arms = {
    "rl": config,
    "sft": config.with_stages(tuning=sft),
    "rl_ground": config.with_stages(tuning=replace(rl, reward=GROUND)),
}
