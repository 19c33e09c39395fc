"""Arithmetic that models write is computed as Python would, and never run."""

import random
import time
from fractions import Fraction

import pytest

from r1v3_jax.benchmarks import arithmetic


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7+7", 14),
        ("2*(3+4)", 14),
        ("-2**2", -4),
        ("2**-1", Fraction(1, 2)),
        ("7//2 - 7%3", 2),
        ("007", 7),
        ("0.05", Fraction(1, 20)),
        (".5e1", 5),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"\dfrac{\frac{1}{2}}{3}", Fraction(1, 6)),
        (r"\frac12", Fraction(1, 2)),
        (r"3 \times 10^{3}", 3000),
        ("1,234.5", Fraction("1234.5")),
        ("$2^3$", 8),
        ("4**0.5", 2),
    ],
)
def test_arithmetic_has_a_value(text, value):
    assert arithmetic.value(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "x+1", "1+", "(1", "1)", "1_0", "1/0", "1 2", "[1]", "'1'", "abs(1)", "1,2", "1;2"]
    + ["9**9**9", "(-8)**0.5", "(" * 1000 + ")" * 1000, "-" * 150 + "1", "1" * 300, "1e9999"],
)  # fmt: skip
def test_all_else_has_none(text):
    assert arithmetic.value(text) is None


def test_the_values_are_pythons():
    """Random sums of small numbers, which Python computes here: their text is made of digits."""
    rng = random.Random(0)

    def made(depth: int) -> str:
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(["1", "2", "3.5", "10", "0.25", "7"])
        if rng.random() < 0.2:
            return f"-({made(depth - 1)})"
        mark = rng.choice(["+", "-", "*", "/", "%", "//", " + ", " * "])
        return f"({made(depth - 1)}){mark}{made(depth - 1)}"

    known = 0
    for _ in range(2000):
        text = made(4)
        try:
            wanted = eval(text)
        except ZeroDivisionError:
            assert arithmetic.value(text) is None
            continue
        # Floating-point remainders of numbers like 0.1 may be a whole divisor off; these are
        # multiples of 1/4 at first, but a quotient is not.
        if "%" in text or "//" in text:
            continue
        known += 1
        assert float(arithmetic.value(text)) == pytest.approx(
            wanted, rel=1e-9, abs=1e-9
        )
    assert known > 500


def test_hostile_arithmetic_takes_no_time():
    start = time.process_time()
    for text in (
        "9**" * 60 + "9",
        "((((" * 50,
        r"\frac{" * 30 + "1",
        "1/3" * 60,
        "99**199",
    ):
        arithmetic.value(text)
    assert time.process_time() - start < 1
