"""The language model of the 38B alone, 64 rows of 8,192 tokens: what other trainers publish.

    python -m r1v3_jax.launch --config=tpu_v5p_256_text --dry_run --nodry_run_data

A yardstick for --dry_run alone: an update of 524,288 tokens, no tower, no images. No published
checkpoint is this model.
"""

import dataclasses

from r1v3_jax.config import R1V3_38B, SFT, Compute, Optimizer, Run
from r1v3_jax.data import Rows

config = Run(
    name="tpu_v5p_256_text",
    model=dataclasses.replace(R1V3_38B, vision=None, image_token_id=None),
    compute=Compute(dtype="bfloat16", remat="dots", attention="splash"),
    mesh=(16, 4, 2),
    topology="v5p:4x4x8",
    init_from="none",
    stages={
        "cold_start": SFT(
            train=Rows("none.jsonl"),
            steps=375,
            rows=64,
            row_tokens=8192,
            tiles=0,
            optimizer=Optimizer(lr=1e-5, warmup_steps=11, schedule="cosine"),
        ),
    },
)
