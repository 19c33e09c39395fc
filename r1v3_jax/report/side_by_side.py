"""Compares the held-out answers of several runs in pairs, question by question."""

import os
from pathlib import Path

from r1v3_jax.evaluate.statistics import clustered_interval
from r1v3_jax.evaluate.verdicts import (
    CREDIT,
    known_shares,
    paired,
    read_shares,
    share_interval,
)
from r1v3_jax.report.run_numbers import label

Table = list[list[str]]


def names_of(workdirs: list[Path]) -> list[str]:
    """Returns a short name for each run: its path without what all paths begin with."""
    paths = [os.path.abspath(path) for path in workdirs]
    if len({*paths}) < len(paths):
        raise ValueError("a run is compared with itself; name each WORKDIR once")
    root = os.path.commonpath(paths)
    return [os.path.relpath(path, root) for path in paths]


def answers(workdir: Path, notes: list[str]) -> dict[str, dict[str, dict]]:
    """Returns {stage: {set: shares}} of a run, for the stages that left verdicts."""
    stages = {}
    # In the order in which they were evaluated.
    paths = sorted(workdir.glob("*/verdicts.jsonl"), key=lambda p: p.stat().st_mtime)
    for path in paths:
        try:
            stages[path.parent.name] = read_shares(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{path} cannot be read: {error}")
    return stages


def comparison(workdirs: list[Path], notes: list[str]) -> tuple[Table, Table]:
    """Returns (accuracies, differences to the first run), after each run's last evaluated stage.

    A difference is the mean over the questions that both runs answered, with the interval of the
    bootstrap over them.
    """
    names = names_of(workdirs)
    last = {}
    for name, workdir in zip(names, workdirs, strict=True):
        stages = answers(workdir, notes)
        if stages:
            last[name] = [*stages.items()][-1]
        else:
            notes.append(f"{name}: no stage left verdicts, so it is in no table.")
    table = [["run", "after stage", "set", "questions", "right, percent"]]
    for name, (stage, sets) in last.items():
        for of_set, shares in sets.items():
            known = known_shares(shares)
            if of_set.endswith(CREDIT) or not len(known):
                continue
            mean, low, high = (100 * x for x in share_interval(known))
            percent = f"{mean:.1f} [{low:.1f}, {high:.1f}]"
            table.append([name, label(stage), of_set, str(len(known)), percent])
    gaps = [["run", "set", "pairs", "difference to the first, points", "says"]]
    if last:
        first, *others = last
        for other in others:
            gaps += differences(other, last[other][1], last[first][1], notes)
    return table if len(table) > 1 else [], gaps if len(gaps) > 1 else []


def differences(name: str, sets: dict, baseline: dict, notes: list[str]) -> Table:
    """Returns one row a set that both runs answered."""
    rows = []
    for of_set, shares in sets.items():
        if of_set.endswith(CREDIT):
            continue
        if baseline.get(of_set, {}).keys() != shares.keys():
            notes.append(f"{name}: {of_set} has other questions than the first run's.")
            continue
        pairs = paired(shares, baseline[of_set])
        if not len(pairs):
            continue
        mean, low, high = (100 * x for x in clustered_interval([pairs]))
        says = "more" if low > 0 else "less" if high < 0 else "may be chance"
        interval = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        rows.append([name, of_set, str(len(pairs)), interval, says])
    return rows
