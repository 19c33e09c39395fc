"""V-Triune: one reinforcement run over perception and reasoning; an IoU threshold that rises.

arXiv 2505.18129. Each row names its verifier. A box is worth its overlap with the reference, above
a threshold that is lenient at first and strict later: IoU .85, from a tenth of the run on .95, from
a quarter on .99. All metrics are also logged by source: detection, counting, mathematics.

    python -m tools.arms --config=recipes/vtriune --arms=dynamic,fixed_50,fixed_99 \\
        --metric=frac_reward_zero_std --metric=detection/reward/iou_75 --first=3 \\
        --workdir=runs/vtriune
    python -m tools.arms --config=recipes/vtriune --workdir=runs/vtriune \\
        --arms=dynamic,detection_only,counting_only,mathematics_only

fixed_*, *_only     the threshold stays as it is; one kind of question alone is trained on

What differs from the paper: a small model from nothing, digits on a canvas, coordinates on a grid
of 4 pixels, and so the thresholds .5, .65, .8 (configs/canvases.py); boxes are paired the closest
first; the vision tower learns too; no pools of prompts.

What came out: docs/results/recipes.md.
"""

import dataclasses

from r1v3_jax.config import load_config
from r1v3_jax.tasks.canvases import Canvases

base = load_config("canvases")
config = dataclasses.replace(
    base,
    name="vtriune",
    evaluate=dataclasses.replace(
        base.evaluate, questions=1000, without_images=False, after=("grpo",)
    ),
)


def with_iou(threshold: float):
    verify = dataclasses.replace(config.verify, iou=threshold)
    return dataclasses.replace(config, verify=verify)


def trained_on(kind: str):
    only = Canvases().mix(**{kind: 1})
    return config.with_stages(
        grpo=dataclasses.replace(config.stages["grpo"], train=only)
    )


arms = {
    "dynamic": config,
    "fixed_50": with_iou(0.5),
    "fixed_99": with_iou(0.99),
    "detection_only": trained_on("detection"),
    "counting_only": trained_on("counting"),
    "mathematics_only": trained_on("mathematics"),
}
