"""Intervals of means over seeds and questions: exact cases, and how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from r1v3_jax.evaluate.statistics import clustered_interval, t_interval


def test_one_seed_is_the_bootstrap_over_questions():
    """The number of ones among resampled questions is binomial, so its percentiles are known."""
    numbers = np.repeat([1.0, 0.0], [50, 50])
    mean, low, high = clustered_interval([numbers])
    assert mean == 0.5
    assert low == stats.binom.ppf(0.025, 100, 0.5) / 100
    assert high == stats.binom.ppf(0.975, 100, 0.5) / 100


def test_seeds_are_drawn_as_a_whole():
    """Two seeds without spread inside: the resampled mean is 0, 1/2 or 1, by 1/4, 1/2, 1/4."""
    assert clustered_interval([np.zeros(50), np.ones(50)]) == (0.5, 0.0, 1.0)
    # Seeds count alike, whatever the number of their questions; equal ones have no spread.
    assert clustered_interval([np.zeros(50), np.ones(10)])[0] == 0.5
    assert clustered_interval([np.ones(50), np.ones(10)]) == (1.0, 1.0, 1.0)


def test_student_s_interval_written_out():
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    # s = 1, t(0.975, 2) = 4.3027.
    assert (mean, low, high) == pytest.approx(
        (2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5)
    )
    value, low, high = t_interval([0.5])
    assert value == 0.5 and math.isnan(low) and math.isnan(high)


def coverage(spread: float, trials: int = 400) -> tuple[float, float]:
    """How often the bootstrap's and Student's interval hold the true difference of .05.

    Three seeds of 300 questions with differences -1, 0 and 1; the difference of a seed is normal
    around .05 with deviation `spread`.
    """
    rng = np.random.default_rng(0)
    bootstrap = student = 0
    for _ in range(trials):
        gaps = 0.05 + spread * rng.normal(size=3)
        # 20% of the questions change; more of them upwards.
        clusters = [
            rng.choice(
                [1.0, -1.0, 0.0], size=300, p=[0.1 + gap / 2, 0.1 - gap / 2, 0.8]
            )
            for gap in np.clip(gaps, -0.2, 0.2)
        ]
        _, low, high = clustered_interval(clusters, resamples=1000)
        bootstrap += low <= 0.05 <= high
        _, low, high = t_interval([numbers.mean() for numbers in clusters])
        student += low <= 0.05 <= high
    return bootstrap / trials, student / trials


def test_the_truth_is_in_the_interval_as_often_as_it_says():
    """The bars are 95% less or more three deviations of 400 trials (1.1 points)."""
    bootstrap, student = coverage(spread=0.0)
    assert bootstrap > 0.95
    assert 0.917 < student < 0.983
    # Seeds that differ by as much as their questions explain (.026): still what it says.
    bootstrap, student = coverage(spread=0.02)
    assert bootstrap > 0.9
    assert 0.917 < student < 0.983


def test_three_seeds_that_truly_differ_are_too_few_for_the_bootstrap():
    """Why the tables print Student's interval too: with three clusters the bootstrap is short."""
    bootstrap, student = coverage(spread=0.08)
    assert 0.7 < bootstrap < 0.9
    assert 0.917 < student < 0.983
