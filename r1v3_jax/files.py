"""The one way to write a file, and JSON in and out.

What is written here appears whole or not at all: a reader, or a kill at any moment, finds the old
content or the new one. Knows nothing of what the files mean.
"""

import contextlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils


def first_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


# -------------------------------------------------------------------------------------------------
# files


@contextlib.contextmanager
def atomic_file(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields the path of a partial file to fill, which replaces `path` at the end.

    shared: other processes may write the same file at the same moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Writers of a shared file must not touch each other's partial files. Otherwise there is one
    # name, so that what a kill leaves behind is overwritten by the next attempt.
    writer = f".{uuid.uuid4().hex}" if shared else ""
    partial = path.with_name(f"{path.name}{writer}.partial")
    yield partial
    # The content reaches the disk before the name does: a power cut leaves no empty file.
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Replaces the content of `path`, in UTF-8."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


# -------------------------------------------------------------------------------------------------
# JSON


def write_json(path, value) -> None:
    """Writes a JSON file about a run, on the first process alone; numbers as in `dumps`."""
    if first_process():
        write_text(Path(path), dumps(value, indent=2) + "\n")


def write_jsonl(path, rows: Iterable[dict]) -> None:
    """Writes rows, one JSON object a line, on the first process alone; numbers as in `dumps`.

    A step that runs again after a resume replaces its file, so that each row is there once.
    """
    if first_process():
        write_text(Path(path), "".join(dumps(row) + "\n" for row in rows))


def write_settings(path: Path, settings: dict) -> None:
    """Writes a JSON file that other programs read: letters and numbers stay as they are.

    A tokenizer's settings hold tokens in many scripts, and may have come from another program with
    an Infinity in them. Every process that calls it writes.
    """
    write_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def dumps(value, **options) -> str:
    """Returns `value` as JSON in ASCII, numpy's and jax's numbers as Python's.

    JSON has no word for a number that is not finite: nan becomes null, the infinities become the
    strings "Infinity" and "-Infinity".
    """
    return json.dumps(_to_json_value(value), allow_nan=False, **options)


def _to_json_value(value):
    if isinstance(value, dict):
        return {key: _to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item) for item in value]
    if hasattr(value, "tolist"):
        return _to_json_value(value.tolist())
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def read_json(path: Path) -> dict:
    """Reads a JSON object. Raises FileNotFoundError or ValueError naming the file."""
    if reason := why_unreadable(path):
        raise FileNotFoundError(f"{path}: {reason}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f"{path}: a JSON object was wanted, got {kind}")
    return value


def read_jsonl(path: Path) -> list[dict]:
    """Reads the whole lines of a file with one JSON object a line. ValueError names a bad line.

    A last line without a newline is still being written, or was cut short by a kill: it is left
    out.
    """
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: not JSON ({error}); remove the line"
            ) from None
    return rows


def why_unreadable(path: Path) -> str:
    """Returns why there is no file to read at `path`; empty if there is one."""
    if path.is_file():
        return ""
    if path.is_symlink() and not path.exists():
        return f"a link to {path.readlink()}, which does not exist"
    return "not a file" if path.exists() else "no such file"


# -------------------------------------------------------------------------------------------------
# directories


@contextlib.contextmanager
def atomic_directory(directory) -> Iterator[tuple[Path, bool]]:
    """Yields (a directory to fill, whether to write files in it); at the end it is `directory`.

    All processes of a run call it and take part in what concerns arrays; the first one writes the
    files. FileExistsError if `directory` exists and is not empty. What an interrupted block leaves
    behind is called `directory`.partial, and the next attempt removes it.
    """
    directory = empty_directory(directory)
    writes_files = first_process()
    if writes_files:
        partial_directory(directory)
    multihost_utils.sync_global_devices(f"{directory}: begun")
    yield _partial_name(directory), writes_files
    multihost_utils.sync_global_devices(f"{directory}: filled")
    if writes_files:
        os.replace(_partial_name(directory), directory)
    multihost_utils.sync_global_devices(f"{directory}: there")


def empty_directory(directory) -> Path:
    """Returns `directory` as a Path if something may be written there.

    FileExistsError if it holds anything, or is a file.
    """
    directory = Path(os.path.abspath(directory))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(
            f"{directory} exists and is not an empty directory; choose another or remove it"
        )
    return directory


def partial_directory(directory: Path) -> Path:
    """Makes a fresh directory beside `directory`, to be filled and then renamed to it."""
    partial = _partial_name(directory)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def follow_umask(directory: Path) -> None:
    """Gives the files in a directory the mode that a new file gets, read by whom the umask lets.

    Libraries write some files for their user alone (safetensors: 0600), and copies keep the mode of
    their source: a file server or another user of the machine could not read them.
    """
    new_file = directory / uuid.uuid4().hex
    new_file.touch()
    mode = new_file.stat().st_mode
    new_file.unlink()
    for path in directory.iterdir():
        if path.is_file():
            path.chmod(mode)


def _partial_name(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.partial")
