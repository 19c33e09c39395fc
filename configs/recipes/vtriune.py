"""V-Triune: one reinforcement run over perception and reasoning; an IoU threshold that rises.

    python -m tools.arms --config=recipes/vtriune --workdir=runs/vtriune \
        --metric=frac_reward_zero_std --metric=detection/reward/iou_75 --first=4

arXiv 2505.18129. Each row names its verifier. A box is worth its overlap with the reference, above
a threshold that is lenient at first and strict later: IoU .85, from a tenth of the run on .95, from
a quarter on .99. All metrics are also logged by source: detection, counting, mathematics.

What differs from the paper: a small model from nothing, digits on a canvas, coordinates on a grid
of 4 pixels, and so the thresholds .5, .65, .8 (canvases.py); boxes are paired the closest first;
the vision tower learns too; no pools of prompts. `fixed_50` and `fixed_99` keep the threshold.

What came out: docs/results/recipes.md.
"""

import dataclasses

from r1v3_jax.config import load_config

canvases = load_config("canvases")
config = dataclasses.replace(
    canvases,
    name="vtriune",
    evaluate=dataclasses.replace(
        canvases.evaluate, questions=1000, without_images=False
    ),
)


def with_iou(threshold: float):
    verify = dataclasses.replace(config.verify, iou=threshold)
    return dataclasses.replace(config, verify=verify)


arms = {
    "fixed_50": with_iou(0.5),
    "fixed_99": with_iou(0.99),
    "dynamic": config,
}
