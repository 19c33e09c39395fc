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
from r1v3_jax.data.fields import InvalidRecord
from r1v3_jax.data.record_files import kind
from r1v3_jax.types import DroppedRow, Example

CHECKED = 64  # rows that are looked at before a run


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of files of any kind (`stores.open_store`) in any schema (`schemas.SCHEMAS`).

    Each pass through the files has its own row order, drawn from `seed`; index // rows is the pass.
    With 20 rows, indices 0 to 19 are all of them once, and 20 to 39 all of them in another order.
    A row that cannot be trained on raises `types.DroppedRow`.
    """

    path: str
    schema: str = ""  # a key of schemas.SCHEMAS; empty: recognised, row by row
    root: str = ""  # the folder of the images; empty: that of the files
    # The data set of rows that do not name theirs; empty: the last part of the path.
    name: str = ""
    seed: int = 0
    # The folder for copies of remote files, and of parquet as Arrow; empty: below ~/.cache.
    cache: str = ""

    def __len__(self) -> int:
        """Returns the rows of one pass, including those that will be dropped."""
        return len(self._store)

    def __call__(self, index: int) -> Example:
        pass_number, position = divmod(index, len(self))
        order = pass_order(len(self), self.seed, pass_number)
        return self.row(int(order[position]))

    def fingerprint(self) -> str:
        """Returns the number of rows and a digest of some of them.

        A stopped run goes on only if the fingerprint of its data is unchanged.
        """
        digest = hashlib.sha256()
        for number in self._sampled_rows():
            try:
                text = repr(self.record(number))
                digest.update(text.encode("utf-8", "surrogatepass"))
            except DroppedRow as error:
                digest.update(error.reason.encode())
        return f"{len(self)} rows, {digest.hexdigest()[:16]}"

    def row(self, number: int, downloads: Downloads | None = None) -> Example:
        """Reads the row with this number in the files, whatever the order of a pass.

        downloads: the hosts that images may be fetched from. DroppedRow if the row is bad.
        """
        return records.example(
            self.record(number),
            schema=self.schema,
            source=self.source,
            id=self._store.name_of(number),
            root=self.folder,
            downloads=downloads,
        )

    def record(self, number: int) -> dict:
        """Returns a record as it is in the files; DroppedRow if it cannot be read."""
        try:
            return self._store[number]
        except DroppedRow as error:
            # The file knows its own name only; a row is listed under its data set's.
            raise DroppedRow(
                self.source, error.id, error.reason, error.detail
            ) from error

    @property
    def _store(self):
        # Cached by path and not in this object: copies with another seed share one open store.
        return stores.cached_store(self.path, self.cache)

    @property
    def source(self) -> str:
        """The name of the data set: `name`, or the last part of the path without its ending."""
        name = Path(self._literal_path).name
        return self.name or (name.partition(".")[0] if kind(name) else name)

    @property
    def _literal_path(self) -> str:
        """The path up to where a pattern begins: DIR of DIR/*.jsonl and of DIR/*/2.jsonl."""
        path = self.path
        while glob.has_magic(path):
            path = str(Path(path).parent)
        return path

    @functools.cached_property
    def folder(self) -> str | None:
        """The folder that paths of images start from; None if rows must hold their images."""
        # Remote files: no folder of this machine belongs to them, unless the user names one.
        if self.root or "://" in self.path:
            return self.root or None
        path = Path(self._literal_path)
        path = path.parent if path.is_file() else path
        return str(path) if path.is_dir() else None

    def open(self) -> "Rows":
        """Opens the files and returns itself.

        FileNotFoundError or ValueError if there is nothing to read.
        """
        if self.schema:
            records.check_schema(self.schema)
        if self.root and not Path(self.root).is_dir():
            raise FileNotFoundError(f"{self.path}: root {self.root!r} is no folder")
        _ = self._store
        return self

    def check(self) -> None:
        """Opens the files and reads `CHECKED` of their rows.

        Errors: as `open`; also ValueError if none of these rows is good, or if one of them names a
        verifier that does not exist.
        """
        self.open()
        reasons = collections.Counter()
        examples = {}  # of each reason, the first error
        for number in self._sampled_rows():
            try:
                self.row(number)
                reasons[""] += 1
            except DroppedRow as error:
                # A few bad rows are nothing unusual, but a mistyped verifier is seldom in one row
                # alone: a whole part of the data would be dropped, row by row.
                if error.reason == "verifier":
                    raise ValueError(
                        f"{self.path}, {error.id}: {error.detail}"
                    ) from error
                reasons[error.reason] += 1
                examples.setdefault(error.reason, error)
        if not reasons[""]:
            problems = [
                f"{reasons[reason]} x {error}" for reason, error in examples.items()
            ]
            raise ValueError(
                f"{self.path}: no good row among {reasons.total()}: {'; '.join(problems)}"
            )

    def _sampled_rows(self) -> list[int]:
        """Returns the numbers of at most `CHECKED` rows, spread evenly over the files."""
        # With 200 rows: 0, 3, 6, 9, 12, 15, ..., 196.
        count = min(CHECKED, len(self))
        return [i * len(self) // count for i in range(count)]

    def recognised(self) -> dict[str, int]:
        """Counts the schemas of some rows, {schema: rows}; "none": those in no schema."""
        counts = collections.Counter()
        for number in self._sampled_rows():
            try:
                counts[self.schema or schemas.recognise(self.record(number))] += 1
            except (DroppedRow, InvalidRecord):
                counts["none"] += 1
        return dict(counts)


# A mixture asks its sources in turn. Each needs the order of its own pass, and of the next one
# where rows are made ahead: without the cache every example would draw a whole permutation.
@functools.lru_cache(128)
def pass_order(count: int, *seed: int) -> np.ndarray:
    """Draws the order of `count` rows in one pass, int[count]; seed: the source's and the pass."""
    return np.random.default_rng(seed).permutation(count)
