"""Scores of whole benchmarks, beside the definitions of their authors written another way."""

import numpy as np
import pytest

from r1v3_jax.benchmarks import aggregates
from r1v3_jax.benchmarks.question import Question


def test_circular_wants_every_rotation():
    """Questions 7 and 8 with two rotations each; 7 is right in both of them in one run of two."""
    questions = [Question(i, "", "A") for i in ("7", "1000007", "8", "1000008")]
    right = np.array([[1, 1], [1, 0], [1, 1], [0, 0]], float)
    assert aggregates.circular(questions, right).score() == 0.25


def hallusion_questions(rng) -> list[Question]:
    places = {
        (
            rng.choice(["x", "y"]),
            int(rng.integers(4)),
            int(rng.integers(3)),
            int(rng.integers(3)),
        )
        for _ in range(60)
    }
    return [
        Question(f"a_b_c_{s}_{f}_{q}", "", "Yes", fields={"l2-category": kind})
        for kind, s, f, q in sorted(places)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_hallusionbench_is_the_mean_of_three_shares(seed):
    rng = np.random.default_rng(seed)
    questions = hallusion_questions(rng)
    right = rng.integers(0, 2, (len(questions), 1)).astype(float)
    figures, asked = {}, {}
    for question, (value,) in zip(questions, right, strict=True):
        *_, s, f, q = question.index.split("_")
        kind = question.fields["l2-category"]
        figures.setdefault((kind, s, f), []).append(value)
        asked.setdefault((kind, s, q), []).append(value)
    shares = [
        right.mean(),
        np.mean([all(v) for v in figures.values()]),
        np.mean([all(v) for v in asked.values()]),
    ]
    assert aggregates.hallusion(questions, right).score() == pytest.approx(
        np.mean(shares), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_wemath_is_525_less_its_mistakes(seed):
    """(n - IG/2 - RM - IK) / n, counted one by one."""
    rng = np.random.default_rng(seed)
    questions = []
    for name in range(40):
        steps = int(rng.integers(2, 4))
        for place in [*map(str, range(1, steps + 1)), "multi"]:
            key = {"key": f"{steps}steps_{place}", "ID": str(name)}
            questions.append(Question(f"{name}_{place}", "", "A", fields=key))
    right = rng.integers(0, 2, (len(questions), 1)).astype(float)
    value = {q.index: bool(v) for q, (v,) in zip(questions, right, strict=True)}
    lost = 0.0
    for name in range(40):
        steps = [v for index, v in value.items() if index.startswith(f"{name}_")][:-1]
        whole = value[f"{name}_multi"]
        if all(steps) and not whole:
            lost += 0.5  # inadequate generalisation
        if not all(steps):
            lost += 1  # rote memorisation, or insufficient knowledge
    score = aggregates.wemath_strict(questions, right).score()
    assert score == pytest.approx((40 - lost) / 40, abs=1e-12)


def test_the_residuals_of_a_mean_are_its_values_less_the_mean():
    right = np.array([[1, 0], [1, 1], [0, 0]], float)
    units = aggregates.by_question([], right)
    np.testing.assert_allclose(units.residuals(), [0, 0.5, -0.5])


def test_indices_that_do_not_say_what_belongs_together_are_refused():
    right = np.ones((1, 1))
    with pytest.raises(ValueError, match="whole numbers"):
        aggregates.circular([Question("a", "", "A")], right)
    with pytest.raises(ValueError, match="set, figure and question"):
        aggregates.hallusion([Question("1_2", "", "Yes")], right)
    lonely = Question("0", "", "A", fields={"key": "2steps_1", "ID": "1"})
    with pytest.raises(ValueError, match="2steps_multi"):
        aggregates.wemath_strict([lonely], right)
