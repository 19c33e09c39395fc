r"""Numbers with a tolerance, in units that convert: 50 mm is 5 cm, 3.1 may be \pi.

A number may have a unit where gold has none, or lack gold's; units that differ are converted, and
wrong if they measure something else. 10% is 0.1, not 10.
"""

import functools
import re
from fractions import Fraction

from r1v3_jax.verifiers import expressions
from r1v3_jax.verifiers.spelling import (
    MAX_ANSWER,
    MAX_DEPTH,
    NAMED,
    nesting,
    normalise,
    read_number,
    split_unit,
)

# What a unit is in others, as 1 L = (1/1000) m^3. Units that are not here convert into no other.
_CONVERSIONS = {
    "mm": ("m", 1, "1/1000"), "cm": ("m", 1, "1/100"), "dm": ("m", 1, "1/10"),
    "km": ("m", 1, "1000"), "inch": ("m", 1, "0.0254"), "ft": ("m", 1, "0.3048"),
    "mile": ("m", 1, "1609.344"), "L": ("m", 3, "1/1000"), "mL": ("m", 3, "1/1000000"),
    "g": ("kg", 1, "1/1000"), "t": ("kg", 1, "1000"),
    "min": ("s", 1, "60"), "h": ("s", 1, "3600"), "day": ("s", 1, "86400"),
}  # fmt: skip


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
    if unit and other:
        (factors, scale), (other_factors, other_scale) = _base(unit), _base(other)
        if factors != other_factors:
            return "another unit"
        wanted, value, scale = wanted * scale, value * other_scale, scale
    else:
        scale = 1
    room = max(Fraction(relative) * abs(wanted), Fraction(absolute) * scale)
    return None if abs(value - wanted) <= room else "another number"


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
    value = expressions.constant(body) if nesting(body) <= MAX_DEPTH else None
    # 2+3 still has to be computed; \sqrt{2} is as short as it gets.
    return None if value is None or value.denominator == 1 else (value, unit)


def _split(text: str) -> tuple[str, str]:
    text = re.sub(r"^(?:\\approx|about |approximately |around |大?约)[ ~]*", "", normalise(text))
    body, unit = split_unit(text.strip(" ~"))
    named = NAMED.fullmatch(body)
    body = named[2] if named else body
    return re.sub(r"^\((.*)\)$", r"\1", body), unit


def _base(unit: str) -> tuple[dict[str, int], Fraction]:
    """m/s2 -> {m: 1, s: -2}, 1;    km/h -> {m: 1, s: -1}, 1000/3600;    mL -> {m: 3}, 1/10^6."""
    powers: dict[str, int] = {}
    scale = Fraction(1)
    for sign, part in zip((1, -1), unit.split("/"), strict=False):
        name, power = re.fullmatch(r"(.*?)([23]?)", part).groups()
        base, base_power, factor = _CONVERSIONS.get(name, (name, 1, "1"))
        power = sign * int(power or 1)
        powers[base] = powers.get(base, 0) + base_power * power
        scale *= Fraction(factor) ** power
    return powers, scale
