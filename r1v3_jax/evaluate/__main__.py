"""Asks a checkpoint, or any server, the benchmarks of the report, and scores its answers.

python -m r1v3_jax.evaluate --checkpoint=DIR --benchmark=MMMU_DEV_VAL,MathVista_MINI \
    --data=LMUDATA --out=DIR [--judge_url=http://host:8000/v1 --judge_model=NAME]
python -m r1v3_jax.evaluate --endpoint=http://host:8000/v1 --model=NAME --benchmark=...
python -m r1v3_jax.evaluate --list

The same command again goes on where it was stopped. Whatever is wrong is said before anything is
sampled. See docs/evaluation.md.
"""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from r1v3_jax import cli
from r1v3_jax.benchmarks import table
from r1v3_jax.benchmarks.scoring import Score
from r1v3_jax.evaluate import (
    benchmark_numbers,
    benchmark_run,
    benchmark_summary,
    benchmark_tables,
    flags,
    protocol,
)
from r1v3_jax.evaluate.benchmark_run import Prepared, Reader
from r1v3_jax.evaluate.benchmark_summary import Scorer
from r1v3_jax.evaluate.benchmark_tables import percent
from r1v3_jax.evaluate.checkpoint_answers import CheckpointModel
from r1v3_jax.evaluate.samples import Item
from r1v3_jax.files import read_jsonl, write_json


def main() -> None:
    """Checks everything, samples, scores, and prints the table."""
    if flags.LIST.value:
        print(list_benchmarks())
        return

    began = time.monotonic()

    # 1. Whatever can be wrong.
    flags.check()
    data = Path(flags.DATA.value)
    reader = Reader(
        data,
        flags.MISSING.value,
        flags.PLACEMENT.value,
        flags.ANY_MD5.value,
        flags.PROMPTS.value,
    )
    prepared = [benchmark_run.prepare(name, reader) for name in flags.BENCHMARK.value]
    flags.check_judge(prepared)
    model, prepared, described = flags.make_model(prepared)
    out = Path(flags.OUT.value)
    scorer = flags.make_scorer(model, out)
    for part in prepared:
        sampling = {**described, **part.described}
        settings = {"sampling": sampling, "scoring": scorer.protocol()}
        protocol.settle(out / part.benchmark.name / "protocol.json", settings)
        announce(part)

    # 2. Sample. A benchmark is scored while the next one is sampled; a judge that fails says so
    # when all are sampled, and costs no sample.
    scored = []
    mesh = (
        contextlib.nullcontext() if flags.ENDPOINT.value else cli.set_mesh(flags.MESH)
    )
    with mesh, ThreadPoolExecutor(1, thread_name_prefix="score") as behind:
        for part in prepared:
            folder = out / part.benchmark.name
            benchmark_run.run(part, model, flags.RUNS.value, folder, progress(part))
            scored.append(behind.submit(score, part, scorer, folder))
    summaries = [summary.result() for summary in scored]

    # 3. Tell.
    write_json(out / "summary.json", {s["benchmark"]: s for s in summaries})
    print(benchmark_tables.write_table(out / "summary.md", summaries), end="")
    for summary in summaries:
        for line in notes(summary):
            print(line)
    if isinstance(model, CheckpointModel) and model.began:
        before = model.began - began
        after = time.monotonic() - model.began - model.sampling_s
        print(
            f"{model.sampling_s:.1f} s of sampling; {before:.1f} s before it for files, weights "
            f"and programs, {after:.1f} s that it waited for prompts, scores and files"
        )


def score(part: Prepared, scorer: Scorer, folder: Path) -> dict:
    """Writes the predictions and the scores of a benchmark; returns its summary."""
    runs = flags.RUNS.value
    benchmark_tables.write_predictions(
        part, runs, folder, flags.MODEL.value, scorer.thinking
    )
    summary = benchmark_summary.summarise(part, runs, folder, scorer)
    if flags.COMPARE.value:
        summary["compared"] = compare(part, folder, Path(flags.COMPARE.value))
    return summary


def announce(part: Prepared) -> None:
    """Says what will be asked, and what cannot be."""
    problems = [item for item in part.items if item.problem]
    print(
        f"{part.benchmark.name}: {len(part.items)} questions x {flags.RUNS.value}",
        flush=True,
    )
    for item in problems[:5]:
        print(f"  not asked, counts as wrong: {item.question.index}: {item.problem}")
    if len(problems) > 5:
        print(f"  and {len(problems) - 5} more, see not_asked in summary.json")
    if part.benchmark.judge == "rest" and not flags.JUDGE_URL.value:
        print(
            "  no judge: what the rule leaves open is reported as not known", flush=True
        )


def progress(part: Prepared):
    """Returns a function that prints each tenth of the samples."""
    printed = set()

    def report(done: int, of: int) -> None:
        tenth = 10 * done // max(of, 1)
        if tenth not in printed:
            printed.add(tenth)
            print(f"{part.benchmark.name}: {done} of {of} answers", flush=True)

    return report


def compare(part: Prepared, folder: Path, other: Path) -> dict[str, float]:
    """Returns this model's score less that of the other folder, question by question."""
    theirs = other / part.benchmark.name / "scores.jsonl"
    if not theirs.is_file():
        raise ValueError(f"--compare={other}: no {theirs}; evaluate that model first")
    ours = scores_of(folder / "scores.jsonl", part.items)
    return benchmark_numbers.compare(
        part.benchmark, part.questions, scores_of(theirs, part.items), ours
    )


def scores_of(path: Path, items: list[Item]) -> list[list[Score]]:
    """Reads scores [Q][R] in the order of the items; ValueError if questions differ."""
    by_index: dict[str, list[Score]] = {}
    for row in read_jsonl(path):
        score = Score(row["right"], row["by"], row["extracted"])
        by_index.setdefault(row["index"], []).append(score)
    wanted = {item.question.index for item in items}
    if wanted != by_index.keys():
        raise ValueError(
            f"{path}: other questions than here; compare runs on the same file"
        )
    return [by_index[item.question.index] for item in items]


def notes(summary: dict) -> list[str]:
    """Returns what is worth a line below the table."""
    name = summary["benchmark"]
    lines = []
    if summary["budgets"]:
        parts = [f"{tokens}: {percent(x)}" for tokens, x in summary["budgets"].items()]
        lines.append(f"{name}: with fewer tokens {', '.join(parts)}")
    if len(summary["pass"]) > 1:
        k, share = list(summary["pass"].items())[-1]
        lines.append(f"{name}: pass@{k} {percent(share)}")
    if summary["not_asked"]:
        lines.append(f"{name}: {len(summary['not_asked'])} questions were not asked")
    if "compared" in summary:
        gap = {key: f"{100 * value:+.1f}" for key, value in summary["compared"].items()}
        ends = f"{gap['low']} to {gap['high']}"
        lines.append(
            f"{name}: {gap['difference']} points to {flags.COMPARE.value} ({ends})"
        )
    return lines


def list_benchmarks() -> str:
    """Returns the table of benchmarks."""
    rows = [("name", "file", "prompt", "rule", "then", "aggregate", "judge", "paper")]
    for row in table.TABLE:
        names = (
            row.prompt.__name__,
            row.rule.__name__,
            row.verifier,
            row.aggregate.__name__,
        )
        rows.append((row.name, row.file, *names, row.judge, f"{row.paper:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    cli.run(main)
