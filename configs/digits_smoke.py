"""The digits run with a few steps a stage: every program, no learning. The tests' run.

python -m r1v3_jax.launch --config=digits_smoke
"""

import dataclasses

from r1v3_jax.config import load_config

full = load_config("digits")
replace = dataclasses.replace
config = replace(
    full,
    name="digits_smoke",
    stages={
        "base": replace(full.stages["base"], steps=3, rows=4, tiles=16),
        "cold_start": replace(
            full.stages["cold_start"],
            steps=3,
            rows=4,
            tiles=16,
            validate_every=2,
            validation_steps=1,
        ),
        "grpo": replace(
            full.stages["grpo"],
            steps=2,
            prompts=4,
            group_size=4,
            tiles=4,
            evaluate_every=1,
            rollouts_every=1,
        ),
        "connector": replace(
            full.stages["connector"],
            steps=3,
            rows=4,
            tiles=16,
            validate_every=2,
            validation_steps=1,
        ),
    },
    evaluate=replace(full.evaluate, questions=8, batch=8, tiles=8, probe_questions=8),
)
