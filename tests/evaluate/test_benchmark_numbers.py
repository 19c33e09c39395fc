"""Scores of benchmarks: intervals that hold the truth as often as they say, pass@k, open ones."""

import itertools

import numpy as np
import pytest

from r1v3_jax.benchmarks import aggregates, table
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.scoring import Score
from r1v3_jax.evaluate import benchmark_numbers as numbers

MMSTAR = table.TABLE[4]
RIGHT, WRONG, OPEN = Score(True, "rule"), Score(False, "rule"), Score(None, "nobody")


def exam(rng, questions: int, runs: int, correlation: float) -> np.ndarray:
    """float[Q, R] of answers, right with a chance of 0.6; those to a question are alike.

    A question's own chance is beta distributed, which gives its answers that correlation.
    """
    scale = (1 - correlation) / correlation
    chance = rng.beta(0.6 * scale, 0.4 * scale, questions)
    return (rng.random((questions, runs)) < chance[:, None]).astype(float)


# 2,000 exams: an interval that holds the truth in 95% does so in 95 -+ 1.5% (three deviations).
@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_intervals_hold_the_truth_in_95_of_100_exams(correlation):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        units = aggregates.by_question([], exam(rng, 300, 5, correlation))
        _, low, high = numbers.interval(units)
        hits += low <= 0.6 <= high
    assert 0.935 <= hits / 2000 <= 0.965


def test_the_interval_of_a_ratio_holds_the_truth_too():
    """HallusionBench's three shares of sets, in which answers are alike."""
    rng = np.random.default_rng(1)
    questions = [
        Question(f"a_b_c_{s}_{f}_{q}", "", "Yes")
        for s in range(100)
        for f in range(1 + s % 3)
        for q in range(2)
    ]
    sets = np.array([int(q.index.split("_")[3]) for q in questions])

    def score_of_exam(chance_of_sets):
        right = (rng.random(len(questions)) < chance_of_sets[sets]).astype(float)
        return aggregates.hallusion(questions, right[:, None])

    def draw():
        return rng.beta(3, 1, 100)

    truth = np.mean([score_of_exam(draw()).score() for _ in range(1000)])
    hits = 0
    for _ in range(500):
        _, low, high = numbers.interval(score_of_exam(draw()))
        hits += low <= truth <= high
    # Three deviations of 500 exams are 3%.
    assert 0.92 <= hits / 500 <= 0.98


@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_a_paired_comparison_is_narrower_and_holds_the_truth(correlation):
    """Two models on the same questions, the second 5 points better on average."""
    rng = np.random.default_rng(2)
    scale = (1 - correlation) / correlation
    hits = 0
    narrower = 0
    for _ in range(2000):
        chance = rng.beta(0.6 * scale, 0.4 * scale, 300)
        # 0.85 x 0.6 + 0.14 = 0.65
        chances = (chance, 0.85 * chance + 0.14)
        a, b = (
            aggregates.by_question(
                [], (rng.random((300, 5)) < x[:, None]).astype(float)
            )
            for x in chances
        )
        gap, half = numbers.difference(a, b)
        hits += abs(gap - 0.05) <= half
        alone = [numbers.half_width(units.residuals()) for units in (a, b)]
        narrower += half < np.hypot(*alone)
    # As above: 95 -+ 1.5%.
    assert 0.935 <= hits / 2000 <= 0.965
    assert narrower == 2000


def test_the_comparison_of_two_lists_of_scores_is_that_of_their_shares():
    """And what is not known counts for one side at each end."""
    questions = [Question(str(i), "", "A") for i in range(4)]
    first = [[WRONG, RIGHT], [WRONG, WRONG], [RIGHT, RIGHT], [WRONG, WRONG]]
    second = [[RIGHT, RIGHT], [WRONG, RIGHT], [RIGHT, RIGHT], [WRONG, WRONG]]
    gap = numbers.compare(MMSTAR, questions, first, second)
    half = 1.96 * np.std([0.5, 0.5, 0, 0], ddof=1) / 2
    assert gap == pytest.approx(
        {"difference": 0.25, "low": 0.25 - half, "high": 0.25 + half}
    )
    second[3] = [OPEN, OPEN]
    wider = numbers.compare(MMSTAR, questions, first, second)
    assert wider["low"] == pytest.approx(gap["low"])
    assert wider["difference"] == pytest.approx((0.25 + 0.5) / 2)
    assert wider["high"] > gap["high"] + 0.2


def test_what_is_not_known_makes_the_result_wider_and_no_number_of_it():
    questions = [Question(str(i), "", "A") for i in range(40)]
    known = [[RIGHT], [WRONG], [RIGHT]] * 10
    result = numbers.accuracy(MMSTAR, questions, known + [[OPEN]] * 10)
    assert result["accuracy"] is None
    assert (result["lowest"], result["highest"]) == (0.5, 0.75)
    wrong = numbers.accuracy(MMSTAR, questions, known + [[WRONG]] * 10)
    right = numbers.accuracy(MMSTAR, questions, known + [[RIGHT]] * 10)
    assert (wrong["accuracy"], right["accuracy"]) == (0.5, 0.75)
    assert (result["low"], result["high"]) == (wrong["low"], right["high"])
    assert numbers.decided([[RIGHT, OPEN], [WRONG, RIGHT]]) == {
        "nobody": 0.25,
        "rule": 0.75,
    }


def test_pass_at_k_is_the_share_of_choices_of_k_with_a_right_one():
    answers = [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 1]]
    scores = [[RIGHT if x else WRONG for x in row] for row in answers]
    for k, value in numbers.pass_at(scores).items():
        shares = [
            np.mean([any(chosen) for chosen in itertools.combinations(row, int(k))])
            for row in answers
        ]
        assert value == pytest.approx(np.mean(shares), abs=1e-12)


def test_categories_are_means_by_column():
    questions = [
        Question(str(i), "", "A", fields={"category": c}) for i, c in enumerate("xxy")
    ]
    columns = numbers.by_category(
        questions, [[RIGHT, WRONG], [RIGHT, RIGHT], [WRONG, WRONG]]
    )
    assert columns == {
        "category": {"x": {"n": 2, "accuracy": 0.75}, "y": {"n": 1, "accuracy": 0}}
    }
