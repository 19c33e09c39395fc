"""Records at a path, by number: `len(store)`, `store[i] -> dict`, `store.where(i)`.

A path is a file of `shards` or of parquet, a folder or a pattern of these, a folder of TFDS or of
`datasets`, a set on the hub, or such files on another file system. Knows no layouts: what a record
means is for `rows` to say.
"""

import functools
import glob
import hashlib
import os
import re
import uuid
from pathlib import Path

import numpy as np

from r1v3_jax.data.record_files import EXTRA, SHARDS, Records, kind


def open_store(path: str, cache: str = ""):
    """The store at a path.

    DIR/x.jsonl, .json, .parquet, .array_record, .tar; a folder or a pattern of one kind of them;
    DIR@SPLIT of TFDS or of `datasets`; OWNER/NAME@SPLIT on the Hugging Face hub, with a
    configuration OWNER/NAME:CONFIG@SPLIT; the same files at gs://... and wherever else fsspec goes.
    cache: a folder for copies of remote files and for parquet as Arrow; empty for the home
    directory's.

    FileNotFoundError or ValueError if there is nothing to read; ImportError without the extra
    "data", where it is needed.
    """
    store = _open(path, cache)
    if not len(store):
        raise ValueError(f"{path}: no questions; write one JSON object a line")
    return store


def _open(path: str, cache: str):
    if "://" in path:
        return open_files(_copy(path, cache), path, cache)
    base, _, split = (
        path.rpartition("@") if not os.path.exists(path) else (path, "", "")
    )
    if os.path.isdir(base):
        if (Path(base) / "features.json").is_file():
            return _tfds(base, split)
        if any(
            (Path(base) / name).is_file()
            for name in ("state.json", "dataset_dict.json")
        ):
            return _saved_dataset(base, split)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", base) and split:
        return _hub_dataset(base, split, cache)
    return open_files(_files(path), path, cache)


def open_files(files: list[str], path: str, cache: str):
    """The store over files of one kind."""
    kinds = {kind(file) for file in files}
    if len(kinds) != 1:
        found = ", ".join(sorted(kinds))
        raise ValueError(
            f"{path}: files of several kinds, {found}; name one, as {path}/*.jsonl"
        )
    if (found := kinds.pop()) == "parquet":
        place = files[0] if len(files) == 1 else re.split(r"[*?\[]", path)[0]
        return Arrow(_parquet(files, cache), Path(place).stem)
    shards = [SHARDS[found](file) for file in files]
    if len({shard.name for shard in shards}) < len(
        shards
    ):  # a/train.jsonl and b/train.jsonl
        top = os.path.commonpath(files)
        for shard, file in zip(shards, files, strict=True):
            shard.name = os.path.relpath(file, top)
    return Joined(shards)


def _files(path: str) -> list[str]:
    """The files that a path means, in order of their names."""
    if os.path.isdir(path):
        found = _shards([str(file) for file in Path(path).rglob("*") if file.is_file()])
    elif glob.has_magic(path):
        found = _shards(filter(os.path.isfile, glob.glob(path, recursive=True)))
    else:
        found = [path] if os.path.isfile(path) else []
    if bad := [file for file in found if not kind(file)]:
        raise ValueError(
            f"{bad[0]}: wanted a name ending in {', '.join(SHARDS)} or parquet"
        )
    if not found:
        raise FileNotFoundError(
            f"{path}: no such file of questions; give .jsonl, .parquet, .array_record or .tar, a "
            "folder of one kind of them, or OWNER/NAME@SPLIT on the hub"
        )
    return sorted(found)


def _shards(files) -> list[str]:
    """Those of many files that hold records."""
    found = [file for file in files if kind(file) and Path(file).name != "drops.jsonl"]
    return [
        file for file in found if kind(file) != "json"
    ] or found  # beside others it describes


class Joined:
    """Stores one behind the other."""

    def __init__(self, parts: list):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _find(self, i: int) -> tuple:
        part = int(np.searchsorted(self.ends, i, side="right"))
        return self.parts[part], i - (int(self.ends[part - 1]) if part else 0)

    def __getitem__(self, i: int) -> dict:
        part, at = self._find(i)
        return part[at]

    def where(self, i: int) -> str:
        """What to call record i: its file and its number in it."""
        part, at = self._find(i)
        return part.where(at)


