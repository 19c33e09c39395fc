"""The digits run with a few steps a stage: every program, no learning. The tests' run.

python -m r1v3_jax.launch --config=digits_smoke
"""

import dataclasses
import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location(
    "digits_config", Path(__file__).with_name("digits.py")
)
full = importlib.util.module_from_spec(spec)
spec.loader.exec_module(full)

replace = dataclasses.replace
config = replace(
    full.config,
    name="digits_smoke",
    base=replace(full.config.base, steps=3, rows=4, tiles=16),
    cold_start=replace(
        full.config.cold_start, steps=3, rows=4, tiles=16, validate_every=2, validation_steps=1
    ),
    grpo=replace(
        full.config.grpo,
        steps=2,
        prompts=4,
        group_size=4,
        tiles=4,
        evaluate_every=1,
        rollouts_every=1,
    ),
    connector=replace(
        full.config.connector, steps=3, rows=4, tiles=16, validate_every=2, validation_steps=1
    ),
    evaluate=replace(full.config.evaluate, questions=8, batch=8, tiles=8, probe_questions=8),
)
