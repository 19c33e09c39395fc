"""Text against text: words, names of points, ratios, choices; equal but for case and spaces."""

import re
import unicodedata

from r1v3_jax.rewards.verifiers import units
from r1v3_jax.rewards.verifiers.spelling import JOIN, NAMED

_LETTERS = re.compile(r"[~([{]*[^\W\d_](?:[^\W\d_]|[ ~,;.()\[\]{}])*")


def is_text(gold: str) -> bool:
    """Whether gold is compared as text: choices, words, names of points, ratios, signs."""
    body, _ = units.split(gold)
    if named := NAMED.fullmatch(body):
        body = named[2]
    body = re.sub(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+", " ", JOIN.sub(",", body))
    wordy = re.search(r"[A-Z]{2}|[A-Za-z]{4}|:|[^\x00-\x7f]", body)
    return bool(wordy or _LETTERS.fullmatch(gold) or not re.search(r"[^\W_]", gold))


def text_difference(gold: str, box: str) -> str | None:
    """What is wrong with a box, both in one spelling; None if it is the same text."""
    ignored = r"[ ~,;.()\[\]{}]" if _LETTERS.fullmatch(gold) else "[ ~]"
    gold, box = (
        re.sub(ignored, "", text).casefold().replace(";", ",") for text in (gold, box)
    )
    return None if gold == box else "another text"


MAX_TEXT = 4000  # characters of the verifier `string`, for what is read off an image
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox) *\{([^{}]*)\}")


def difference(answer: str, box: str) -> str | None:
    """The verifier `string`: the same characters but for case, spaces, quotes around them and the
    full stop at the end. ValueError if `answer` is empty or too long.
    """
    if len(answer) > MAX_TEXT or not (gold := _plain(answer)):
        raise ValueError(f"the answer must have 1 to {MAX_TEXT} characters")
    return None if len(box) <= MAX_TEXT and gold == _plain(box) else "another text"


def _plain(text: str) -> str:
    text = (
        _WRAPPED.sub(r"\1", unicodedata.normalize("NFKC", text))
        .replace("’", "'")
        .strip(" $\n")
    )
    return " ".join(text.strip("\"'“” ").rstrip(".。").casefold().split())
