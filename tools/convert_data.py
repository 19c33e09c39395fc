"""Turns data of any layout, in files of any kind, into checked shards of rows of ours.

python tools/convert_data.py --data=PATH --to=array_record --out=DIR

PATH: as of r1v3_jax/stores.py; layouts: r1v3_jax/layouts.py. Every row comes out as a canonical row
with its images inline, in order; a row that cannot be trained on is left out and listed, with its
reason, in DIR/drops.jsonl. Train on it with --config.grpo.train.path=DIR.

Images at addresses are refused, but for those of hosts that --download names: they are fetched,
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
from r1v3_jax.data import Rows, reader, records
from r1v3_jax.data.downloads import Downloads
from r1v3_jax.data.record_files import EXTRA
from r1v3_jax.types import DroppedRow, Example

DATA = flags.DEFINE_string("data", None, "What to convert.", required=True)
TO = flags.DEFINE_enum(
    "to", "array_record", ["array_record", "parquet"], "What to write."
)
OUT = flags.DEFINE_string("out", None, "A directory to make.", required=True)
SCHEMA = flags.DEFINE_string("schema", "", "The layout; empty: recognised, row by row.")
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
    out = files.empty_directory(OUT.value)
    downloads = Downloads(tuple(DOWNLOAD.value)) if DOWNLOAD.value else None
    source = Rows(
        DATA.value, SCHEMA.value, ROOT.value, NAME.value, cache=CACHE.value
    ).open()
    layouts = ", ".join(
        f"{name} {count}" for name, count in source.recognised().items()
    )
    print(f"{DATA.value}: {len(source):,} rows; layouts of some: {layouts}")
    partial = files.partial_directory(out)
    reasons, written, shards = collections.Counter(), 0, 0
    with open(partial / "drops.jsonl", "w", encoding="utf-8") as drops:
        good = good_rows(source, reasons, drops, downloads)
        for shards, chunk in enumerate(chunks(good, SHARD_MB.value * 10**6), start=1):
            WRITERS[TO.value](partial / f"rows-{shards - 1:05}.{TO.value}", chunk)
            written += len(chunk)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not written:
        raise ValueError(f"{DATA.value}: no good row; {why}; see {partial}/drops.jsonl")
    checksums.write_sums(partial)
    os.replace(partial, out)
    dropped = (
        f"{reasons.total():,} dropped ({why}), see drops.jsonl"
        if why
        else "none dropped"
    )
    print(f"{out}: {written:,} rows in {shards} shards of {TO.value}; {dropped}")


def good_rows(
    source: Rows, reasons: collections.Counter, drops, downloads: Downloads | None
) -> Iterator[dict]:
    """The rows that can be trained on, their images decoded once to see that they can be. The
    others are counted, and written to the file `drops`.
    """
    seen = collections.defaultdict(set)  # of each source and id, what the rows are
    for number, example in enumerate(ahead(source, downloads)):
        try:
            if isinstance(example, DroppedRow):
                raise example
            row, same = records.inline(example), seen[example.source, example.id]
            content = hashlib.sha256(records.dumps(row).encode()).digest()
            if content in same:
                raise DroppedRow(
                    example.source, example.id, "duplicate", f"row {number}"
                )
        except DroppedRow as dropped:
            reasons[dropped.reason] += 1
            fields = ("source", "id", "reason", "detail")
            line = {"row": number} | {name: getattr(dropped, name) for name in fields}
            drops.write(json.dumps(line) + "\n")
            continue
        same.add(content)
        # Several questions about one picture may share its id.
        yield row if len(same) == 1 else row | {"id": f"{example.id}#{len(same)}"}


def ahead(source: Rows, downloads: Downloads | None) -> Iterator[Example | DroppedRow]:
    """All rows in order, decoded to see that they can be; threads are at those that come next."""
    threads = THREADS.value or (16 if downloads else os.cpu_count() or 1)

    def read(number: int) -> Example | DroppedRow:
        try:
            example = source.row(number, downloads)
            reader.decoded(example)
        except DroppedRow as dropped:
            return dropped
        return example

    numbers, waiting = iter(range(len(source))), collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for number in itertools.islice(numbers, 4 * threads):
            waiting.append(pool.submit(read, number))
        while waiting:
            yield waiting.popleft().result()
            for number in itertools.islice(numbers, 1):
                waiting.append(pool.submit(read, number))


def chunks(good: Iterator[dict], limit: int) -> Iterator[list[dict]]:
    """Rows in a row, of about `limit` bytes together."""
    chunk, size = [], 0
    for row in good:
        chunk.append(row)
        size += (
            sum(map(len, row["images"]))
            + len(row["question"])
            + len(row["chain"] or "")
            + 200
        )
        if size >= limit:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def write_array_record(path: Path, chunk: list[dict]) -> None:
    """Rows as JSON, one a record: each is read, and found damaged, by itself."""
    try:
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError:
        raise ImportError(f"writing ArrayRecord needs {EXTRA}") from None
    writer = ArrayRecordWriter(
        str(path), "group_size:1,zstd:3"
    )  # takes base64 back to bytes
    for row in chunk:
        writer.write(records.dumps(row).encode())
    writer.close()


def write_parquet(path: Path, chunk: list[dict]) -> None:
    """Rows as columns, images as {bytes, path}, metadata as JSON."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"writing parquet needs {EXTRA}") from None
    text, turn = (
        pa.string(),
        pa.struct([("role", pa.string()), ("content", pa.string())]),
    )
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    special = {
        "images": pa.list_(image), "before": pa.list_(turn), "accuracy_weight": pa.float64(),
    }  # fmt: skip
    schema = pa.schema([(name, special.get(name, text)) for name in chunk[0]])
    stored = [
        row
        | {"images": [{"bytes": data} for data in row["images"]]}
        | {"metadata": json.dumps(row["metadata"])}
        for row in chunk
    ]
    pyarrow.parquet.write_table(
        pa.Table.from_pylist(stored, schema), path,
        row_group_size=100, compression="zstd", write_page_checksum=True,
    )  # fmt: skip


WRITERS: dict[str, Callable[[Path, list[dict]], None]] = {
    "array_record": write_array_record,
    "parquet": write_parquet,
}


if __name__ == "__main__":
    cli.run(main)
