"""Which files a tokenizer is made of; copying them."""

import shutil
from pathlib import Path

from r1v3_jax.files import read_json


def added_tokens(directory: Path) -> dict[str, int]:
    """Token -> id of the added tokens, from whichever tokenizer file lists them."""
    tokens: dict[str, int] = {}
    if (directory / "added_tokens.json").exists():
        tokens |= read_json(directory / "added_tokens.json")
    if (directory / "tokenizer_config.json").exists():
        listed = (
            read_json(directory / "tokenizer_config.json").get("added_tokens_decoder")
            or {}
        )
        tokens |= {entry["content"]: int(i) for i, entry in listed.items()}
    if (directory / "tokenizer.json").exists():
        listed = read_json(directory / "tokenizer.json").get("added_tokens") or []
        tokens |= {entry["content"]: entry["id"] for entry in listed}
    return tokens


TOKENIZER_FILES = (
    "tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json "
    "added_tokens.json vocab.json merges.txt chat_template.jinja chat_template.json"
).split()


def tokenizer_files(directory) -> list[Path]:
    """The tokenizer's files in a directory, chat template included. FileNotFoundError if none."""
    found = [Path(directory) / name for name in TOKENIZER_FILES]
    found = [path for path in found if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{directory}: no tokenizer files; wanted some of {', '.join(TOKENIZER_FILES)}"
        )
    return found


def copy_tokenizer(source, directory) -> None:
    """Copies the tokenizer's files and its chat template from one directory to another."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, Path(directory) / path.name)
