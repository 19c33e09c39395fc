"""Expressions and equations, compared by their values at some points.

math-verify reads expressions, but does not compare them: it looks for proofs, which can take for
ever or round a decimal until it fits. What could take the parser long is refused before it is read.
"""

import functools
import logging
import math
import re
from fractions import Fraction

import math_verify
import mpmath
from latex2sympy2_extended import NormalizationConfig, latex2sympy2
from sympy import Basic, Eq, Expr, Float, Integer, Number, Rational

from r1v3_jax.rewards.verifiers import strings

# math-verify warns that its time limits are off. They are signals, which only the main thread gets.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_COMMANDS = frozenset(
    r"""\frac \sqrt \pi \infty \cdot \times \div \sin \cos \tan \cot \sec \csc \arcsin \arccos
    \arctan \ln \log \exp \alpha \beta \gamma \delta \theta \lambda \mu \rho \sigma \tau \phi
    \varphi \omega \Delta \Omega \vec \overline""".split()
)


def _number(_, text: str) -> Number:
    """The number of a token of digits, which the library would pass through Python's eval."""
    text = text.replace(",", "")
    if text.isdigit():
        return Integer(int(text))
    return (
        Rational(text)
        if re.fullmatch(r"[0-9]*\.[0-9]+|[0-9]+\.", text)
        else Float(text)
    )


latex2sympy2._Latex2Sympy.parse_number = _number

_EXPONENT = re.compile(r"\^\{((?:[^{}^]|\\frac\{[^{}^]*\}\{[^{}^]*\})*)\}")
# Without units=True, which would take the h off \pi r^2 h.
_LATEX = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
_PARSER = math_verify.LatexExtractionConfig(
    boxed_match_priority=-1, normalization_config=_LATEX
)


def _is_plain(text: str) -> bool:
    """Whether an expression is compared by its values, and not as text: no sums, integrals and
    factorials, which are no final answers; no towers of powers and other huge numbers, which take
    the parser for ever; no sets and inequalities; no primes, which the parser ignores.
    """
    product = 1  # of the powers of brackets and of powers
    exponents = list(_EXPONENT.finditer(text))
    for match in exponents:
        runs = re.findall("[0-9]+", match[1])
        if len("".join(runs)) > 3:
            return False
        if text[: match.start()].endswith((")", "]", "}")):
            product *= math.prod(map(int, runs))
    return (
        product <= 100
        and len(exponents) == text.count("^")
        and not re.search("[<>!'\"]", text)
        and set(re.findall(r"\\[A-Za-z]+", text)) <= _COMMANDS
    )


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def _parse(text: str) -> tuple[Expr, bool] | None:
    """An expression, or the difference of an equation's sides and True; None for anything else."""
    parsed = math_verify.parse(
        f"${text.replace('~', ' ')}$",
        [_PARSER],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
        raise_on_error=True,
    )
    equation = bool(parsed) and isinstance(parsed[0], Eq)
    sides = parsed[0].args if equation else parsed
    if not sides or not all(isinstance(side, Expr) for side in sides):
        return None
    return (sides[0] - sides[1] if equation else sides[0]), equation


_ARITHMETIC = mpmath.MPContext()
_ARITHMETIC.dps = 40  # digits
_FUNCTIONS = {
    "Add": lambda *terms: _ARITHMETIC.fsum(terms),
    "Mul": lambda *factors: _ARITHMETIC.fprod(factors),
    "Pow": _ARITHMETIC.power,
    "Pi": lambda: +_ARITHMETIC.pi,
    "Exp1": lambda: +_ARITHMETIC.e,
    "Abs": _ARITHMETIC.fabs,
    "log": _ARITHMETIC.log,
} | {
    name: getattr(_ARITHMETIC, name)
    for name in "sin cos tan cot sec csc asin acos atan sinh cosh tanh exp".split()
}


def _value(node: Basic, point: dict):
    """The value of an expression at a point, no step of it beyond 1e100; raises if it has none."""
    if node.is_Symbol:
        return point[node.name]
    if node.is_Rational:
        value = _ARITHMETIC.mpf(node.p) / node.q
    elif node.is_Float:
        value = _ARITHMETIC.mpf(str(node))
    else:
        value = _FUNCTIONS[type(node).__name__](
            *(_value(part, point) for part in node.args)
        )
    if not abs(value) < 1e100:
        raise OverflowError("too large")
    return value


def _values(expression: Expr, symbols: list[str]) -> list | None:
    """The values at three points, the first symbol once negative; None if one has no value."""
    points = [
        {symbol: _ARITHMETIC.mpf(start + 0.29 * i) for i, symbol in enumerate(symbols)}
        for start in (0.37, 1.13, -0.45)
    ]
    try:
        return [_value(expression, point) for point in points]
    except (LookupError, ArithmeticError, ValueError, TypeError, RecursionError):
        return None


def difference(gold: str, box: str) -> str | None:
    """Compares values. Two equations are the same if their sides differ by one constant factor."""
    if not _is_plain(gold):
        return strings.text_difference(gold, box)
    if not box or len(box) > 4 * len(gold) + 64:
        return "far longer than the answer" if box else "empty"
    if not _is_plain(box):
        return "not in the form of a final answer"
    parsed_gold, parsed_box = _parse(gold), _parse(box)
    if parsed_gold is None:
        raise ValueError(
            f"the answer {gold!r} is neither text nor an expression nor an equation"
        )
    if parsed_box is None or parsed_box[1] != parsed_gold[1]:
        return "not an equation" if parsed_gold[1] else "not an expression"
    (expression, is_equation), (box_expression, _) = parsed_gold, parsed_box
    symbols = sorted(symbol.name for symbol in expression.free_symbols)
    wanted, values = _values(expression, symbols), _values(box_expression, symbols)
    if wanted is None:  # infinity, f(x)
        return strings.text_difference(gold, box)
    if values is None:
        return "no value, or other variables"
    if is_equation:
        if not all(wanted) or not all(values):
            return "an identity"
        wanted, values = (
            [value / side[0] for value in side] for side in (wanted, values)
        )
    equal = all(
        abs(x - y) <= 1e-25 * abs(x) for x, y in zip(wanted, values, strict=True)
    )
    return None if equal else "another equation" if is_equation else "another value"


def constant(text: str) -> Fraction | None:
    """The value of an expression without variables, to 30 digits; None if it is anything else."""
    if not text or not _is_plain(text) or (parsed := _parse(text)) is None or parsed[1]:
        return None
    if parsed[0].free_symbols or (values := _values(parsed[0], [])) is None:
        return None
    return (
        None
        if isinstance(values[0], mpmath.mpc)
        else Fraction(mpmath.nstr(values[0], 30))
    )
