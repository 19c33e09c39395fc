"""What a benchmark's number depends on, written beside it; the same directory keeps one protocol.

    {"sampling": {"temperature": 1.0, ...}, "scoring": {"reading": "box", ...}}     protocol.json

Another way to sample is refused where samples are. Another way to score only scores again.
"""

import hashlib
import json
from pathlib import Path

from r1v3_jax.files import read_json, write_json


def settle(path: Path, protocol: dict) -> None:
    """Writes the protocol; ValueError if samples were begun with another one, naming the fields."""
    if path.exists():
        begun = read_json(path).get("sampling", {})
        # As they are read back: a tuple is a list there.
        wanted = json.loads(json.dumps(protocol["sampling"]))
        names = sorted(begun.keys() | wanted.keys())
        differs = [
            f"{name} was {begun.get(name)!r} and is {wanted.get(name)!r}"
            for name in names
            if begun.get(name) != wanted.get(name)
        ]
        if differs:
            raise ValueError(
                f"{path.parent} has samples of another protocol: {'; '.join(differs)}; give "
                "another --out, or the old values"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, protocol)


def digest(parts) -> str:
    """Returns a SHA-256 of texts, of which 16 digits do."""
    digest_of_parts = hashlib.sha256()
    for part in parts:
        digest_of_parts.update(str(part).encode("utf-8", "replace") + b"\0")
    return digest_of_parts.hexdigest()[:16]
