r"""Reads numbers in digits: 1,234  .5  12%  3\times10^{8}  1\frac{1}{2}  52_{8}."""

import re
from fractions import Fraction
from typing import NamedTuple


class Number(NamedTuple):
    """A number that is written in digits."""

    value: Fraction
    plain: bool  # not a fraction, a repeating decimal or a percentage


_DECIMAL = re.compile(  # 05  1,234  1 234.5  .5  12%  3\times10^{8}  10^{8}, made 1\times10^{8}
    r"([+-]?)((?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?)"
    r"(?:\\(?:times|cdot)10\^\{([+-]?[0-9]{1,3})\})?(%?)"
)
_FRACTION = re.compile(  # 1/2  -\frac{1}{2}  1\frac{1}{2}  1 1/2  \frac{1}{2}%
    r"([+-]?)(?:([0-9]+)(?: (?=[0-9])|(?=\\frac)))?"
    r"(?:\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\}|([0-9]+)/([0-9]+))(%?)"
)
_REPEATING = re.compile(  # 0.1\dot{6}
    r"([+-]?)([0-9]*)\.([0-9]*)\\(?:overline|dot|bar)\{([0-9]+)\}"
)


def read_number(text: str) -> Number | None:
    """Returns the number that a normalised text writes in digits; None for everything else."""
    text = re.sub(r"^([+-]?)(?=10\^)", r"\g<1>1\\times", text)
    decimal = _DECIMAL.fullmatch(text)
    # The pattern also matches a sign or a "%" without a digit.
    if decimal and decimal[2]:
        sign, digits, power, percent = decimal.groups()
        value = Fraction(re.sub("[, ]", "", digits)) * Fraction(10) ** int(power or 0)
        plain = True
    elif fraction := _FRACTION.fullmatch(text):
        sign, whole, *parts, percent = fraction.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        # 1\frac{-1}{2} is no mixed number.
        if bottom == 0 or (whole and (top < 0 or bottom < 0)):
            return None
        value = int(whole or 0) + Fraction(top, bottom)
        plain = False
    elif repeating := _REPEATING.fullmatch(text):
        sign, *digits = repeating.groups()
        value = _repeating_value(*digits)
        percent = ""
        plain = False
    else:
        return None
    if sign == "-":
        value = -value
    return Number(value / 100, False) if percent else Number(value, plain)


def _repeating_value(whole: str, before: str, period: str) -> Fraction:
    r"""Returns the value of whole.before\overline{period}.

    0.1\overline{6}: (016 - 01) / ((10^1 - 1) * 10^1) = 15/90 = 1/6
    """
    difference = int(whole + before + period) - int((whole + before) or 0)
    return Fraction(difference, (10 ** len(period) - 1) * 10 ** len(before))


# Bases

_BASED = re.compile(
    r"([+-]?)\(?0*([0-9A-Z.]+)\)?_\{[ ~]*(?:base[ ~]*)?\(?([0-9]{1,2}|[a-z]+)\)?[ ~]*\}",
    re.I,
)
_BASE_WORDS = dict(
    two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10
)
_BASE_WORDS |= dict(twelve=12, sixteen=16, binary=2, octal=8, decimal=10, hex=16)


class BasedNumber(NamedTuple):
    """A number whose base is written: 52_{8}."""

    digits: str  # "-52"; without zeros in front
    base: int


def read_based(text: str) -> BasedNumber | None:
    """Returns the number that a normalised text writes in a base; None for everything else."""
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    sign, digits, base = match.groups()
    base = int(base) if base.isdigit() else _BASE_WORDS.get(base.lower(), 0)
    # A_{1} is a name. Letters are digits only where the base has them.
    has_letters = not re.fullmatch("[0-9.]+", digits)
    if not 2 <= base <= 36 or (
        has_letters and not re.search("[0-9]", digits) and base != 16
    ):
        return None
    if any(character != "." and int(character, 36) >= base for character in digits):
        return None
    return BasedNumber(sign.replace("+", "") + digits.upper(), base)


def same_in_base(gold: str, box: str) -> bool | None:
    """Returns whether two texts are the same digits in the same base; None if none has a base.

    A base that one side leaves out is no difference: 52_{8} and 52, but not 52_{8} and 42.
    """
    gold_based = read_based(gold)
    box_based = read_based(box)
    if gold_based and box_based:
        return gold_based == box_based
    if gold_based:
        return gold_based.digits == _bare_digits(box)
    if box_based:
        return box_based.digits == _bare_digits(gold)
    return None


def _bare_digits(text: str) -> str:
    """Returns the digits of a number as `read_based` does: +052 -> 52."""
    match = re.fullmatch(r"([+-]?)\(?0*([0-9A-Za-z.]+)\)?", text)
    return match[1].replace("+", "") + match[2].upper() if match else text
