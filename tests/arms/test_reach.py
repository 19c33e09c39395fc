"""Samples it takes to an accuracy, on curves written out."""

import dataclasses
import math

import pytest

from r1v3_jax.arms.plan import Comparison
from r1v3_jax.arms.reach import samples_drawn, samples_needed, samples_to
from r1v3_jax.arms.tables import reach_table
from r1v3_jax.config import load_arms

replace = dataclasses.replace


def test_a_curve_is_a_line_between_its_points():
    curve = [(100, 0.5), (200, 0.9), (300, 0.6), (400, 0.95)]
    assert samples_to(curve, 0.7) == pytest.approx(150)
    assert samples_to(list(reversed(curve)), 0.7) == pytest.approx(150)
    # The first time counts, and a point itself is there.
    assert samples_to(curve, 0.9) == pytest.approx(200)
    assert samples_to(curve, 0.4) == 100
    assert math.isnan(samples_to(curve, 0.96))


def test_samples_drawn_are_those_of_every_stage_behind_the_shared_ones():
    arms = load_arms("recipes/r1v2")
    shared = ("base", "cold_start")
    # 33 and 30 steps of 24 x 8; 800 x 8 and 30 steps of 24 x 8.
    assert samples_drawn(arms["grpo"], shared) == 63 * 192
    assert samples_drawn(arms["cascade"], shared) == 6400 + 30 * 192
    first = replace(arms["grpo"].stages["first"], refills=1)
    run = replace(arms["grpo"], stages={**arms["grpo"].stages, "first": first})
    with pytest.raises(ValueError, match=r"first.refills is 1.*set it to 0"):
        samples_drawn(run, shared)


@pytest.fixture
def comparison(tmp_path):
    """Two points of GRPO, two of MPO, in this order; two seeds."""
    whole = load_arms("recipes/samples_needed")
    arms = {name: whole[name] for name in ("grpo_4", "grpo_8", "mpo_10", "mpo_20")}
    return Comparison("recipes/made_up", arms, ("base", "cold_start"), (0, 1), tmp_path)


def answered(right: int) -> dict:
    """A set of ten questions, of which the first so many are right."""
    return {"home": {f"{i}": float(i < right) for i in range(10)}}


# Samples: grpo_4 768, grpo_8 1536, mpo_10 80, mpo_20 160.
ANSWERS = {
    "grpo_4": {0: answered(4), 1: answered(5)},
    "grpo_8": {0: answered(8), 1: answered(9)},
    "mpo_10": {0: answered(5), 1: answered(5)},
    "mpo_20": {0: answered(7), 1: answered(9)},
}


def test_samples_needed_by_each_curve_and_their_ratio(comparison):
    reach = samples_needed(comparison, ANSWERS, "home", 0.6)
    grpo, mpo = reach["curves"]["grpo_4, grpo_8"], reach["curves"]["mpo_10, mpo_20"]
    assert grpo["points"] == [
        ("grpo_4", 768, pytest.approx(0.45)),
        ("grpo_8", 1536, pytest.approx(0.85)),
    ]
    # Halfway, and a quarter of the way: 768 + 384, 768 + 192. MPO: 80 + 40, 80 + 20.
    assert grpo["needed"] == pytest.approx({0: 1152, 1: 960})
    assert mpo["needed"] == pytest.approx({0: 120, 1: 100})
    # Both ratios are 0.104166: 120 / 1152 and 100 / 960.
    assert reach["share"] == pytest.approx((0.1041667,) * 3, rel=1e-5)
    table = reach_table({"reach": reach})
    assert "| grpo_4: 768, 45.0, grpo_8: 1536, 85.0 | 1152, 960 |" in table
    assert "0.10 times the samples of the first (t 0.10 to 0.10)" in table


def test_a_curve_that_does_not_get_there_has_no_ratio(comparison):
    reach = samples_needed(comparison, ANSWERS, "home", 0.85)
    assert reach["share"] is None
    assert "not reached" in reach_table({"reach": reach})


def test_what_cannot_be_compared(comparison):
    with pytest.raises(ValueError, match="no set 'away'.*there are home"):
        samples_needed(comparison, ANSWERS, "away", 0.6)
    arms = {name: comparison.arms[name] for name in ("grpo_4", "grpo_8")}
    with pytest.raises(ValueError, match="one curve"):
        samples_needed(replace(comparison, arms=arms), ANSWERS, "home", 0.6)
