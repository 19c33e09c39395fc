"""MPO as InternVL3-38B was trained with it (arXiv 2504.10479), on 128 chips: all parts learn.

    python -m r1v3_jax.launch --config=tpu_v5p_256_mpo --workdir=DIR      on every host

Wants checkpoints/InternVL3-38B and data/pairs.jsonl, whose rows have "chosen" and "rejected": of
MMPR, say, or of a stage `Collect(..., Pairs(15))`. Batch, learning rate, schedule and decay are
those of the released script of the 38B; its drop path of 0.4 is left out. Skywork-R1V2
(arXiv 2504.16656) goes on from here with GRPO: --config.init_from=DIR/mpo/done of this run for
tpu_v5p_256.
"""

from r1v3_jax.config import R1V3_38B, Compute, Optimizer, Preference, Run
from r1v3_jax.data import Rows

config = Run(
    name="tpu_v5p_256_mpo",
    model=R1V3_38B,
    compute=Compute(dtype="bfloat16", remat="attention", attention="splash"),
    mesh=(16, 4, 2),
    topology="v5p:4x4x8",
    init_from="checkpoints/InternVL3-38B",
    system="You are a helpful assistant.",  # report, section 6.2
    opening="<think>\n",
    stages={
        "mpo": Preference(
            train=Rows("data/pairs.jsonl"),
            steps=400,  # which the script notes as its best
            pairs=512,
            max_prompt_tokens=4096,  # up to 15 tiles of 256 tokens, and the question
            max_answer_tokens=4096,
            tiles=8192,
            accumulate=8,  # 64 pairs at a time, one for each shard
            prompt_parts=16,  # four tiles of each chip at a time
            optimizer=Optimizer(
                lr=2e-7, warmup_steps=12, schedule="cosine", weight_decay=0.05
            ),
            checkpoint_every=50,
        ),
    },
)
