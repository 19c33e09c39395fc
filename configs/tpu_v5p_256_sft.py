"""The cold start of Skywork-R1V3 (arXiv 2507.06167, section 3.2): all parts learn.

    python -m r1v3_jax.launch --config=tpu_v5p_256_sft --workdir=DIR      on every host

Wants checkpoints/InternVL3-38B and data/cold_start.jsonl, whose rows have a "chain". The report
gives no figures of this stage; batch, learning rate and schedule are those of its SFT ablation
(section 6.1).
"""

from r1v3_jax.config import R1V3_38B, SFT, Compute, Optimizer, Run
from r1v3_jax.data import Rows

config = Run(
    name="tpu_v5p_256_sft",
    model=R1V3_38B,
    # Rows are twice as long as in GRPO: a layer keeps less.
    compute=Compute(dtype="bfloat16", remat="attention", attention="splash"),
    mesh=(16, 4, 2),
    topology="v5p:4x4x8",
    init_from="checkpoints/InternVL3-38B",
    system="You are a helpful assistant.",  # report, section 6.2
    opening="<think>\n",
    stages={
        "cold_start": SFT(
            train=Rows("data/cold_start.jsonl"),
            steps=375,  # two passes through 12,000 chains, 64 a step
            rows=64,
            row_tokens=16384,
            tiles=1024,
            optimizer=Optimizer(lr=1e-5, warmup_steps=11, schedule="cosine"),
            checkpoint_every=75,
        ),
    },
)
