"""GRPO of InternVL3-8B with low-rank adapters on eight v5e chips: tpu_v5e_8 with a larger model.

    python -m r1v3_jax.launch --config=tpu_v5e_8_lora --workdir=DIR
    python -m r1v3_jax.launch --config=tpu_v5e_8_lora --dry_run

Wants checkpoints/InternVL3-8B, data/grpo.jsonl and data/probe.jsonl. Memory and time:
docs/results/lora.md.
"""

import dataclasses

from r1v3_jax.config import INTERNVL3_8B, LoRA, Optimizer, load_config

small = load_config("tpu_v5e_8")
config = dataclasses.replace(
    small,
    name="tpu_v5e_8_lora",
    model=INTERNVL3_8B,
    init_from="checkpoints/InternVL3-8B",
    # Decoding splits the weights over four chips.
    mesh=(2, 4, 1),
    # The weights stay as they are, so two bytes are enough for each.
    compute=dataclasses.replace(small.compute, param_dtype="bfloat16"),
    stages={
        "grpo": dataclasses.replace(
            small.stages["grpo"],
            trainable="llm",
            lora=LoRA(rank=16, alpha=32.0),
            # Adapters want about ten times the rate of whole matrices.
            optimizer=Optimizer(lr=1e-5),
        )
    },
)
