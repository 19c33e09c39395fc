"""Connector-only tuning of Skywork-R1V3 (arXiv 2507.06167, section 3.4), after GRPO.

    python -m r1v3_jax.launch --config=tpu_v5p_256_connector --workdir=DIR    on every host

Wants checkpoints/grpo (what tpu_v5p_256 leaves in WORKDIR/grpo/done), data/connector.jsonl and
data/connector_validation.jsonl, whose rows have a "chain".
"""

from r1v3_jax.config import R1V3_38B, SFT, Compute, Optimizer, Run
from r1v3_jax.data import Rows

config = Run(
    name="tpu_v5p_256_connector",
    model=R1V3_38B,
    compute=Compute(dtype="bfloat16", remat="attention", attention="splash"),
    mesh=(16, 4, 2),
    topology="v5p:4x4x8",
    init_from="checkpoints/grpo",
    stages={
        "connector": SFT(
            train=Rows("data/connector.jsonl"),
            validation=Rows("data/connector_validation.jsonl"),
            steps=312,  # two passes through 10,000 chains, 64 a step
            rows=64,
            row_tokens=16384,
            tiles=1024,
            trainable="connector",
            optimizer=Optimizer(lr=1e-5, warmup_steps=9, schedule="cosine"),
            validate_every=20,
            validation_steps=2,
            patience=3,
            checkpoint_every=60,
        ),
    },
)
