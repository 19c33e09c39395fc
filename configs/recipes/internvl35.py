"""InternVL3.5's cascade (arXiv 2508.18265): MPO, then GSPO.

The successor of the base model of Skywork-R1V3 has a ratio for a whole sample where GRPO has one
for each token. Both arms begin with the same MPO stage; the second stage differs in its loss.

    python -m tools.arms --config=recipes/internvl35 --workdir=runs/internvl35

What differs from the paper: a model of 0.6 M weights and the digits task, two updates a rollout
(with one, the ratios are 1 and the losses have the same gradient), no visual consistency learning.

What came out: docs/results/stages.md.
"""

from dataclasses import replace

from r1v3_jax.config import load_config
from r1v3_jax.losses import Clipped, Gspo

cascade = load_config("recipes/r1v2")
stages = dict(cascade.stages)
stages["second"] = replace(
    stages["second"], updates_per_rollout=2, loss=Clipped(high=0.28)
)
config = replace(cascade, name="internvl35", stages=stages)
gspo = replace(stages["second"], loss=Gspo())
arms = {"grpo": config, "gspo": config.with_stages(second=gspo)}
