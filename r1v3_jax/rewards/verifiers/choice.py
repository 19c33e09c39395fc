"""Multiple choice: the same letters, in any order, whatever stands behind a letter.

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
# What chooses once more behind the first letter; "A triangle" does not, nor "Washington D.C".
_HEDGE = re.compile(
    r"(?:^|\b(?:or|and|not|both|is|choose|pick|options?|choices?|answers?)\b|[,;/&]|或|和)[ ~]*"
    r"[(\[]?(?:[Aa](?! [a-z]{3})|[B-Zb-z])[)\].]?(?![A-Za-z])"
    r"|(?<![A-Za-z.])(?:[(\[][A-Z][)\]]|[A-Z][.:)](?=[^ ~])(?![A-Z](?:\.|$)))"
)


def read(text: str) -> frozenset[str] | None:
    """The letters that a text chooses, in capitals; None if it does not choose clearly."""
    if len(text) > MAX_ANSWER:
        return None
    text = normalise(text)
    text = text[match.end() :] if (match := _PREFIX.match(text)) else text
    if _LIST.fullmatch(text):
        letters = re.sub(r"\band\b|[^A-Za-z]", "", text)
        same_case = letters.isupper() or letters.islower()
        return (
            frozenset(letters.upper())
            if same_case and _are_different(letters)
            else None
        )
    match = _WITH_TEXT.fullmatch(text)
    return (
        frozenset(match[1].upper()) if match and not _HEDGE.search(match[2]) else None
    )


def _are_different(letters: str) -> bool:
    return len(set(letters)) == len(letters)


def difference(answer: str, box: str) -> str | None:
    """What is wrong with a box; None if it is right. ValueError if `answer` chooses nothing."""
    gold, chosen = read(answer), read(box)
    if gold is None:
        raise ValueError(
            f"the answer {answer[:100]!r} is not a choice, such as B or (B) or ACD"
        )
    if chosen is None:
        return "not one choice"
    return None if gold == chosen else "another choice"
