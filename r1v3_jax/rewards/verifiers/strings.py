"""Compares text with text: words, names of points, ratios. Case and spaces do not count."""

import re
import unicodedata

from r1v3_jax.rewards.verifiers import units
from r1v3_jax.rewards.verifiers.spelling import JOIN, NAMED

_LETTERS = re.compile(r"[~([{]*[^\W\d_](?:[^\W\d_]|[ ~,;.()\[\]{}])*")
_COMMANDS = re.compile(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+")
# AB, listen, 3:2, 等腰三角形. Three small letters may be a product, as in 2abc.
_WORDY = re.compile(r"[A-Z]{2}|[A-Za-z]{4}|:|[^\x00-\x7f]")


def is_text(gold: str) -> bool:
    """Returns whether gold is compared as text: choices, words, names of points, ratios, signs."""
    body, _ = units.split(gold)
    named = NAMED.fullmatch(body)
    if named:
        body = named[2]
    # "\sqrt" and "or" are no words of the answer.
    body = _COMMANDS.sub(" ", JOIN.sub(",", body))
    if _WORDY.search(body) or _LETTERS.fullmatch(gold):
        return True
    return not re.search(r"[^\W_]", gold)


def text_difference(gold: str, box: str) -> str | None:
    """Returns what differs between two normalised texts; None if they are the same text."""
    # Between letters punctuation does not count either: ACD is A, C, D.
    ignored = r"[ ~,;.()\[\]{}]" if _LETTERS.fullmatch(gold) else "[ ~]"
    gold_letters = re.sub(ignored, "", gold).casefold().replace(";", ",")
    box_letters = re.sub(ignored, "", box).casefold().replace(";", ",")
    return None if gold_letters == box_letters else "another text"


MAX_TEXT = 4000  # characters of the verifier `string`, for text read off an image
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox) *\{([^{}]*)\}")


def difference(answer: str, box: str) -> str | None:
    """The verifier `string`: returns what differs; None if the characters are the same.

    Case, spaces, quotes around the text and the full stop at the end do not count. ValueError if
    `answer` is empty or too long.
    """
    gold = _plain(answer) if len(answer) <= MAX_TEXT else ""
    if not gold:
        raise ValueError(f"the answer must have 1 to {MAX_TEXT} characters")
    return None if len(box) <= MAX_TEXT and gold == _plain(box) else "another text"


def _plain(text: str) -> str:
    r"""\text{“ Main  Street.”} -> main street."""
    text = unicodedata.normalize("NFKC", text)
    text = _WRAPPED.sub(r"\1", text).replace("’", "'").strip(" $\n")
    text = text.strip("\"'“” ").rstrip(".。").casefold()
    return " ".join(text.split())
