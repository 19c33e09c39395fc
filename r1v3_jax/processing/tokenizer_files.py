"""The files that a tokenizer consists of: finding, copying and reading their added tokens.

Does not know what is in a vocabulary and imports no tokenizer library.
"""

import shutil
from pathlib import Path

from r1v3_jax.files import read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",  # today's place of the template; a JSON file held it before
    "chat_template.json",
)


def added_tokens(directory: Path) -> dict[str, int]:
    """Returns {token: id} of the added tokens, from every tokenizer file that lists them.

    Three files may hold the list, each in its own form:

        added_tokens.json       {"<img>": 151665, ...}
        tokenizer_config.json   {"added_tokens_decoder": {"151665": {"content": "<img>"}, ...}}
        tokenizer.json          {"added_tokens": [{"id": 151665, "content": "<img>"}, ...]}
    """
    tokens: dict[str, int] = {}
    plain = directory / "added_tokens.json"
    if plain.exists():
        tokens |= read_json(plain)

    config = directory / "tokenizer_config.json"
    if config.exists():
        entries = read_json(config).get("added_tokens_decoder") or {}
        for token_id, entry in entries.items():
            tokens[entry["content"]] = int(token_id)

    # This one is read after the others, so it decides where they disagree.
    fast = directory / "tokenizer.json"
    if fast.exists():
        for entry in read_json(fast).get("added_tokens") or []:
            tokens[entry["content"]] = entry["id"]
    return tokens


def tokenizer_files(directory) -> list[Path]:
    """Returns the paths of a tokenizer's files in `directory`, chat template included.

    FileNotFoundError if there are none.
    """
    # No checkpoint has all of these: byte-level tokenizers have no .model, slow ones no .json.
    candidates = [Path(directory) / name for name in TOKENIZER_FILES]
    paths = [path for path in candidates if path.is_file()]
    if not paths:
        raise FileNotFoundError(
            f"{directory}: no tokenizer files; wanted some of {', '.join(TOKENIZER_FILES)}"
        )
    return paths


def copy_tokenizer(source, directory) -> None:
    """Copies a tokenizer's files and its chat template from `source` to `directory`."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, Path(directory) / path.name)


def tokenizer_of(checkpoint: str | Path) -> Path:
    """Returns where a checkpoint's tokenizer is: beside the weights, or in its own folder."""
    directory = Path(checkpoint)
    own_folder = directory / "tokenizer"
    return own_folder if own_folder.is_dir() else directory
