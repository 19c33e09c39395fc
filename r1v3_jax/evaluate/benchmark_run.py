"""One benchmark from its file to its summary: prompts, samples, scores, numbers."""

import csv
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Protocol

from r1v3_jax.benchmarks import kit_prompts, prompts, rules, table, tsv
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.scoring import JUDGING, Answer, Reading, Score, score_all
from r1v3_jax.benchmarks.table import Benchmark
from r1v3_jax.evaluate import benchmark_numbers, protocol
from r1v3_jax.evaluate.samples import BUDGETS, Item, Sample, SampleFile
from r1v3_jax.files import write_json, write_jsonl, write_text
from r1v3_jax.rewards import phrases
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.model import Judge

# Longer cells lose their end in an .xlsx, in which VLMEvalKit keeps predictions by default.
XLSX_CELL = 32_767

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
# A server that refuses more than this share of the answers is set up wrongly.
MAX_REFUSED = 0.1


# Whose words questions are asked in: this program's, or those of an installed VLMEvalKit.
Wording = Literal["own", "kit"]


class Model(Protocol):
    """What answers: a checkpoint or a server."""

    def ask(self, items: list[Item], runs: int, done) -> Iterator[list[Sample]]:
        """Yields the samples that are missing."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """How files are read and questions put."""

    data: Path
    missing: tsv.Missing
    placement: prompts.Placement
    any_md5: bool = False  # whether a file may differ from the published one
    prompts: Wording = "own"


@dataclasses.dataclass(frozen=True)
class Scorer:
    """How answers are scored."""

    reading: Reading
    verify: Verify
    judge: Judge | None
    thinking: bool  # whether answers begin with thoughts

    def scores(
        self,
        benchmark: Benchmark,
        questions: list[Question],
        answers: list[list[Answer]],
    ) -> list[list[Score]]:
        """Returns the scores of answers [Q][R], in the same shape."""
        runs = len(answers[0])
        flat = score_all(
            benchmark,
            [question for question in questions for _ in range(runs)],
            [answer for of_question in answers for answer in of_question],
            reading=self.reading,
            thinking=self.thinking,
            verify=self.verify,
            judge=self.judge,
        )
        return [flat[start : start + runs] for start in range(0, len(flat), runs)]

    def protocol(self) -> dict:
        """Returns what scores depend on."""
        return {
            "reading": self.reading,
            "rules": rules.VERSION,
            "judge": self.judge.model if self.judge else None,
            "judge_prompt": protocol.digest([JUDGING.prompt]) if self.judge else None,
        }


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A benchmark whose file was read and whose prompts were made."""

    benchmark: Benchmark
    items: list[Item]
    described: dict  # of the protocol: file, md5, prompts

    @property
    def questions(self) -> list[Question]:
        return [item.question for item in self.items]


def prepare(name: str, reader: Reader) -> Prepared:
    """Reads a benchmark and makes its prompts. ValueError if its file is not what it should be."""
    benchmark = table.find(name, reader.data)
    questions = table.read(benchmark, reader.data, reader.missing)
    path = reader.data / benchmark.file
    md5 = tsv.md5(path) if path.is_file() else None
    if benchmark.md5 and md5 != benchmark.md5 and not reader.any_md5:
        raise ValueError(
            f"{path}: its MD5 is {md5}, that of the published file {benchmark.md5}; get it again, "
            "or give --any_md5 if it is meant to differ"
        )
    if reader.prompts == "own":
        items = [_item(benchmark, question, reader.placement) for question in questions]
    else:
        asked = kit_prompts.read(name, reader.data, reader.placement)
        items = [_kit_item(question, asked) for question in questions]
    described = {
        "benchmark": name,
        "file": benchmark.file,
        "md5": md5,
        "published_md5": benchmark.md5 or None,
        "missing": reader.missing,
        "placement": reader.placement,
        "prompt": "kit" if reader.prompts == "kit" else benchmark.prompt.__name__,
        "prompts": protocol.digest(part for item in items for part in item.asked.parts),
        "questions": len(items),
    }
    return Prepared(benchmark, items, described)


