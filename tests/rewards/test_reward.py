"""A reward is a weighted sum of terms; a term that fails costs its sample, and nothing else."""

import pytest
from scored_texts import answered, example, score_texts

from r1v3_jax.config import Verify
from r1v3_jax.losses.schedules import Line
from r1v3_jax.rewards.reward import Reward, name_of
from r1v3_jax.rewards.terms import Graded, Repeated, Tags, correct, facts, well_formed
from r1v3_jax.rewards.verifiers.boxes import find_tagged
from r1v3_jax.rewards.verifiers.judging import Judging, LastWord
from r1v3_jax.rewards.verifiers.verdict import Verdict

GOOD = r"3 + 4 = 7</think>It is \boxed{7}."


def test_the_sum_weighs_what_each_term_says():
    """0.8 * 1 + 0.2 * 1 - 0.5 * 0.5, and the facts say nothing about this row."""
    reward = Reward(
        ((0.8, correct), (0.2, well_formed), (-0.5, Repeated(2)), (1.0, facts))
    )
    sample = answered(GOOD, answers=("7",), ids=(1, 2, 1, 2, 1))
    score = reward(sample)
    assert score.total == pytest.approx(0.75)
    assert score.parts == {"correct": 1.0, "well_formed": 1.0, "repeated": 0.5}
    assert score.weights == {"correct": 0.8, "well_formed": 0.2, "repeated": -0.5}


def test_a_weight_may_move_with_the_run():
    reward = Reward(((Line(1.0, 0.0), correct),))
    found = [reward(answered(progress=p)).total for p in (0.0, 0.25, 1.0)]
    assert found == [1.0, 0.75, 0.0]


def test_a_row_weighs_answer_and_form_itself():
    """Right, two of three tags, w = 0.25: 0.25 * 1 + 0.75 * 2/3, and the penalty as it is."""
    tags = Tags(("</think>", "<answer>", "</answer>"))
    reward = Reward(((0.9, Graded()), (0.1, tags), (-1.0, Repeated(1))))
    row = example(weight=0.25)
    sample = answered("a</think><answer>7", example=row, ids=(5, 5))
    assert reward(sample).total == pytest.approx(0.25 + 0.75 * 2 / 3 - 0.5)


@pytest.mark.parametrize(
    "term, problem",
    [
        (lambda answered: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda answered: float("nan"), "it returned nan, wanted a finite number"),
        (lambda answered: "0.5", "it returned '0.5', wanted a finite number"),
    ],
)
def test_a_term_that_fails_costs_its_sample(term, problem):
    term.__name__ = "mine"
    score = Reward(((0.8, correct), (0.2, term)))(answered())
    assert score.total is None and score.accuracy == 1.0
    assert score.failed == "mine" and problem in score.problem


def test_a_failed_verification_has_no_reward():
    score = Reward()(answered(verdict=Verdict.ERROR))
    assert (score.total, score.accuracy, score.failed) == (None, None, "")


def test_terms_are_called_by_their_names():
    class MyOwn:
        def __call__(self, answered):
            return 1.0

    found = [name_of(term) for term in (correct, Repeated(3), MyOwn())]
    assert found == ["correct", "repeated", "my_own"]


@pytest.mark.parametrize(
    "terms, words",
    [
        ((), "all weights are 0, which rewards nothing"),
        (((0.0, correct), (0, well_formed)), "all weights are 0"),
        (((0.5, correct), (0.5, correct)), "two terms are called 'correct'"),
        (((float("nan"), correct),), "the weight of correct is nan; it must be finite"),
        (((1.0, Repeated),), "is no term; wanted pairs"),
        ((correct,), "is no term; wanted pairs"),
        (((1.0, lambda answered: 1.0),), "a term is called '<lambda>'; wanted"),
        (
            ((lambda p: 1 / 0.5 if p < 0.5 else float("inf"), correct),),
            "at 50% of the run",
        ),
    ],
)
def test_sums_that_mean_nothing_are_refused(terms, words):
    with pytest.raises(ValueError, match=words):
        Reward(terms)


def test_the_answer_may_stand_in_tags():
    verify = Verify(answer=find_tagged)
    texts = [
        "a</think><answer>7</answer>",
        r"a</think><answer> \boxed{7} </answer>",
        r"a</think>\boxed{7}",
        "a</think><answer>7</answer><answer>8</answer>",
        "a</think><answer>7</answer><answer>",
        "<answer>7</answer></think>",
    ]
    scores = score_texts(texts, ["7"] * 6, [True] * 6, verify=verify)
    assert [score.accuracy for score in scores] == [1, 1, 0, 0, 1, 0]
    assert [score.format for score in scores] == [1, 1, 0, 0, 0, 0]


def test_boxes_in_tags_are_judged_as_boxes_alone():
    """Two boxes are two answers, or the values of a list; one that is never closed is bad form."""
    boxes = [
        r"\boxed{8} or \boxed{7}",
        r"\boxed{1} and \boxed{7}",
        r"\boxed{7} \boxed{",
    ]
    golds = ["7", "1, 7", "7"]
    alone = score_texts([f"a</think>{text}" for text in boxes], golds, [True] * 3)
    tagged = score_texts(
        [f"a</think><answer>{text}</answer>" for text in boxes],
        golds,
        [True] * 3,
        verify=Verify(answer=find_tagged),
    )
    for scores in (alone, tagged):
        assert [score.accuracy for score in scores] == [0, 1, 1]
        assert [score.format for score in scores] == [0, 0, 0]


def test_a_judge_may_know_tiers():
    tiers = LastWord((("FULL", 1.0), ("HALF", 0.5), ("0", 0.0)))
    replies = [
        "so\n**Full.**",
        "half",
        "0",
        "<think>full</think> HALF",
        "",
        "none",
        "FULL HALF",
    ]
    assert [tiers(reply) for reply in replies] == [1.0, 0.5, 0.0, 0.5, None, None, None]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: LastWord((("full", 1.0), ("NONE", 0.0))), "words in capitals"),
        (lambda: LastWord((("FULL", 1.0),)), "two or more words"),
        (lambda: LastWord((("FULL", 2.0), ("NONE", 0.0))), "lies between 0 and 1"),
        (lambda: Judging(prompt="Is it right?"), "must hold {data} once"),
        (lambda: Verify(answer="tags"), "as find_boxes or find_tagged"),
    ],
)
def test_judgings_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
