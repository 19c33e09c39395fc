"""The verdicts of `mathematics` on hand-labelled answers and completions, and their reasons."""

import threading

import math_verify
import pytest
from labelled_answers import ANSWERS, boxed
from labelled_kinds import KINDS
from labelled_spellings import SPELLINGS

from r1v3_jax.rewards.verifiers import mathematics
from r1v3_jax.rewards.verifiers.boxes import extract
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import check_gold, verify

RIGHT, WRONG, ERROR = Verdict.RIGHT, Verdict.WRONG, Verdict.ERROR

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


ALL_KINDS = KINDS | SPELLINGS


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_answers_of_each_kind(kind):
    """Every spelling of a value is right, and what is nearly the value is wrong."""
    wrong_labels = [
        (gold, box, verdict, verify(boxed(box), gold).reason)
        for gold, (right, wrong) in ALL_KINDS[kind].items()
        for boxes, verdict in ((right, RIGHT), (wrong, WRONG))
        for box in boxes
        if verify(boxed(box), gold).verdict is not verdict
    ]
    assert wrong_labels == []
    assert {
        gold: check_gold(gold) for gold in ALL_KINDS[kind] if check_gold(gold)
    } == {}
    for side in (0, 1):
        assert sum(len(boxes[side]) for boxes in ALL_KINDS[kind].values()) >= 10


QUICK = {
    "7": ["x=7", r"(1,2)\cup(3,4)", "7 apples"],
    "52 cm": ["0.52 m"],
    "Yes": ["yes"],
}
NOT_QUICK = {
    "7": [r"7\approx 6.9"],
    "x=5": ["y=5"],
    r"x\ne0": ["1"],
    "4.12": [r"\sqrt{17}≈4.12"],
}


def test_what_needs_the_parser_is_not_quick():
    """Quick verdicts are reached in the process of the run, which must not wait for a parser."""
    for gold, boxes in QUICK.items():
        assert all(mathematics.is_quick(gold, box) for box in boxes), gold
    for gold, boxes in NOT_QUICK.items():
        assert not any(mathematics.is_quick(gold, box) for box in boxes), gold


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
    verdicts = []
    thread = threading.Thread(
        target=lambda: verdicts.append(
            verify(boxed(r"\frac{15}{\sqrt{5}}"), r"3\sqrt{5}").verdict
        )
    )
    thread.start()
    thread.join(60)
    assert verdicts == [RIGHT]
