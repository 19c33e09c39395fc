"""Records at a path, by number: `len(store)`, `store[i] -> dict`, `store.name_of(i) -> str`.

A path is a file of `record_files` or of parquet, a folder or a pattern of such files, a folder of
TFDS or of `datasets`, a set on the Hugging Face hub, or such files on another file system. What a
record means is not known here: `schemas` and `records` know it.
"""

import functools
import glob
import hashlib
import os
import re
from pathlib import Path

import numpy as np

from r1v3_jax.data.record_files import EXTRA, SHARDS, ArrayRecords, kind
from r1v3_jax.files import atomic_file


def open_store(path: str, cache: str = ""):
    """Opens the store at a path.

    DIR/x.jsonl, .json, .parquet, .array_record, .tar; a folder or a pattern of one kind of them;
    DIR@SPLIT of TFDS or of `datasets`; OWNER/NAME@SPLIT on the Hugging Face hub, with a
    configuration OWNER/NAME:CONFIG@SPLIT; the same files at gs://... and wherever else fsspec goes.
    cache: a folder for copies of remote files and for parquet as Arrow; empty for one in the home
    directory.

    FileNotFoundError or ValueError if there is nothing to read; ImportError without the extra
    "data", where it is needed.
    """
    store = _open(path, cache)
    if not len(store):
        raise ValueError(f"{path}: no questions; write one JSON object a line")
    return store


# A run opens each path once, however many sources read from it.
cached_store = functools.cache(open_store)


def _open(path: str, cache: str):
    """Decides what a path means, and opens it."""
    # 1. Another file system: gs://bucket/rows.
    if "://" in path:
        return _open_files(_copies(path, cache), path, cache)
    # 2. A folder that another program has written, with the split behind the last @. A path that
    # exists has no split, whatever its name: DIR/a@b.jsonl is a file.
    base = path
    split = ""
    if not os.path.exists(path):
        base, _, split = path.rpartition("@")
    if os.path.isdir(base):
        folder = Path(base)
        if (folder / "features.json").is_file():
            return _tfds(base, split)
        markers = (folder / "state.json", folder / "dataset_dict.json")
        if any(marker.is_file() for marker in markers):
            return _saved_dataset(base, split)
    # 3. A set on the hub. Without @SPLIT nothing is asked for there: it is a file that is missing.
    elif split and re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", base):
        return _hub_dataset(base, split, cache)
    # 4. Files of one kind.
    return _open_files(_files(path), path, cache)


def _open_files(files: list[str], path: str, cache: str):
    """Opens files of one kind as one store."""
    kinds = {kind(file) for file in files}
    if len(kinds) != 1:
        raise ValueError(
            f"{path}: files of several kinds, {', '.join(sorted(kinds))}; name one, as "
            f"{path}/*.jsonl"
        )
    (file_kind,) = kinds
    if file_kind == "parquet":
        # Rows are named after the file, after the folder of many files, or after the text before
        # the first wildcard of a pattern.
        place = files[0] if len(files) == 1 else re.split(r"[*?\[]", path)[0]
        return Arrow(_parquet(files, cache), Path(place).stem)
    shards = [SHARDS[file_kind](file) for file in files]
    # a/train.jsonl and b/train.jsonl would both name their rows train/1, train/2, ...: name them
    # by their paths instead.
    if len({shard.name for shard in shards}) < len(shards):
        top = os.path.commonpath(files)
        for shard, file in zip(shards, files, strict=True):
            shard.name = os.path.relpath(file, top)
    return Concatenated(shards)


