r"""Numbers with a tolerance, in units that convert: 50 mm is 5 cm, 3.1 may be \pi.

A number may have a unit where gold has none, or lack gold's unit. Two units are converted, and the
answer is wrong if they measure different things. 10% is 0.1, not 10.
"""

import functools
import re
from fractions import Fraction

from r1v3_jax.rewards.verifiers import names, units
from r1v3_jax.rewards.verifiers.digits import read_number
from r1v3_jax.rewards.verifiers.spelling import MAX_ANSWER, MAX_DEPTH, normalise
from r1v3_jax.rewards.verifiers.structure import nesting

MAX_EXPRESSION = 100  # characters, such as \frac{1+\sqrt{5}}{2}


def difference(
    answer: str, box: str, *, relative: float = 0.0, absolute: float = 0.0
) -> str | None:
    """Returns what differs; None if the box is within the tolerance.

    The tolerance is `absolute`, in gold's unit, or `relative` times gold, whichever is larger.
    ValueError if `answer` is not a number.
    """
    if len(box) > MAX_ANSWER:
        return "too long"
    gold = _read(answer) if len(answer) <= MAX_ANSWER else None
    if gold is None:
        raise ValueError(f"the answer {answer[:100]!r} is not a number")
    number = _read(box)
    if number is None:
        return "not a number"
    gold_value, gold_unit = gold
    value, unit = number
    # Example: gold 1 m, box 109 cm: 109 * 1/100 = 1.09, within 0.1 of 1.
    scale = units.factor(unit, gold_unit) if gold_unit and unit else 1
    if scale is None:
        return "another unit"
    tolerance = max(Fraction(relative) * abs(gold_value), Fraction(absolute))
    if abs(value * scale - gold_value) <= tolerance:
        return None
    return "another number"


def is_quick(answer: str, box: str) -> bool:
    """Returns whether both are numbers in digits, so that neither needs the parser."""
    return _is_digits(answer) and _is_digits(box)


def _is_digits(text: str) -> bool:
    return len(text) <= MAX_ANSWER and read_number(_split(text)[0]) is not None


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def _read(text: str) -> tuple[Fraction, str] | None:
    """Returns the value in the unit that is written, and that unit or ""; None if it is no number.

    9.8 m/s^2 -> 49/5, "meter second^-2"
    """
    body, unit = _split(text)
    number = read_number(body)
    if number is not None:
        return number.value, unit
    if len(body) > MAX_EXPRESSION or nesting(body) > MAX_DEPTH:
        return None
    # Imported here: sympy is slow to import, and most runs start without it.
    from r1v3_jax.rewards.verifiers import expressions

    value = expressions.constant(body)
    # 2+3 still has to be computed; \sqrt{2} is as short as it gets.
    if value is None or value.denominator == 1:
        return None
    return value, unit


_APPROXIMATELY = re.compile(r"^(?:\\approx|about |approximately |around |大?约)[ ~]*")


def _split(text: str) -> tuple[str, str]:
    r"""Returns a number without name and brackets, and its unit.

    x=(5)\text{ cm} -> 5, "centimeter"
    """
    text = _APPROXIMATELY.sub("", normalise(text))
    body, unit = units.split(text.strip(" ~"))
    _, body = names.split(body)
    return re.sub(r"^\((.*)\)$", r"\1", body), unit
