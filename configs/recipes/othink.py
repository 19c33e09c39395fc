"""OThink-MR1 (arXiv 2503.16081): a KL coefficient that falls, to explore, and then rises.

GRPO-D: from the middle of its range to the lowest value at three tenths of the run, then to the
highest. The claim in small: trained on one task (counting and comparing digits), the model does
better on another (sums of digits) than with a constant coefficient.

    python -m tools.arms --config=recipes/othink --workdir=runs/othink

What differs: a model of 0.6 million weights, the cold start and the reward of `digits`, 30 steps,
and coefficients of 0 to 1 (theirs 0 to 0.02, 0.04 to 0.1): so small a policy moves few nats.

What came out: no better than a constant, but far better than none, docs/results/recipes.md.
"""

from dataclasses import replace

from r1v3_jax.config import Run, load_config
from r1v3_jax.losses import SequenceMean
from r1v3_jax.losses.schedules import DipAndRise
from r1v3_jax.tasks.digits import Digits

digits = load_config("digits")
stages = {name: digits.stages[name] for name in ("base", "cold_start")}
stages["grpo"] = replace(
    digits.stages["grpo"],
    train=Digits(augment=True).mix(easy=1),
    steps=30,
    aggregation=SequenceMean(),
    evaluate_every=5,
    checkpoint_every=10,
)
config = replace(
    digits,
    name="othink",
    stages=stages,
    evaluate=replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:3],  # easy: the trained task; normal and hard: sums
        pooled=(("other_task", ("normal", "hard")),),
        questions=1000,
        without_images=False,
        # Of another seed than the sets.
        probe=Digits(split="held_out", seed=2).mix(easy=1, normal=1),
        select_by="last",
    ),
)


def held(coefficient) -> Run:
    """The run with a coefficient of the KL term."""
    grpo = replace(stages["grpo"], kl_coef=coefficient)
    return config.with_stages(grpo=grpo)


arms = {
    "constant": held(0.5),
    "dip_and_rise": held(DipAndRise(0.0, 1.0)),
    "none": config,
}
