"""All of Skywork-R1V3's recipe in a row on 128 chips: cold start, GRPO, connector-only tuning.

    python -m r1v3_jax.launch --config=tpu_v5p_256_pipeline --workdir=DIR     on every host

The stages of tpu_v5p_256_sft, tpu_v5p_256 and tpu_v5p_256_connector; wants what they want, except
the checkpoints between them.
"""

import dataclasses

from r1v3_jax.config import load_config

sft = load_config("tpu_v5p_256_sft")
grpo = load_config("tpu_v5p_256")
connector = load_config("tpu_v5p_256_connector")

config = dataclasses.replace(
    sft,
    name="tpu_v5p_256_pipeline",
    stages={**sft.stages, **grpo.stages, **connector.stages},
    evaluate=grpo.evaluate,
)
