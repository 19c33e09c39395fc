"""What the summary page says of a run, in words and tables. What is damaged becomes a note."""

import collections
import dataclasses
import json
from pathlib import Path

from r1v3_jax.files import read_json
from r1v3_jax.report.charts import short
from r1v3_jax.report.plots import questions
from r1v3_jax.report.run_numbers import accuracies, interval, known, label
from r1v3_jax.types import REASONS

# Files that make a directory a run's, also one that has only begun.
MARKS = ("metrics.jsonl", "run.json", "summary.json", "rollouts")


@dataclasses.dataclass(frozen=True)
class Files:
    """What was read of a run."""

    workdir: Path
    summary: dict  # empty if the run is not finished
    config: dict  # run.json
    rows: list[dict]  # of metrics.jsonl
    drops: list[dict]  # of drops.jsonl
    notes: list[str]  # what is missing or damaged


def read_files(workdir: Path) -> Files:
    """Reads a run's files, as many as there are. FileNotFoundError if it is no run's directory."""
    if not workdir.is_dir():
        raise FileNotFoundError(
            f"{workdir}: no such directory; give the --workdir of a run, as runs/digits"
        )
    if not any((workdir / mark).exists() for mark in MARKS):
        raise FileNotFoundError(
            f"{workdir}: not a run's directory, it has none of {', '.join(MARKS)}; give the "
            "--workdir of a run, as runs/digits"
        )
    notes: list[str] = []
    summary = read_object(workdir / "summary.json", notes)
    if not summary:
        notes.append("The run is not finished, or its summary.json is lost.")
    rows = [
        row
        for row in read_lines(workdir / "metrics.jsonl", notes)
        if isinstance(row.get("stage"), str) and isinstance(row.get("step"), int)
    ]
    if not rows:
        notes.append("metrics.jsonl has no step yet: there are no curves.")
    if not (workdir / "rollouts").is_dir():
        notes.append("There is no folder rollouts: no samples to show.")
    return Files(
        workdir=workdir,
        summary=summary,
        config=read_object(workdir / "run.json", notes),
        rows=rows,
        drops=read_lines(workdir / "drops.jsonl", notes),
        notes=notes,
    )


def read_object(path: Path, notes: list[str]) -> dict:
    """Reads a JSON object; a damaged one is noted and empty."""
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}


def read_lines(path: Path, notes: list[str]) -> list[dict]:
    """Reads the lines of a file that are JSON objects; how many are not is noted."""
    if not path.is_file():
        return []
    rows = []
    damaged = 0
    # Behind the last newline there is nothing, or a line that is still being written.
    lines = path.read_bytes().split(b"\n")
    for line in lines[:-1]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged += 1
    if lines[-1]:
        notes.append(f"The last line of {path.name} is cut off; it is left out.")
    if damaged:
        notes.append(f"{path.name}: {damaged} damaged lines are left out.")
    return rows


# -------------------------------------------------------------------------------------------------
# tables: each is a list of rows of text, the first of them its head


Table = list[list[str]]


def head_facts(files: Files) -> Table:
    """Returns what ran, where and for how long, as pairs."""
    summary = files.summary
    versions = summary.get("versions", {})
    seconds = summary.get("wall_s")
    facts = {
        "run": summary.get("name"),
        "folder": str(files.workdir),
        "seed": summary.get("seed"),
        "device": versions.get("device_kind"),
        "devices": versions.get("devices"),
        "commit": versions.get("commit"),
        "seconds of the last start": seconds,
        "peak memory of the first host, GiB": summary.get("peak_rss_gib"),
        "compilations after warm-up": summary.get("compiles_after_warmup"),
        "chosen checkpoint": summary.get("why"),
        "rank correlation of entropy and accuracy": summary.get("rank_correlation"),
    }
    packages = {
        name: version
        for name, version in versions.items()
        if name not in ("device_kind", "devices", "commit", "platform")
    }
    facts["versions"] = ", ".join(f"{name} {v}" for name, v in packages.items())
    return [
        [name, text(value)] for name, value in facts.items() if value not in (None, "")
    ]


