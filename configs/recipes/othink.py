"""OThink-MR1: a KL coefficient that falls for three tenths of the run, and rises to its end.

arXiv 2503.16081, GRPO-D: beta goes from (min + max) / 2 to min, then to max.

    python -m tools.arms --config=recipes/othink --workdir=runs/othink --first=30
"""

import dataclasses

from r1v3_jax.config import load_config
from r1v3_jax.losses.schedules import DipAndRise

digits = load_config("digits")
stages = {name: digits.stages[name] for name in ("base", "cold_start", "grpo")}
stages["grpo"] = dataclasses.replace(stages["grpo"], steps=40, evaluate_every=5)
config = dataclasses.replace(
    digits,
    name="othink",
    stages=stages,
    evaluate=dataclasses.replace(digits.evaluate, questions=1000, without_images=False),
)


def with_kl(coef) -> object:
    return config.with_stages(grpo=dataclasses.replace(stages["grpo"], kl_coef=coef))


arms = {
    "none": config,
    "constant": with_kl(0.1),
    "dip_and_rise": with_kl(DipAndRise(0.0, 0.2)),
}
