"""One file of records, by number: `len(shard)`, `shard[i] -> dict`, `shard.name_of(i) -> str`.

Opening a file reads an index of it, never the records. A damaged record raises `types.DroppedRow`
when its turn comes; damage that cannot be assigned to one record is a ValueError that names the
file. What the fields of a record mean is not known here.
"""

import os
import re
import tarfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from r1v3_jax.data import fields, media
from r1v3_jax.types import DroppedRow

MAX_RECORD = 64 * 2**20  # bytes; image_files.MAX_BYTES of an image are 43 MiB of base64
CHUNK = 2**24  # bytes that are searched for line ends at a time
EXTRA = "pip install r1v3_jax[data]"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors of Windows begin a UTF-8 file with it


def kind(file: str) -> str:
    """Returns jsonl, json, parquet, array_record or tar, by the name of a file; "" for others.

    "a/train.jsonl" is jsonl, "r.array_record-00001-of-00003" is array_record.
    """
    match = re.search(r"\.(jsonl|json|parquet|tar|array_record)(?:-\d+-of-\d+)?$", file)
    return match[1] if match else ""


def _opened(shard, file: str) -> int:
    """Opens a file to be read at offsets by any thread; closed when the shard is garbage."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    weakref.finalize(shard, os.close, descriptor)
    return descriptor


def _damaged(shard, i: int, detail) -> DroppedRow:
    return DroppedRow(shard.name, shard.name_of(i), "record", str(detail))


def _parsed(shard, i: int, text: bytes) -> dict:
    """Parses a record of JSON; DroppedRow if it is not an object, or larger than MAX_RECORD."""
    size = len(text)
    if size > MAX_RECORD:
        raise _damaged(shard, i, f"{size} bytes, at most {MAX_RECORD} are read")
    try:
        record = fields.loads(text)
    except fields.InvalidRecord as error:
        raise DroppedRow(shard.name, shard.name_of(i), *error.args) from error
    return _object(shard, i, record)


def _object(shard, i: int, record) -> dict:
    """Returns a record; DroppedRow if it is a number, a text or a list."""
    if not isinstance(record, dict):
        detail = f"wanted an object, got {type(record).__name__}"
        raise DroppedRow(shard.name, shard.name_of(i), "json", detail)
    return record


# JSON


class JsonLines:
    """A file of JSON, one object a line; blank lines are skipped.

    The index is the first byte, the end and the number of each line, 24 bytes a line. The lines are
    read when they are asked for.
    """

    def __init__(self, file: str):
        self.file = _opened(self, file)
        self.name = Path(file).stem
        # A file of 23 bytes, '{"a": 1}\n\n{"a": 2}\r\n  \n': the ends are 8 9 19 22, the starts
        # 0 9 10 20. The second line is empty, the fourth is two spaces: records 0 and 1 are lines
        # 1 and 3 of the file.
        ends = _line_ends(self.file)
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1] + 1
        lengths = ends - starts
        is_filled = lengths > 0
        # The shortest lines may be spaces or a carriage return alone. Longer ones are not read
        # here: a long line of spaces becomes a record that is dropped.
        for i in np.flatnonzero(is_filled & (lengths < 8)):
            line = self._read(starts[i], ends[i])
            is_filled[i] = bool(line.strip())
        self.starts = starts[is_filled]
        self.ends = ends[is_filled]
        self.line_numbers = np.flatnonzero(is_filled) + 1

    def __len__(self) -> int:
        return len(self.starts)

    def _read(self, start: int, end: int) -> bytes:
        return os.pread(self.file, int(end - start), int(start))

    def __getitem__(self, i: int) -> dict:
        start = self.starts[i]
        end = self.ends[i]
        size = end - start
        if size > MAX_RECORD:
            detail = f"a line of {size} bytes, at most {MAX_RECORD} are read"
            raise _damaged(self, i, detail)
        text = self._read(start, end)
        if i == 0:
            text = text.removeprefix(BYTE_ORDER_MARK)
        return _parsed(self, i, text)

    def name_of(self, i: int) -> str:
        """Names record i by its line as an editor counts them: "train/17"."""
        return f"{self.name}/{self.line_numbers[i]}"


def _line_ends(file: int) -> np.ndarray:
    """Finds the end of each line, int64[lines]: the offset of its newline, or of the file's end."""
    ends_of_chunks = [np.zeros(0, np.int64)]
    size = 0
    while chunk := os.pread(file, CHUNK, size):
        is_newline = np.frombuffer(chunk, np.uint8) == ord("\n")
        ends_in_chunk = np.flatnonzero(is_newline)
        ends_of_chunks.append(ends_in_chunk + size)
        size += len(chunk)
    ends = np.concatenate(ends_of_chunks)
    # A last line without a newline ends where the file does.
    end_of_lines = ends[-1] + 1 if len(ends) else 0
    return ends if size == end_of_lines else np.append(ends, size)


