"""Reads the numbers of a run from metrics.jsonl and summary.json, and prepares them for plots.

Knows nothing of how they are drawn. Numbers that are not finite are null or strings in these files.
"""

import json
import math
from pathlib import Path

import numpy as np

from r1v3_jax.files import read_jsonl

BLIND = "images as noise"  # the name of the blind evaluation, shown like a stage
BOUNDS = ("mean", "low", "high")

Series = tuple[np.ndarray, np.ndarray]  # (steps, values) of a metric


def read_rows(path: Path) -> list[dict]:
    """Reads the whole lines of a metrics.jsonl; none if there is no such file."""
    return read_jsonl(path) if path.exists() else []


def read_summary(directory: Path) -> dict:
    """Reads summary.json; empty if the run has not written it yet."""
    path = directory / "summary.json"
    # A run in progress has none.
    if not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def series(rows: list[dict], stage: str, name: str) -> Series | None:
    """Returns (steps, values) of a metric, nan where it is not finite; None if it never is."""
    steps = []
    values = []
    for row in rows:
        if row["stage"] == stage and name in row:
            steps.append(row["step"])
            values.append(row[name] if known(row[name]) else np.nan)
    values = np.asarray(values, float)
    if np.isnan(values).all():  # also if the metric was never logged
        return None
    return np.asarray(steps, int), values


def stages_that_log(rows: list[dict], name: str) -> list[str]:
    """Returns the stages that log a metric, in the order in which they ran."""
    return list(dict.fromkeys(row["stage"] for row in rows if name in row))


def rewarded_stages(rows: list[dict]) -> list[str]:
    """Returns the stages that learn from rewards, in the order in which they ran.

    A stage that only collects answers logs their rewards, and no length of a prompt's batch.
    """
    learning = stages_that_log(rows, "prompts/padded_length")
    rewarded = stages_that_log(rows, "reward")
    # Runs of before did not log that length.
    return [stage for stage in rewarded if stage in learning] or rewarded


def supervised_stages(rows: list[dict]) -> list[str]:
    """Returns the stages with a loss that learn from no reward."""
    rewarded = stages_that_log(rows, "reward")
    return [stage for stage in stages_that_log(rows, "loss") if stage not in rewarded]


def smooth(values: np.ndarray) -> np.ndarray:
    """Returns the centred moving mean, weighted by a bell (Hann) an eighth of the values wide.

    What is nan or beyond an end has no weight. Fewer than 16 values stay as they are.
    """
    # 16 values: width 3, weights 1/2, 1, 1/2. Between a 4 and a nan, the mean at a 2 is
    # (4/2 + 2) / (1/2 + 1).
    width = 2 * (len(values) // 16) + 1
    bell = np.hanning(width + 2)[1:-1]
    is_known = np.isfinite(values)
    total = np.convolve(np.where(is_known, values, 0.0), bell, "same")
    weight = np.convolve(is_known, bell, "same")
    mean = np.full(len(values), np.nan)
    return np.divide(total, weight, out=mean, where=weight > 1e-9)


def ends(line: Series) -> tuple[float, float]:
    """Returns the start and the end value of the smoothed line."""
    _, raw = line
    values = smooth(raw)
    values = values[np.isfinite(values)]
    return values[0], values[-1]


def accuracies(summary: dict) -> tuple[dict[str, dict], list[str]]:
    """Returns {stage: {set: {mean, low, high, n}}} in the order of stages, and the sets' names."""
    stages = {}
    for stage, values in summary.get("accuracy", {}).items():
        if values:
            stages[stage] = values
    # The policy without its eyes is shown as if it were one more stage.
    if summary.get("blind"):
        stages[BLIND] = summary["blind"]
    # A stage may have been evaluated on fewer sets than the others; each set is listed once.
    sets = []
    for values in stages.values():
        sets += [name for name in values if name not in sets]
    return stages, sets


def known(value) -> bool:
    """Whether a value is finite; as JSON has it, it may also be None or "Infinity"."""
    return isinstance(value, int | float) and math.isfinite(value)


def measured(accuracy: dict | None) -> bool:
    """Whether a stage was evaluated on a set, and any of its answers could be verified."""
    return accuracy is not None and known(accuracy["mean"])


def bounds(accuracies: list[dict]) -> np.ndarray:
    """Returns rows of means, of lower and of upper bounds, in percent: float64[3, N]."""
    rows = []
    for key in BOUNDS:
        rows.append([accuracy[key] for accuracy in accuracies])
    return 100 * np.asarray(rows)


def percent(accuracy: dict | None) -> str:
    """Writes an accuracy as "63%"; "?" if it was not measured."""
    return f"{100 * accuracy['mean']:.0f}%" if measured(accuracy) else "?"


def interval(accuracy: dict | None) -> str:
    """Writes an accuracy as "63.0 [60.0, 65.9]"; "-" if it was not measured.

    With several answers a question also the share with a right one: "63.0 [60.0, 65.9] any 81.2".
    """
    if not measured(accuracy):
        return "-"
    mean, low, high = (f"{100 * accuracy[key]:.1f}" for key in BOUNDS)
    passed = f" any {100 * accuracy['pass']:.1f}" if "pass" in accuracy else ""
    return f"{mean} [{low:>4}, {high:>4}]{passed}"


def label(stage: str) -> str:
    """Returns the name of a stage, or of its probe, as it is read: "cold start", "grpo probe"."""
    return stage.replace("_", " ").replace(".", " ")
