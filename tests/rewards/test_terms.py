"""The terms of a reward, on answers written out."""

import time

import pytest
from scored_texts import answered, example

from r1v3_jax.rewards import phrases, terms
from r1v3_jax.rewards.terms import (
    Formed,
    Graded,
    IoU,
    Looped,
    Overlong,
    Repeated,
    Short,
    Tags,
)
from r1v3_jax.rewards.verifiers.verdict import NO_ANSWER, SEVERAL, UNREADABLE, Verdict


def of_ids(*ids, **fields):
    return answered(ids=ids, **fields)


def test_a_right_answer_is_worth_1_and_partial_credit_counts():
    assert terms.correct(answered()) == 1.0
    assert terms.correct(answered(verdict=Verdict.WRONG)) == 0.0
    assert terms.correct(answered(verdict=Verdict.WRONG, credit=0.25)) == 0.25


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, 2.0),
        ({"verdict": Verdict.WRONG, "reason": "another number"}, -1.5),
        ({"verdict": Verdict.WRONG, "reason": UNREADABLE}, -2.0),
        ({"verdict": Verdict.WRONG, "reason": SEVERAL}, -2.0),
        (
            {"verdict": Verdict.WRONG, "reason": NO_ANSWER, "extracted": None},
            -2.0,
        ),
    ],
)
def test_grades_tell_wrong_from_unreadable(fields, expected):
    graded = Graded(right=2.0, wrong=-1.5, unreadable=-2.0)
    sample = answered("a</think>b", answers=("7",), **fields)
    assert graded(sample) == expected
    # The same in the wrong form, without thoughts.
    strict = Graded(right=2.0, wrong=-1.5, unreadable=-2.0, needs_form=True)
    assert strict(sample) == expected
    assert strict(answered("b", answers=("7",), **fields)) == -2.0


def test_a_form_in_two_numbers():
    assert Formed()(answered("a</think>b", answers=("7",))) == 1.0
    assert Formed()(answered("b", answers=("7",))) == -1.0
    cut = answered("a</think>b", answers=("7",), ended=False)
    assert Formed(right=0.5, wrong=0.25)(cut) == 0.25


def test_tags_count_by_quarters():
    quarters = Tags(("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>"))
    whole = "<think>\na\n</think>\n\n<answer>\n7\n</answer>"
    assert quarters(answered(whole)) == 1.0
    assert quarters(answered(whole.removesuffix("\n</answer>"))) == 0.75
    assert quarters(answered(whole + "\n<answer>\n")) == 0.75
    assert quarters(answered("7")) == 0.0


def test_repetition_is_the_share_of_ngrams_that_came_before():
    assert Repeated(2)(of_ids(1, 2, 1, 2, 1)) == 0.5
    assert Repeated(2)(of_ids(1, 2, 3)) == Repeated(2)(of_ids(1)) == 0.0
    assert Repeated(3)(of_ids(*[7] * 100)) == 1 - 1 / 98


def test_a_loop_counts_by_its_share_or_where_it_was_cut():
    """9 1 2 1 2: four of five tokens."""
    loop = (9, 1, 2, 1, 2)
    assert Looped()(of_ids(*loop)) == 0.8
    constant = Looped(constant=0.1)
    assert constant(of_ids(*loop, ended=False)) == 0.1
    assert constant(of_ids(*loop, ended=True)) == 0.0
    assert constant(of_ids(9, 1, 2, ended=False)) == 0.0


def test_sentences_that_came_before():
    text = "Wait, 3 + 4 = 7. So it is 7!\nWait,  3 + 4 = 7. So it is 8"
    assert terms.repeated_sentences(answered(text)) == 0.25
    assert terms.repeated_sentences(answered("")) == 0.0


def test_the_punishment_of_length_is_dapos():
    def punished(length, tokens):
        return Overlong(tokens)(of_ids(*range(length), limit=100))

    found = [punished(length, 20) for length in (0, 80, 85, 90, 100, 120)]
    assert found == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert [punished(length, 0) for length in (99, 100)] == [0.0, 1.0]


def test_short_answers_are_worth_more():
    """clip(0.005 (100 - length) + 0.5, 0, 1)."""
    short = Short(budget=100)
    found = [short(of_ids(*range(length))) for length in (0, 100, 140, 200, 300)]
    assert found == pytest.approx([1.0, 0.5, 0.3, 0.0, 0.0])


