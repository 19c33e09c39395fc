"""SEED-Bench-R1: reinforcement generalises further than supervised tuning, over three levels.

arXiv 2503.24376. A film of what was done so far, whose last frame is the present: what comes next?
Levels: L1 as in training, L2 in other surroundings, L3 there and with another task.

    python -m tools.arms --config=recipes/seedbench --workdir=runs/seedbench \\
        --metric=said:reward/consistent

sft     learns chains to the training questions, 24 questions a step
grpo    as many questions; rewarded for the right answer alone, KL 0.1 by k3, mean of samples
care    GRPO-CARE, the successor: no KL, and 0.5 for answers that are likely behind their thoughts
        to a reference that follows (arXiv 2506.16141)

All arms tune on digits that count. L1 has other digits of the same writers, L2 other writers, L3
other writers and the sum of the first and the last digit. The claim is about L2 and L3. `reference`
has learnt to answer what thoughts say; what it answers to those of the tuned model on all levels,
`said`, is how often right answers follow from their thoughts. No arm is rewarded for that.

Other than in the paper: a model from nothing, so the cold start of all arms shows all tasks; films
of three drawn frames; no options; seven of ten chains of SFT do not reason, as its teacher's; the
reference of `care` follows every 5 steps and not every 10.

What came out: docs/results/films.md.
"""

from dataclasses import replace

from r1v3_jax.config import SFT, Collect, Optimizer, load_config
from r1v3_jax.data import Mixture, Reworded
from r1v3_jax.data.reworded import words_alone
from r1v3_jax.distill.keeps import Said
from r1v3_jax.losses import Clipped, SequenceMean
from r1v3_jax.rewards.helpers import Consistent, Frozen, Likely
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct
from r1v3_jax.tasks.digit_frames import Frames
from r1v3_jax.tasks.digits import Digits

films = load_config("recipes/video_r1")
COUNTING = Frames(Digits(seed=4), reading=0.3, jumping=0.4).mix(next=1)
HOME = Frames(Digits(split="held_out", seed=5))
OTHERS = Frames(Digits(domain="second", split="held_out", seed=5))

grpo = replace(
    films.stages["tuning"],
    train=COUNTING,
    start="cold_start",
    reward=Reward(((1.0, correct),)),
    aggregation=SequenceMean(),
    loss=Clipped(),
    kl_coef=0.1,
)
care = replace(
    grpo,
    reward=Reward(((1.0, correct), (0.5, Likely()))),
    kl_coef=0.0,
    reference_decay=0.995,
    reference_every=5,
)
sft = SFT(
    train=COUNTING,
    start="cold_start",
    steps=grpo.steps,
    rows=12,
    row_tokens=192,
    tiles=grpo.tiles,
    optimizer=Optimizer(lr=3e-4, warmup_steps=3),
)
# Half of what it learns from says a wrong result and answers that; a quarter has no equations.
follows = Frames(Digits(seed=4), reading=0.25, misled=0.5).mix(ends=1, next=1)
reference = replace(
    films.stages["cold_start"], train=Reworded(follows, words_alone), steps=200, tiles=1
)
L1, L2, L3 = HOME.mix(next=1), OTHERS.mix(next=1), OTHERS.mix(ends=1)
consistent = Consistent(Frozen(stage="reference"), max_tokens=8, cue="\n\\boxed{")
said = Collect(
    Mixture(((1, L1), (1, L2), (1, L3))),
    Said(),
    start="tuning",
    questions=1500,
    samples=1,
    prompts=125,
    tiles=375,
    max_prompt_tokens=96,
    max_completion_tokens=40,
    reward=Reward(((1.0, correct), (0.0, consistent))),
)
stages = {name: films.stages[name] for name in ("base", "cold_start")}
stages |= {"reference": reference, "tuning": sft, "said": said}
evaluate = replace(
    films.evaluate,
    sets=(("L1", L1), ("L2", L2), ("L3", L3)),
    pooled=(("out_of_distribution", ("L2", "L3")),),
)
config = replace(films, name="seedbench", stages=stages, evaluate=evaluate)
arms = {
    "sft": config,
    "grpo": config.with_stages(tuning=grpo),
    "care": config.with_stages(tuning=care),
}
