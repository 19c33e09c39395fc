"""What each rule finds right: pairs labelled by hand, the corners of each rule, and penalties."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from labelled_answers import boxed
from scored_texts import score_texts

from r1v3_jax.config import Verify
from r1v3_jax.losses.schedules import Line
from r1v3_jax.rewards.score import score
from r1v3_jax.rewards.verifiers import (
    choice,
    detection,
    grids,
    numbers,
    routing,
    sets,
    unit_names,
    units,
)
from r1v3_jax.rewards.verifiers.spelling import normalise
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import check_gold, verify, verify_all

RIGHT, WRONG, ERROR = Verdict.RIGHT, Verdict.WRONG, Verdict.ERROR
PAIRS_FILE = Path(__file__).parent / "labelled_pairs.jsonl"
PAIRS = [json.loads(line) for line in PAIRS_FILE.read_text("utf-8").splitlines()]
# Labelled otherwise than the rules say: spaces are no difference.
KNOWN = {("Paris", "Par is")}


def test_rules_agree_with_the_labels(capsys):
    """The labels say what a careful mathematician would. The last 375 pairs were written after the
    rules had been mended for the first 899, which agreed with 96.4% of those; of the 375 they
    agreed with 99.2% unseen, and took none that was wrong. Of 484 pairs after these, in the kinds
    of public bug reports, the rules agreed with 61.6% before they were mended, and took 10 that
    were wrong.
    """
    disagree, categories = [], Counter()
    for pair in PAIRS:
        check = verify(
            pair["completion"], pair["answer"], verifier=pair.get("verifier", "")
        )
        categories[pair["category"]] += 1
        if check.verdict.value != pair["label"]:
            disagree.append((pair["answer"], check.extracted))
    agreement = 1 - len(disagree) / len(PAIRS)
    with capsys.disabled():
        print(
            f"\nverifiers: {agreement:.2%} of {len(PAIRS)} labelled pairs, known: {disagree}"
        )
    assert set(disagree) <= KNOWN
    assert agreement >= 0.995 and len(PAIRS) >= 1600
    assert categories["hedged"] >= 70 and categories["several boxes"] >= 20


def test_the_pool_says_what_the_rules_say():
    pairs = PAIRS[::9]
    checks = verify_all(
        [pair["completion"] for pair in pairs],
        [pair["answer"] for pair in pairs],
        verifiers=[pair.get("verifier", "") for pair in pairs],
        verify=Verify(processes=2),
    )
    assert checks == [
        verify(pair["completion"], pair["answer"], verifier=pair.get("verifier", ""))
        for pair in pairs
    ]


# Routing


def test_a_verifier_is_a_rule_with_arguments_or_several():
    rule = routing.Rule
    parse = routing.parse
    mathematics = (rule("mathematics"),)
    assert parse("") == routing.Verifier(mathematics, False)
    assert parse("", model=True) == routing.Verifier(mathematics, True)
    assert parse("mathematics", model=True) == routing.Verifier(mathematics, False)
    assert parse("choice|model").model and parse("choice|model").rules == (
        rule("choice"),
    )
    assert parse("model") == routing.Verifier((), True)
    assert parse("number relative=0.01 absolute=2").rules == (
        rule("number", (("relative", 0.01), ("absolute", 2.0))),
    )
    assert parse("a.b:c").rules == (rule("a.b:c"),)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("matematics", "did you mean 'mathematics'?"),
        ("xyz", "choose from mathematics, choice,"),
        ("number tolerance=1", "it has: relative, absolute"),
        ("choice case=1", "it has: none"),
        ("number relative=-1", "wanted a number of at least 0"),
        ("number relative=nan", "wanted a number"),
        ("detection iou=often", "wanted a number"),
        ("choice||model", "no verifier ''"),
        ("a/b:c", "no verifier"),
    ],
)
def test_a_verifier_that_means_nothing_is_an_error_of_its_row(text, problem):
    with pytest.raises(ValueError, match=problem):
        routing.parse(text)
    checks = verify_all([boxed("7")] * 2, ["7", "7"], verifiers=[text, ""])
    assert [check.verdict for check in checks] == [ERROR, RIGHT]
    assert check_gold("7", text)


def test_one_of_several_rules_is_enough():
    assert verify(boxed("(B) 7"), "B", verifier="string|choice").verdict is RIGHT
    assert verify(boxed("C"), "B", verifier="string|choice").verdict is WRONG
    # `choice` cannot read this answer, but `string` can.
    assert verify(boxed("seven"), "seven", verifier="choice|string").verdict is RIGHT
    assert verify(boxed("eight"), "seven", verifier="choice|string").verdict is ERROR


def test_golds_that_cannot_be_verified_are_named():
    for verifier, good, bad in [
        ("choice", "B", "seven"), ("number", "3 m", "many"), ("string", "a", " "),
        ("set", "a, b", ""), ("detection", "[1, 2, 3, 4]", "[1, 2]"), ("grid", "1 2\n3 4", ""),
        ("detection", "[1, 2, 3, 4]", "[3, 4, 1, 2]"),
    ]:  # fmt: skip
        assert check_gold(good, verifier) is None
        assert check_gold(bad, verifier)
        assert verify(boxed(good), bad, verifier=verifier).verdict is ERROR
    assert check_gold("seven", "choice|model") is None  # the model may know


# Rules


def test_choices():
    assert choice.read("(A) and (C)") == choice.read("ca") == {"A", "C"}
    for text in (
        "",
        "A or C",
        "AA",
        "aB",
        "a triangle",
        "A. or C",
        "A? B?",
        "A" * 401,
        "1",
    ):
        assert choice.read(text) is None
    for text in ("A. 5 B. 6 C. 7 D. 8", "(A) 5 (B) 6", "A: yes C: yes", "A. none; choose D",
                 "A. no, the answer is B", "A) 5 B) 6", "[A] 5 [B] 6"):  # fmt: skip
        assert choice.read(text) is None, text
    for text in ("A. Washington D.C.", "A. Vitamin C", "A. the U.S.", "A: 5 m"):
        assert choice.read(text) == {"A"}, text


def test_units_convert():
    def factor(unit, target):
        return units.factor(units.read(unit), units.read(target))

    assert factor("mm", "cm") * 10 == 1
    assert factor("km/h", "m/s") * 18 == 5
    assert factor("L", "cm3") == 1000
    assert factor("kWh", "J") == 3_600_000
    assert factor("N m", "J") == 1
    assert factor("mph", "km/h") == Fraction(1609344, 1000000)
    assert factor("m2", "m") is None and factor("kg", "m") is None
    # A scale is no multiple of another one.
    assert factor("℃", "K") is None and factor("℃", "℉") is None


def test_every_unit_of_the_table_is_one_of_pints():
    for name in set(unit_names.PINT.values()):
        assert units.factor(name, name) == 1, name
        # The other way round: what the table spells is read as that unit.
    for spelling, name in (unit_names.PINT | unit_names.OTHERS).items():
        assert units.split(normalise(rf"5\text{{ {spelling}}}")) == ("5", name), (
            spelling
        )


def test_numbers_have_a_tolerance():
    def verdict(gold, box, **tolerance):
        return numbers.difference(gold, box, **tolerance)

    assert verdict("100", "105", relative=0.05) is None
    assert verdict("100", "105.1", relative=0.05) == "another number"
    assert verdict("-100", "-95", relative=0.05) is None
    assert verdict("1 m", "109 cm", absolute=0.1) is None  # in gold's unit
    assert verdict("1 m", "111 cm", absolute=0.1) == "another number"
    assert verdict("1 m", "1 kg", absolute=10.0) == "another unit"
    assert verdict("1.41", r"\sqrt{2}", absolute=0.01) is None
    assert verdict("2", r"\sqrt{4}") == verdict("2", "1+1") == "not a number"
    assert (
        verdict("2", "x")
        == verdict("2", "2, 3")
        == verdict("2", "(" * 99)
        == "not a number"
    )


def test_sets_have_no_order():
    assert sets.difference("a, b", "b and a") is None
    assert sets.difference("a, b", "a, a, b") is None
    assert sets.difference("a, b", "a or b") == "other elements"
    assert sets.difference("1, 1/2", "0.5, 1") is None
    assert sets.difference("(1,2), (3,4)", "(3,4); (1,2)") is None
    assert sets.difference("1", "1, 1.0") is None
    many = ", ".join(f"word{i}" for i in range(100))
    assert sets.difference(many, ", ".join(reversed(many.split(", ")))) is None
    assert sets.difference(many, many + ", more") == "no set, or too long"


def test_grids():
    assert (
        grids.read("[[1, 2], [3, 4]]")
        == grids.read("1 2\n3 4")
        == [(("1", "2"), ("3", "4"))]
    )
    assert grids.difference("[[0.5]]", "[[1/2]]") == "not a grid"  # no JSON
    assert grids.difference("[[0.5]]", "1/2") is None
    assert grids.difference("1 2\n3 4", "1 2") == "another size"
    assert grids.difference("1 2\n3 4", "1 2\n3 5") == "other cells"
    for text in ("[[1],[2,3]]", "[1,2]", "[[[1]]]", "[" * 5000, "", '{"a": 1}'):
        assert grids.difference("1 2\n3 4", text) in ("not a grid", "another size")


def test_boxes_are_matched_one_to_one():
    def difference(gold, boxes, iou=0.5):
        return detection.difference(json.dumps(gold), json.dumps(boxes), iou=iou)

    a, b, c = [0, 0, 10, 10], [4, 0, 14, 10], [100, 100, 110, 110]
    assert detection.intersection_over_union(a, b) == pytest.approx(60 / 140)
    assert difference([a, b], [b, a]) is None
    assert difference([a, b], [a, a]) == "1 boxes for 2"  # the same box twice is one
    assert difference([a, b], [a, c]) == "not every box matches at 0.5"
    # The box in the middle fits both, the other fits one only: whoever chooses must give way.
    middle, left = [2, 0, 12, 10], [0, 0, 10, 10]
    assert difference([a, b], [middle, left], iou=0.4) is None
    assert difference([a], [[0, 0, 10, 5]], iou=0.5) is None
    assert difference([a], [[0, 0, 10, 4.9]], iou=0.5) is not None
    for bad in (
        [10, 0, 0, 10],
        [0, 0, 0, 10],
        [0, 0, 10],
        ["0", 0, 1, 1],
        [True, 0, 10, 10],
        {},
    ):
        assert difference([a], bad) in ("no boxes", "0 boxes for 1")
    for text in (
        "NaN",
        f"[0, 0, 1{'0' * 400}, 1]",
        "[0, 0, NaN, 1]",
        "[0, 0, 1e999, 1]",
        "[" * 9999,
        "[0,0,1,1" * 99,
        "null",
    ):
        assert detection.difference("[0, 0, 1, 1]", text) == "no boxes"


def test_boxes_by_degrees():
    """By hand, from the formula in its docstring."""

    def worth(gold, boxes, **options):
        return detection.overlap(json.dumps(gold), json.dumps(boxes), **options)[1]

    a, b, far = [0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 110, 110]
    near = [0, 0, 10, 8]  # 0.8 of a
    assert worth([a, b], [b, a]) == 1
    assert worth([a, b], [b, near]) == 0.9
    assert worth([a, b], [b, near], iou=0.85) == 0.5
    assert worth([a, b], [b, far]) == 0.5
    assert worth([a, b], [b]) == pytest.approx(0.5 * 0.6)  # one too few
    assert worth([a], [a, b, far]) == pytest.approx(0.6**2)  # two too many
    # Half is completeness: all of gold found, two of the three are right.
    assert worth([a, b], [near, b, far], completeness=0.5) == pytest.approx(
        (0.5 * (0.8 + 1) / 2 + 0.5 * (1 + 2 / 3) / 2) * 0.6, abs=1e-6
    )
    # The closest pair first, whatever the order.
    assert worth([a], [near, a]) == worth([a], [a, near]) == 0.6
    cat, dog = ({"bbox_2d": a, "label": label} for label in ("Cat", "dog"))
    assert (
        worth([cat], [dog]) == 0
        and worth([cat], [{"bbox_2d": near, "label": "cat"}]) == 0.8
    )
    assert worth([a], "far") == worth([a], [far]) == worth([a], []) == 0
    assert check_gold("[1, 2, 3, 4]", "overlap completeness=2")


def test_an_answer_by_degrees_has_a_reward_between():
    verifier = "overlap iou=dynamic completeness=0"
    boxes = ["[0, 0, 100, 100]", "[0, 0, 100, 90]", "[0, 0, 100, 80]", "many"]
    completions = [boxed(box) for box in boxes]

    def scores(progress, verifier=verifier):
        return score_texts(
            completions,
            ["[0, 0, 100, 100]"] * 4,
            [True] * 4,
            weights=[0.5] * 4,
            verifiers=[verifier] * 4,
            progress=progress,
        )

    def accuracies(progress, verifier=verifier):
        return [score.accuracy for score in scores(progress, verifier)]

    assert [score.verdict for score in scores(0.0)] == [RIGHT, RIGHT, WRONG, WRONG]
    assert accuracies(0.0) == [1.0, 0.9, 0.0, 0.0]
    totals = [score.total for score in scores(0.0)]
    assert totals == pytest.approx([1.0, 0.95, 0.5, 0.5])
    assert accuracies(1.0) == [1.0, 0.0, 0.0, 0.0]
    assert accuracies(0.0, "choice|" + verifier)[:2] == [1.0, 0.9]
    for both in (
        "overlap iou=0.5|detection iou=0.5",
        "detection iou=0.5|overlap iou=0.5",
    ):
        assert accuracies(0.0, both) == [1.0, 1.0, 1.0, 0.0]
    both = "overlap iou=0.85|overlap iou=0.5"  # the second gives more
    assert accuracies(0.0, both) == [1.0, 0.9, 0.8, 0.0]
    with pytest.raises(ValueError, match="overlap has degrees"):
        routing.parse("overlap|model")
    alone = score(completions[1], "[0, 0, 100, 100]", ended=True, verifier="overlap")
    assert alone.accuracy == 0.9 and alone.verdict is RIGHT


def test_boxes_may_be_spelled_as_python_prints_them():
    wanted = [((1.0, 2.0, 3.0, 4.0), "woman's bag")]
    box = {"bbox_2d": [1, 2, 3, 4], "label": "woman's bag"}
    for text in (
        json.dumps(box), repr(box), repr([box]), f"```json\n{json.dumps([box])}\n```",
        r"{'bbox_2d': [1, 2, 3, 4], 'label': 'woman\'s bag'}",
    ):  # fmt: skip
        assert detection.read(text) == wanted, text
    for text in (
        "[1, 2, 3, 'a",
        "{'bbox_2d': __import__('os')}",
        "'" * 9999,
        '"\\' * 9999,
    ):
        assert detection.read(text) is None
    [check] = verify_all(
        [boxed(repr([box]))], [json.dumps(box)], verifiers=["detection"]
    )
    assert check.verdict is RIGHT


def test_the_threshold_follows_the_run():
    """V-Triune: 0.85 for the first tenth of the steps, 0.95 up to a quarter, then 0.99."""
    gold, box = "[0, 0, 100, 100]", "[0, 0, 100, 90]"

    def verdict(progress, box=box, **settings):
        [check] = verify_all(
            [boxed(box)],
            [gold],
            verifiers=["detection iou=dynamic"],
            progress=progress,
            verify=Verify(**settings),
        )
        return check.verdict

    assert [Verify().iou(p) for p in (0.0, 0.09, 0.1, 0.24, 0.25, 1.0)] == [
        0.85,
        0.85,
        0.95,
        0.95,
        0.99,
        0.99,
    ]
    assert [verdict(p) for p in (0.05, 0.2, 0.9)] == [RIGHT, WRONG, WRONG]
    assert verdict(0.2, "[0, 0, 100, 96]") is RIGHT
    # The run's own: a line, and a number that stands still. The box covers 90% of gold's.
    line = Line(0.7, 1.0)
    assert [verdict(p, iou=line) for p in (0.0, 0.6, 0.7)] == [RIGHT, RIGHT, WRONG]
    assert [verdict(p, iou=0.5) for p in (0.0, 1.0)] == [RIGHT, RIGHT]
    with pytest.raises(
        ValueError, match="at 63% of the run; it must be between 0 and 1"
    ):
        Verify(iou=Line(0.5, 1.3))
