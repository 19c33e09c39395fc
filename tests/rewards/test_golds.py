"""Golds: what a reference answer becomes, which are refused, and that the kept ones are matched."""

import random
from collections import Counter

import pytest
from gold_forms import FORMS, PROSE_FORM
from labelled_answers import boxed

from r1v3_jax.config import Verify
from r1v3_jax.data import records
from r1v3_jax.data.schemas import InvalidRecord
from r1v3_jax.rewards.score import score
from r1v3_jax.rewards.verifiers import choice, golds
from r1v3_jax.rewards.verifiers.boxes import unboxed
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import check_gold, verify, verify_all

RIGHT, WRONG, ERROR = Verdict.RIGHT, Verdict.WRONG, Verdict.ERROR

# -------------------------------------------------------------------------------------------------
# The value of an answer


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("24+48=72\n#### 72", "72"),
        ("48/2 = <<48/2=24>>24 clips.\nShe is #1.\n#### 1,072", "1,072"),
        ("#### Answer\n72", "72"),
        ("The answer is 72.", "72"),
        ("We add both. So the final answer is $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("**Final answer:** 72", "72"),
        ("The final answer is $\\boxed{72}$", "72"),
        ("\\boxed{72}, that is \\boxed{72.}", "72."),
        ("<answer> B </answer>", "B"),
        ("答案是72。", "72"),
        ("答：72个", "72个"),
        ("解：24+48=72\n答：72", "72"),
        ("The final answer is $72$. I hope it is correct.", "$72$"),
        ("The answer is 7.2. This is because she has 7.", "7.2"),
        ("The answer is Mt. Everest.", "Mt. Everest"),
        ("Answer: (B)", "(B)"),
        # Left as they are
        ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"),
        ("#### 3\n#### 4", "#### 3\n#### 4"),
        ("The answer is not unique", "The answer is not unique"),
        ("isosceles triangle", "isosceles triangle"),
        ("Main Street 5", "Main Street 5"),
    ],
)
def test_the_value_of_an_answer_is_found(answer, gold):
    """Proves: working, sentences, tags and boxes around a value are no part of the gold."""
    assert unboxed(answer) == gold


def test_a_text_read_off_an_image_stays_whole():
    """Proves: under `string` the words before a value belong to it."""
    assert unboxed("Answer: 72", "string") == "Answer: 72"
    assert unboxed("Answer: 72", "number relative=0.01|model") == "72"
    assert unboxed("\\boxed{Answer: 72}", "string") == "Answer: 72"


def test_rows_have_the_value():
    """Proves: a row of GSM8K is kept with 72, and one with two boxes is left out."""
    row = records.canonical({"question": "q", "answer": "24+48=72\n#### 72"})
    records.check(row)
    assert row["answer"] == "72"
    row = records.canonical({"question": "q", "answer": "\\boxed{1} or \\boxed{2}"})
    with pytest.raises(InvalidRecord, match="boxes that differ"):
        records.check(row)


@pytest.mark.parametrize("verifier", ["", "choice", "set", "number"])
def test_a_list_in_quotes_is_refused(verifier):
    """Proves: ['3', 'three'] of MMMU, which no box repeats, says what would do; [1, 2] is kept."""
    assert "a list in quotes" in check_gold("['3', 'three']", verifier)
    assert check_gold('["cat"]', "string") is None
    assert check_gold("[1, 2]") is None


KEPT = r"""Yes|isosceles triangle|Main Street 5|等腰三角形|No solution|does not exist
    |all real numbers|5 apples|5 feet 3 inches|2 hours and 30 minutes|x=1 and y=2|They are equal
    |cannot be determined|The limit does not exist|John F. Kennedy|Washington D.C.|Mt. Everest
    |有两个实数根|first quadrant|直角三角形或等腰三角形|red, blue, green|\text{Area} = 6
    |5 units left|Saturday, May 5|point A
    |\begin{cases}1 & \text{if } n \text{ is even}\\0 & \text{if } n \text{ is odd}\end{cases}"""
PROSE = """She has 72 apples left.|Natalia sold 72 clips|There are 72 apples.|x is greater than 3
    |Since AB = AC, it is 72|Because the sides are equal, the triangle is isosceles
    |小明一共有72个苹果|因为三角形等腰，所以是72|The value of x is 5|Therefore, x = 5|面积是12
    |Total: 72
    |We add 24 and 48. So we get 72 clips altogether in May.|72 because 24+48=72
    |The set of all real numbers greater than or equal to two|x can be 3 or -3|#### 3\n#### 4"""


@pytest.mark.parametrize("gold", [gold.strip() for gold in KEPT.split("|")])
def test_values_and_short_texts_are_kept(gold):
    """Proves: names, words and numbers with their units are no prose."""
    assert golds.problem(gold, ["mathematics"]) is None


@pytest.mark.parametrize("gold", [gold.strip() for gold in PROSE.split("|")])
def test_prose_is_refused_with_what_would_do(gold):
    """Proves: a value in a sentence is refused under `mathematics`, and taken by `string`."""
    problem = check_gold(gold)
    assert "give the value alone, such as 72, or name the verifier `string`" in problem
    assert check_gold(gold, "string") is None
    assert check_gold(gold, "mathematics|string") is None