def _files(path: str) -> list[str]:
    """Lists the files that a path means, in order of their names."""
    if os.path.isdir(path):
        inside = filter(os.path.isfile, Path(path).rglob("*"))
        files = _with_records(str(file) for file in inside)
    elif glob.has_magic(path):
        matches = glob.glob(path, recursive=True)
        files = _with_records(filter(os.path.isfile, matches))
    else:
        files = [path] if os.path.isfile(path) else []
    # Only a file that was named itself can be of another kind.
    endings = ", ".join(SHARDS)
    for file in files:
        if not kind(file):
            raise ValueError(f"{file}: wanted a name ending in {endings} or parquet")
    if not files:
        raise FileNotFoundError(
            f"{path}: no such file of questions; give .jsonl, .parquet, .array_record or .tar, a "
            "folder of one kind of them, or OWNER/NAME@SPLIT on the hub"
        )
    return sorted(files)


def _with_records(files) -> list[str]:
    """Returns those of many files that hold records."""
    # drops.jsonl is what tools/convert_data.py has left out, beside its shards.
    files = [file for file in files if kind(file) and Path(file).name != "drops.jsonl"]
    # A .json file beside others describes them (dataset_infos.json); alone it is data.
    without_json = [file for file in files if kind(file) != "json"]
    return without_json or files


class Concatenated:
    """Stores one behind the other, as one store.

    Of stores with 10, 5 and 20 records, record 12 is record 2 of the second.
    """

    def __init__(self, parts: list):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])  # 10, 15, 35

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _locate(self, i: int) -> tuple:
        """Returns the store that has record i, and the number of the record in it."""
        part = int(np.searchsorted(self.ends, i, side="right"))
        start = int(self.ends[part - 1]) if part else 0
        return self.parts[part], i - start

    def __getitem__(self, i: int) -> dict:
        part, number = self._locate(i)
        return part[number]

    def name_of(self, i: int) -> str:
        """Names record i by its file and its number in it."""
        part, number = self._locate(i)
        return part.name_of(number)


# TFDS


def _tfds(folder: str, split: str) -> Concatenated:
    """Opens a builder's folder, its features undecoded.

    TensorFlow is not needed, and not imported.
    """
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.example_parser import ExampleParserNp
    except ImportError:
        raise ImportError(
            f"{folder}: reading it needs pip install r1v3_jax[tfds]"
        ) from None
    info = tfds.builder_from_directory(folder).info
    if split not in info.splits:
        splits = "|".join(info.splits)
        raise ValueError(f"{folder}@{split}: choose a split, {folder}@{splits}")
    features = info.features
    parser = ExampleParserNp(features.get_serialized_info())

    def parse(text: bytes) -> dict:
        record = parser.parse_example(text)
        return {name: _plain(value, features[name]) for name, value in record.items()}

    # TFDS can also write TFRecord and Riegeli, which have no index to read at random with.
    files = [str(file) for file in info.splits[split].filepaths]
    for file in files:
        if kind(file) != "array_record":
            raise ValueError(
                f"{file}: TFDS is read from array_record; prepare it in that format"
            )
    return Concatenated([ArrayRecords(file, parse) for file in files])


def _plain(value, feature):
    """Converts a value of TFDS to what JSON would have in its place; images stay bytes."""
    import tensorflow_datasets as tfds

    # A Sequence wraps the feature of its elements; `feature` takes it out.
    inner = getattr(feature, "feature", feature)
    if isinstance(value, dict):
        return {name: _plain(element, inner[name]) for name, element in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(element, inner) for element in value]
    if isinstance(value, bytes) and not isinstance(feature, tfds.features.Image):
        return value.decode("utf-8")
    return value


# Arrow: parquet and `datasets`


class Arrow:
    """A `datasets.Dataset`, memory-mapped; images as {bytes, path}, undecoded."""

    def __init__(self, dataset, name: str):
        # As plain Arrow: the default format would decode every image that is looked at.
        self.rows = dataset.with_format("arrow")
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        return self.rows[int(i)].to_pylist()[0]

    def name_of(self, i: int) -> str:
        """Names record i by its number in the table, from 0: "train/17"."""
        return f"{self.name}/{i}"