def text(value) -> str:
    """Writes a value of a summary."""
    return short(value) if isinstance(value, float) and known(value) else str(value)


def accuracy_table(files: Files) -> Table:
    """Returns held-out accuracy in percent, a row a stage, a column a set."""
    try:
        stages, sets = accuracies(files.summary)
        if not sets:
            return []
        table = [
            ["after stage", *(f"{name} ({questions(stages, name)})" for name in sets)]
        ]
        for stage, values in stages.items():
            cells = [interval(values.get(name)) for name in sets]
            table.append([label(stage), *cells])
        return table
    # A summary of another version, or one that was edited by hand.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        files.notes.append(f"summary.json: its accuracies cannot be read ({error!r}).")
        return []


def checkpoint_table(files: Files) -> Table:
    """Returns the checkpoints that were measured, the chosen one marked."""
    table = [
        ["after step", "accuracy of the probe, percent", "critical entropy, nats", ""]
    ]
    for checkpoint in files.summary.get("checkpoints", []):
        step = checkpoint.get("step")
        entropy = checkpoint.get("critical_entropy")
        chosen = "chosen" if step == files.summary.get("chosen_step") else ""
        measured = interval(checkpoint.get("accuracy"))
        entropy = short(entropy) if known(entropy) else "-"
        table.append([str(step), measured, entropy, chosen])
    return table if len(table) > 1 else []


def alarm_table(files: Files) -> Table:
    """Returns each alarm that rang, with its steps."""
    steps = collections.defaultdict(list)
    for row in files.rows:
        for name in row:
            if name.startswith("alarm/"):
                steps[row["stage"], name.removeprefix("alarm/")].append(row["step"])
    if not steps:
        return []
    table = [["stage", "alarm", "steps", "first", "last"]]
    for (stage, name), rang in steps.items():
        numbers = [str(len(rang)), str(min(rang)), str(max(rang))]
        table.append([label(stage), name.replace("_", " "), *numbers])
    return table


def drop_table(files: Files) -> Table:
    """Returns the rows of data that were left out: why, how many, and one of each."""
    counts = collections.Counter()
    example = {}
    for drop in files.drops:
        key = tuple(str(drop.get(k, "")) for k in ("stage", "source", "reason"))
        counts[key] += 1
        example.setdefault(key, f"{drop.get('id', '')}: {drop.get('detail', '')}")
    if not counts:
        return []
    table = [["stage", "source", "reason", "rows", "what it means", "for example"]]
    for (stage, source, reason), count in counts.most_common():
        meaning = REASONS.get(reason, "")
        one = example[stage, source, reason]
        table.append([label(stage), source, reason, str(count), meaning, one])
    return table


def time_table(files: Files) -> Table:
    """Returns where the seconds of the steps went, by stage and part."""
    seconds = collections.defaultdict(float)
    steps = collections.Counter()
    tokens = collections.Counter()
    for row in files.rows:
        stage = row["stage"]
        steps[stage] += 1
        for name, value in row.items():
            # Time of hosts and waiting is inside the parts.
            inside = name.startswith("time/host_") or name == "time/data_wait_s"
            if name.startswith("time/") and known(value) and not inside:
                part = name.removeprefix("time/").removesuffix("_s")
                seconds[stage, part] += value
        for name in ("rollout_tokens", "tokens"):
            if known(row.get(name)):
                tokens[stage] += row[name]
    if not seconds:
        return []
    total = sum(seconds.values())
    table = [
        ["stage", "part", "seconds", "share", "seconds a step", "tokens of the stage"]
    ]
    for (stage, part), spent in seconds.items():
        share = f"{100 * spent / total:.0f}%" if total else "-"
        each = short(spent / steps[stage])
        count = f"{tokens[stage]:.0f}" if tokens[stage] else "-"
        table.append([label(stage), part, short(spent), share, each, count])
    return table


def config_table(files: Files) -> Table:
    """Returns the fields that make the run what it is."""
    return [[str(name), str(value)] for name, value in sorted(files.config.items())]