class JsonList:
    """A file that is one JSON list of objects, as LLaVA's annotations are. Held in memory."""

    def __init__(self, file: str):
        self.name = Path(file).stem
        text = Path(file).read_bytes().removeprefix(BYTE_ORDER_MARK)
        try:
            self.records = fields.loads(text)
        except fields.InvalidRecord as error:
            raise ValueError(
                f"{file}: {error.args[1]}; one object a line goes as .jsonl"
            ) from error
        if not isinstance(self.records, list):
            type_name = type(self.records).__name__
            raise ValueError(
                f"{file}: wanted a list of objects, got {type_name}; or rename it .jsonl"
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict:
        return _object(self, i, self.records[i])

    def name_of(self, i: int) -> str:
        """Names record i by its place in the list, from 0: "train/17"."""
        return f"{self.name}/{i}"


def _json(file: str) -> JsonLines | JsonList:
    """Opens a .json file, which may be a list or lines; its first byte tells which."""
    with open(file, "rb") as opened:
        beginning = opened.read(100).removeprefix(BYTE_ORDER_MARK).lstrip()
    return JsonList(file) if beginning.startswith(b"[") else JsonLines(file)


# ArrayRecord


class ArrayRecords:
    """A file of ArrayRecord. parse: makes a record of bytes; None for JSON."""

    def __init__(self, file: str, parse: Callable[[bytes], dict] | None = None):
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError:
            raise ImportError(f"{file}: reading ArrayRecord needs {EXTRA}") from None
        self.name = Path(file).name.replace(".array_record", "")
        self.parse = parse
        # One read at a time, no reading ahead: the order is random.
        self.reader = ArrayRecordReader(file, options="readahead_buffer_size:0")
        self.count = self.reader.num_records()
        # The index is at the end of the file: a file that was cut short has none.
        if not self.count or not self.reader.ok():
            raise ValueError(
                f"{file}: not an ArrayRecord file, empty, or cut short; copy it again"
            )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict:
        try:
            (text,) = self.reader.read([int(i)])
        except RuntimeError as error:  # a checksum of the file that does not hold
            raise _damaged(self, i, error) from error
        if self.parse is None:
            return _parsed(self, i, text)
        try:
            return self.parse(text)
        except Exception as error:
            # `parse` belongs to another library and may raise anything. The record passed its
            # checksum, but it cannot be read, so it is damaged all the same.
            raise _damaged(self, i, repr(error)) from error

    def name_of(self, i: int) -> str:
        """Names record i by its number in the file, from 0: "r-00001-of-00003/17"."""
        return f"{self.name}/{i}"


# Tar

Place = tuple[
    str, int, int
]  # of a member: its ending, its offset in the file, its size


class Tar:
    """A WebDataset shard: members with the same name before the first dot are one record.

    The index is the offset and the size of each member; nothing is extracted to disk. KEY.json
    gives the fields. Members that are images replace the paths in the JSON; they are in order of
    their names, with numbers as numbers: 2.png before 10.png. A film, a sound or an image of
    another format becomes a field with the member's name, for which the row is left out.

        a/7.json  a/7.1.png  a/7.2.png  ->  {"question": ..., "images": [bytes, bytes]}
    """

    IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

    def __init__(self, file: str):
        self.file = _opened(self, file)
        self.name = Path(file).stem
        grouped: dict[str, list[Place]] = {}
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    # Links, devices and the like: a hostile shard may point anywhere with them.
                    if not member.isfile():
                        continue
                    # "set/001.seg.PNG" belongs to the record "set/001" and ends in ".seg.png".
                    folder, slash, base = member.name.rpartition("/")
                    stem, _, ending = base.partition(".")
                    key = folder + slash + stem
                    place = (f".{ending}".lower(), member.offset_data, member.size)
                    grouped.setdefault(key, []).append(place)
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
        # The members of each record.
        self.places = [sorted(places, key=_by_number) for places in grouped.values()]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> dict:
        record = {}
        unread = {}
        images = []
        for ending, start, size in self.places[i]:
            is_image = ending.endswith(self.IMAGES)
            # Other members, such as 001.cls, are not read at all.
            if not is_image and not ending.endswith(".json"):
                if media.media_in(ending):
                    name = self.keys[i] + ending
                    unread[name] = name
                continue
            if size > MAX_RECORD:
                detail = f"a member of {size} bytes, at most {MAX_RECORD} are read"
                raise _damaged(self, i, detail)
            data = os.pread(self.file, size, start)
            if is_image:
                images.append(data)
            else:
                record = _parsed(self, i, data)
        if not images:
            return record | unread
        # A path in the JSON would be looked for on this disk, where the image is not.
        kept = {name: value for name, value in record.items() if name != "image"}
        return kept | unread | {"images": images}

    def name_of(self, i: int) -> str:
        """Names record i by its members' name without the ending: "shard/set/001"."""
        return f"{self.name}/{self.keys[i]}"


def _by_number(place: Place) -> list[tuple[int, str]]:
    """Returns what to sort a member by: digits in its ending count as a number.

    ".10.png" becomes [(-1, "."), (10, ""), (-1, ".png")], after ".2.png" with its (2, "").
    """
    ending, _, _ = place
    key = []
    for part in re.split(r"([0-9]+)", ending):
        # Pairs can be compared whatever they hold: a number with a text could not be.
        if part.isdecimal():
            key.append((int(part), ""))
        else:
            key.append((-1, part))
    return key


SHARDS = {"jsonl": JsonLines, "json": _json, "array_record": ArrayRecords, "tar": Tar}
