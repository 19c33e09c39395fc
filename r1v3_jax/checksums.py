"""Checksums of the files in a directory: SHA256SUMS, and the manifest that makes a training state
good.

Orbax and safetensors restore a file with a flipped bit without a word; these do not.
"""

import hashlib
import json
import os
from pathlib import Path

import jax

import r1v3_jax
from r1v3_jax.files import read_json


def write_sums(directory: Path) -> None:
    """SHA256SUMS over every file in a directory; `sha256sum --check SHA256SUMS` reads it."""
    sums = [f"{sha256(path)}  {name}\n" for name, path in files(directory)]
    (directory / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def check_sums(directory: Path) -> None:
    """ValueError naming every file that is gone or is not what SHA256SUMS says. The processes of a
    run share the work.
    """
    path = directory / "SHA256SUMS"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; {directory} is incomplete, copy it again"
        )
    sums = dict(
        line.split("  ", 1)[::-1] for line in path.read_text("utf-8").splitlines()
    )
    found = dict(files(directory))
    problems = [f"{name} is missing" for name in sums if name not in found]
    mine = sorted(set(sums) & set(found))[jax.process_index() :: jax.process_count()]
    problems += [
        f"{name} has changed" for name in mine if sha256(found[name]) != sums[name]
    ]
    if problems:
        raise ValueError(
            f"{directory} is damaged: {', '.join(problems)}; copy it again"
        )


def write_manifest(directory: Path, body: dict) -> None:
    """DIRECTORY/manifest/I-of-N.json, by each process I of a run's N: `body`, and the checksums of
    its share of the other files, which must all be there.
    """
    here, count = jax.process_index(), jax.process_count()
    files = {
        name: sha256(path) for name, path in _manifest_files(directory)[here::count]
    }
    body = {**body, "files": files, "version": r1v3_jax.__version__}
    whole = {"digest": _digest(body), "body": body}
    path = directory / "manifest" / f"{here}-of-{count}.json"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(whole, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_manifest(directory: Path) -> dict:
    """The body that `write_manifest` was given, with the checksums of all files. ValueError or
    FileNotFoundError if it is not whole.
    """
    if not has_manifest(directory):
        raise FileNotFoundError(f"{directory}: its manifest is not whole")
    paths = sorted((directory / "manifest").glob("*-of-*.json"))
    body, files = {}, {}
    for path in paths:
        whole = read_json(path)
        body = whole.get("body")
        if not isinstance(body, dict) or whole.get("digest") != _digest(body):
            raise ValueError(f"{path} has changed")
        files |= body["files"]
    return {**body, "files": files}


def has_manifest(directory: Path) -> bool:
    """Whether the manifest has all its parts."""
    parts = [path.stem for path in (directory / "manifest").glob("*-of-*.json")]
    return bool(parts) and len(parts) == int(parts[0].rpartition("-")[2])


def check_manifest(directory: Path) -> list[str]:
    """What is missing or has changed, of this process's share of the files; [] if nothing."""
    try:
        sums = read_manifest(directory)["files"]
    except (ValueError, OSError) as error:
        return [str(error)]
    found = dict(_manifest_files(directory))
    problems = [f"{name} is missing" for name in sums if name not in found]
    problems += [f"{name} is in no manifest" for name in found if name not in sums]
    mine = sorted(set(sums) & set(found))[jax.process_index() :: jax.process_count()]
    return problems + [
        f"{name} has changed" for name in mine if sha256(found[name]) != sums[name]
    ]


def digest(directory: Path) -> str:
    """One number for all files of a directory, their names and what is in them."""
    return _digest({name: sha256(path) for name, path in files(directory)})


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _manifest_files(directory: Path) -> list[tuple[str, Path]]:
    return [
        (name, path)
        for name, path in files(directory)
        if not name.startswith("manifest/")
    ]


def files(directory: Path) -> list[tuple[str, Path]]:
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    named = [(path.relative_to(directory).as_posix(), path) for path in found]
    return [(name, path) for name, path in named if name != "SHA256SUMS"]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
