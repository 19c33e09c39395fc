"""GRPO of R1V3-38B with low-rank adapters on four v5p chips, one host: tpu_v5e_8_lora, larger.

    python -m r1v3_jax.launch --config=tpu_v5p_8_lora --workdir=DIR
    python -m r1v3_jax.launch --config=tpu_v5p_8_lora --dry_run

Wants checkpoints/R1V3-38B, data/grpo.jsonl and data/probe.jsonl. Memory and time:
docs/results/lora.md.
"""

import dataclasses

from r1v3_jax.config import R1V3_38B, load_config

small = load_config("tpu_v5e_8_lora")
config = dataclasses.replace(
    small,
    name="tpu_v5p_8_lora",
    model=R1V3_38B,
    init_from="checkpoints/R1V3-38B",
    topology="v5p:2x2x1",
    mesh=(1, 4, 1),
    stages={
        "grpo": dataclasses.replace(
            small.stages["grpo"],
            accumulate=32,  # 4 rows at a time, one a chip
        )
    },
)
