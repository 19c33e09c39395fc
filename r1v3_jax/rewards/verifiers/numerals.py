"""Reads whole numbers in English words and in Roman numerals: twenty-one, XXI.

Only well-formed ones: no "twenty-eleven", "seven eight", IIII or IC.
"""

import functools
import re

# 1. Words

_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
# From the largest to the smallest: each may stand once, in this order.
_SCALES = {"billion": 10**9, "million": 10**6, "thousand": 10**3}
_MINUS = re.compile(r"(?:minus|negative) ")


def _words_below_thousand() -> dict[str, int]:
    """Lists 1 to 999 in words, without hyphens and without "and": "one hundred five" -> 105."""
    values = {word: value for value, word in enumerate(_SMALL) if value}
    for tens, word in enumerate(_TENS, start=2):
        values[word] = 10 * tens
        for ones in range(1, 10):
            values[f"{word} {_SMALL[ones]}"] = 10 * tens + ones
    below_hundred = dict(values)
    for hundreds in range(1, 10):
        head = f"{_SMALL[hundreds]} hundred"
        values[head] = 100 * hundreds
        for words, value in below_hundred.items():
            values[f"{head} {words}"] = 100 * hundreds + value
    return values


_BELOW_THOUSAND = _words_below_thousand()


def _read_words(text: str) -> int | None:
    """Returns the number that lower-case words write; None for everything else.

    "one hundred and five" -> 105;    "a thousand two hundred" -> 1200;    "minus three" -> -3
    """
    minus = _MINUS.match(text)
    text = text[minus.end() :] if minus else text
    # The hyphen and the "and" may be left out, but only where they belong.
    text = re.sub(r"(?<=ty)-(?=[a-z])", " ", text)
    text = re.sub(r"(hundred|thousand|million|billion) and (?=[a-z])", r"\1 ", text)
    text = re.sub(r"^an? (?=hundred|thousand|million|billion)", "one ", text)
    if text == "zero":
        return 0
    # Part by part: "two thousand five" is 2 in front of " thousand", and 5 behind it.
    total = 0
    for scale, factor in _SCALES.items():
        head, word, tail = text.partition(f" {scale}")
        if word:
            if head not in _BELOW_THOUSAND or tail[:1].strip():
                return None
            total += _BELOW_THOUSAND[head] * factor
            text = tail[1:]
    # Nothing may be left behind a scale, but then there must have been one.
    if text not in _BELOW_THOUSAND and (text or not total):
        return None
    total += _BELOW_THOUSAND.get(text, 0)
    return -total if minus else total


# 2. Roman numerals

_ROMAN = re.compile("M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_LETTERS = dict(I=1, V=5, X=10, L=50, C=100, D=500, M=1000)
# A letter alone is a variable or a choice; letters without I, V and X are points: the segment CD.
_MAY_BE_ROMAN = re.compile("(?=.*[IVX])[IVXLCDM]{2,15}")
_ENGLISH = frozenset(["MIX"])


def _read_roman(text: str) -> int | None:
    """Returns the number that a Roman numeral of two or more capitals writes: XIV -> 14."""
    if not _MAY_BE_ROMAN.fullmatch(text) or text in _ENGLISH:
        return None
    if not _ROMAN.fullmatch(text):
        return None
    values = [_LETTERS[letter] for letter in text]
    # A letter before a larger one is taken off: XIV is 10 - 1 + 5.
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(-value if value < following else value for value, following in pairs)


# 3. Both


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def in_digits(text: str) -> str:
    """Returns in digits the number that a normalised text writes in another way, or else the text.

    twenty-one -> "21";    XXI -> "21";    21, x, V and mix stay
    """
    plain = text.replace("~", " ")
    value = _read_roman(plain)
    if value is None:
        value = _read_words(plain.lower())
    return text if value is None else str(value)
