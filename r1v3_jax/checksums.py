"""Checksums of the files in a directory: SHA256SUMS, and the manifest of a training state.

Orbax and safetensors restore a file with a flipped bit without an error; these find it. The
manifest is written last, so it also tells a state that was saved whole from one that was not.
"""

import hashlib
import json
from pathlib import Path

import jax

import r1v3_jax
from r1v3_jax.files import read_json, write_text


def write_sums(directory: Path) -> None:
    """Writes SHA256SUMS over every file in a directory.

    `sha256sum --check SHA256SUMS` reads it.
    """
    # Two spaces: the format of sha256sum for files that are read as they are.
    sums = [f"{sha256(path)}  {name}\n" for name, path in files_in(directory)]
    write_text(directory / "SHA256SUMS", "".join(sums))


def check_sums(directory: Path) -> None:
    """ValueError naming every file that is missing or differs from SHA256SUMS.

    The processes of a run share the work: each names the changed files of its own share.
    """
    sums = read_sums(directory)
    paths = dict(files_in(directory))
    problems = [f"{name} is missing" for name in sums if name not in paths]
    problems += _changed(sums, paths)
    if problems:
        raise ValueError(
            f"{directory} is damaged: {', '.join(problems)}; copy it again"
        )


def check_file(path: Path) -> None:
    """ValueError if a file differs from what SHA256SUMS beside it says.

    Every process that calls it reads the whole file; no device is touched.
    """
    if read_sums(path.parent).get(path.name) != sha256(path):
        raise ValueError(f"{path} has changed since it was sealed; copy it again")


def read_sums(directory: Path) -> dict[str, str]:
    """Returns {name: checksum} of SHA256SUMS. FileNotFoundError if there is none."""
    path = directory / "SHA256SUMS"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; {directory} is incomplete, copy it again"
        )
    sums = {}
    for line in path.read_text("utf-8").splitlines():
        digest_of_file, name = line.split("  ", 1)
        sums[name] = digest_of_file
    return sums


def write_manifest(directory: Path, body: dict) -> None:
    """Writes DIRECTORY/manifest/I-of-N.json, as process I of the N of a run.

    It holds `body` and the checksums of this process's share of the other files, which must all be
    there.
    """
    process = jax.process_index()
    count = jax.process_count()
    # Files a b c d e and two processes: a c e are process 0's, b d are process 1's.
    share = _manifest_files(directory)[process::count]
    sums = {name: sha256(path) for name, path in share}
    body = {**body, "files": sums, "version": r1v3_jax.__version__}
    # The digest is over the body: a manifest with a flipped bit of its own is found too.
    manifest = {"digest": _digest(body), "body": body}
    path = directory / "manifest" / f"{process}-of-{count}.json"
    write_text(path, json.dumps(manifest, indent=1))


def read_manifest(directory: Path) -> dict:
    """Returns the body that `write_manifest` has written, with the checksums of all files.

    FileNotFoundError if a part of the manifest is missing; ValueError if one has changed.
    """
    if not has_manifest(directory):
        raise FileNotFoundError(f"{directory}: its manifest is not whole")
    paths = sorted((directory / "manifest").glob("*-of-*.json"))
    body = {}
    sums = {}
    # The parts differ in their files only; the rest of the body is taken from the last one.
    for path in paths:
        manifest = read_json(path)
        body = manifest.get("body")
        if not isinstance(body, dict) or manifest.get("digest") != _digest(body):
            raise ValueError(f"{path} has changed")
        sums |= body["files"]
    return {**body, "files": sums}


def has_manifest(directory: Path) -> bool:
    """Whether the manifest has all its parts: as many as the N in a name I-of-N says."""
    parts = list((directory / "manifest").glob("*-of-*.json"))
    if not parts:
        return False
    # "0-of-4.json" and three more.
    _, _, count = parts[0].stem.rpartition("-")
    return len(parts) == int(count)


def check_manifest(directory: Path) -> list[str]:
    """Returns what is missing or has changed, in this process's share of the files; [] if nothing.

    An unreadable manifest is a problem like the others: no error is raised.
    """
    try:
        sums = read_manifest(directory)["files"]
    except (ValueError, OSError) as error:
        return [str(error)]
    paths = dict(_manifest_files(directory))
    problems = [f"{name} is missing" for name in sums if name not in paths]
    # A file that came later is no part of the state that was saved.
    problems += [f"{name} is in no manifest" for name in paths if name not in sums]
    return problems + _changed(sums, paths)


def _changed(sums: dict[str, str], paths: dict[str, Path]) -> list[str]:
    """Names the files of this process's share whose content is not that of `sums`."""
    # Only what is listed and there can be compared; every process sorts the same names.
    names = sorted(set(sums) & set(paths))
    share = names[jax.process_index() :: jax.process_count()]
    return [
        f"{name} has changed" for name in share if sha256(paths[name]) != sums[name]
    ]


def digest(directory: Path) -> str:
    """Returns one digest of all files in a directory, of their names and their contents."""
    return _digest({name: sha256(path) for name, path in files_in(directory)})


def _digest(body: dict) -> str:
    # With sorted keys: a body that was read back from JSON has the same digest.
    text = json.dumps(body, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest_files(directory: Path) -> list[tuple[str, Path]]:
    """Lists the files that a manifest covers: all except its own parts."""
    return [
        (name, path)
        for name, path in files_in(directory)
        if not name.startswith("manifest/")
    ]


def files_in(directory: Path) -> list[tuple[str, Path]]:
    """Lists the (name, path) of all files in a directory and its folders, except SHA256SUMS.

    Names are relative to the directory, in order of the paths: the same list on every machine.
    """
    named = []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        # SHA256SUMS cannot hold its own checksum.
        if path.is_file() and name != "SHA256SUMS":
            named.append((name, path))
    return named


def sha256(path: Path) -> str:
    """Returns the checksum of one file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
