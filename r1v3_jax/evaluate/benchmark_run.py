"""One benchmark from its file to its samples: questions, prompts, answers."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from r1v3_jax.benchmarks import kit_prompts, prompts, table, tsv
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.scoring import Answer
from r1v3_jax.benchmarks.table import Benchmark
from r1v3_jax.evaluate import protocol
from r1v3_jax.evaluate.samples import Item, Sample, SampleFile

# Whose words questions are asked in: this program's, those of an installed VLMEvalKit, or none but
# the file's.
Wording = Literal["own", "kit", "plain"]


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
    if reader.prompts == "kit" and benchmark.md5 and md5 != benchmark.md5:
        raise ValueError(
            f"{path}: VLMEvalKit would replace it by the published file, since its MD5 is {md5}; "
            "give --prompts=own, or get the published file"
        )
    if reader.prompts == "plain":
        benchmark = dataclasses.replace(benchmark, prompt=prompts.plain)
    if reader.prompts != "kit":
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
        [answer_of(item, file, run) for run in range(runs)] for item in prepared.items
    ]


def answer_of(item: Item, file: SampleFile, run: int) -> Answer:
    """Returns the answer of a run, with the reason where an item was not asked."""
    if item.problem:
        return Answer("", problem=item.problem)
    return file.samples[run, item.question.index].answer()
