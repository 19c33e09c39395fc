"""MiroMind-M1's CAMPO: a penalty on the loop that a chain ends in, beside a length that grows.

arXiv 2507.14683. Arms: `off`; `ratio`, equation 6, takes off the share of the completion that its
final loop fills; `constant`, the released code, takes off 0.1 if a cut completion ends in a loop.

Of CAMPO in all arms: reward 1 for a right answer and nothing else, no KL, token mean, clip 0.2 and
0.28, dual clip 10, prompts sampled until 0 < right < G, a limit that rises (32, then 64 tokens).
Not as in the paper: sums in place of competition mathematics; a model from nothing, whose teacher
loops on purpose; a length that steps at half of the run, not when answers stop growing; of the
groups that qualify the first ones, not a random subset.

    python -m tools.arms --config=recipes/miromind --workdir=runs/miromind --first=20 \\
        --metric=frac_reward_zero_std --metric=frac_mixed_answers --metric=rollout_tokens

What came out: docs/results/recipes.md.
"""

from dataclasses import replace

from r1v3_jax.config import load_config
from r1v3_jax.losses import Clipped, TokenMean
from r1v3_jax.losses.schedules import Steps
from r1v3_jax.rewards.loops import looped_share
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import Looped, correct
from r1v3_jax.tasks.sums import Sums

sums = load_config("sums")
GRPO = replace(
    sums.stages["grpo"],
    length_limit=Steps(((0, 32), (0.5, 64))),
    aggregation=TokenMean(),
    loss=Clipped(low=0.2, high=0.28, dual=10.0),
    refills=3,
    refill_by="accuracy",
)
HELD_OUT = Sums(split="held_out", seed=2).mix(short=1, long=1)
EVALUATE = replace(sums.evaluate, sets=(("sums", HELD_OUT),), pooled=(), questions=1000)


def cut_in_a_loop(answered) -> float:
    """Returns 1.0 if a completion was cut in a loop: weighed by 0, it is only logged."""
    return float(not answered.ended and looped_share(answered.ids) > 0)


def campo(penalty: float, looped: Looped):
    reward = Reward(((1.0, correct), (penalty, looped), (0.0, cut_in_a_loop)))
    stages = sums.stages | {"grpo": replace(GRPO, reward=reward)}
    return replace(sums, name="miromind", stages=stages, evaluate=EVALUATE)


arms = {
    "off": campo(0.0, Looped()),
    "ratio": campo(-1.0, Looped()),
    "constant": campo(-1.0, Looped(constant=0.1)),
}
config = arms["ratio"]