def test_boxes_that_differ_are_no_gold():
    """Proves: that is so under every rule of ours."""
    for verifier in ("", "number", "choice|string"):
        assert "boxes that differ" in check_gold("\\boxed{1} or \\boxed{2}", verifier)


@pytest.mark.parametrize("label", ["2", "(3)", "1."])
def test_numbered_options_are_told_which_verifier_reads_them(label):
    """Proves: the message names `number` and `string`."""
    with pytest.raises(ValueError, match="is a digit.*`number`.*`string`"):
        choice.difference(label, label)
    assert "`number`" in check_gold(label, "choice")
    assert check_gold(label, "number") is check_gold(label, "string") is None


# -------------------------------------------------------------------------------------------------
# Several boxes


def several(*boxes):
    return "So</think>" + " and ".join(rf"\boxed{{{box}}}" for box in boxes)


@pytest.mark.parametrize(
    "verifier, gold, boxes, verdict",
    [
        ("", "1, 7", ["1", "7"], RIGHT),
        ("", r"\{1, 7\}", ["1", "7"], RIGHT),
        ("", "x=1, y=7", ["x=1", "y=7"], RIGHT),
        ("", "x=1, y=7", ["1", "7"], RIGHT),
        ("", r"\sqrt{8}, 2", [r"2\sqrt{2}", "2"], RIGHT),
        ("", "2, 2", ["2", "2"], RIGHT),
        ("", "1, 7", ["1, 7", "1, 7"], RIGHT),  # the list twice
        ("set", "red, blue", ["red", "blue"], RIGHT),
        ("choice", "AC", ["A", "C"], RIGHT),
        # Another order, more or fewer
        ("", "1, 7", ["7", "1"], WRONG),
        ("", "x=1, y=7", ["7", "1"], WRONG),
        ("", "1, 7", ["1", "8"], WRONG),
        ("", "1, 7", ["1", "7", "8"], WRONG),
        ("", "1, 7", ["1"], WRONG),
        ("", "1, 7", ["1", "7", "1", "7"], WRONG),
        ("", "1, 7", ["1, 7", "2"], WRONG),
        ("choice", "AC", ["C", "A"], WRONG),
        # One value: boxes are not several attempts at it
        ("", "7", ["7", "8"], WRONG),
        ("", "7", ["8", "7"], WRONG),
        ("", "1,234", ["1", "234"], WRONG),
        ("", "(1,7)", ["1", "7"], WRONG),
        ("", "[1,7)", ["1", "7"], WRONG),
        ("choice", "B", ["A", "B"], WRONG),
        ("number", "7", ["7", "8"], WRONG),
        ("string", "red, blue", ["red", "blue"], WRONG),
        ("mathematics|set", "1, 7", ["1", "7"], WRONG),
    ],
)
def test_a_list_may_have_one_box_a_value(verifier, gold, boxes, verdict):
    """Proves: as many boxes as the list has values, in its order, and never otherwise."""
    completion = several(*boxes)
    check = verify(completion, gold, verifier=verifier)
    assert check.verdict is verdict, check
    [from_pool] = verify_all(
        [completion], [gold], verifiers=[verifier], verify=Verify(processes=1)
    )
    assert from_pool == check


def test_a_list_in_boxes_has_its_accuracy_and_no_format():
    """Proves: the chat template still wants one box, so one box with the list is worth more."""
    in_boxes = score(several("1", "7"), "1, 7", ended=True)
    in_a_box = score(several("1, 7"), "1, 7", ended=True)
    assert (in_boxes.accuracy, in_boxes.format) == (1.0, 0.0)
    assert in_boxes.extracted == "1, 7"
    assert (in_a_box.accuracy, in_a_box.format) == (1.0, 1.0)


def test_an_error_in_a_list_is_an_error_unless_another_value_is_wrong():
    """Proves: what nobody knows is no zero, and what is wrong is."""
    gold = r"1, \frac{1}{"  # its second value is no mathematics
    assert verify(several("1", "2"), gold).verdict is ERROR
    assert verify(several("3", "2"), gold).verdict is WRONG


# -------------------------------------------------------------------------------------------------
# Golds in the forms of real data sets


@pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)
def test_a_kept_gold_of_a_real_form_is_matched(make):
    """Proves: by itself and by a second writing, and not by a near miss; prose is refused."""
    draw = random.Random(make.__name__)
    failures = []
    for form in (make(draw) for _ in range(FORMS[make])):
        gold = unboxed(form.answer, form.verifier)
        problem = check_gold(gold, form.verifier)
        if form.second == PROSE_FORM:
            if problem is None:
                failures.append((gold, "kept"))
            continue
        if problem:
            failures.append((gold, problem))
        for box, wanted in ((gold, RIGHT), (form.second, RIGHT), (form.near, WRONG)):
            check = verify(boxed(box), gold, verifier=form.verifier)
            if check.verdict is not wanted:
                failures.append((gold, box, wanted.value, check.verdict.value))
    assert failures == []


def test_there_are_enough_forms():
    """Proves: the forms are more than 2,000 golds, of five data sets."""
    assert sum(FORMS.values()) >= 2000
    sets = Counter(make.__name__.partition("_")[0] for make in FORMS)
    assert sets.keys() == {"gsm8k", "math", "mmk12", "geometry3k", "virl"}
