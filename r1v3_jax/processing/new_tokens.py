"""Adds the tokens to a language model's tokenizer that it lacks to read pictures and turns.

Knows the files of a tokenizer and its chat template. Does not know weights: what the rows of the
new tokens hold is in `hf/assemble.py`.
"""

import dataclasses
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from r1v3_jax.files import read_json, write_settings, write_text
from r1v3_jax.processing.chat import (
    IMAGE_TOKENS,
    R1V3_CHAT,
    TURN_END,
    TURN_START,
    chat_format,
    chat_template,
)
from r1v3_jax.processing.tokenizer import find_control_ids, read_tokenizer
from r1v3_jax.processing.tokenizer_files import copy_tokenizer

# InternVL's nine, in its order: after Qwen2.5's 151,665 tokens they get the published ids.
MARKS = ("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
FAMILY_TOKENS = (*IMAGE_TOKENS, *MARKS)
CHATML_TOKENS = (TURN_START, TURN_END)

# Their ids must be the same before and after.
PROBES = (
    "Add 17 and 26, step by step: 17 + 26 = 43.\n\n\\boxed{43}",
    "  Café, naïve 你好; x² ≤ 3\t\r\nif (a[0] < b) { return 'it''s'; }",
)


@dataclasses.dataclass(frozen=True)
class NewTokens:
    """What was added to a tokenizer."""

    kept: int  # tokens that it had; their ids are the same
    ids: dict[str, int]  # of the added ones: {"<img>": 151665, ...}
    chat_is_new: bool  # the template was none or not ChatML: R1V3's takes its place

    @property
    def chatml(self) -> list[str]:
        """The tokens of turns that were missing."""
        return [token for token in CHATML_TOKENS if token in self.ids]


def plan_tokens(source: Path) -> NewTokens:
    """Returns what the tokenizer in `source` lacks; nothing is written.

    ValueError if there is no tokenizer, or its ids are not 0, 1, 2, ... without a gap.
    """
    hf = read_tokenizer(source)
    vocab = hf.get_vocab()
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(
            f"the tokenizer in {str(source)!r} has {len(vocab)} tokens with ids up to "
            f"{max(vocab.values())}; new tokens want ids from 0 without a gap before them"
        )
    known = find_control_ids(hf)
    # Turns first: a base model's tokenizer may have the image tokens already.
    missing = [x for x in (*CHATML_TOKENS, *IMAGE_TOKENS) if x not in known]
    # The marks are a part of the vocabulary only together with new image tokens: an InternVL
    # without them stays as it is.
    if any(token in missing for token in IMAGE_TOKENS):
        missing += [token for token in MARKS if token not in vocab]
    ids = {token: len(vocab) + i for i, token in enumerate(missing)}
    # A token that falls apart when it is read, and has a row all the same, cannot be added again.
    if taken := [token for token in missing if token in vocab]:
        raise ValueError(
            f"the tokenizer in {str(source)!r} has {', '.join(taken)} as text that falls apart; "
            "list it among the added tokens of its tokenizer.json"
        )
    return NewTokens(len(vocab), ids, not _has_chatml(hf, source))


def write_tokens(source: Path, directory: Path, new: NewTokens) -> None:
    """Writes the tokenizer in `source` into `directory`, with the new tokens and a chat template.

    All else in its files stays as it is. ValueError if an old token has another id afterwards.
    """
    # 1. The files. A tokenizer without tokenizer.json is converted by transformers.
    before = read_tokenizer(source)
    if (source / "tokenizer.json").is_file():
        copy_tokenizer(source, directory)
    else:
        before.save_pretrained(directory)

    # 2. The new tokens, wherever the files list added ones.
    _append_tokens(directory, new.ids)

    # 3. The chat. A turn ends in <|im_end|>, whatever ended a text before.
    if new.chat_is_new:
        write_text(directory / "chat_template.jinja", chat_template(R1V3_CHAT))
        (directory / "chat_template.json").unlink(missing_ok=True)
    path = directory / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    if new.chat_is_new:
        settings.pop("chat_template", None)
    if new.chatml:
        settings["eos_token"] = TURN_END
    write_settings(path, settings)
    path = directory / "special_tokens_map.json"  # of older releases
    if new.chatml and path.exists():
        write_settings(path, {**read_json(path), "eos_token": TURN_END})

    # 4. Is it the same tokenizer?
    after = read_tokenizer(directory)
    wanted = {**before.get_vocab(), **new.ids}
    has_moved = after.get_vocab() != wanted
    if has_moved or any(_ids(before, x) != _ids(after, x) for x in PROBES):
        raise ValueError(
            f"the tokenizer in {str(source)!r} reads text differently once {len(new.ids)} tokens "
            "are added; save it with this release of transformers first"
        )


def _has_chatml(hf: PreTrainedTokenizerBase, directory: Path) -> bool:
    if not hf.chat_template:
        return False
    try:
        chat_format(hf, directory)
    except ValueError:
        return False
    return True


def _append_tokens(directory: Path, ids: dict[str, int]) -> None:
    """Appends tokens to the files of a tokenizer that list added ones; see `added_tokens`."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    flags |= {"normalized": False, "special": True}
    path = directory / "tokenizer.json"
    tokenizer = read_json(path)
    listed = tokenizer.get("added_tokens") or []
    new = [{"id": i, "content": token, **flags} for token, i in ids.items()]
    write_settings(path, {**tokenizer, "added_tokens": [*listed, *new]})

    path = directory / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    if decoder := settings.get("added_tokens_decoder"):
        new = {str(i): {"content": token, **flags} for token, i in ids.items()}
        write_settings(path, {**settings, "added_tokens_decoder": {**decoder, **new}})

    path = directory / "added_tokens.json"
    if path.exists():
        write_settings(path, {**read_json(path), **ids})


def _ids(hf: PreTrainedTokenizerBase, text: str) -> list[int]:
    return hf.encode(text, add_special_tokens=False)
