"""From the samples of a benchmark to its numbers: scores.jsonl and summary.json."""

import dataclasses
from pathlib import Path

from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.scoring import JUDGING, Answer, Reading, Score, score_all
from r1v3_jax.benchmarks.table import Benchmark
from r1v3_jax.evaluate import accuracy, benchmark_numbers, protocol
from r1v3_jax.evaluate.benchmark_run import Prepared, answer_of
from r1v3_jax.evaluate.samples import BUDGETS, Sample, SampleFile
from r1v3_jax.files import write_json, write_jsonl
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.model import Judge

# Longer cells lose their end in an .xlsx, in which VLMEvalKit keeps predictions by default.
XLSX_CELL = 32_767

# A server that refuses more than this share of the answers is set up wrongly.
MAX_REFUSED = 0.1


@dataclasses.dataclass(frozen=True)
class Scorer:
    """How answers are scored."""

    reading: Reading
    verify: Verify
    judge: Judge | None
    thinking: bool  # whether answers begin with thoughts
    version: str = "vlmeval-0.2"  # of letters.BY_VERSION

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
            version=self.version,
            verify=self.verify,
            judge=self.judge,
        )
        return [flat[start : start + runs] for start in range(0, len(flat), runs)]

    def protocol(self) -> dict:
        """Returns what scores depend on."""
        return {
            "reading": self.reading,
            "rules": self.version,
            "judge": self.judge.model if self.judge else None,
            "judge_prompt": protocol.digest([JUDGING.prompt]) if self.judge else None,
        }


def summarise(prepared: Prepared, runs: int, folder: Path, scorer: Scorer) -> dict:
    """Scores the samples of a folder; writes scores.jsonl and summary.json, which it returns."""
    file = SampleFile(folder / "samples.jsonl")
    benchmark = prepared.benchmark
    questions = prepared.questions
    answers = [
        [answer_of(item, file, run) for run in range(runs)] for item in prepared.items
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
    share, right = accuracy.cannot_see(
        [
            (answer.text, score.right)
            for row in zip(answers, scores, strict=True)
            for answer, score in zip(*row, strict=True)
        ]
    )
    return {"cannot_see": share, "accuracy_cannot_see": right}


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


def _write_scores(
    path: Path, questions: list[Question], scores: list[list[Score]]
) -> None:
    rows = [
        {"run": run, "index": question.index, **dataclasses.asdict(score)}
        for question, of_question in zip(questions, scores, strict=True)
        for run, score in enumerate(of_question)
    ]
    write_jsonl(path, rows)
