"""Multiple choice: the same letters, in any order, whatever text follows a letter.

gold       right                                    wrong
B          b  (B)  B.  Option B  B. 7 cm  (B) yes    A  AB  B or C  B. or C  B. 7 C. 8  7 cm
ACD        A, C, D  (A)(C)(D)  A and C and D  DCA    AC  A or C or D
"""

import re

from r1v3_jax.rewards.verifiers.spelling import MAX_ANSWER, normalise

_PREFIX = re.compile(
    r"(?:(?:the )?(?:correct )?(?:answers?|options?|choices?)(?: (?:is|are))?|选项?|答案[是为]?)"
    r":?[ ~]*",
    re.I,
)
# Letters by themselves, in brackets or not, or a word of them: (A)(C)   A, C and D   ACD
_LETTER = r"[(\[]?(?<![A-Za-z])[A-Za-z](?![A-Za-z])[)\].]?"
_SEPARATOR = r"[ ~]*(?:[,;&]|\band\b|和|与)?[ ~]*"
_LIST = re.compile(rf"{_LETTER}(?:{_SEPARATOR}{_LETTER})*|[(\[]?[A-Za-z]+[)\]]?")
_WITH_TEXT = re.compile(r"[(\[]?([A-Za-z])(?:[)\]][.:]?|[.:])~?(.+)", re.DOTALL)
# A second choice in the text behind the first letter; "A triangle" is none, nor "Washington D.C".
_HEDGE = re.compile(
    r"(?:^|\b(?:or|and|not|both|is|choose|pick|options?|choices?|answers?)\b|[,;/&]|或|和)[ ~]*"
    r"[(\[]?(?:[Aa](?! [a-z]{3})|[B-Zb-z])[)\].]?(?![A-Za-z])"
    r"|(?<![A-Za-z.])(?:[(\[][A-Z][)\]]|[A-Z][.:)](?=[^ ~])(?![A-Z](?:\.|$)))"
)


def read(text: str) -> frozenset[str] | None:
    """Returns the letters that a text chooses, in capitals; None if it does not choose clearly."""
    if len(text) > MAX_ANSWER:
        return None
    text = normalise(text)
    prefix = _PREFIX.match(text)
    if prefix:
        text = text[prefix.end() :]
    if _LIST.fullmatch(text):
        return _read_letters(text)
    # One letter and its text: B. 7 cm. The text must not choose once more.
    match = _WITH_TEXT.fullmatch(text)
    if not match or _HEDGE.search(match[2]):
        return None
    return frozenset(match[1].upper())


def _read_letters(text: str) -> frozenset[str] | None:
    letters = re.sub(r"\band\b|[^A-Za-z]", "", text)
    # "aB" and "AA" are no lists of choices.
    same_case = letters.isupper() or letters.islower()
    if not same_case or len(set(letters)) != len(letters):
        return None
    return frozenset(letters.upper())


def difference(answer: str, box: str) -> str | None:
    """Returns how the choice in a box differs; None if it is right.

    ValueError if `answer` chooses nothing.
    """
    gold = read(answer)
    chosen = read(box)
    if gold is None:
        raise ValueError(
            f"the answer {answer[:100]!r} is not a choice, such as B or (B) or ACD"
        )
    if chosen is None:
        return "not one choice"
    return None if gold == chosen else "another choice"
