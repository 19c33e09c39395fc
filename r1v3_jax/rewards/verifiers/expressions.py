"""Expressions and equations, compared by their values at some points.

math-verify reads expressions here but does not compare them: it looks for proofs, which can take
for ever or round a decimal until it fits. Text that could take the parser long is refused before it
is read.
"""

import functools
import logging
import math
import re
from fractions import Fraction
from typing import NamedTuple

import math_verify
import mpmath
from latex2sympy2_extended import NormalizationConfig, latex2sympy2
from latex2sympy2_extended.symbols import get_symbol
from sympy import Basic, Eq, Expr, Float, Integer, Number, Rational, Symbol

from r1v3_jax.rewards.verifiers import strings

# math-verify warns that its time limits are off. They are signals, which only the main thread gets.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# 1. Reading

_COMMANDS = frozenset(
    r"""\frac \sqrt \pi \infty \cdot \times \div \sin \cos \tan \cot \sec \csc \arcsin \arccos
    \arctan \ln \log \exp \alpha \beta \gamma \delta \theta \lambda \mu \rho \sigma \tau \phi
    \varphi \omega \Delta \Omega \vec \overline""".split()
)


def _number(_, text: str) -> Number:
    """Returns the number of a token of digits, which the library would pass to Python's eval."""
    text = text.replace(",", "")
    if text.isdigit():
        return Integer(int(text))
    if re.fullmatch(r"[0-9]*\.[0-9]+|[0-9]+\.", text):
        return Rational(text)
    return Float(text)


def _letter(parser, text: str, enforce_case: bool = True) -> Symbol:
    """Returns a letter as it is written; the library would read M as m."""
    return Symbol(text, real=parser.is_real)


def _symbol(text: str, is_real: bool | None, lowercase_symbols: bool = False) -> Basic:
    """Returns a letter as it is written, or what it stands for: i, e, pi."""
    return get_symbol(text, is_real, lowercase_symbols=False)


latex2sympy2._Latex2Sympy.parse_number = _number
latex2sympy2._Latex2Sympy.create_symbol = _letter
latex2sympy2.get_symbol = _symbol

_EXPONENT = re.compile(r"\^\{((?:[^{}^]|\\frac\{[^{}^]*\}\{[^{}^]*\})*)\}")
# Without units=True, which would take the h off \pi r^2 h.
_LATEX = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
_PARSER = math_verify.LatexExtractionConfig(
    boxed_match_priority=-1, normalization_config=_LATEX
)


def _is_plain(text: str) -> bool:
    """Returns whether an expression is compared by its values, and not as text.

    Not plain are: sums, integrals and factorials, which are no final answers; towers of powers and
    other huge numbers, which take the parser for ever; sets and inequalities; and primes, which the
    parser ignores.
    """
    exponents = list(_EXPONENT.finditer(text))
    # The parser reads A^T as the transpose of a number, which is A.
    if any(match[1] == "T" for match in exponents):
        return False
    # Example: ((x^{2})^{9})^{7} counts 9 * 7 = 63. Powers of brackets multiply; that of a letter is
    # not counted.
    degree = 1
    for match in exponents:
        numbers = re.findall("[0-9]+", match[1])
        if len("".join(numbers)) > 3:
            return False
        if text[: match.start()].endswith((")", "]", "}")):
            degree *= math.prod(int(number) for number in numbers)
    if degree > 100 or len(exponents) != text.count("^"):
        return False
    # Also f(2,3) and A\|B.
    if re.search(r"[<>!'\";]|\\\||[A-Za-z]\([^()]*,", text):
        return False
    return set(re.findall(r"\\[A-Za-z]+", text)) <= _COMMANDS


class _Parsed(NamedTuple):
    expression: Expr  # of an equation: its left side minus its right side
    is_equation: bool


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def _parse(text: str) -> _Parsed | None:
    """Returns an expression or an equation; None for anything else."""
    parsed = math_verify.parse(
        f"${text.replace('~', ' ')}$",
        [_PARSER],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
        raise_on_error=True,
    )
    is_equation = bool(parsed) and isinstance(parsed[0], Eq)
    sides = parsed[0].args if is_equation else parsed
    if not sides or not all(isinstance(side, Expr) for side in sides):
        return None
    return _Parsed(sides[0] - sides[1] if is_equation else sides[0], is_equation)


# 2. Values

