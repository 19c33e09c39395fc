r"""Numbers with a tolerance, in units that convert: 50 mm is 5 cm, 3.1 may be \pi.

A number may have a unit where gold has none, or lack gold's; units that differ are converted, and
wrong if they measure something else. 10% is 0.1, not 10.
"""

import functools
import re
from fractions import Fraction

from r1v3_jax.rewards.verifiers import units
from r1v3_jax.rewards.verifiers.spelling import (
    MAX_ANSWER,
    MAX_DEPTH,
    NAMED,
    nesting,
    normalise,
    read_number,
)

MAX_EXPRESSION = 100  # characters, such as \frac{1+\sqrt{5}}{2}


def difference(
    answer: str, box: str, *, relative: float = 0.0, absolute: float = 0.0
) -> str | None:
    """What is wrong with a box; None if it is right: within `absolute` or `relative` times gold.

    ValueError if `answer` is not a number.
    """
    if len(box) > MAX_ANSWER:
        return "too long"
    gold = _read(answer) if len(answer) <= MAX_ANSWER else None
    if gold is None:
        raise ValueError(f"the answer {answer[:100]!r} is not a number")
    if (found := _read(box)) is None:
        return "not a number"
    (wanted, unit), (value, other) = gold, found
    factor = units.factor(other, unit) if unit and other else 1
    if factor is None:
        return "another unit"
    room = max(Fraction(relative) * abs(wanted), Fraction(absolute))
    return None if abs(value * factor - wanted) <= room else "another number"


def is_quick(answer: str, box: str) -> bool:
    """Whether neither needs the parser of expressions."""
    return all(
        len(text) <= MAX_ANSWER and read_number(_split(text)[0]) is not None
        for text in (answer, box)
    )


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Fraction, str] | None:
    """The value in the unit that is written, and that unit or ""; None if it is no number."""
    body, unit = _split(text)
    if (number := read_number(body)) is not None:
        return number[0], unit
    if len(body) > MAX_EXPRESSION or nesting(body) > MAX_DEPTH:
        return None
    from r1v3_jax.rewards.verifiers import (
        expressions,  # sympy: most runs start without it
    )

    value = expressions.constant(body)
    # 2+3 still has to be computed; \sqrt{2} is as short as it gets.
    return None if value is None or value.denominator == 1 else (value, unit)


def _split(text: str) -> tuple[str, str]:
    text = re.sub(
        r"^(?:\\approx|about |approximately |around |大?约)[ ~]*", "", normalise(text)
    )
    body, unit = units.split(text.strip(" ~"))
    named = NAMED.fullmatch(body)
    body = named[2] if named else body
    return re.sub(r"^\((.*)\)$", r"\1", body), unit
