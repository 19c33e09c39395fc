r"""Compares sets of real numbers: (0,1)\cup[1,2) is (0,2), x>0 and x<2 is (0,2).

sympy computes unions and intersections. The ends must be numbers; with letters there is no order.
"""

import functools

import sympy

from r1v3_jax.rewards.verifiers import expressions
from r1v3_jax.rewards.verifiers.digits import read_number
from r1v3_jax.rewards.verifiers.structure import (
    DIFFERENCE,
    INTERSECTION,
    SET,
    UNION,
    take_apart,
)

_INFINITIES = {r"\infty": sympy.oo, r"-\infty": -sympy.oo}
_BRACKETS = ("()", "[]", "(]", "[)")
_MAX_PARTS = 16
_MAX_END = 100  # characters


def are_equal(gold: str, box: str) -> bool | None:
    """Returns whether two texts are the same set; None if one is no set with numbers as ends."""
    gold_set = _read(gold)
    box_set = _read(box)
    if gold_set is None or box_set is None:
        return None
    return gold_set == box_set


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> sympy.Set | None:
    if text == r"\mathbb{R}":
        return sympy.Interval.open(-sympy.oo, sympy.oo)
    kind, parts = take_apart(text)
    if len(parts) > _MAX_PARTS:
        return None
    if kind in _BRACKETS:
        return _interval(kind, parts)
    if kind == "" and parts == [r"\emptyset"]:
        return sympy.S.EmptySet
    if kind not in (UNION, INTERSECTION, DIFFERENCE):
        return None
    sets = [_operand(part) for part in parts]
    if None in sets:
        return None
    if kind == UNION:
        return sympy.Union(*sets)
    if kind == INTERSECTION:
        return sympy.Intersection(*sets)
    return functools.reduce(sympy.Complement, sets)


def _operand(text: str) -> sympy.Set | None:
    r"""Returns one of the sets that are joined; \{0,1\} is one here."""
    kind, parts = take_apart(text)
    is_list = kind in (SET, "") and parts != [text]
    if not (is_list and text.startswith(r"\{") and text.endswith(r"\}")):
        return _read(text)
    points = [_number(part) for part in parts]
    return None if None in points else sympy.FiniteSet(*points)


def _interval(brackets: str, parts: list[str]) -> sympy.Set | None:
    if len(parts) != 2:
        return None
    low, high = map(_number, parts)
    if low is None or high is None:
        return None
    # [1,\infty] is none: infinity is no number.
    if (low.is_infinite and brackets[0] == "[") or (
        high.is_infinite and brackets[1] == "]"
    ):
        return None
    return sympy.Interval(low, high, brackets[0] == "(", brackets[1] == ")")


def _number(text: str) -> sympy.Number | None:
    r"""Returns an end: 1/2, \sqrt{2} to 30 digits, infinity; None if it has no value."""
    if text in _INFINITIES:
        return _INFINITIES[text]
    if len(text) > _MAX_END:
        return None
    number = read_number(text)
    value = number.value if number else expressions.constant(text)
    return None if value is None else sympy.Rational(value.numerator, value.denominator)