def _item(
    benchmark: Benchmark, question: Question, placement: prompts.Placement
) -> Item:
    text = benchmark.prompt(question)
    if question.problem:
        return Item(question, prompts.Asked((text,)), question.problem)
    try:
        asked = prompts.place(text, len(question.images), placement)
    except ValueError as error:
        return Item(question, prompts.Asked((text,)), str(error))
    return Item(question, asked)


def _kit_item(question: Question, asked: dict[str, prompts.Asked]) -> Item:
    if question.index not in asked:
        return Item(question, prompts.Asked(("",)), "VLMEvalKit makes no prompt of it")
    return Item(question, asked[question.index], question.problem)


def run(
    prepared: Prepared,
    model: Model,
    runs: int,
    folder: Path,
    report=lambda done, of: None,
) -> list[list[Answer]]:
    """Returns the answers [Q][R] to a benchmark; those that are in the folder are not asked again.

    report(done, of): is told how many samples there are.
    """
    file = SampleFile(folder / "samples.jsonl")
    askable = [item for item in prepared.items if not item.problem]
    wanted = runs * len(askable)
    is_there = lambda run, index: (run, index) in file.samples  # noqa: E731
    for samples in model.ask(prepared.items, runs, is_there):
        file.add(samples)
        report(len(file.samples), wanted)
    return [
        [_answer(item, file, run) for run in range(runs)] for item in prepared.items
    ]


def _answer(item: Item, file: SampleFile, run: int) -> Answer:
    if item.problem:
        return Answer("", problem=item.problem)
    return file.samples[run, item.question.index].answer()


def summarise(prepared: Prepared, runs: int, folder: Path, scorer: Scorer) -> dict:
    """Scores the samples of a folder; writes scores.jsonl and summary.json, which it returns."""
    file = SampleFile(folder / "samples.jsonl")
    benchmark = prepared.benchmark
    questions = prepared.questions
    answers = [
        [_answer(item, file, run) for run in range(runs)] for item in prepared.items
    ]
    scores = scorer.scores(benchmark, questions, answers)
    _write_scores(folder / "scores.jsonl", questions, scores)

    samples = [
        file.samples[run, item.question.index]
        for item in prepared.items
        if not item.problem
        for run in range(runs)
    ]
    not_asked = {
        item.question.index: item.problem for item in prepared.items if item.problem
    }
    refused = {s.index: s.problem for s in samples if s.problem}
    if sum(bool(s.problem) for s in samples) > MAX_REFUSED * len(samples):
        raise ValueError(
            f"{benchmark.name}: the server refused questions that it should take "
            f"({next(iter(refused.values()))}); mend it and remove {file.path}"
        )
    summary = {
        "benchmark": benchmark.name,
        "questions": len(questions),
        "runs": runs,
        **benchmark_numbers.accuracy(benchmark, questions, scores),
        "paper": benchmark.paper,
        "by_run": benchmark_numbers.by_run(benchmark, questions, scores),
        "pass": benchmark_numbers.pass_at(scores),
        "decided_by": benchmark_numbers.decided(scores),
        "categories": benchmark_numbers.by_category(questions, scores),
        "budgets": _budgets(prepared, samples, runs, scorer, file),
        **_of_samples(samples),
        **_cannot_see(answers, scores),
        "not_asked": not_asked | refused,
    }
    write_json(folder / "summary.json", summary)
    return summary


def _of_samples(samples: list[Sample]) -> dict:
    """Returns how long answers are, and how many were cut; None where the server did not say."""
    lengths = [sample.tokens for sample in samples if sample.tokens is not None]
    count = max(1, len(samples))
    return {
        "cut": sum(not sample.ended for sample in samples) / count,
        "empty": sum(not sample.text.strip() for sample in samples) / count,
        "mean_tokens": sum(lengths) / len(lengths) if lengths else None,
        "longer_than_an_xlsx_cell": sum(len(s.text) > XLSX_CELL for s in samples),
    }


