r"""Computes what is written as arithmetic, without running it: 2*(3+4), 2**3, \frac{1}{2}, 10^{3}.

Operators and precedence are Python's; LaTeX spellings of them are rewritten first.
"""

import operator
import re
from fractions import Fraction

MAX_TEXT = 200  # characters
MAX_DEPTH = 20  # brackets in brackets, signs before signs
MAX_EXPONENT = 400

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)|(?P<mark>\*\*|//|[-+*/%()]))\s*"
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac(\d)(\d)")
_POWER = re.compile(r"\^\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Of LaTeX, in this order.
_SPELLINGS = {
    "$": "",
    "\\left": "",
    "\\right": "",
    "\\,": "",
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
}

_SUMS = {"+": operator.add, "-": operator.sub}
_PRODUCTS = {
    "*": operator.mul,
    "/": operator.truediv,
    "//": lambda a, b: Fraction(a // b),
    "%": operator.mod,
}


class _NoArithmetic(Exception):
    """The text is something else, or larger than is computed."""


def value(text: str) -> Fraction | None:
    r"""Returns the value of an expression of numbers; None for all else.

    7+7 -> 14,   -\frac{1}{2} -> -1/2,   x+1 -> None,   9**9**9 -> None
    """
    if len(text) > MAX_TEXT:
        return None
    for spelling in (text, _from_latex(text)):
        try:
            return _Reader(spelling).read()
        except (_NoArithmetic, ZeroDivisionError, OverflowError):
            continue
    return None


def _from_latex(text: str) -> str:
    r"""Rewrites LaTeX as Python does arithmetic: \frac{1}{2}^{3} -> ((1)/(2))**(3)."""
    for spelling, plain in _SPELLINGS.items():
        text = text.replace(spelling, plain)
    text = _THOUSANDS.sub("", text)
    text = _SHORT_FRACTION.sub(r"((\1)/(\2))", text)
    # From the inside out; each round takes two pairs of braces away.
    for _ in range(MAX_DEPTH):
        shorter = _POWER.sub(r"**(\1)", _FRACTION.sub(r"((\1)/(\2))", text))
        if shorter == text:
            break
        text = shorter
    return text.replace("^", "**")


class _Reader:
    """Reads tokens from left to right, by the rules of precedence."""

    def __init__(self, text: str):
        self.tokens = []
        end = 0
        while end < len(text):
            match = _TOKEN.match(text, end)
            if match is None:
                raise _NoArithmetic
            self.tokens.append(match["number"] or match["mark"])
            end = match.end()
        self.position = 0
        self.depth = 0

    def read(self) -> Fraction:
        result = self._sum()
        if self.position < len(self.tokens):
            raise _NoArithmetic
        return result

    def _next(self) -> str:
        """Returns the token that comes, "" at the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self.position += 1
        return token

    def _sum(self) -> Fraction:
        result = self._product()
        while self._next() in _SUMS:
            result = _SUMS[self._take()](result, self._product())
        return result

    def _product(self) -> Fraction:
        result = self._signed()
        while self._next() in _PRODUCTS:
            result = _PRODUCTS[self._take()](result, self._signed())
        return result

    def _signed(self) -> Fraction:
        if self._next() not in ("+", "-"):
            return self._power()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NoArithmetic
        sign = self._take()
        result = self._signed()
        self.depth -= 1
        return -result if sign == "-" else result

    def _power(self) -> Fraction:
        base = self._atom()
        if self._next() != "**":
            return base
        self._take()
        exponent = self._signed()
        digits = max(len(str(base.numerator)), len(str(base.denominator)))
        if abs(exponent) * digits > MAX_EXPONENT:
            raise _NoArithmetic
        if exponent.denominator == 1:
            return base ** int(exponent)
        if base < 0:  # a complex number
            raise _NoArithmetic
        return Fraction(float(base) ** float(exponent))

    def _atom(self) -> Fraction:
        token = self._take()
        if token == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise _NoArithmetic
            result = self._sum()
            self.depth -= 1
            if self._take() != ")":
                raise _NoArithmetic
            return result
        if not token[:1].isdigit() and token[:1] != ".":
            raise _NoArithmetic
        return Fraction(token)
