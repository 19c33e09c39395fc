"""A run cut down to a few steps and questions: every program, no learning."""

import dataclasses

from r1v3_jax.config.grpo import GRPO
from r1v3_jax.config.run import Run

STEPS = 2  # of a stage
QUESTIONS = 8  # of a held-out set
PROMPTS = 4  # a step of GRPO
GROUP_SIZE = 4


def cut_down(run: Run) -> Run:
    """Returns the run with few steps and questions, all of whose stages still do all they do."""
    stages = {name: _cut_down_stage(stage) for name, stage in run.stages.items()}
    whole = run.evaluate
    evaluate = dataclasses.replace(
        whole,
        questions=QUESTIONS,
        probe_questions=QUESTIONS,
        batch=QUESTIONS,
        slots=0,
        # As many tiles a question as before.
        tiles=whole.tiles * QUESTIONS // whole.batch,
    )
    return dataclasses.replace(run, stages=stages, evaluate=evaluate)


def _cut_down_stage(stage):
    changes = {"steps": STEPS}
    # What is measured every so many steps is measured at each.
    for field in ("evaluate_every", "validate_every"):
        if getattr(stage, field, 0):
            changes[field] = 1
    if hasattr(stage, "validation_steps"):
        changes["validation_steps"] = 1
    # Buckets and micro-batches are made for the whole size of a step.
    if isinstance(stage, GRPO) and not stage.buckets and stage.accumulate == 1:
        changes |= {
            "prompts": PROMPTS,
            "group_size": GROUP_SIZE,
            "slots": 0,
            "tiles": stage.tiles * PROMPTS // stage.prompts,
        }
    return dataclasses.replace(stage, **changes)
