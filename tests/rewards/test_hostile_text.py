"""Hostile text: whatever a policy writes, a verdict neither raises nor takes long."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_answers import ANSWERS, boxed
from labelled_kinds import KINDS

from r1v3_jax.rewards.score import score
from r1v3_jax.rewards.verifiers import (
    digits,
    names,
    relations,
    spelling,
    strings,
    structure,
    units,
)
from r1v3_jax.rewards.verifiers.boxes import extract
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import check_gold, verify

RIGHT, WRONG = Verdict.RIGHT, Verdict.WRONG

PIECES = [
    r"\boxed{",
    "{",
    "}",
    r"\{",
    r"\}",
    "(",
    ")",
    "[",
    "]",
    "\\",
    r"\\",
    "^",
    "_",
    "^{",
    ",",
    "=",
    "<",
    r"\le ",
    "!",
    "|",
    "/",
    "+",
    "-",
    ".",
    "%",
    "$",
    "~",
    " ",
    "\n",
    "'",
    "&",
    "x",
    "9",
    "99",
    "7",
    "e",
    "i",
    r"\frac",
    r"\frac{1}{2}",
    r"\sqrt",
    r"\sqrt[9]{2}",
    r"\pi",
    r"\sin ",
    r"\log",
    r"\exp(",
    r"\infty",
    r"\pm",
    r"\cup",
    r"\text{",
    " or ",
    " and ",
    "或",
    r"\int",
    r"\sum",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\circ",
    "cm",
    "2\\sqrt{3}",
    "°",
]
PIECES += [
    "²", "½", "₁", "√", "≧", "θ", "ℝ", "sqrt(", "abs(", "pi", "oo", "**", "<=", "...", "if ",
    r"\over ", r"\text{Area}=", r"\textcolor{red}{", r"\color{", r"{\rm ", r"\mathbb ", r"\ne ",
    r"\approx", " about ", r"\setminus", r"\cap", r"\vee ", r"\lvert ", r"\left.", r"\not=",
    r"\begin{cases}", r"\end{cases}", r"\begin{array}{cc}", r"\end{array}", "_8", "_{16}",
    " m/s", r"\mu ", r"\Omega", " people", " all real numbers", " except ", r"\{x|", "P(1,2)",
]  # fmt: skip
GOLDS = [*ANSWERS, *(gold for kind in KINDS.values() for gold in kind)]
latex = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
mutated = st.tuples(st.sampled_from(GOLDS), st.integers(0, 20), latex).map(
    lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
)


def check_is_quick(completion, gold):
    start = time.thread_time()
    check = verify(completion, gold)
    seconds = time.thread_time() - start
    assert seconds < 5, (
        f"{seconds:.1f} s for {gold!r} and {completion!r}"
    )  # on a slow core
    return check


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(GOLDS), st.text() | latex | mutated)
def test_fuzzed_boxes_neither_raise_nor_hang(gold, inside):
    assert check_is_quick(boxed(inside), gold).verdict in (RIGHT, WRONG)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.text() | latex | mutated, st.text() | latex | mutated)
def test_fuzzed_answers_and_completions_neither_raise_nor_hang(gold, completion):
    check_is_quick(completion, gold)
    check_is_quick(f"</think>{completion}", gold)
    check_is_quick(boxed(gold), gold)
    assert check_gold(gold) is None or isinstance(check_gold(gold), str)
    assert extract(completion, thinking=False) is None or r"\boxed" in completion
    assert score(completion, "7", ended=True).format in (0.0, 1.0)


def test_random_text_is_not_right():
    generator = random.Random(0)
    accepted = set()
    for gold in ("73", r"5\sqrt{3}", "x^2-7x+3"):
        for _ in range(500):
            inside = "".join(
                generator.choices([*PIECES, "73", "73 "], k=generator.randint(2, 8))
            )
            check = verify(boxed(inside), gold)
            if check.verdict is RIGHT:
                accepted.add(check.extracted.strip(" ~$.,"))
    # The right answer itself does come up, as when a brace behind it closes the box.
    assert accepted <= {"73", "+73", "73cm", "x=73", "(73)", "73^\\circ", "73°"}


COSTLY = [
    "9^{9^{9^{9}}}",
    "9^9^9^9^9",
    "((99^{99})^{99})^{99}",
    "9^{(9999999999)}",
    "9^{99\\cdot99}",
    r"\sqrt[(((9^{999})^{99})^{99})^{9}]{2}",
    r"\log_{9^{9999}} 2",
    r"\tan(9^{9999}\pi)",
    "3!!!!!",
    r"\exp(\exp(\exp(\exp(\exp(9)))))",
    r"2\sqrt{3}+9^{9999}",
    "99999999!",
    "9" * 400,
    r"\sqrt[9^{999999999}]{2}",
    r"\sqrt[9^{9^{9^{9}}}]{2}",
    r"\sin(\exp(\exp(18)))",
    "(" * 200 + "3" + ")" * 200,
    r"\sqrt{" * 60 + "3" + "}" * 60,
    "{" * 150 + "}" * 150,
    r"\frac{1}{" * 40 + "3" + "}" * 40,
    r"\log_{" * 8 + "x" + "}x" * 8,
    "1/" * 150 + "1",
    "|" * 300,
    "-" * 300 + "3",
    "x" * 399,
    r"\pm" * 100,
    "=" * 300,
    "<" * 300,
    "\\" * 399,
    r"\sum_{n=1}^{99999999}\frac{1}{n}",
    r"\int_0^1 e^{x^2}dx",
    r"\binom{99999999}{4444444}",
    "(a+b+c+d+e+f)^{99}",
    r"\sin(\cos(\tan(\sin(\cos(\tan x)))))",
    "," * 300,
    "~" * 399,
    r"\text{" * 70 + "}" * 70,
    r"\begin{pmatrix}" * 20,
    "1," * 199 + "1",
    "或" * 300,
    "1 or " * 70,
]


@pytest.mark.parametrize("inside", COSTLY)
def test_costly_answers_are_wrong_at_once(inside):
    for gold in (r"2\sqrt{3}", r"\sin x+\cos x", "x^2+y^2=1", r"1,\sqrt{2}", "7"):
        check = check_is_quick(boxed(inside), gold)
        assert check.verdict is WRONG, check


LONG = [
    r"\boxed{",
    r"\boxed",
    r"\boxed{}",
    r"\boxed{7}",
    r"\boxed ",
    r"\boxed{{",
    "{",
    "}",
    "\\",
    r"\\{",
    "</think>",
    "<think>",
    r"\boxed{" + "7" * 1000,
    " " * 1000 + r"\boxed",
]


@pytest.mark.parametrize("text", LONG)
def test_long_completions_take_linear_time(text):
    completion = "</think>" + text * (200_000 // len(text))
    for hostile in (
        completion,
        completion + "}" * 100_000,
        rf"{completion}\boxed{{7}}",
    ):
        start = time.thread_time()
        score(hostile, "7", ended=True)
        assert time.thread_time() - start < 5  # quadratic time would be an hour


JUNK = [
    "~ ", r"\text{", r"\text{}", r"\frac", "{", "}", r"\sqrt(", r"\sqrt[", "(", "sin ", " or",
    " and", r"\over", "^", "²", "½", "√1", " percent", "{}", "1, ", r"\a{ ", "+ ",
    r"\begin{cases}", r"\in", r"\color{", "=~", r"\cos ^ ", "a ", "(a", "'", "|a", r"\angle ",
    "=x", "A", "a-", r"\frac{d", "1 m ", "1m", "m/", "m/(", r"5\mu ", "5}", "x<", r"x\ne ",
    r"\{x|", r"\mathbb{R}-", "all reals ", "&", r"\\", r"\approx", "(about ", "about ", "1_{",
    "_{8}", "]1,2[", r"\setminus", "[,", "x=1,", "x is ", "^{2}", "1}{", "...", "-1", "**",
    "abs(", "平方", "个", "\n", "1e", "E5", r"\{", ";",
]  # fmt: skip


@pytest.mark.parametrize("piece", JUNK)
def test_reading_junk_takes_linear_time(piece):
    """20,000 characters, fifty times more than an answer may have, through every way of reading."""
    for text in (
        piece * (20_000 // len(piece)),
        "5" + piece * (20_000 // len(piece)) + "=5",
    ):
        for read in (
            spelling.normalise,
            units.split,
            names.split,
            strings.is_text,
            digits.read_number,
            digits.read_based,
            relations.as_sets,
            structure.take_apart,
        ):
            start = time.thread_time()
            read(text)
            assert time.thread_time() - start < 2, (
                read
            )  # quadratic time would be minutes
