"""Turns data of any schema, in files of any kind, into checked shards of rows of ours.

python tools/convert_data.py --data=PATH --to=array_record --out=DIR

PATH: as of r1v3_jax/data/stores.py; schemas: r1v3_jax/data/schemas.py. Every row comes out as a
canonical row with its images and films inline, in order; a row that cannot be trained on is left
out and listed, with its reason, in DIR/drops.jsonl. Train on it with --config.grpo.train.path=DIR.

Images at addresses are refused, except for those of hosts that --download names: they are fetched,
once and here.

ArrayRecord is read at random fastest and finds every flipped bit by itself; parquet is what other
programs read, here with checksums of its pages. SHA256SUMS is over all files.
"""

import collections
import concurrent.futures
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from r1v3_jax import checksums, cli, files
from r1v3_jax.data import Rows, films, reader, records
from r1v3_jax.data.downloads import Downloads
from r1v3_jax.data.record_files import EXTRA
from r1v3_jax.types import DroppedRow, Example

DATA = flags.DEFINE_string("data", None, "What to convert.", required=True)
FORMAT = flags.DEFINE_enum(
    "to", "array_record", ["array_record", "parquet"], "What to write."
)
DIRECTORY = flags.DEFINE_string("out", None, "A directory to make.", required=True)
SCHEMA = flags.DEFINE_string(
    "schema", "", "Of the rows; empty: recognised, row by row."
)
ROOT = flags.DEFINE_string("root", "", "The folder of the images; empty: of the files.")
NAME = flags.DEFINE_string(
    "name", "", "The data set's, for rows that do not say; empty: PATH's."
)
SHARD_MB = flags.DEFINE_integer(
    "shard_mb", 256, "Size of a shard, which is held in memory.", 1
)
DOWNLOAD = flags.DEFINE_list("download", [], "Hosts that images may be fetched from.")
THREADS = flags.DEFINE_integer(
    "threads", 0, "That read rows; 0: one a core, 16 to download.", 0
)
CACHE = flags.DEFINE_string(
    "cache", "", "For copies of remote files, and of parquet as Arrow."
)


def main():
    # 1. Everything that can be refused before a row is read.
    directory = files.empty_directory(DIRECTORY.value)
    downloads = Downloads(tuple(DOWNLOAD.value)) if DOWNLOAD.value else None
    source = Rows(
        DATA.value, SCHEMA.value, ROOT.value, NAME.value, cache=CACHE.value
    ).open()
    counts = source.recognised().items()
    schemas = ", ".join(f"{name} {count}" for name, count in counts)
    print(f"{DATA.value}: {len(source):,} rows; schemas of some: {schemas}")

    # 2. The rows. Until all of them are written, the directory has another name: nobody trains on
    # half of the data.
    partial = files.partial_directory(directory)
    reasons = collections.Counter()
    written = 0
    shards = 0
    with open(partial / "drops.jsonl", "w", encoding="utf-8") as drops:
        good = good_rows(source, reasons, drops, downloads)
        for shards, chunk in enumerate(chunks(good, SHARD_MB.value * 10**6), start=1):
            path = partial / f"rows-{shards - 1:05}.{FORMAT.value}"
            WRITERS[FORMAT.value](path, chunk)
            written += len(chunk)

    # 3. The report. Without a good row, what is there stays: drops.jsonl says why.
    why = reader.format_counts(reasons)
    if not written:
        raise ValueError(f"{DATA.value}: no good row; {why}; see {partial}/drops.jsonl")
    checksums.write_sums(partial)
    os.replace(partial, directory)
    dropped = "none dropped"
    if why:
        dropped = f"{reasons.total():,} dropped ({why}), see drops.jsonl"
    print(
        f"{directory}: {written:,} rows in {shards} shards of {FORMAT.value}; {dropped}"
    )


