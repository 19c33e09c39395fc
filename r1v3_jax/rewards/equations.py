"""Finds the equations in a text and says which of them hold: whole numbers, + and - alone."""

import re
from collections.abc import Iterator

_SUM = r"\d{1,9}(?:[+-]\d{1,9})*"
# 7+8=15, and 7+8=15+5=20, where what follows = begins with the value before it.
_EQUATIONS = re.compile(rf"{_SUM}(?:={_SUM})+")
# What makes it a part of something else, which is not worked out: 3*7+8=29, x+2=5, 1.5+2=3.5.
# A bullet (- 7+8=15) and bold type (**7+8=15**) are none of it.
# A bullet (- 7+8=15) and bold type (**7+8=15**) are none of it.
_GOES_BEFORE = re.compile(r"[\w.]$|[\w)] *[-+*/^×÷] *$|-$")
_GOES_BEHIND = re.compile(r"\d|\.\d| *[-+] *\d| *[*/^×÷] *[\w(]| *\\(?:times|cdot|div)")


def equations(text: str) -> Iterator[bool]:
    """Yields for each equation in a text, in order, whether it holds.

    One with other operations, letters or fractions is left out.

    "7+8=15+5=20;4+3=8"   ->   7+8=15 True, 15+5=20 True, 4+3=8 False
    """
    for match in _EQUATIONS.finditer(text):
        start, end = match.span()
        # A few characters are enough to see what stands in front.
        if _GOES_BEFORE.search(text[max(0, start - 8) : start]):
            continue
        if _GOES_BEHIND.match(text, end):
            continue
        left, *others = match[0].split("=")
        for right in others:
            first = re.match(r"\d+", right)[0]
            yield _value(left) == int(first)
            left = right


def _value(text: str) -> int:
    """Returns the value of a sum: 15+5-2 is 18."""
    return sum(int(term) for term in re.findall(r"[+-]?\d+", text))
