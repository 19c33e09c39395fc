"""GRPO of InternVL3-8B on four v5p chips, one host: tpu_v5e_8 with a larger model.

    python -m r1v3_jax.launch --config=tpu_v5p_8 --workdir=DIR
    python -m r1v3_jax.launch --config=tpu_v5p_8 --dry_run

Wants checkpoints/InternVL3-8B, data/grpo.jsonl and data/probe.jsonl. Memory and time:
docs/results/pod.md.
"""

import dataclasses

from r1v3_jax.config import INTERNVL3_8B, load_config

small = load_config("tpu_v5e_8")
config = dataclasses.replace(
    small,
    name="tpu_v5p_8",
    model=INTERNVL3_8B,
    init_from="checkpoints/InternVL3-8B",
    topology="v5p:2x2x1",
    mesh=(1, 4, 1),
    compute=dataclasses.replace(small.compute, remat="dots"),  # there is room for it
)
