"""Reads what the runs of a comparison answered, question by question."""

from r1v3_jax.arms.plan import Comparison
from r1v3_jax.config import Run
from r1v3_jax.evaluate.verdicts import read_shares

# {arm: {seed: {set: shares}}}; shares: {question: share of right answers, nan if not verified}.
Answers = dict[str, dict[int, dict[str, dict[str, float]]]]


def measured_stages(run: Run) -> list[str]:
    """Returns the stages of a run that are measured, in order."""
    return [name for name in run.stages if run.evaluate.after_stage(name)]


def read_answers(
    comparison: Comparison, arm: str, seed: int, stage: str = ""
) -> dict[str, dict[str, float]]:
    """Returns {set: {question: share of right answers}} after a stage of a run.

    stage: empty for the last that is measured. The set "NAME, credit" has what the answers are
    worth on average, partial credit included.
    """
    run = comparison.arms[arm]
    evaluated = measured_stages(run)
    last = run.evaluate.after_stage(evaluated[-1]) if evaluated else None
    if last is None or not (last.sets or run.evaluate.sets):
        raise ValueError(
            f"{arm}: no stage is evaluated; set evaluate.sets, and evaluate.after = "
            f"({list(run.stages)[-1]!r},)"
        )
    stage = stage or evaluated[-1]
    path = comparison.workdir(arm, seed) / stage / "verdicts.jsonl"
    sets = read_shares(path)
    entry = run.evaluate.after_stage(stage)
    for name, parts in run.evaluate.asked(entry).pooled:
        sets[name] = {
            f"{part}/{question}": share
            for part in parts
            for question, share in sets[part].items()
        }
    return sets
