"""Goes through all samples of a run once: counts by step, and the samples worth a look.

What was found in a file is kept in `survey.json` beside the page, so that a run in progress is not
read again and again.
"""

import dataclasses
import heapq
from collections.abc import Callable
from pathlib import Path

from r1v3_jax.files import dumps, read_json, write_text
from r1v3_jax.report.samples import (
    Brief,
    StepFile,
    groups_of,
    is_mixed,
    read_briefs,
    step_files,
)

LISTED = 12  # samples of each list
VERSION = 1  # of survey.json


@dataclasses.dataclass(frozen=True)
class Ranking:
    """A list of samples: those with the highest `rank`, which is None for those that never are."""

    title: str
    explanation: str
    rank: Callable[[Brief], float | None]


RANKINGS = {
    "shortest_right": Ranking(
        "Shortest right",
        "Right answers with the fewest tokens: right by luck, or without a look at the picture?",
        lambda s: -s.length if s.verdict == "right" else None,
    ),
    "longest_wrong": Ranking(
        "Longest wrong",
        "Wrong answers with the most tokens: loops, doubts without an end, a cut at the limit.",
        lambda s: s.length if s.verdict == "wrong" else None,
    ),
    "biggest_gap": Ranking(
        "Biggest gap",
        "Answers where sampler and trainer disagree most, by the mean over their tokens.",
        lambda s: s.gap,
    ),
}


def survey(workdir: Path, cache: Path) -> list[dict]:
    """Returns what `survey_file` found in each file of samples, in order of stage and step."""
    try:
        kept = read_json(cache)
    except (OSError, ValueError):
        kept = {}
    known = kept.get("files", {}) if kept.get("version") == VERSION else {}
    found = {}
    for file in step_files(workdir):
        status = file.path.stat()
        state = [status.st_size, status.st_mtime_ns]
        entry = known.get(file.path.name)
        if entry is None or entry["state"] != state:
            entry = {**survey_file(file), "state": state}
        found[file.path.name] = entry
    write_text(cache, dumps({"version": VERSION, "files": found}) + "\n")
    return list(found.values())


def survey_file(file: StepFile) -> dict:
    """Counts the samples of a file, and ranks them."""
    briefs = list(read_briefs(file.path))
    samples = [brief for brief in briefs if brief is not None]
    groups = groups_of(samples)
    kinds = [kind for sample in samples for kind in sample.kinds]
    counts = {
        kind: kinds.count(kind)
        for kind in ("right", "wrong", "error", "cut", "blind", "gap")
    }
    rewards = [sample.reward for sample in samples if sample.reward is not None]
    ranked = {}
    for name, ranking in RANKINGS.items():
        pairs = [(ranking.rank(sample), -sample.line) for sample in samples]
        pairs = [pair for pair in pairs if pair[0] is not None]
        ranked[name] = [[rank, -line] for rank, line in heapq.nlargest(LISTED, pairs)]
    return {
        "name": file.name,
        "stage": file.stage,
        "step": file.step,
        "samples": len(samples),
        "groups": len(groups),
        "mixed": sum(map(is_mixed, groups)),
        "damaged": len(briefs) - len(samples),
        **counts,
        "reward": sum(rewards) / len(rewards) if rewards else None,
        "length": sum(s.length for s in samples) / len(samples) if samples else None,
        "ranked": ranked,
    }


def best(surveys: list[dict], ranking: str) -> list[tuple[str, int]]:
    """Returns (name of a file, line) of the samples that lead a ranking, over all files."""
    ranks = [
        (rank, entry["name"], line)
        for entry in surveys
        for rank, line in entry["ranked"][ranking]
    ]
    ranks.sort(key=lambda item: (-item[0], item[1], item[2]))
    return [(name, line) for _, name, line in ranks[:LISTED]]
