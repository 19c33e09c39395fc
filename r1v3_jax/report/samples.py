"""Reads the samples of WORKDIR/rollouts, of this version and of older ones, also damaged files.

A line is read in two ways: its head, the short fields in front of the lists of tokens, which is
enough to count and to choose; and whole, for what is shown.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from r1v3_jax.rewards.phrases import cannot_see

# Where the lists of tokens begin. It cannot be part of a text: JSON writes a quote there as \".
LISTS = b', "tokens": ['
HIGH_GAP = 0.1  # nats a token, of a sample's mean |log p sampler - log p trainer|
FILE_NAME = re.compile(r"(.+)_(\d+)\.jsonl")
VERDICTS = ("right", "wrong", "error")
# What a damaged line, or one of another program, raises.
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@dataclasses.dataclass(frozen=True)
class StepFile:
    """One file of samples: WORKDIR/rollouts/STAGE_STEP.jsonl."""

    path: Path
    stage: str
    step: int

    @property
    def name(self) -> str:
        return self.path.stem


@dataclasses.dataclass(slots=True)
class Brief:
    """What is counted of an answer. None: the file does not say, as those of older versions."""

    line: int  # of its file, from 0
    id: str
    number: int  # in its group
    verdict: str
    reward: float | None
    length: int
    ended: bool | None
    gap: float | None  # mean |log p sampler - log p trainer| of its tokens, in nats
    blind: bool  # whether it says that it cannot see

    @property
    def kinds(self) -> list[str]:
        """The words that filters know a sample by."""
        kinds = [self.verdict]
        if self.ended is False:
            kinds.append("cut")
        if self.blind:
            kinds.append("blind")
        if self.gap is not None and self.gap > HIGH_GAP:
            kinds.append("gap")
        return kinds


@dataclasses.dataclass(slots=True)
class Sample(Brief):
    """One answer, with everything that is shown of it."""

    source: str
    images: list[str]  # names of files, relative to WORKDIR/rollouts
    num_images: int
    tiles: list[int]  # that each image was cut into
    before: list[tuple[str, str]]  # earlier turns, role and text
    prompt: str
    completion: str
    answer: str
    terms: dict[str, float | None]  # what each term says, before its weight
    weights: dict[str, float | None]
    problem: str
    extracted: str | None
    reason: str | None
    advantage: float | None
    lists: dict[str, list]  # of its tokens, by field


def step_files(workdir: Path) -> list[StepFile]:
    """Returns the files of samples of a run, stages in the order of their names, then steps."""
    files = []
    for path in sorted((workdir / "rollouts").glob("*.jsonl")):
        match = FILE_NAME.fullmatch(path.name)
        if match:
            files.append(StepFile(path, match[1], int(match[2])))
    return files


def read_briefs(path: Path) -> Iterator[Brief | None]:
    """Yields what is counted of each sample of a file, None for a line that cannot be read.

    A last line without an end is still being written, or was cut short: it is None too.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                yield Brief(*_brief(_read_row(line, whole=False), number))
            except UNREADABLE:
                yield None


def read_samples(path: Path, lines: set[int]) -> Iterator[Sample | None]:
    """Yields the samples of some lines of a file, counted from 0, in order; None as above."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number not in lines:
                continue
            try:
                yield _sample(_read_row(line, whole=True), number)
            except UNREADABLE:
                yield None


def _read_row(line: bytes, *, whole: bool) -> dict:
    """Reads one line. ValueError if it is damaged, or not whole."""
    if not line.endswith(b"\n"):
        raise ValueError("the line has no end")
    head, cut, _ = line.partition(LISTS)
    # Rows of older versions do not say how long they are, so their tokens are counted.
    if whole or not cut or b'"length": ' not in head:
        return json.loads(line)
    return json.loads(head + b"}")


def _brief(row: dict, line: int) -> tuple:
    """Returns the fields of `Brief`; an error of UNREADABLE if one has a wrong type."""
    verdict = row.get("verdict")
    length = row.get("length")
    return (
        line,
        str(row["id"]),
        int(row.get("sample", 0)),
        verdict if verdict in VERDICTS else "error",
        number(row.get("reward")),
        len(row.get("tokens", ())) if length is None else int(length),
        row.get("ended"),
        number(row.get("gap")),
        cannot_see(str(row["completion"])),
    )


def _sample(row: dict, line: int) -> Sample:
    """Returns a whole row as a sample."""
    images = row.get("images", 0)
    is_named = isinstance(images, list)
    terms = row.get("terms") or {}
    # The oldest rows have the two parts of the reward, and no terms.
    if not terms:
        parts = {"accuracy": row.get("accuracy"), "format": row.get("format")}
        terms = {name: part for name, part in parts.items() if part is not None}
    return Sample(
        *_brief(row, line),
        source=str(row.get("source", "")),
        images=[str(name) for name in images] if is_named else [],
        num_images=len(images) if is_named else int(images),
        tiles=[int(count) for count in row.get("tiles", ())],
        before=[(str(role), str(text)) for role, text in row.get("before", ())],
        prompt=str(row.get("prompt", "")),
        completion=str(row["completion"]),
        answer=str(row.get("answer", "")),
        terms={str(name): number(part) for name, part in terms.items()},
        weights={str(k): number(w) for k, w in row.get("weights", {}).items()},
        problem=str(row.get("problem", "")),
        extracted=row.get("extracted"),
        reason=row.get("reason"),
        advantage=number(row.get("advantage")),
        lists={name: [*row[name]] for name in LIST_FIELDS if name in row},
    )


LIST_FIELDS = (
    "tokens",
    "logprobs",
    "entropies",
    "old_log_probs",
    "advantages",
    "forced",
    "critical",
)


def number(value) -> float | None:
    """Returns a number of the file, None for null and for what is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def groups_of(samples: list) -> list[list]:
    """Puts neighbours that answer the same question into groups.

    A question may come twice in a step: a sample number that begins anew begins a group.
    """
    groups: list[list] = []
    for sample in samples:
        last = groups[-1][-1] if groups else None
        follows = (
            last is not None and last.id == sample.id and sample.number > last.number
        )
        if follows:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return groups


def is_mixed(group: list[Brief]) -> bool:
    """Whether some answers of a group are right and others wrong."""
    return {"right", "wrong"} <= {sample.verdict for sample in group}