def _datasets():
    """Imports `datasets`, which is heavy and not always installed, and silences its bars."""
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"reading parquet and sets of the hub needs {EXTRA}"
        ) from None
    datasets.disable_progress_bars()
    return datasets


def _parquet(files: list[str], cache: str):
    """Copies the rows of parquet files to Arrow files, once, and opens these.

    Checksums of pages are verified where a file has them; ValueError names a file that is damaged.
    """
    datasets = _datasets()
    import pyarrow.dataset

    options = pyarrow.dataset.ParquetFragmentScanOptions(
        page_checksum_verification=True
    )
    try:
        return datasets.load_dataset(
            "parquet",
            data_files=files,
            split="train",
            cache_dir=cache or None,
            fragment_scan_options=options,
        )
    except Exception as error:
        # `datasets` wraps what pyarrow raises, and does not say in which file: read each again.
        for file in files:
            _check_parquet(file, error)
        raise ValueError(
            f"{files[0]}, ...: not one table ({error.__cause__ or error})"
        ) from error


def _check_parquet(file: str, cause: Exception) -> None:
    """Reads a parquet file to its end; ValueError if it is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(
            file, page_checksum_verification=True
        ) as opened:
            for group in range(opened.num_row_groups):
                opened.read_row_group(group)
    except (OSError, pyarrow.ArrowException) as damage:
        detail = " ".join(str(damage).split())
        raise ValueError(f"{file}: damaged ({detail}); copy it again") from cause


def _saved_dataset(folder: str, split: str) -> Arrow:
    """Opens what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written."""
    dataset = _datasets().load_from_disk(folder)
    if isinstance(dataset, dict):  # a DatasetDict: {split: Dataset}
        if split not in dataset:
            splits = "|".join(dataset)
            raise ValueError(f"{folder}@{split}: choose a split, {folder}@{splits}")
        dataset = dataset[split]
    return Arrow(dataset, Path(folder).name)


def _hub_dataset(base: str, split: str, cache: str) -> Arrow:
    """Opens OWNER/NAME or OWNER/NAME:CONFIG on the hub. None of its code is run."""
    datasets = _datasets()
    name, _, config = base.partition(":")
    try:
        dataset = datasets.load_dataset(
            name, config or None, split=split, cache_dir=cache or None
        )
    except Exception as error:
        # Errors of huggingface_hub, of the network and of `datasets`, often many lines long.
        detail = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{base}@{split}: no such file here, and on the hub: {detail}"
        ) from error
    return Arrow(dataset, name)


# Other file systems


def _copies(path: str, cache: str) -> list[str]:
    """Copies remote files to the cache and returns the copies.

    A file is copied once; a file that has changed gets a copy of its own.
    """
    try:
        import fsspec
    except ImportError:
        raise ImportError(f"{path}: reading from there needs {EXTRA}") from None
    system, remote_path = fsspec.core.url_to_fs(path)
    if glob.has_magic(remote_path):
        names = _with_records(filter(system.isfile, system.glob(remote_path)))
    else:
        names = _with_records(system.find(remote_path))  # of a file: itself
    if not names:
        raise FileNotFoundError(f"{path}: no files of questions there")
    folder = Path(cache).expanduser() if cache else Path.home() / ".cache/r1v3_jax"
    return [_copied(system, name, folder) for name in sorted(names)]


def _copied(system, name: str, folder: Path) -> str:
    """Copies one remote file to FOLDER/KEY/NAME, unless that exists."""
    # `ukey` changes with the content (a checksum, or size and time), and so does the copy's folder.
    identity = f"{system.protocol} {name} {system.ukey(name)}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    copy = folder / key / Path(name).name
    if not copy.is_file():
        # Other processes may copy the same file at the same moment: each writes a file of its own,
        # and the last one to rename it wins. A copy that was cut short is never opened.
        with atomic_file(copy, shared=True) as partial:
            system.get_file(name, str(partial))
    return str(copy)
