"""Compares text with text: words, names of points, ratios. Case and spaces do not count."""

import functools
import re
import unicodedata

from r1v3_jax.rewards.verifiers import names, units
from r1v3_jax.rewards.verifiers.digits import read_based
from r1v3_jax.rewards.verifiers.relations import JOIN
from r1v3_jax.rewards.verifiers.structure import split_list

_LETTERS = re.compile(r"[~([{]*[^\W\d_](?:[^\W\d_]|[ ~,;.()\[\]{}])*")
_COMMANDS = re.compile(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+")
# AB, listen, 3:2, 等腰三角形. Three small letters may be a product, as in 2abc.
# Fe_{2}O_{3}  Cu^{2+}
_CHEMICAL = re.compile(
    r"(?:[A-Z][a-z]?(?:_\{[0-9]{1,2}\})?|[()])+(?:\^\{?[0-9]?[+-]\}?)?"
)
_COMMON = frozenset(
    "H O N F Cl Na Ca Mg Al Fe Cu Zn Ag Si Br Mn Ba Pb Hg Cr Ni Li".split()
)
_AND = re.compile(r"(?<=\w)[ ~]*[,;]?[ ~]*(?:\band\b|和)[ ~]*(?=\w)")
_WORDS = re.compile(r"[A-Za-z]{4}|[^\x00-\x7f]")
_WORDY = re.compile(r"[A-Z]{2}|[A-Za-z]{4}|:|[^\x00-\x7f]")


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def is_text(gold: str) -> bool:
    """Returns whether gold is compared as text: choices, words, names of points, ratios, signs."""
    if read_based(gold):
        return False
    if _is_chemical(gold):
        return True
    parts = [units.split(part) for part in split_list(JOIN.sub(",", gold))]
    body = ",".join(names.split(part)[1] for part, _ in parts)
    has_unit = any(unit for _, unit in parts)
    # A matrix may hold words: its entries are compared one by one.
    if body.startswith((r"\begin{", r"(\begin{", r"[\begin{", r"\{\begin{")):
        return False
    # "\sqrt" and "or" are no words of the answer.
    body = _COMMANDS.sub(" ", body)
    if _WORDY.search(body) or (_LETTERS.fullmatch(gold) and not has_unit):
        return True
    return not re.search(r"[^\W_]", gold)


def _is_chemical(text: str) -> bool:
    """Returns whether a text is a formula of chemistry; P_{1}V_{1} is none."""
    if _CHEMICAL.fullmatch(text) is None:
        return False
    symbols = re.findall("[A-Z][a-z]?", text)
    has_mark = "_" in text or "^" in text
    return has_mark and (
        "^" in text or len(symbols) > 1 and bool(_COMMON.intersection(symbols))
    )


def text_difference(gold: str, box: str) -> str | None:
    """Returns what differs between two normalised texts; None if they are the same text."""
    # Between letters punctuation does not count either: ACD is A, C, D.
    is_letters = _LETTERS.fullmatch(gold)
    ignored = r"[ ~,;.()\[\]{}]" if is_letters else "[ ~]"
    gold_letters, box_letters = (
        re.sub(ignored, "", _AND.sub(",", text))
        .replace(";", ",")
        # Two kinds of brackets around one matrix.
        .replace("bmatrix}", "pmatrix}")
        for text in (gold, box)
    )
    # In a formula r and R are two things.
    if is_letters or _WORDS.search(_COMMANDS.sub(" ", gold)):
        gold_letters = gold_letters.casefold()
        box_letters = box_letters.casefold()
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