def test_languages_are_told_by_script():
    english, chinese = "How many apples are there?", "图中有多少个苹果？"

    def share(text, question):
        return terms.other_language(answered(text, example=example(question=question)))

    assert share("There are three of them.", english) == 0.0
    assert share("图中有三个苹果。", english) == 1.0
    assert share("图中有三个苹果。", chinese) == 0.0
    assert 0.3 < share("There are 三个苹果 here, so 答案是 three.", english) < 0.7
    formulas = r"所以 $\frac{x}{2} = \text{area}$，即 \sqrt{3} 米, AB = x"
    assert share(formulas, chinese) < 0.3
    assert share("3 + 4 = 7", chinese) == share("any words", "3 + 4 = ?") == 0.0
    assert share(r"\(all formula\) \[all of it\] 三个", english) == 1.0
    started = time.perf_counter()
    for opened in (r"\( ", r"\[ ", "$ ", r"\( \[ "):
        share(opened * 20_000, english)
    assert time.perf_counter() - started < 5  # 48 s where each is searched to the end


def test_a_caption_stands_once_in_the_thoughts():
    assert terms.captioned(answered("<caption>a cat</caption> so</think>7")) == 1.0
    for text in (
        "so</think><caption>a cat</caption>",
        "<caption> </caption></think>7",
        "<caption>a</caption><caption>b</caption></think>7",
        "<caption>a cat</think>7",
    ):
        assert terms.captioned(answered(text)) == 0.0


def test_facts_are_those_that_the_thoughts_say():
    row = example(facts=["Area 9", "area 4", "(1, 2)"])
    text = "The first has AREA  9, the other area 42, at (1, 2).</think> area 4"
    assert terms.facts(answered(text, example=row)) == pytest.approx(2 / 3)
    assert terms.facts(answered(text)) is None
    # One text is one fact and not its letters; a number is not part of another one.
    for thoughts, share in (("area 9.", 1), ("area 9.5", 0), ("a, r, e and 9", 0)):
        assert terms.facts(answered(thoughts, example=example(facts="area 9"))) == share
    assert terms.facts(answered("2.9 cm", example=example(facts=["9 cm"]))) == 0


def test_boxes_found_at_a_threshold():
    """The second box is off by a tenth: IoU 0.9."""
    row = example("[[0, 0, 10, 10], [20, 20, 30, 30]]", verifier="overlap iou=0.5")
    near = answered(extracted="[[0, 0, 10, 10], [20, 20, 30, 29]]", example=row)
    assert [IoU(at)(near) for at in (0.5, 0.75, 0.95)] == [1.0, 1.0, 0.5]
    assert IoU(0.5)(answered(extracted=None, example=row)) == 0.0
    assert IoU(0.5)(answered()) is None
    assert IoU(0.95).name == "iou_95"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Repeated(0), "Repeated.ngram is 0; it must be at least 1, as 40"),
        (lambda: Overlong(-1), "Overlong.tokens is -1; it must be at least 0"),
        (lambda: Looped(-0.1), "Looped.constant is -0.1; it must be at least 0"),
        (lambda: Tags("</think>"), "Tags.tags is '</think>'; wanted texts"),
        (lambda: IoU(50), r"IoU.threshold is 50; it must lie in \(0, 1\], as 0.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_reflection_is_told_by_whole_words():
    assert phrases.reflects("Wait, 3 + 4 is 7.") and phrases.reflects(
        "Let me Re-check."
    )
    assert not phrases.reflects("The waiter went to Yeti's.")


@pytest.mark.parametrize(
    "text, said",
    [
        ("I cannot see the image, so I guess.", True),
        ("Since I can't actually view the picture, let me assume", True),
        ("I don't have access to the diagram.", True),
        ("The image is not provided here.", True),
        ("There is no figure given, but typically", True),
        ("Without seeing the graph, one option is", True),
        ("The image hasn't been shown", True),
        ("In the image I can see three circles.", False),
        ("The figure is not drawn to scale.", False),
        ("I cannot see how x follows.", False),
        ("There is no chart type that fits better.", False),
        ("The picture does not show a dog.", False),
    ],
)
def test_chains_that_say_they_cannot_see(text, said):
    assert phrases.cannot_see(text) is said