def good_rows(
    source: Rows, reasons: collections.Counter, drops, downloads: Downloads | None
) -> Iterator[dict]:
    """Yields the rows that can be trained on, whose images were decoded once to see that they can.

    The others are counted in `reasons` and written to the file `drops`.
    """
    # Of each source and id, digests of the rows that have them.
    digests = collections.defaultdict(set)
    for number, example in enumerate(ahead(source, downloads)):
        # Rows that could not be read and rows that were there before are listed in one way.
        try:
            if isinstance(example, DroppedRow):
                raise example
            row = records.inline(example)
            digest = hashlib.sha256(records.dumps(row).encode()).digest()
            namesakes = digests[example.source, example.id]
            if digest in namesakes:
                raise DroppedRow(
                    example.source, example.id, "duplicate", f"row {number}"
                )
        except DroppedRow as dropped:
            reasons[dropped.reason] += 1
            fields = ("source", "id", "reason", "detail")
            line = {"row": number} | {name: getattr(dropped, name) for name in fields}
            drops.write(json.dumps(line) + "\n")
            continue
        namesakes.add(digest)
        # Several questions about one picture may share its id. An id must name one row: the second
        # becomes "ID#2".
        if len(namesakes) > 1:
            row["id"] = f"{example.id}#{len(namesakes)}"
        yield row


def ahead(source: Rows, downloads: Downloads | None) -> Iterator[Example | DroppedRow]:
    """Yields all rows in order, while threads read the next ones and decode their images.

    A bad row is yielded as its DroppedRow.
    """
    # Decoding keeps a core busy; a download mostly waits.
    threads = THREADS.value or (16 if downloads else os.cpu_count() or 1)

    def read(number: int) -> Example | DroppedRow:
        try:
            example = source.row(number, downloads)
            # The side of a tile: whole frames of several films would fill the memory.
            reader.decoded(example, tile_size=448)
        except DroppedRow as dropped:
            return dropped
        return example

    # At most 4 rows a thread are waiting: more would only fill the memory with images.
    numbers = iter(range(len(source)))
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for number in itertools.islice(numbers, 4 * threads):
            waiting.append(pool.submit(read, number))
        while waiting:
            yield waiting.popleft().result()
            for number in itertools.islice(numbers, 1):
                waiting.append(pool.submit(read, number))


def chunks(good: Iterator[dict], limit: int) -> Iterator[list[dict]]:
    """Cuts rows into lists of about `limit` bytes, the last row of a list going over it."""
    chunk = []
    size = 0
    for row in good:
        chunk.append(row)
        images = sum(map(len, row["images"]))
        for video in row["videos"]:
            images += sum(map(len, video.get("frames", [video.get("video", b"")])))
        texts = len(row["question"]) + len(row["chain"] or "")
        size += images + texts + 200  # for the other fields
        if size >= limit:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk


def write_array_record(path: Path, chunk: list[dict]) -> None:
    """Writes rows as JSON, one a record: each is read, and found damaged, by itself."""
    try:
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError:
        raise ImportError(f"writing ArrayRecord needs {EXTRA}") from None
    # Base64 makes images a third longer; the compression takes that back.
    writer = ArrayRecordWriter(str(path), "group_size:1,zstd:3")
    for row in chunk:
        writer.write(records.dumps(row).encode())
    writer.close()


def write_parquet(path: Path, chunk: list[dict]) -> None:
    """Writes rows as columns, images as {bytes, path}, metadata as JSON."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"writing parquet needs {EXTRA}") from None
    text = pa.string()
    turn = pa.struct([("role", text), ("content", text)])
    image = pa.struct([("bytes", pa.binary()), ("path", text)])
    counts = [(name, pa.int64()) for name in films.COUNTS]
    seconds = [(name, pa.float64()) for name in ("fps", "start", "end")]
    film = [("video", pa.binary()), ("frames", pa.list_(image)), ("last", pa.bool_())]
    types = {
        "images": pa.list_(image),
        "videos": pa.list_(pa.struct([*film, *counts, *seconds])),
        "before": pa.list_(turn),
        "accuracy_weight": pa.float64(),
    }
    schema = pa.schema([(name, types.get(name, text)) for name in chunk[0]])
    stored = []
    for row in chunk:
        # The other fields are texts. Metadata is one too: its entries differ from row to row, and
        # a struct would have to have them all.
        images = [{"bytes": data} for data in row["images"]]
        videos = []
        for video in row["videos"]:
            if "frames" in video:
                video = video | {"frames": [{"bytes": x} for x in video["frames"]]}
            videos.append(video)
        metadata = json.dumps(row["metadata"])
        changed = {"images": images, "videos": videos, "metadata": metadata}
        stored.append(row | changed)
    pyarrow.parquet.write_table(
        pa.Table.from_pylist(stored, schema),
        path,
        row_group_size=100,
        compression="zstd",
        write_page_checksum=True,
    )


WRITERS: dict[str, Callable[[Path, list[dict]], None]] = {
    "array_record": write_array_record,
    "parquet": write_parquet,
}


if __name__ == "__main__":
    cli.run(main)
