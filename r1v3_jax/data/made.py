"""The rows that a stage of collecting left, as a source for the stages behind it (`Made`).

A config names the stage; where its files are is known once the run has a directory. `bind` then
writes the directory into every `Made` of a config, wherever it stands: inside mixtures, curricula
and rewordings, and in the sets of an evaluation.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1v3_jax import checksums
from r1v3_jax.data.mixtures import Source, check_source, fingerprint_of
from r1v3_jax.data.sources import pass_order
from r1v3_jax.fields import PLACE
from r1v3_jax.rewards.helpers import Frozen
from r1v3_jax.types import Example

ROWS = Path("rows/rows.jsonl")  # in the directory of a stage; its folder is sealed

# What a row may bring to its question: the field of the row -> the field of the example.
ANSWERS = ("chain", "chosen", "rejected")
FACTS = ("said", "right", "pass_rate", "reward_std", "samples")  # into its metadata


@dataclasses.dataclass(frozen=True)
class Made:
    """The rows that stage `stage` has made of the questions of `over`.

    Each is the question again, with what was kept: a chain, two answers, or facts in its metadata
    (`distill.keeps`). It has an end, and the order of each pass is drawn from `seed`.

        {"chains": Collect(SEEN, Shortest()), "sft": SFT(Made("chains", SEEN))}

    ValueError before the rows are there, if they have changed since they were made, and if the
    questions of `over` are other ones than those that were asked.
    """

    stage: str
    over: Source
    seed: int = 0
    # The run's directory, see `bind`. It is no setting: it says where, not what.
    workdir: str = dataclasses.field(default="", compare=False, metadata=PLACE)

    @property
    def path(self) -> Path:
        """The file of rows. ValueError if nothing has bound the source to a run."""
        if not self.workdir:
            raise ValueError(
                f"Made({self.stage!r}) is bound to no run; the sources around it must be "
                "dataclasses, as Mixture and Reworded, or stand in tuples: a function hides it"
            )
        return Path(self.workdir) / self.stage / ROWS

    @property
    def is_there(self) -> bool:
        """Whether the rows have been made."""
        return bool(self.workdir) and self.path.is_file()

    @property
    def __len__(self):
        """The number of rows. AttributeError, as of a source without an end, before it is known.

        A property, as in `data.reworded.Reworded`.
        """
        if not self.is_there:
            raise AttributeError(f"the rows of stage {self.stage!r} are not made yet")
        count = len(self.rows)
        return lambda: count

    def __bool__(self) -> bool:
        return True

    @property
    def rows(self) -> list[dict]:
        """The rows of the file, in the order of the questions."""
        if not self.is_there:
            raise ValueError(
                f"{self.path}: not there; stage {self.stage!r} makes it, run that first: "
                f"--config.stage={self.stage}"
            )
        return _read(str(self.path), self.path.stat().st_mtime_ns)

    def __call__(self, index: int) -> Example:
        pass_number, position = divmod(index, len(self.rows))
        order = pass_order(len(self.rows), self.seed, pass_number)
        row = self.rows[order[position]]
        example = self.over(row["index"])
        # As with pass rates: what was said of one question must never stand at another.
        if example.id != row["id"]:
            raise ValueError(
                f"{self.path}: question {row['index']} is {example.id!r} here and was "
                f"{row['id']!r} when stage {self.stage!r} asked it; Made(...) must be over the "
                "same source"
            )
        answers = {name: row[name] for name in ANSWERS if name in row}
        facts = {name: row[name] for name in FACTS if name in row}
        metadata = {**example.metadata, **facts}
        return dataclasses.replace(example, metadata=metadata, **answers)

    def check(self) -> None:
        """Checks the questions, the seal of the file, and that its first question is the same."""
        check_source(self.over)
        if self.is_there:
            checksums.check_file(self.path)
            self(0)

    def fingerprint(self) -> str:
        """Returns a digest of the rows, and that of the questions; "" before they are made."""
        if not self.is_there:
            return ""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return f"{len(self.rows)} rows, {digest[:16]}; {fingerprint_of(self.over)}"


@functools.lru_cache(16)
def _read(path: str, _changed_at: int) -> list[dict]:
    """Reads the rows of a file; its time makes a file that was made anew another one."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def bind(config: Any, workdir: str | Path) -> Any:
    """Returns a config whose every `Made`, and every `Frozen` stage, knows the run's directory.

    Looked for in dataclasses, tuples and tables. What holds none is returned as it is.
    """
    if isinstance(config, Made):
        over = bind(config.over, workdir)
        return dataclasses.replace(config, over=over, workdir=str(workdir))
    if isinstance(config, Frozen):
        is_stage = bool(config.stage)
        return dataclasses.replace(config, workdir=str(workdir)) if is_stage else config
    if isinstance(config, tuple):
        parts = tuple(bind(part, workdir) for part in config)
        return parts if _differ(parts, config) else config
    if isinstance(config, dict):
        parts = {name: bind(part, workdir) for name, part in config.items()}
        return parts if _differ(parts.values(), config.values()) else config
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        changes = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            bound = bind(value, workdir)
            if bound is not value:
                changes[field.name] = bound
        return dataclasses.replace(config, **changes) if changes else config
    return config


def _differ(parts, others) -> bool:
    return any(a is not b for a, b in zip(parts, others, strict=True))


def made_in(config: Any) -> Iterator[Made]:
    """Yields every `Made` in a config or a source, outer ones first."""
    if isinstance(config, Made):
        yield config
    if isinstance(config, tuple):
        parts = config
    elif isinstance(config, dict):
        parts = tuple(config.values())
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        parts = tuple(getattr(config, f.name) for f in dataclasses.fields(config))
    else:
        return
    for part in parts:
        yield from made_in(part)


def not_made(config: Any) -> list[str]:
    """Returns the stages whose rows a config or a source waits for."""
    return sorted({made.stage for made in made_in(config) if not made.is_there})
