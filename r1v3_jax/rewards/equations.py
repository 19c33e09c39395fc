"""Finds the equations in a text and says which of them hold: whole numbers, + and - alone."""

import re
from collections.abc import Iterator

_SUM = r"\d{1,9}(?:[+-]\d{1,9})*"
# 7+8=15, and 7+8=15+5=20, where what follows = begins with the value before it.
_EQUATIONS = re.compile(rf"{_SUM}(?:={_SUM})+")


def equations(text: str) -> Iterator[bool]:
    """Yields for each equation in a text, in order, whether it holds.

    "7+8=15+5=20;4+3=8"   ->   7+8=15 True, 15+5=20 True, 4+3=8 False
    """
    for match in _EQUATIONS.finditer(text):
        left, *others = match[0].split("=")
        for right in others:
            first = re.match(r"\d+", right)[0]
            yield _value(left) == int(first)
            left = right


def _value(text: str) -> int:
    """Returns the value of a sum: 15+5-2 is 18."""
    return sum(int(term) for term in re.findall(r"[+-]?\d+", text))
