"""The text of an answer while it comes: whole characters, and nothing of a stop string.

    tokens       E4 BD | A0 !     the first two bytes of a character, its last one, and "!"
    text so far  ""    | "你!"

Knows tokens as they are decoded; nothing of samples, slots or time.
"""

import functools
import re

from r1v3_jax.processing.tokenizer import Tokenizer

HALF = "\ufffd"  # what half a character is decoded as
MOST_OPEN = 32  # tokens that are decoded again before a place to cut is looked for
TAIL = 8  # that stay open then; a character has at most 4 tokens
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of sentencepiece that is one byte


class Pieces:
    """What a tokenizer's tokens are, one by one; shared by all answers."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        added = tokenizer.hf.added_tokens_decoder
        self.special = frozenset(i for i, token in added.items() if token.special)
        # A model may have more rows than there are tokens, and may sample one of them: Qwen2.5 has
        # 152,064 rows and 151,665 tokens.
        self.count = tokenizer.vocab_size
        vocab = tokenizer.hf.get_vocab()
        self.bytes = frozenset(i for token, i in vocab.items() if BYTE.fullmatch(token))
        # Bytes of UTF-8 or characters, whichever is more, of the longest token.
        self.longest = max(len(token.encode()) for token in vocab)
        self.text = functools.lru_cache(65536)(self._text)

    def has_text(self, token: int) -> bool:
        """Returns whether a token adds to the text of an answer."""
        return token < self.count and token not in self.special

    def decode(self, ids: list[int]) -> str:
        """Returns the text of tokens of which none is special."""
        return self.tokenizer.decode(ids, skip_special=False) if ids else ""

    def _text(self, token: int) -> str:
        if token >= self.count:
            return ""
        return self.tokenizer.decode([token], skip_special=False)


class Detokenizer:
    """Turns the tokens of one answer into text, a few at a time.

    All that `add` and `end` return, put together, is what `Tokenizer.decode` makes of all tokens at
    once. Only tokens whose text is still open are decoded again.
    """

    def __init__(self, pieces: Pieces):
        self.pieces = pieces
        self.open: list[int] = []  # tokens since the last place that cuts no character
        self.given = 0  # characters of their text that were returned

    def add(self, ids: list[int]) -> str:
        """Returns the text that the next tokens complete; others have none."""
        ids = [i for i in ids if self.pieces.has_text(i)]
        if not ids:
            return ""
        self.open += ids
        # A run of byte tokens is decoded as a whole: another one may change all of it.
        end = len(self.open)
        while end and self.open[end - 1] in self.pieces.bytes:
            end -= 1
        text = self.pieces.decode(self.open[:end])
        # Half a character at the end is one HALF, which the next token may complete.
        is_half = text.endswith(HALF)
        complete = text[:-1] if is_half else text
        new = complete[self.given :]
        if is_half or end < len(self.open):
            self.given = len(complete)
            if end == len(self.open) > MOST_OPEN:
                self._cut(text)
        else:
            self.open = []
            self.given = 0
        return new

    def _cut(self, text: str) -> None:
        """Closes all but the final tokens, of which `text` is the text, if that cuts no character.

        Halves of characters alone never end with a whole one. Where a character is cut, the two
        parts have more signs than the whole: E4 BD | A0 is two signs, E4 BD A0 is one.
        """
        first = self.pieces.decode(self.open[:-TAIL])
        if first + self.pieces.decode(self.open[-TAIL:]) == text:
            self.open = self.open[-TAIL:]
            self.given -= len(first)

    def end(self) -> str:
        """Returns what was held back."""
        rest = self.pieces.decode(self.open)[self.given :]
        self.open = []
        self.given = 0
        return rest


class StopStrings:
    """Finds the first of several strings in a text that comes in parts."""

    def __init__(self, stop: tuple[str, ...]):
        self.stop = stop
        self.held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """Returns the text that certainly stands before any stop string, and whether one has come.

        Once one has come the text before it has been returned, and nothing more follows.
        """
        text = self.held + text
        places = [text.find(stop) for stop in self.stop]
        found = [place for place in places if place >= 0]
        if found:
            self.held = ""
            return text[: min(found)], True
        keep = max((_begun(text, stop) for stop in self.stop), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def end(self) -> str:
        """Returns what was held back: no stop string came of it."""
        held = self.held
        self.held = ""
        return held


def _begun(text: str, stop: str) -> int:
    """Returns how many characters at the end of `text` begin `stop`: "the EN", "END" -> 2."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
