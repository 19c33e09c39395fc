"""One file of records, by number: `len(shard)`, `shard[i] -> dict`, `shard.where(i)`, its name.

Opening one costs an index, never the records. A damaged record raises `types.DroppedRow` when its turn
comes; a file whose damage cannot be told to one record is a ValueError that names it.
"""

import os
import re
import tarfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from r1v3_jax.data import schemas
from r1v3_jax.types import DroppedRow

MAX_RECORD = 64 * 2**20  # bytes; an image of images.MAX_BYTES in base64 has 43 MiB
CHUNK = 2**24  # bytes that are looked through for line ends at a time
EXTRA = "pip install r1v3_jax[data]"


def kind(file: str) -> str:
    """jsonl, json, parquet, array_record or tar, by the name of a file; empty for others."""
    found = re.search(r"\.(jsonl|json|parquet|tar|array_record)(?:-\d+-of-\d+)?$", file)
    return found[1] if found else ""


def _opened(shard, file: str) -> int:
    """A descriptor to read at offsets, by any thread; it is closed when the shard is gone."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    weakref.finalize(shard, os.close, descriptor)
    return descriptor


def _damaged(store, i: int, detail) -> DroppedRow:
    return DroppedRow(store.name, store.where(i), "record", str(detail))


def _parsed(store, i: int, text: bytes) -> dict:
    """A record of JSON; Dropped if it is none."""
    if len(text) > MAX_RECORD:
        raise _damaged(store, i, f"{len(text)} bytes, at most {MAX_RECORD} are read")
    try:
        record = schemas.loads(text)
    except schemas.InvalidRecord as error:
        raise DroppedRow(store.name, store.where(i), *error.args) from error
    return _object(store, i, record)


def _object(store, i: int, record) -> dict:
    if not isinstance(record, dict):
        found = f"wanted an object, got {type(record).__name__}"
        raise DroppedRow(store.name, store.where(i), "json", found)
    return record


# JSON


class Lines:
    """JSON, one object a line. Blank lines are none.

    The index is where each line begins and ends and its number in the file, 24 bytes a line; the
    lines are read when they are asked for.
    """

    def __init__(self, file: str):
        self.file, self.name = _opened(self, file), Path(file).stem
        ends = _line_ends(self.file)
        starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        filled = ends - starts > 0
        for i in np.flatnonzero(
            filled & (ends - starts < 8)
        ):  # spaces, a carriage return
            filled[i] = bool(self._read(starts[i], ends[i]).strip())
        self.starts, self.ends = starts[filled], ends[filled]
        self.numbers = np.flatnonzero(filled) + 1

    def __len__(self) -> int:
        return len(self.starts)

    def _read(self, start: int, end: int) -> bytes:
        return os.pread(self.file, int(end - start), int(start))

    def __getitem__(self, i: int) -> dict:
        start, end = self.starts[i], self.ends[i]
        if end - start > MAX_RECORD:
            raise _damaged(
                self, i, f"a line of {end - start} bytes, at most {MAX_RECORD} are read"
            )
        text = self._read(start, end)
        return _parsed(self, i, text.removeprefix(b"\xef\xbb\xbf") if i == 0 else text)

    def where(self, i: int) -> str:
        return f"{self.name}/{self.numbers[i]}"


def _line_ends(file: int) -> np.ndarray:
    """int64[lines]: the offset behind the last byte of each line, without its newline."""
    found, at = [], 0
    while chunk := os.pread(file, CHUNK, at):
        found.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + at)
        at += len(chunk)
    ends = np.concatenate(found) if found else np.zeros(0, np.int64)
    return ends if at == (ends[-1] + 1 if len(ends) else 0) else np.append(ends, at)


class List:
    """One JSON list of objects, as LLaVA's annotations are. Held in memory."""

    def __init__(self, file: str):
        self.name = Path(file).stem
        try:
            self.records = schemas.loads(
                Path(file).read_bytes().removeprefix(b"\xef\xbb\xbf")
            )
        except schemas.InvalidRecord as error:
            raise ValueError(
                f"{file}: {error.args[1]}; one object a line goes as .jsonl"
            ) from error
        if not isinstance(self.records, list):
            found = type(self.records).__name__
            raise ValueError(
                f"{file}: wanted a list of objects, got {found}; or rename it .jsonl"
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict:
        return _object(self, i, self.records[i])

    def where(self, i: int) -> str:
        return f"{self.name}/{i}"


# ArrayRecord


class Records:
    """A file of ArrayRecord. parse: bytes -> record; JSON if not given."""

    def __init__(self, file: str, parse: Callable[[bytes], dict] | None = None):
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError:
            raise ImportError(f"{file}: reading ArrayRecord needs {EXTRA}") from None
        self.name, self.parse = Path(file).name.replace(".array_record", ""), parse
        # One read at a time, no reading ahead: the order is random.
        self.reader = ArrayRecordReader(file, options="readahead_buffer_size:0")
        self.count = self.reader.num_records()
        if not self.count or not self.reader.ok():  # its index is at the end
            raise ValueError(
                f"{file}: not an ArrayRecord file, empty, or cut short; copy it again"
            )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict:
        try:
            (text,) = self.reader.read([int(i)])
        except RuntimeError as error:  # its checksums
            raise _damaged(self, i, error) from error
        if self.parse is None:
            return _parsed(self, i, text)
        try:
            return self.parse(text)
        except Exception as error:  # whatever the parser of somebody's features raises
            raise _damaged(self, i, repr(error)) from error

    def where(self, i: int) -> str:
        return f"{self.name}/{i}"


# Tar


class Tar:
    """A WebDataset shard: members of one name but for the ending are one record.

    The index is where the members lie; nothing is extracted to disk. `KEY.json` gives the fields,
    members that are images the images, instead of paths in the JSON: in order of their names, 2.png
    before 10.png.
    """

    IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

    def __init__(self, file: str):
        self.file, self.name = _opened(self, file), Path(file).stem
        grouped: dict[str, list[tuple[str, int, int]]] = {}
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        folder, slash, base = member.name.rpartition("/")
                        key, _, ending = base.partition(".")
                        place = (f".{ending}".lower(), member.offset_data, member.size)
                        grouped.setdefault(folder + slash + key, []).append(place)
                end = tar.offset
        except tarfile.TarError as error:
            raise ValueError(
                f"{file}: no tar, or cut short ({error}); copy it again"
            ) from error
        # tarfile takes a damaged header for the end; the real one is a block of zeros.
        if os.pread(self.file, 512, end) != bytes(512):
            raise ValueError(
                f"{file}: damaged or cut short at byte {end}; copy it again"
            )
        self.keys = list(grouped)
        self.places = [sorted(places, key=_by_number) for places in grouped.values()]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> dict:
        record, images = {}, []
        for ending, start, size in self.places[i]:
            image = ending.endswith(self.IMAGES)
            if not image and not ending.endswith(".json"):
                continue
            if size > MAX_RECORD:
                raise _damaged(
                    self, i, f"a member of {size} bytes, at most {MAX_RECORD} are read"
                )
            data = os.pread(self.file, size, start)
            if image:
                images.append(data)
                continue
            record = _parsed(self, i, data)
        if not images:
            return record
        record = {name: value for name, value in record.items() if name != "image"}
        return record | {"images": images}

    def where(self, i: int) -> str:
        return f"{self.name}/{self.keys[i]}"


def _by_number(place: tuple[str, int, int]) -> list[tuple[int, str]]:
    """What to sort a member by: digits in its ending count as a number."""
    parts = re.split(r"([0-9]+)", place[0])
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _json(file: str) -> Lines | List:
    """What a .json file is, by its first byte."""
    with open(file, "rb") as opened:
        beginning = opened.read(100).removeprefix(b"\xef\xbb\xbf").lstrip()
    return List(file) if beginning.startswith(b"[") else Lines(file)


SHARDS = {"jsonl": Lines, "json": _json, "array_record": Records, "tar": Tar}
