"""Tables for others: predictions as VLMEvalKit keeps them, and the scores of all benchmarks."""

import csv
from collections.abc import Iterable
from pathlib import Path

from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.scoring import split_thoughts
from r1v3_jax.evaluate.benchmark_run import Prepared, answer_of
from r1v3_jax.evaluate.samples import SampleFile
from r1v3_jax.files import write_text

# Of the table that is printed.
COLUMNS = (
    "benchmark",
    "n",
    "runs",
    "score",
    "95% interval",
    "paper",
    "rule or box",
    "judge",
    "not known",
    "cut",
)


def write_predictions(
    prepared: Prepared, runs: int, folder: Path, name: str, thinking: bool
) -> None:
    """Writes each run as VLMEvalKit keeps predictions: run1/NAME/NAME_BENCHMARK.tsv, never xlsx.

    Thoughts have a column of their own, as in the kit with SPLIT_THINK=1: what is in `prediction`
    is what is scored. `python -m vlmeval --mode eval --reuse --work-dir run1` scores it.
    """
    file = SampleFile(folder / "samples.jsonl")
    for run_number in range(runs):
        rows = []
        for item in prepared.items:
            answer = answer_of(item, file, run_number)
            thoughts, final = split_thoughts(answer, thinking)
            columns = _columns(item.question)
            rows.append({**columns, "thinking": thoughts, "prediction": final or ""})
        path = folder / f"run{run_number + 1}" / name
        path.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(column for row in rows for column in row))
        target = path / f"{name}_{prepared.benchmark.name}.tsv"
        with target.open("w", encoding="utf-8", errors="replace", newline="") as out:
            # All in quotes, as the kit writes them: a lone "\r" would end a line.
            form = {"delimiter": "\t", "lineterminator": "\n", "quoting": csv.QUOTE_ALL}
            writer = csv.DictWriter(out, columns, **form)
            writer.writeheader()
            writer.writerows(rows)


def _columns(question: Question) -> dict[str, str]:
    return {
        "index": question.index,
        "question": question.text,
        **question.options,
        "answer": question.answer,
        **question.fields,
    }


def write_table(path: Path, summaries: Iterable[dict]) -> str:
    """Writes the summaries as a table of Markdown, per cent; returns it."""
    rows = [
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    rows += [f"| {' | '.join(cells_of(summary))} |" for summary in summaries]
    text = "\n".join(rows) + "\n"
    write_text(path, text)
    return text


def cells_of(summary: dict) -> list[str]:
    """Returns the cells of a benchmark below COLUMNS, shares in per cent."""
    by = summary["decided_by"]
    if summary["accuracy"] is None:
        score = f"{percent(summary['lowest'])} to {percent(summary['highest'])}"
    else:
        score = percent(summary["accuracy"])
    return [
        summary["benchmark"],
        str(summary["questions"]),
        str(summary["runs"]),
        score,
        f"{percent(summary['low'])} to {percent(summary['high'])}",
        "" if summary["paper"] is None else f"{summary['paper']:.1f}",
        percent(by.get("rule", 0) + by.get("box", 0)),
        percent(by.get("judge", 0)),
        percent(by.get("nobody", 0)),
        percent(summary["cut"]),
    ]


def percent(share: float) -> str:
    """Returns 0.7604 as 76.0."""
    return f"{100 * share:.1f}"