def _cannot_see(answers: list[list[Answer]], scores: list[list[Score]]) -> dict:
    """Returns the share of chains that say they cannot see the image, and the accuracy of those.

    Report, table 5. Answers that are not known are not counted among them.
    """
    pairs = zip(sum(answers, []), sum(scores, []), strict=True)
    says = [
        (phrases.cannot_see(answer.text.partition("</think>")[0]), score.right)
        for answer, score in pairs
    ]
    right = [is_right for says_so, is_right in says if says_so and is_right is not None]
    return {
        "cannot_see": sum(says_so for says_so, _ in says) / len(says),
        "accuracy_cannot_see": sum(right) / len(right) if right else None,
    }


def _budgets(
    prepared: Prepared,
    samples: list[Sample],
    runs: int,
    scorer: Scorer,
    file: SampleFile,
) -> dict[str, float]:
    """Returns the accuracy with fewer tokens: a sample of 1,024 is the beginning of a longer one.

    What is not known counts as wrong. A server does not say where a token ends, so that budgets
    which cut one of its answers are left out.
    """
    result = {}
    lengths = [sample.tokens for sample in samples]
    if not samples or None in lengths:
        return result
    for budget in BUDGETS:
        longer = [s for s in samples if s.tokens > budget]
        if not longer or any(str(budget) not in s.cuts for s in longer):
            continue
        answers = [
            [
                Answer("", problem=item.problem)
                if item.problem
                else file.samples[run, item.question.index].within(budget)
                for run in range(runs)
            ]
            for item in prepared.items
        ]
        scores = scorer.scores(prepared.benchmark, prepared.questions, answers)
        numbers = benchmark_numbers.accuracy(
            prepared.benchmark, prepared.questions, scores
        )
        result[str(budget)] = numbers["lowest"]
    return result


# -------------------------------------------------------------------------------------------------
# files


def _write_scores(
    path: Path, questions: list[Question], scores: list[list[Score]]
) -> None:
    rows = [
        {"run": run, "index": question.index, **dataclasses.asdict(score)}
        for question, of_question in zip(questions, scores, strict=True)
        for run, score in enumerate(of_question)
    ]
    write_jsonl(path, rows)


def write_predictions(prepared: Prepared, runs: int, folder: Path, name: str) -> None:
    """Writes each run as VLMEvalKit keeps predictions: run1/NAME/NAME_BENCHMARK.tsv, never xlsx.

    `python -m vlmeval --mode eval --reuse --work-dir run1` scores them.
    """
    file = SampleFile(folder / "samples.jsonl")
    for run_number in range(runs):
        rows = [
            {
                **_columns(item.question),
                "prediction": _answer(item, file, run_number).text,
            }
            for item in prepared.items
        ]
        path = folder / f"run{run_number + 1}" / name
        path.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(column for row in rows for column in row))
        target = path / f"{name}_{prepared.benchmark.name}.tsv"
        with target.open("w", encoding="utf-8", errors="replace", newline="") as out:
            writer = csv.DictWriter(out, columns, delimiter="\t", lineterminator="\n")
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
    for summary in summaries:
        by = summary["decided_by"]
        known = summary["accuracy"] is not None
        ends = (summary["lowest"], summary["highest"])
        score = (
            percent(summary["accuracy"]) if known else " to ".join(map(percent, ends))
        )
        paper = "" if summary["paper"] is None else f"{summary['paper']:.1f}"
        cells = [
            summary["benchmark"],
            str(summary["questions"]),
            str(summary["runs"]),
            score,
            f"{percent(summary['low'])} to {percent(summary['high'])}",
            paper,
            percent(by.get("rule", 0) + by.get("box", 0)),
            percent(by.get("judge", 0)),
            percent(by.get("nobody", 0)),
            percent(summary["cut"]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    text = "\n".join(rows) + "\n"
    write_text(path, text)
    return text


def percent(share: float) -> str:
    """Returns 0.7604 as 76.0."""
    return f"{100 * share:.1f}"
