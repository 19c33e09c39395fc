"""Answers of a model to a benchmark, kept as they come in: a kill costs only what was being asked.

    {"run": 0, "index": "7", "text": "...", "tokens": 812, "ended": true, ...}     samples.jsonl

A line is whole or it is not there. A sample is known by its run and the index of its question.
"""

import dataclasses
import os
from pathlib import Path

from r1v3_jax.benchmarks.prompts import Asked
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.scoring import Answer
from r1v3_jax.files import dumps, read_jsonl

# Tokens of the report's budgets, each of which is a beginning of the same sample.
BUDGETS = (1024, 2048, 4096, 8192, 16384)


@dataclasses.dataclass(frozen=True)
class Item:
    """A question with its prompt, as models are asked."""

    question: Question
    asked: Asked
    problem: str = ""  # why it cannot be asked; it counts as wrong


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer."""

    run: int  # from 0
    index: str  # of the question
    text: str = ""
    tokens: int | None = None  # of the answer; None: the server did not say
    ended: bool = True  # by itself, not at the limit
    problem: str = ""  # why there is no answer: it counts as wrong
    # For a budget that cuts it, how many characters are left: {"1024": 4012}.
    cuts: dict[str, int] = dataclasses.field(default_factory=dict)
    prompt: str = ""
    images: list = dataclasses.field(default_factory=list)  # [width, height] of each
    seconds: float = 0.0

    def answer(self) -> Answer:
        """The answer to be scored."""
        return Answer(self.text, self.ended, self.problem)

    def within(self, budget: int) -> Answer:
        """The answer of the same sample with fewer tokens."""
        if str(budget) not in self.cuts:
            return self.answer()
        return Answer(self.text[: self.cuts[str(budget)]], False, self.problem)


class SampleFile:
    """The samples of one benchmark, which are only added to."""

    def __init__(self, path: Path):
        self.path = path
        self.samples: dict[tuple[int, str], Sample] = {}
        if not path.exists():
            return
        _cut_torn_line(path)
        for row in read_jsonl(path):
            sample = Sample(**row)
            self.samples[sample.run, sample.index] = sample

    def add(self, samples: list[Sample]) -> None:
        """Writes the samples that are not there yet, as one piece that reaches the disk."""
        new = [s for s in samples if (s.run, s.index) not in self.samples]
        self.samples |= {(s.run, s.index): s for s in new}
        lines = "".join(dumps(dataclasses.asdict(sample)) + "\n" for sample in new)
        with self.path.open("a", encoding="ascii") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def _cut_torn_line(path: Path) -> None:
    """Takes off a last line without an end: what a kill leaves of it."""
    with path.open("rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
