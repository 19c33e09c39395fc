"""JSON read and written whole; directories that appear whole or not at all."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils


def first_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def write_jsonl(path, rows: Iterable[dict]) -> None:
    """Adds the file of one step's rows, one object a line, whole or not at all.

    A step that runs again after a resume replaces its file: each row is there once.
    """
    if first_process():
        write_text(Path(path), "".join(dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """`path` with new content. A reader, or a kill at any moment, finds the old one or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        path.name + ".partial"
    )  # one name: what a kill leaves is overwritten
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def dumps(value, **layout) -> str:
    return json.dumps(_plain(value), allow_nan=False, **layout)


def _plain(value):
    """`value` in what JSON has: numpy and jax numbers become Python's, see the module on nan."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@contextlib.contextmanager
def atomic_directory(directory) -> Iterator[tuple[Path, bool]]:
    """(a directory to fill, whether to write files there); it becomes `directory` at the end.

    All processes of a run call it and take part in what concerns arrays; the first one writes the
    files. FileExistsError if `directory` is there and not empty. What an interrupted block leaves
    is called `directory`.partial, and the next one removes it.
    """
    directory = empty_directory(directory)
    partial = directory.with_name(directory.name + ".partial")
    first = jax.process_index() == 0
    if first:
        partial_directory(directory)
    multihost_utils.sync_global_devices(f"{directory}: begun")
    yield partial, first
    multihost_utils.sync_global_devices(f"{directory}: filled")
    if first:
        os.replace(partial, directory)
    multihost_utils.sync_global_devices(f"{directory}: there")


def not_a_file(path: Path) -> str:
    """Why there is no file to read at `path`; empty if there is one."""
    if path.is_file():
        return ""
    if path.is_symlink() and not path.exists():
        return f"a link to {path.readlink()}, which does not exist"
    return "not a file" if path.exists() else "no such file"


def read_json(path: Path) -> dict:
    """A JSON object. Raises FileNotFoundError or ValueError naming the file."""
    if why := not_a_file(path):
        raise FileNotFoundError(f"{path}: {why}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: a JSON object was wanted, got {type(value).__name__}"
        )
    return value


def write_json(path: Path, value: dict) -> None:
    path.write_text(
        json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def empty_directory(directory) -> Path:
    """`directory` as a Path, if something may be written there. FileExistsError if it holds
    anything.
    """
    directory = Path(os.path.abspath(directory))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(
            f"{directory} exists and is not an empty directory; choose another or remove it"
        )
    return directory


def partial_directory(directory: Path) -> Path:
    """A fresh directory beside `directory`, to be filled and then renamed to it by `os.replace`."""
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial
