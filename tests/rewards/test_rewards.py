"""The verifier: hand-labelled answers, hostile text, the format, the reward."""

import random
import threading
import time

import math_verify
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1v3_jax.rewards.score import format_score, score, score_all
from r1v3_jax.rewards.verifiers.boxes import extract
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import check_gold, verify

RIGHT, WRONG, ERROR = Verdict.RIGHT, Verdict.WRONG, Verdict.ERROR


def boxed(inside):
    return rf"I think.</think>So it is \boxed{{{inside}}}."


# Labelled by hand: reference answer -> what in the box is right, what is wrong.
ANSWERS = {
    # integers
    "7": (
        [
            "7",
            " 7 ",
            "7.",
            "$7$",
            "07",
            "+7",
            "7.0",
            "7.000",
            "(7)",
            r"\{7\}",
            r"\text{7}",
        ]
        + [
            "**7**",
            r"\boxed{7}",
            "x=7",
            "x = 7",
            r"x_1=7",
            r"\angle A = 7",
            "f(2)=7",
            "AB=7",
        ]
        + [
            r"7\text{ cm}",
            "7 cm",
            "7cm",
            r"7\,\mathrm{cm}",
            r"7\text{ cm}^2",
            "7 m",
            r"7^\circ",
        ]
        + [
            "7厘米",
            "7 km/h",
            r"\$7",
            "7.00 dollars",
            "７",
            r"x \in \{7\}",
            r"\left(7\right)",
        ],
        [
            "8",
            "-7",
            "71",
            "7 or 8",
            "7, 8",
            "7 8",
            "7  8",
            r"7 \text{ or } 8",
            "7或8",
            r"\pm 7",
        ]
        + [
            "garbage 7",
            "7 million",
            "7m",
            "7x",
            "14/2",
            r"\frac{14}{2}",
            "3+4",
            r"\sqrt{49}",
        ]
        + [
            "7!",
            "7^1",
            r"7\%",
            r"700\%",
            "7 percent",
            "[7]",
            "",
            "?",
            "3=7",
            "7=x",
            "0+7=7",
        ]
        + [
            "7.0000001",
            "7,0",
            r"7 \boxed{8}",
            r"\boxed{8} 7",
            "seven",
            "七",
            "not 7",
            "7e",
            "7)",
        ],
    ),
    "1234": (
        ["1,234", "1{,}234", r"1\,234", "1 234", r"1,\!234", "+1,234", "1234.0"],
        ["1,23,4", "12,34", "1, 234", "(1,234)", "1.234", "123", "12345"],
    ),
    "1,234": (["1234"], ["234", "1", "1, 234"]),
    "-5": (["-5", "- 5", "−5", "–5", "-5.0", "x=-5"], ["5", "+5", "--5", "5-", "(-)5"]),
    "0": (["0", "-0", "0.0", "00"], ["", "o", r"\emptyset", "1"]),
    "1000000": (
        [
            "1,000,000",
            "1 000 000",
            "10^6",
            r"1\times10^{6}",
            r"1 \cdot 10^6",
            "1e6",
            "10^{6}",
        ],
        ["10^5", r"10^{2}\times10^{4}", "1e7"],
    ),
    # fractions and decimals: the exact value
    "1/2": (
        [
            r"\frac{1}{2}",
            r"\dfrac{1}{2}",
            r"\frac12",
            "0.5",
            ".5",
            r"\frac{2}{4}",
            "50%",
            "1 / 2",
        ],
        [
            "0.5000001",
            "0.49",
            "2",
            r"-\frac{1}{2}",
            "1, 2",
            "1:2",
            r"\frac{1}{0}",
            "2^{-1}",
        ],
    ),
    r"-\frac{1}{2}": (
        ["-1/2", r"\frac{-1}{2}", "-0.5", r"-\tfrac12"],
        ["1/2", r"\frac{2}{-1}"],
    ),
    r"\frac{1}{3}": (["1/3", r"\frac{2}{6}"], ["0.333", "0.3333333333", "0.33", "33%"]),
    r"1\frac{1}{2}": (
        ["1.5", "3/2", r"\frac{3}{2}", "1 1/2"],
        ["11/2", "1/2", r"\frac{1}{2}"],
    ),
    "3.14": (
        ["3.140", "+3.14", r"\frac{157}{50}"],
        [r"\pi", "3.1", "3.1416", "314", "3,14"],
    ),
    "0.001": (["10^{-3}", r"1\times10^{-3}", "1/1000", ".001"], ["0.01", "10^{3}"]),
    r"3\times10^8": (
        [r"3\times 10^{8}", "300000000", "3e8", r"3\cdot10^8"],
        [r"3\times10^7"],
    ),
    "1e3": (["1000", "10^3"], ["3e", "1", "3"]),
    # percentages
    "10%": (
        [r"10\%", "0.1", "1/10", "10 percent", r"10\text{ percent}"],
        ["10", "1%", "0.1%"],
    ),
    "10": (["10"], ["10%", r"10\%", "1000%"]),
    # units: the same one, or none on one side
    "5 cm": (
        ["5", r"5\text{ cm}", "5cm", "5 centimeters", "5厘米"],
        ["5 m", "5 cm^2", "50", "cm"],
    ),
    r"5\text{ cm}^2": (
        ["5 cm²", "5 square centimeters", "5平方厘米", "5"],
        ["5 cm", "5 cm^3"],
    ),
    "9.8 m/s^2": ([r"9.8\ \text{m/s}^2", "9.8", "9.8 m/s²"], ["9.8 m/s", "9.8 km"]),
    "12 km/h": (["12 km per hour", r"12\text{ km/h}", "12"], ["12 km", "12 m/s"]),
    r"30^\circ": (
        ["30", "30°", "30 degrees", r"30^{\circ}", "30度"],
        [r"\frac{\pi}{6}", "30 cm"],
    ),
    r"20^\circ C": ([r"20^\circ\text{C}", "20℃", "20°C", "20"], [r"20^\circ", "20 cm"]),
    r"2\sqrt{3}\text{ m}": (
        [r"2\sqrt{3}", r"\sqrt{12}\text{ m}"],
        [r"2\sqrt{3}\text{ cm}"],
    ),
    "5 m": (["5m", r"5\text{ m}", "5"], ["5 s"]),
    "12元": (["12", "12 yuan", "12 元"], ["13元", "12 dollars"]),
    # lists, tuples, sets, signs
    "1,7": (
        [
            "1, 7",
            "7,1",
            r"\{1,7\}",
            r"\{ 7, 1 \}",
            "1 and 7",
            "1 or 7",
            r"x=1 \text{ or } x=7",
        ]
        + ["x_1=1, x_2=7", "x=1, 7", "1;7", "1或7", "1和7", "1、7"],
        ["(1,7)", "[1,7]", "1", "1,7,8", "1,1,7", "17", "1,8", "1,7 or 8"],
    ),
    "1, 234": (["234, 1", "1,234", "1;234"], ["1234", "(1, 234)"]),
    "(1,7)": (
        ["( 1 , 7 )", r"\left(1, 7\right)", "(1;7)", "(1.0,7)", "（1，7）", "P=(1,7)"],
        [
            "1,7",
            "(7,1)",
            "[1,7]",
            "(1,7]",
            "(1,7,8)",
            r"\{1,7\}",
            "1",
            "((1),7)(",
            "(1 7)",
        ],
    ),
    r"(\frac{1}{2}, -3)": (["(0.5,-3)", "(1/2,-3)"], ["(-3,0.5)", "(0.5,3)"]),
    "x=1,y=2": (["y=2,x=1", "x=1 and y=2"], ["x=2,y=1", "(1,2)", "x=1"]),
    "3,-3": ([r"\pm 3", r"x=\pm3", "-3, 3", "±3"], ["3", "-3", r"\pm 2"]),
    r"\pm\sqrt{2}": ([r"\sqrt{2}, -\sqrt{2}", r"-\sqrt2,\sqrt2"], [r"\sqrt{2}"]),
    r"1\pm\sqrt{2}": ([r"1+\sqrt{2},1-\sqrt{2}"], [r"1+\sqrt{2}", r"\pm\sqrt{2}"]),
    "(2,3),(4,5)": (
        ["(4,5),(2,3)", r"\{(2,3),(4,5)\}"],
        ["(2,3)", "(3,2),(4,5)", "2,3,4,5"],
    ),
    r"\emptyset": ([r"\varnothing", "∅", r"\{\}"], ["0", r"\{0\}"]),
    # intervals and inequalities
    "[1,2)": (
        ["[1, 2)", r"1\le x<2", r"2 > x \geq 1", r"x\in[1,2)"],
        ["(1,2)", "[1,2]", "1,2"],
    ),
    "x>1": (
        [r"(1,+\infty)", r"(1,\infty)", "1<x", "x > 1"],
        [r"x\ge1", "x<1", r"[1,\infty)", "1", "y>1"],
    ),
    r"(-\infty,1)\cup(3,+\infty)": (
        [r"(3,\infty)\cup(-\infty,1)", r"x<1 \text{ or } x>3", "x<1或x>3"],
        [
            "x<1",
            r"(-\infty,1)",
            r"(-\infty,1]\cup(3,\infty)",
            r"x<1 \text{ and } x>3",
            "(1,3)",
        ],
    ),
    r"0\le x\le 1": (["[0,1]", r"0\leqslant x\leqslant1", "0≤x≤1"], ["0<x<1", "[0,1)"]),
    "a<b<c": (["c>b>a"], ["b<a<c", "a<c<b", "abc"]),
    "x+y<2": (["2>x+y"], ["x+y>2", r"x+y\le2"]),
    ">": ([">", r"\gt"], ["<", "=", ""]),
    # expressions
    r"2\sqrt{3}": (
        [
            r"\sqrt{12}",
            "2√3",
            r"2 \sqrt 3",
            r"2\sqrt3",
            r"\frac{6}{\sqrt{3}}",
            r"x=2\sqrt{3}",
        ],
        [
            r"\sqrt{3}",
            "3.46",
            "3.4641016151",
            r"2\sqrt{2}",
            r"2\sqrt{3} or 4",
            r"2\sqrt{3}x",
        ],
    ),
    r"\frac{\pi}{4}": (
        [r"\pi/4", "π/4", r"0.25\pi"],
        ["0.785398", "45", r"\frac{\pi}{2}"],
    ),
    r"\frac{\sqrt{2}}{2}": (
        [r"\frac{1}{\sqrt{2}}", r"\sqrt{2}/2", r"2^{-\frac12}"],
        ["0.7071068"],
    ),
    "x^2+2x+1": (
        ["(x+1)^2", "1+2x+x^2", "x^{2} + 2 x + 1"],
        ["(x+1)^3", "x^2+2x+1=0", "(y+1)^2"],
    ),
    r"\frac{1}{3}\pi r^2h": (
        [r"\frac{\pi r^{2}h}{3}"],
        [r"\frac{1}{3}\pi r^2", r"\pi r^2 h"],
    ),
    r"\frac{x}{2}": (
        ["0.5x", "x/2", r"\frac{1}{2}x"],
        ["2x", r"\frac{x^2}{2x}+1", "x"],
    ),
    r"\sqrt{x^2}": (["|x|"], ["x", "-x"]),
    r"\log_2 3": (
        [r"\frac{\ln 3}{\ln 2}", r"\log_{2}{3}"],
        [r"\log_3 2", "1.585", r"\log 3"],
    ),
    "3+4i": (["4i+3"], ["3-4i", "5", "7i"]),
    "2^{10}": (["1024"], ["1000", "20"]),
    "2^(n-1)": (
        ["2^{n-1}", r"\frac{2^n}{2}", r"\frac12 2^n"],
        ["2^n-1", "2^{n+1}", "2^{n-1}/1+1"],
    ),
    "sqrt(3)": ([r"\sqrt{3}", "√3", "√(3)"], ["3", "1.732"]),
    "y=2x+1": (
        ["2x+1", "y=1+2x", "2x-y+1=0", "y-1=2x", "4x-2y=-2"],
        ["2x-1", "y=2x", "2x-y-1=0", "x=2y+1", "y=y", "2x+1=2x+1", "0=0"],
    ),
    "x^2+y^2=4": (
        ["x^2+y^2-4=0", r"\frac{x^2}{4}+\frac{y^2}{4}=1"],
        ["x^2+y^2=2", "x^2+y^2-4", "x=2"],
    ),
    "x=3": (["3", "x = 3"], ["y=3", "x=-3", "3=3"]),
    # only as text
    r"\sum_{n=1}^{9} n": ([r"\sum_{n=1}^9 n"], ["45"]),
    "n!": (["n!"], ["n"]),
    r"\begin{pmatrix}1\\2\end{pmatrix}": (
        [r"\begin{pmatrix}1 \\ 2\end{pmatrix}"],
        ["(1,2)", "1"],
    ),
    "e^{x^2}": (["e^{x^{2}}"], ["e^x", "x^2"]),
    # choices
    "B": (
        [
            "B",
            "b",
            "(B)",
            "B.",
            "(b).",
            "$B$",
            r"\text{B}",
            r"\textbf{(B)}",
            r"\mathbf{B}",
            "Ｂ",
        ],
        ["A", "AB", "A or B", "B, C", "(A)(B)", "B. 7", "8", "", "Bb", "option B"],
    ),
    "(C)": (["C", "c", "(C)"], ["B", "G"]),
    "x": (["x", "$x$"], ["y", "2x", "xx"]),
    "ACD": (["A, C, D", "acd", "A、C、D"], ["AC", "ACDB", "DCA"]),
    # words, points, ratios
    "Yes": (["yes", r"\text{Yes}.", "YES"], ["No", "yes and no", "y"]),
    "No solution": ([r"\text{no solution}", "No  solution."], ["solution", "0"]),
    "等腰三角形": (
        ["等腰三角形。", r"\text{等腰三角形}", " 等腰三角形 "],
        ["三角形", "等腰直角三角形"],
    ),
    "正确": (["正确"], ["不正确", "错误"]),
    "listen": (["Listen"], ["silent"]),
    r"\angle ABC": ([r"\angle ABC", "∠ABC"], [r"\angle BAC", "ABC"]),
    "3:2": (["3 : 2", "3：2", "3∶2"], ["2:3", "32", "3/2", "6:4"]),
    "5 apples": (["5 apples", r"5\text{ apples}"], ["5", "5 pears", "apples"]),
}
LABELLED = [
    (gold, box, verdict)
    for gold, (right, wrong) in ANSWERS.items()
    for boxes, verdict in ((right, RIGHT), (wrong, WRONG))
    for box in boxes
]

# Reference answer, completion, verdict, extracted.
COMPLETIONS = [
    ("7", r"3 + 4 = 7</think>It is \boxed{7}.", RIGHT, "7"),
    ("7", r"</think>\boxed{7}", RIGHT, "7"),
    ("7", "a</think>So\n$$\\boxed{\n7\n}$$", RIGHT, "7"),
    ("7", r"a</think>\boxed {7}", RIGHT, "7"),
    (
        "7",
        r"a</think>\\boxed{7}",
        RIGHT,
        "7",
    ),  # an escaped backslash, as in some prompts
    ("7", r"a</think>\\\boxed{7}", RIGHT, "7"),  # a line break in front
    ("7", r"is it \boxed{8}? no</think>\boxed{7}", RIGHT, "7"),
    ("7", r"it is \boxed{7}</think>\boxed{8}", WRONG, "8"),
    ("7", r"it is \boxed{7}</think>It is 7.", WRONG, None),
    ("7", r"it is \boxed{7}", WRONG, None),  # never left the reasoning
    ("7", r"\boxed{7}</think>", WRONG, None),
    ("7", r"a</think>\boxed{8}</think>\boxed{7}", RIGHT, "7"),
    ("7", r"a</think>\boxed{7}</think>7", WRONG, None),
    ("7", "a</think>7", WRONG, None),
    ("7", "", WRONG, None),
    ("7", r"a</think>\boxed{7} and again \boxed{7}", RIGHT, "7"),
    ("7", r"a</think>\boxed{7}, that is \boxed{ 7. }", RIGHT, "7."),
    ("7", r"a</think>\boxed{8} or \boxed{7}", WRONG, "7"),
    ("7", r"a</think>\boxed{7} or \boxed{8}", WRONG, "8"),
    ("7", r"a</think>\boxed{}\boxed{7}", WRONG, "7"),
    ("7", r"a</think>\boxed{1}\boxed{2}\boxed{3}\boxed{7}", WRONG, "7"),
    (
        "1/2",
        r"a</think>\boxed{0.5} = \boxed{\frac{1}{2}}",
        WRONG,
        r"\frac{1}{2}",
    ),  # two spellings
    ("7", r"a</think>\boxed{7", WRONG, None),
    (
        "7",
        r"a</think>\boxed{7} or \boxed{8",
        RIGHT,
        "7",
    ),  # cut off: the second is no answer
    ("7", r"a</think>\boxed{8 or \boxed{7}", RIGHT, "7"),
    ("7", r"a</think>}\boxed{7}}", RIGHT, "7"),
    ("7", r"a</think>\boxed 7", WRONG, None),
    ("7", r"a</think>\fbox{7}", WRONG, None),
    ("7", r"a</think>boxed{7}", WRONG, None),
    ("7", r"a</think>\boxed[7]", WRONG, None),
    (r"\frac{1}{2}", r"a</think>\boxed{\frac{1}{2}}", RIGHT, r"\frac{1}{2}"),
    (
        r"\frac{1}{\sqrt{2}}",
        r"a</think>\boxed{\frac{1}{\sqrt{2}}}",
        RIGHT,
        r"\frac{1}{\sqrt{2}}",
    ),
    (r"\{1,2\}", r"a</think>\boxed{\{1,2\}}", RIGHT, r"\{1,2\}"),
    (r"\{1,2\}", r"a</think>\boxed{\{1,2}", WRONG, r"\{1,2"),
    ("7", r"a</think>\boxed{\boxed{7}}", RIGHT, r"\boxed{7}"),
    ("7", r"a</think>\boxed{\text{the answer is }7}", WRONG, r"\text{the answer is }7"),
    ("B", "想一想</think>答案是 \\boxed{B}。", RIGHT, "B"),
    ("B", r"a</think>The answer is B.", WRONG, None),
    ("7", "a</think>\\boxed{" + "7" * 500 + "}", WRONG, "7" * 500),
    (r"\frac{1}{", r"a</think>\boxed{5}", ERROR, "5"),
    ("", r"a</think>\boxed{5}", ERROR, "5"),
    ("1" * 500, r"a</think>\boxed{5}", ERROR, "5"),
    ("=", r"a</think>\boxed{<}", WRONG, "<"),
]


@pytest.mark.parametrize("gold", ANSWERS)
def test_labelled_answers(gold):
    wrong_labels = [
        (box, verify(boxed(box), gold).reason)
        for answer, box, verdict in LABELLED
        if answer == gold and verify(boxed(box), gold).verdict is not verdict
    ]
    assert wrong_labels == []


def test_there_are_enough_labels():
    assert len(set(LABELLED)) == len(LABELLED)
    assert len(LABELLED) + len(COMPLETIONS) >= 400
    assert sum(verdict is RIGHT for _, _, verdict in LABELLED) > 150


@pytest.mark.parametrize("gold, completion, verdict, extracted", COMPLETIONS)
def test_labelled_completions(gold, completion, verdict, extracted):
    check = verify(completion, gold)
    assert (check.verdict, check.extracted) == (verdict, extracted), check.reason
    assert extract(completion) == extracted


def test_reasons():
    def reason(completion, gold="7"):
        return verify(completion, gold).reason

    assert reason(r"\boxed{7}") == "no answer"
    assert reason(r"</think>\boxed{7}\boxed{8}") == "several answers"
    assert reason(boxed("10"), "10%") == "another number"
    assert reason(boxed("14/2")) == "not written as an integer"
    assert reason(boxed("5 kg"), "5 cm") == "another unit"
    assert reason(boxed("5 m"), "5 cm") == "another number"
    assert reason(boxed("1,7"), "(1,7)") == "put together otherwise"
    assert reason(boxed("x+y"), "x^2") == "no value, or other variables"
    assert (
        reason(boxed("((9^{9})^{99})^{9}"), "2x") == "not in the form of a final answer"
    )
    assert reason(boxed("(" * 9 + "x" + ")" * 9), "2x") == "too long or too deep"
    assert reason(boxed("1+" * 50 + "x"), "2x") == "far longer than the answer"
    assert "neither text nor an expression" in reason(boxed("5"), r"\frac{1}{")


def test_without_thinking_all_is_summary():
    assert extract(r"It is \boxed{7}.", thinking=False) == "7"
    assert extract(r"\boxed{8}</think>\boxed{7}", thinking=False) == "7"
    assert verify(r"It is \boxed{7}.", "7", thinking=False).verdict is RIGHT
    assert verify(r"It is \boxed{7}.", "7").verdict is WRONG


def test_every_labelled_gold_verifies_against_itself():
    problems = {gold: check_gold(gold) for gold in ANSWERS}
    assert {gold: problem for gold, problem in problems.items() if problem} == {}


UNVERIFIABLE = [
    "",
    "   ",
    "$$",
    r"\frac{1}{",
    "2x+",
    "x+y=y+x",
    r"\infty-",
    r"2\sqrt{3},)",
]
UNVERIFIABLE += [
    "1" * 401,
    "(" * 9 + "x" + ")" * 9,
    ",".join(str(i) for i in range(17)),
]


@pytest.mark.parametrize("gold", UNVERIFIABLE)
def test_a_gold_that_cannot_be_verified_is_named(gold):
    assert check_gold(gold)
    assert verify(boxed("5"), gold).verdict in (ERROR, WRONG)


def test_a_failing_parser_is_an_error_and_not_wrong(monkeypatch):
    def fail(*args, **kwargs):
        raise RecursionError("too deep")

    monkeypatch.setattr(math_verify, "parse", fail)
    check = verify(boxed(r"\sqrt{11}+1"), r"1+\sqrt{11}")
    assert (check.verdict, check.reason) == (ERROR, "RecursionError: too deep")
    assert verify(boxed("7"), "7").verdict is RIGHT  # no parser in this


def test_works_outside_the_main_thread():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(
            verify(boxed(r"\frac{15}{\sqrt{5}}"), r"3\sqrt{5}").verdict
        )
    )
    thread.start()
    thread.join(60)
    assert found == [RIGHT]


# Hostile text

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
]
PIECES += [
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
]
PIECES += [
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
]
PIECES += [
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
]
PIECES += [
    r"\int",
    r"\sum",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\circ",
    "cm",
    "2\\sqrt{3}",
    "°",
]
GOLDS = list(ANSWERS)
latex = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
mutated = st.tuples(st.sampled_from(GOLDS), st.integers(0, 20), latex).map(
    lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
)


def check_is_quick(completion, gold):
    start = time.process_time()
    check = verify(completion, gold)
    seconds = time.process_time() - start
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
    assert format_score(completion, ended=True) in (0.0, 1.0)


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
]
COSTLY += [
    r"\sqrt[(((9^{999})^{99})^{99})^{9}]{2}",
    r"\log_{9^{9999}} 2",
    r"\tan(9^{9999}\pi)",
    "3!!!!!",
]
COSTLY += [
    r"\exp(\exp(\exp(\exp(\exp(9)))))",
    r"2\sqrt{3}+9^{9999}",
    "99999999!",
    "9" * 400,
]
COSTLY += [
    r"\sqrt[9^{999999999}]{2}",
    r"\sqrt[9^{9^{9^{9}}}]{2}",
    r"\sin(\exp(\exp(18)))",
]
COSTLY += [
    "(" * 200 + "3" + ")" * 200,
    r"\sqrt{" * 60 + "3" + "}" * 60,
    "{" * 150 + "}" * 150,
]
COSTLY += [
    r"\frac{1}{" * 40 + "3" + "}" * 40,
    r"\log_{" * 8 + "x" + "}x" * 8,
    "1/" * 150 + "1",
]
COSTLY += [
    "|" * 300,
    "-" * 300 + "3",
    "x" * 399,
    r"\pm" * 100,
    "=" * 300,
    "<" * 300,
    "\\" * 399,
]
COSTLY += [
    r"\sum_{n=1}^{99999999}\frac{1}{n}",
    r"\int_0^1 e^{x^2}dx",
    r"\binom{99999999}{4444444}",
]
COSTLY += [
    "(a+b+c+d+e+f)^{99}",
    r"\sin(\cos(\tan(\sin(\cos(\tan x)))))",
    "," * 300,
    "~" * 399,
]
COSTLY += [
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
]
LONG += [r"\\{", "</think>", "<think>", r"\boxed{" + "7" * 1000, " " * 1000 + r"\boxed"]


