"""Questions on disk as sources: `source(index) -> Example`, pure functions of an index.

A source is a dataclass, so that a path can be changed on the command line:
--config.grpo.train.path=DIR/train.jsonl
"""

import collections
import dataclasses
import functools
import glob
import hashlib
from pathlib import Path

import numpy as np

from r1v3_jax.data import records, schemas, stores
from r1v3_jax.data.downloads import Downloads
from r1v3_jax.data.record_files import kind
from r1v3_jax.types import DroppedRow, Example

CHECKED = 64  # rows that are looked at before a run


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of files of any kind (`stores.open_store`) in any layout (`layouts`).

    Row order is drawn anew for each pass through the files from `seed`; index // rows is the pass.
    A row that cannot be trained on raises `types.DroppedRow`.
    """

    path: str
    schema: str = ""  # of layouts.SCHEMAS; empty: recognised, row by row
    root: str = ""  # the folder of the images; empty: of the files
    name: str = (
        ""  # of rows that do not say which data set they are from; empty: the path's
    )
    seed: int = 0
    cache: str = (
        ""  # for copies of remote files, and of parquet as Arrow; empty: below ~/.cache
    )

    def __len__(self) -> int:
        """Rows of one pass, also those that will be dropped."""
        return len(self._store)

    def __call__(self, index: int) -> Example:
        place, at = divmod(index, len(self))
        return self.row(int(_order(len(self), self.seed, place)[at]))

    def fingerprint(self) -> str:
        """How many rows there are, and one number for what stands in some of them: a run goes on
        only where it is equal.
        """
        digest = hashlib.sha256()
        for number in self._some():
            try:
                digest.update(
                    repr(self.record(number)).encode("utf-8", "surrogatepass")
                )
            except DroppedRow as error:
                digest.update(error.reason.encode())
        return f"{len(self)} rows, {digest.hexdigest()[:16]}"

    def row(self, number: int, downloads: Downloads | None = None) -> Example:
        """The row that stands at a place in the files, whatever the order. Dropped if it is bad.

        downloads: where images may be fetched from.
        """
        return records.example(
            self.record(number),
            schema=self.schema,
            source=self.source,
            id=self._store.where(number),
            root=self.folder,
            downloads=downloads,
        )

    def record(self, number: int) -> dict:
        """What stands at a place in the files, as it stands there. Dropped if it cannot be read."""
        try:
            return self._store[number]
        except DroppedRow as error:
            raise DroppedRow(
                self.source, error.id, error.reason, error.detail
            ) from error

    @property
    def _store(self):
        return stores.cached_store(self.path, self.cache)

    @property
    def source(self) -> str:
        """The name of the data set."""
        name = Path(self._beginning).name
        return self.name or (name.partition(".")[0] if kind(name) else name)

    @property
    def _beginning(self) -> str:
        """The path up to where a pattern begins."""
        path = self.path
        while glob.has_magic(path):
            path = str(Path(path).parent)
        return path

    @functools.cached_property
    def folder(self) -> str | None:
        """Where paths of images start; None if rows must hold their images."""
        if self.root or "://" in self.path:
            return self.root or None
        path = Path(self._beginning)
        path = path.parent if path.is_file() else path
        return str(path) if path.is_dir() else None

    def open(self) -> "Rows":
        """Itself, opened. FileNotFoundError or ValueError if there is nothing to read."""
        if self.schema:
            records.check_schema(self.schema)
        if self.root and not Path(self.root).is_dir():
            raise FileNotFoundError(f"{self.path}: root {self.root!r} is no folder")
        _ = self._store
        return self

    def check(self) -> None:
        """As `open`; also ValueError if nothing is good among the rows looked at, or one of them
        names a verifier that does not exist.
        """
        self.open()
        reasons, first = collections.Counter(), {}
        for number in self._some():
            try:
                self.row(number)
                reasons[""] += 1
            except DroppedRow as error:
                if error.reason == "verifier":
                    raise ValueError(
                        f"{self.path}, {error.id}: {error.detail}"
                    ) from error
                reasons[error.reason] += 1
                first.setdefault(error.reason, error)
        if not reasons[""]:
            found = "; ".join(
                f"{reasons[reason]} x {error}" for reason, error in first.items()
            )
            raise ValueError(
                f"{self.path}: no good row among {reasons.total()}: {found}"
            )

    def _some(self) -> list[int]:
        """Rows from the whole of the files, evenly."""
        count = min(CHECKED, len(self))
        return [i * len(self) // count for i in range(count)]

    def recognised(self) -> dict[str, int]:
        """How many of some rows are in which layout of `layouts.SCHEMAS`, or in none."""
        found = collections.Counter()
        for number in self._some():
            try:
                found[self.schema or schemas.recognise(self.record(number))] += 1
            except (DroppedRow, schemas.InvalidRecord):
                found["none"] += 1
        return dict(found)


@functools.lru_cache(64)  # two of each source of a mixture: a pass, and the next one
def _order(count: int, seed: int, place: int) -> np.ndarray:
    return np.random.default_rng([seed, place]).permutation(count)