def _tfds(folder: str, split: str) -> Joined:
    """A builder's folder, its features undecoded. TensorFlow is not needed, and not imported."""
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.example_parser import ExampleParserNp
    except ImportError:
        raise ImportError(
            f"{folder}: reading it needs pip install r1v3_jax[tfds]"
        ) from None
    info = tfds.builder_from_directory(folder).info
    if split not in info.splits:
        raise ValueError(
            f"{folder}@{split}: choose a split, {folder}@{'|'.join(info.splits)}"
        )
    features, parser = (
        info.features,
        ExampleParserNp(info.features.get_serialized_info()),
    )

    def parse(text: bytes) -> dict:
        found = parser.parse_example(text)
        return {name: _plain(value, features[name]) for name, value in found.items()}

    files = [str(file) for file in info.splits[split].filepaths]
    if bad := [file for file in files if kind(file) != "array_record"]:
        raise ValueError(
            f"{bad[0]}: TFDS is read from array_record; prepare it in that format"
        )
    return Joined([Records(file, parse) for file in files])


def _plain(value, feature):
    """A value of TFDS as JSON has it; images stay bytes."""
    import tensorflow_datasets as tfds

    if isinstance(value, dict):
        inner = getattr(feature, "feature", feature)
        return {name: _plain(one, inner[name]) for name, one in value.items()}
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [_plain(one, getattr(feature, "feature", feature)) for one in value]
    if isinstance(value, bytes) and not isinstance(feature, tfds.features.Image):
        return value.decode("utf-8")
    return value


# Arrow: parquet and `datasets`


class Arrow:
    """A `datasets.Dataset`, memory-mapped; images as {bytes, path}, undecoded."""

    def __init__(self, dataset, name: str):
        self.rows, self.name = dataset.with_format("arrow"), name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        return self.rows[int(i)].to_pylist()[0]

    def where(self, i: int) -> str:
        return f"{self.name}/{i}"


def _datasets():
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"reading parquet and sets of the hub needs {EXTRA}"
        ) from None
    datasets.disable_progress_bars()
    return datasets


def _parquet(files: list[str], cache: str):
    """The rows of parquet files, copied to Arrow files once. Checksums of pages are verified, where
    a file has them; ValueError names the one that is damaged.
    """
    datasets = _datasets()
    import pyarrow.dataset
    import pyarrow.parquet

    options = pyarrow.dataset.ParquetFragmentScanOptions(
        page_checksum_verification=True
    )
    try:
        return datasets.load_dataset(
            "parquet", data_files=files, split="train", cache_dir=cache or None,
            fragment_scan_options=options,
        )  # fmt: skip
    except Exception as error:  # datasets wraps what pyarrow raises, and names no file
        for file in files:
            try:
                with pyarrow.parquet.ParquetFile(
                    file, page_checksum_verification=True
                ) as opened:
                    for group in range(opened.num_row_groups):
                        opened.read_row_group(group)
            except (OSError, pyarrow.ArrowException) as damage:
                found = " ".join(str(damage).split())
                raise ValueError(f"{file}: damaged ({found}); copy it again") from error
        raise ValueError(
            f"{files[0]}, ...: not one table ({error.__cause__ or error})"
        ) from error


def _saved_dataset(folder: str, split: str) -> Arrow:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written."""
    found = _datasets().load_from_disk(folder)
    if isinstance(found, dict):
        if split not in found:
            raise ValueError(
                f"{folder}@{split}: choose a split, {folder}@{'|'.join(found)}"
            )
        found = found[split]
    return Arrow(found, Path(folder).name)


def _hub_dataset(base: str, split: str, cache: str) -> Arrow:
    """OWNER/NAME or OWNER/NAME:CONFIG on the hub. None of its code is run."""
    datasets = _datasets()
    name, _, config = base.partition(":")
    try:
        found = datasets.load_dataset(
            name, config or None, split=split, cache_dir=cache or None
        )
    except Exception as error:  # of huggingface_hub, of the network, of datasets
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{base}@{split}: no such file here, and on the hub: {said}"
        ) from error
    return Arrow(found, name)


# Other file systems


def _copy(path: str, cache: str) -> list[str]:
    """Copies of remote files, made once: a changed file is another copy."""
    try:
        import fsspec
    except ImportError:
        raise ImportError(f"{path}: reading from there needs {EXTRA}") from None
    system, inside = fsspec.core.url_to_fs(path)
    if glob.has_magic(inside):
        names = _shards(filter(system.isfile, system.glob(inside)))
    else:
        names = _shards(system.find(inside))  # of a file: itself
    if not names:
        raise FileNotFoundError(f"{path}: no files of questions there")
    folder = Path(cache).expanduser() if cache else Path.home() / ".cache/r1v3_jax"
    return [_copied(system, name, folder) for name in sorted(names)]


def _copied(system, name: str, folder: Path) -> str:
    mark = hashlib.sha256(
        f"{system.protocol} {name} {system.ukey(name)}".encode()
    ).hexdigest()
    copy = folder / mark[:16] / Path(name).name
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(
            f"{copy.name}.{uuid.uuid4().hex}.partial"
        )  # others copy as well
        system.get_file(name, str(partial))
        os.replace(partial, copy)
    return str(copy)


cached_store = functools.cache(open_store)
