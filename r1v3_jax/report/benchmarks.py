"""What `python -m r1v3_jax.evaluate` found out about the models of a run, in tables.

An evaluation belongs to a run if its --out is a folder directly in the run's --workdir. With
--workdir=runs/digits and --out=runs/digits/benchmark these are read:

    runs/digits/benchmark/MMStar/summary.json
    runs/digits/benchmark/MMStar/protocol.json

The numbers are those of the files; nothing is scored anew.
"""

import dataclasses
from pathlib import Path

from r1v3_jax.evaluate.benchmark_tables import COLUMNS, cells_of, percent
from r1v3_jax.evaluate.samples import BUDGETS
from r1v3_jax.files import read_json
from r1v3_jax.report.samples import UNREADABLE

Table = list[list[str]]

NOT_ASKED = 100  # questions of a benchmark that are named: the first page stays small


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The benchmarks of one --out."""

    folder: str  # its name in the workdir
    scores: Table
    budgets: (
        Table  # accuracy with fewer tokens; empty if no answer was longer than a budget
    )
    not_asked: Table  # questions that could not be asked, by reason
    protocols: Table  # a row a field, a column a benchmark


def read_evaluations(workdir: Path, notes: list[str]) -> list[Evaluation]:
    """Returns the evaluations in a run's folder, by name; what is damaged becomes a note."""
    by_folder: dict[str, list[tuple[dict, dict]]] = {}
    for path in sorted(workdir.glob("*/*/protocol.json")):
        benchmark = path.parent
        # One that is still being asked has no summary yet.
        if not (benchmark / "summary.json").is_file():
            continue
        try:
            summary = read_json(benchmark / "summary.json")
            protocol = read_json(path)
            # What a table needs is there and is what it should be.
            _rows_of(summary, protocol)
        except (OSError, LookupError, *UNREADABLE) as error:
            notes.append(f"The benchmark {benchmark} cannot be shown: {error}")
            continue
        by_folder.setdefault(benchmark.parent.name, []).append((summary, protocol))
    return [_evaluation(folder, parts) for folder, parts in by_folder.items()]


def _evaluation(folder: str, parts: list[tuple[dict, dict]]) -> Evaluation:
    rows = [_rows_of(summary, protocol) for summary, protocol in parts]
    budgets = [cells for _, cells, _, _ in rows if any(cells[1:])]
    heads = ["benchmark", *(f"{budget:,} tokens" for budget in BUDGETS)]
    reasons = [row for _, _, of_benchmark, _ in rows for row in of_benchmark]
    fields = [of_benchmark for *_, of_benchmark in rows]
    names = list(dict.fromkeys(name for of_one in fields for name in of_one))
    return Evaluation(
        folder=folder,
        scores=[[*COLUMNS, "by run"], *(cells for cells, *_ in rows)],
        budgets=[heads, *budgets] if budgets else [],
        not_asked=[["benchmark", "index", "why"], *reasons] if reasons else [],
        protocols=[
            ["field", *(str(summary["benchmark"]) for summary, _ in parts)],
            *([name, *(of_one.get(name, "") for of_one in fields)] for name in names),
        ],
    )


def _rows_of(
    summary: dict, protocol: dict
) -> tuple[list[str], list[str], list[list[str]], dict[str, str]]:
    """Returns (score, budgets, not asked, protocol) of one benchmark, as cells."""
    name = str(summary["benchmark"])
    by_run = ", ".join(percent(share) for share in summary["by_run"])
    shares = [summary["budgets"].get(str(budget)) for budget in BUDGETS]
    budgets = ["" if share is None else percent(share) for share in shares]
    reasons = list(summary["not_asked"].items())
    not_asked = [[name, str(index), str(why)] for index, why in reasons[:NOT_ASKED]]
    if len(reasons) > NOT_ASKED:
        left = f"and {len(reasons) - NOT_ASKED:,} more, see its summary.json"
        not_asked.append([name, "", left])
    fields = {**protocol["sampling"], **protocol["scoring"]}
    said = {str(field): str(value) for field, value in fields.items()}
    return [*cells_of(summary), by_run], [name, *budgets], not_asked, said