@pytest.mark.parametrize("text", LONG)
def test_long_completions_take_linear_time(text):
    completion = "</think>" + text * (200_000 // len(text))
    for hostile in (
        completion,
        completion + "}" * 100_000,
        rf"{completion}\boxed{{7}}",
    ):
        start = time.process_time()
        score(hostile, "7", ended=True)
        assert time.process_time() - start < 5  # quadratic time would be an hour


# Format and reward

GOOD = r"3 + 4 = 7</think>It is \boxed{7}."


@pytest.mark.parametrize(
    "completion, thinking, expected",
    [
        (GOOD, True, 1.0),
        (r"a</think>\boxed{8}", True, 1.0),  # the format knows no answers
        (r"a \boxed{1} b</think>\boxed{8}", True, 1.0),
        (r"</think>\boxed{7}", True, 0.0),  # no reasoning
        ("\n \n" + r"</think>\boxed{7}", True, 0.0),
        (r"a</think>b</think>\boxed{7}", True, 0.0),
        (r"<think>a</think>\boxed{7}", True, 0.0),  # the prompt has opened it
        (r"a</think>\boxed{7}<think>", True, 0.0),
        (r"a \boxed{7}", True, 0.0),
        ("a</think>", True, 0.0),
        ("a</think> \n", True, 0.0),
        ("a</think>It is 7.", True, 0.0),
        (r"a</think>\boxed{7} \boxed{7}", True, 0.0),
        (r"a</think>\boxed{7} \boxed{8", True, 0.0),
        (r"a</think>\boxed{7", True, 0.0),
        (r"a</think>\boxed{ }", True, 0.0),
        ("", True, 0.0),
        (r"It is \boxed{7}.", False, 1.0),
        (GOOD, False, 0.0),
        (r"<think>a \boxed{7}", False, 0.0),
        ("It is 7.", False, 0.0),
    ],
)
def test_format(completion, thinking, expected):
    assert format_score(completion, ended=True, thinking=thinking) == expected
    assert format_score(completion, ended=False, thinking=thinking) == 0.0


@pytest.mark.parametrize(
    "completion, answer, ended, total, accuracy, form",
    [
        (GOOD, "7", True, 1.0, 1.0, 1.0),
        (GOOD, "7", False, 0.8, 1.0, 0.0),
        (GOOD, "8", True, 0.2, 0.0, 1.0),
        (r"</think>\boxed{7}", "7", True, 0.8, 1.0, 0.0),
        ("7", "7", True, 0.0, 0.0, 0.0),
        (r"a</think>\boxed{7} or \boxed{8}", "7", True, 0.0, 0.0, 0.0),
        (GOOD, r"\frac{1}{", True, None, None, 1.0),  # an error has no reward
    ],
)
def test_reward_is_the_weighted_sum(completion, answer, ended, total, accuracy, form):
    result = score(completion, answer, ended=ended)
    assert result.total == (None if total is None else pytest.approx(total, abs=1e-12))
    assert (result.accuracy, result.format) == (accuracy, form)
    if total is not None:
        half = score(completion, answer, ended=ended, accuracy_weight=0.5)
        assert half.total == pytest.approx(0.5 * accuracy + 0.5 * form, abs=1e-12)


def test_a_batch_keeps_its_order_and_survives_errors():
    completions = [GOOD, boxed("8"), GOOD, "nothing", GOOD]
    answers = ["7", "7", r"\frac{1}{", "7", "8"]
    scores = score_all(completions, answers, [True, True, True, False, True])
    assert [one.verdict for one in scores] == [RIGHT, WRONG, ERROR, WRONG, WRONG]
    assert [one.total for one in scores] == pytest.approx([1.0, 0.2, None, 0.0, 0.2])
    assert scores[1] == score(boxed("8"), "7", ended=True)
    own = score_all(
        completions, answers, [True] * 5, accuracy_weight=[0.0, 0.25, 0.5, 0.75, 1.0]
    )
    assert [one.total for one in own] == pytest.approx([1.0, 0.75, None, 0.0, 0.0])
    plain = score_all(
        [r"\boxed{7}"], ["7"], [True], thinking=False, accuracy_weight=0.5
    )
    assert plain[0].total == 1.0
    with pytest.raises(ValueError):
        score_all(completions, answers[:-1], [True] * 5)


def test_speed(capsys):
    def rate(gold, inside, count):
        completions = [f"{'wait ' * 2000}</think>It is \\boxed{{{inside}}}."] * count
        score_all(completions[:1], [gold], [True])  # the parser's caches
        start = time.perf_counter()
        scores = score_all(completions, [gold] * count, [True] * count)
        assert all(one.total == 1.0 for one in scores)
        return count / (time.perf_counter() - start)

    integers, roots = rate("1234", "1,234", 1000), rate(r"2\sqrt{3}", r"\sqrt{12}", 50)
    with capsys.disabled():
        print(
            f"\nrewards: {integers:,.0f} integers/s, {roots:,.0f} roots/s, 10 kB completions"
        )
    assert integers > 200  # some thousands on a free core