_ARITHMETIC = mpmath.MPContext()
_ARITHMETIC.dps = 40  # digits
_NAMES = "sin cos tan cot sec csc asin acos atan sinh cosh tanh exp"
_FUNCTIONS = {
    "Add": lambda *terms: _ARITHMETIC.fsum(terms),
    "Mul": lambda *factors: _ARITHMETIC.fprod(factors),
    "Pow": _ARITHMETIC.power,
    "Pi": lambda: +_ARITHMETIC.pi,
    "Exp1": lambda: +_ARITHMETIC.e,
    "Abs": _ARITHMETIC.fabs,
    "log": _ARITHMETIC.log,
} | {name: getattr(_ARITHMETIC, name) for name in _NAMES.split()}


def _value(node: Basic, point: dict):
    """Returns the value of an expression at a point, computed to 40 digits.

    Raises if the expression has no value there, or if a step on the way is not below 1e100.
    """
    if node.is_Symbol:
        return point[node.name]
    if node.is_Rational:
        value = _ARITHMETIC.mpf(node.p) / node.q
    elif node.is_Float:
        value = _ARITHMETIC.mpf(str(node))
    else:
        function = _FUNCTIONS[type(node).__name__]
        value = function(*(_value(part, point) for part in node.args))
    # Written this way round, nan is refused too.
    if not abs(value) < 1e100:
        raise OverflowError("too large")
    return value


_POINTS = ((0.37, 0.29), (1.13, 0.29), (-0.45, 0.29))
# Also where the sign of a difference changes: |x-2| is x-2 on one side only.
_MORE_POINTS = ((-0.61, 1.7), (11.7, -17.3))
_FOLDS = re.compile(r"\||\\sqrt.*\^")


def _values(expression: Expr, symbols: list[str], points=_POINTS) -> list | None:
    """Returns the values at some points; None if one of them has none.

    The first symbol is negative at one point, so that sqrt(x^2) is |x| and not x.
    """
    # A point has a start and a step. Symbols a, b, c at the first one: 0.37, 0.66, 0.95.
    try:
        return [
            _value(
                expression,
                {
                    symbol: _ARITHMETIC.mpf(start + step * i)
                    for i, symbol in enumerate(symbols)
                },
            )
            for start, step in points
        ]
    except (LookupError, ArithmeticError, ValueError, TypeError, RecursionError):
        return None


# 3. Comparing


def difference(gold: str, box: str) -> str | None:
    """Compares two normalised texts by value; returns the difference, or None if there is none.

    Two equations are the same if their sides differ by one constant factor. ValueError if gold is
    neither text nor an expression nor an equation.
    """
    if not _is_plain(gold):
        return strings.text_difference(gold, box)
    if not box:
        return "empty"
    if len(box) > 4 * len(gold) + 64:
        return "far longer than the answer"
    if not _is_plain(box):
        return "not in the form of a final answer"
    parsed_gold = _parse(gold)
    parsed_box = _parse(box)
    if parsed_gold is None:
        raise ValueError(
            f"the answer {gold!r} is neither text nor an expression nor an equation"
        )
    is_equation = parsed_gold.is_equation
    if parsed_box is None or parsed_box.is_equation != is_equation:
        return "not an equation" if is_equation else "not an expression"

    # Only gold's variables have values. Another one in the box has none.
    symbols = sorted(symbol.name for symbol in parsed_gold.expression.free_symbols)
    points = _POINTS + _MORE_POINTS if _FOLDS.search(gold + box) else _POINTS
    gold_values = _values(parsed_gold.expression, symbols, points)
    if gold_values is None:  # x^{99} is too large at the points far out
        points = _POINTS
        gold_values = _values(parsed_gold.expression, symbols, points)
    box_values = _values(parsed_box.expression, symbols, points)
    if gold_values is None:  # infinity, f(x)
        return strings.text_difference(gold, box)
    if box_values is None:
        return "no value, or other variables"
    if is_equation:
        # 0=0 would be equal to any equation.
        if not all(gold_values) or not all(box_values):
            return "an identity"
        # y-(2x+1) and (4x-2y)-(-2) have values in one ratio, -1:2, at every point. Divided by the
        # first value they are equal.
        gold_values = [value / gold_values[0] for value in gold_values]
        box_values = [value / box_values[0] for value in box_values]
    if _are_close(gold_values, box_values):
        return None
    return "another equation" if is_equation else "another value"


def _are_close(gold_values: list, box_values: list) -> bool:
    pairs = zip(gold_values, box_values, strict=True)
    return all(abs(x - y) <= 1e-25 * abs(x) for x, y in pairs)


def constant(text: str) -> Fraction | None:
    """Returns the value of an expression without variables, to 30 digits; None for others."""
    if not text or not _is_plain(text):
        return None
    parsed = _parse(text)
    if parsed is None or parsed.is_equation or parsed.expression.free_symbols:
        return None
    values = _values(parsed.expression, [])
    if values is None or isinstance(values[0], mpmath.mpc):
        return None
    return Fraction(mpmath.nstr(values[0], 30))
