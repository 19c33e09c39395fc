"""Questions on disk as sources: `source(index) -> Example`, pure functions of an index.

A source is a dataclass, so that a path can be changed on the command line:
--config.grpo.train.path=DIR/train.jsonl
"""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np

from r1v3_jax.images import StoredImage
from r1v3_jax.types import Dropped, Example
from r1v3_jax.verifiers import routing


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows {"question", "answer", "images": [path, ...], and optionally "id", "chain", "level",
    "verifier"}.

    Paths of images are taken from the file's directory. Row order is drawn anew for each pass
    through the file from `seed`; index // rows is the pass.
    """

    path: str
    schema: str = ""
    root: str = ""
    name: str = ""
    seed: int = 0

    def __len__(self) -> int:
        """Rows of one pass."""
        return len(_lines(self.path))

    @property
    def source(self) -> str:
        return self.name or Path(self.path).stem

    def check(self) -> None:
        """FileNotFoundError or ValueError if there is nothing to read, or a row names a verifier
        that does not exist.
        """
        for number, line in _lines(self.path):
            try:
                row = json.loads(line) if b'"verifier"' in line else {}
            except ValueError:
                continue  # refused when its turn comes
            try:
                routing.parse(str(isinstance(row, dict) and row.get("verifier") or ""))
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number}: {error}") from error

    def __call__(self, index: int) -> Example:
        lines = _lines(self.path)
        place, at = divmod(index, len(lines))
        number, line = lines[_order(len(lines), self.seed, place)[at]]
        where = f"{Path(self.path).stem}/{number}"
        try:
            row = json.loads(line)
            question, answer = str(row["question"]), str(row["answer"])
            names = row.get("images") or []
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"images = {names!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Dropped(self.source, where, "fields", repr(error)) from error
        folder = Path(self.root or Path(self.path).parent)
        return Example(
            id=str(row.get("id", where)),
            images=tuple(StoredImage(folder / name) for name in names),
            question=question,
            answer=answer,
            chain=row.get("chain"),
            level=str(row.get("level", "normal")),
            verifier=str(row.get("verifier") or ""),
            source=self.source,
        )


@functools.lru_cache(8)
def _lines(path: str) -> list[tuple[int, bytes]]:
    """(number, line) of all that are not blank."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file of questions; give one JSON object a line with question, answer "
            "and images"
        )
    numbered = enumerate(Path(path).read_bytes().splitlines(), start=1)
    lines = [(number, line) for number, line in numbered if line.strip()]
    if not lines:
        raise ValueError(f"{path}: no questions; write one JSON object a line")
    return lines


@functools.lru_cache(8)
def _order(count: int, seed: int, place: int) -> np.ndarray:
    return np.random.default_rng([seed, place]).permutation(count)
