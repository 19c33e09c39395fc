"""avg@k and pass@k of answers written out, and their intervals."""

import dataclasses
import types

import numpy as np
import pytest

from r1v3_jax.config import Evaluate
from r1v3_jax.evaluate import statistics
from r1v3_jax.evaluate.accuracy import accuracy, unseen
from r1v3_jax.report import plots
from r1v3_jax.rewards.verifiers.verdict import Verdict

SCORES = {
    "+": types.SimpleNamespace(total=1.0, verdict=Verdict.RIGHT),
    "-": types.SimpleNamespace(total=0.2, verdict=Verdict.WRONG),
    "?": types.SimpleNamespace(total=None, verdict=Verdict.ERROR),
}


def groups(*answers):
    """Groups of answers, a letter each: "+-?" is right, wrong, not verified."""
    return [types.SimpleNamespace(scores=[SCORES[x] for x in row]) for row in answers]


def test_one_answer_a_question_is_a_proportion():
    got = accuracy(groups("+", "-", "?", "+"))
    mean, low, high = statistics.wilson(2, 3)
    assert got == {"mean": mean, "low": low, "high": high, "n": 3}


def test_several_answers_a_question_written_out():
    got = accuracy(groups("++--", "----", "++++", "+??-", "????"))
    # Shares 1/2, 0, 1, 1/2; nothing is known of the last question. Three of four have a right one.
    shares = np.array([0.5, 0, 1, 0.5])
    half = 1.96 * shares.std(ddof=1) / 2
    passed, pass_low, pass_high = statistics.wilson(3, 4)
    assert got == pytest.approx(
        {
            "mean": 0.5,
            "low": 0.5 - half,
            "high": 0.5 + half,
            "n": 4,
            "samples": 4,
            "pass": passed,
            "pass_low": pass_low,
            "pass_high": pass_high,
        }
    )


def test_answers_to_one_question_are_not_independent():
    """Ten questions, each always right or always wrong: ten answers each tell no more than one."""
    once = accuracy(groups(*"+-+-+-+-+-"))
    often = accuracy(groups(*(x * 10 for x in "+-+-+-+-+-")))
    assert often["mean"] == once["mean"]
    assert often["high"] - often["low"] > 0.9 * (once["high"] - once["low"])


@pytest.mark.parametrize("share", [0.0, 1.0, 0.5])
def test_equal_shares_are_still_not_known_exactly(share):
    mean, low, high = statistics.mean_interval([share] * 8)
    assert mean == share and low <= share <= high and high - low > 0.2


def test_the_mean_of_shares_is_covered_as_often_as_it_says():
    """Of 4,000 draws of 50 questions with 5 answers each about 95% of the intervals hold 0.6."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(4000):
        ability = rng.beta(3, 2, 50)  # mean 0.6
        _, low, high = statistics.mean_interval(rng.binomial(5, ability) / 5)
        covered += low <= 0.6 <= high
    # The standard error of the share is 0.0035; a normal interval of 50 is a little short.
    assert covered / 4000 == pytest.approx(0.945, abs=0.012)


def test_the_table_says_how_many_answers_a_mean_is_of():
    measured = accuracy(groups("++--", "----", "++++"))
    table = plots.table({"accuracy": {"grpo": {"hard": measured}}})
    assert "hard (n = 3, mean of 4)" in table
    assert "50.0 [" in table and "] any 66.7" in table


def test_samples_at_temperature_0_are_refused():
    with pytest.raises(ValueError, match="Evaluate.samples is 5 at temperature 0"):
        Evaluate(samples=5)
    several = Evaluate(samples=5, temperature=1.0, batch=10, slots=50)
    with pytest.raises(ValueError, match="at most batch x samples = 50"):
        dataclasses.replace(several, slots=51)


def test_chains_that_say_they_cannot_see_written_out():
    """Three of six chains say so, one of them right; the failed one and a summary do not count."""
    blind = "I cannot see the image, so 7.\n</think>7"
    seeing = "There are 7.\n</think>7, though I cannot see the image"
    rows = [
        ("+-", [blind, blind]),
        ("+-?", [seeing, blind, blind]),
        ("++", [seeing] * 2),
    ]
    made = [
        types.SimpleNamespace(scores=[SCORES[x] for x in marks], texts=texts)
        for marks, texts in rows
    ]
    assert unseen(made) == {"cannot_see": 3 / 6, "accuracy_cannot_see": 1 / 3}
    assert unseen(made[2:]) == {"cannot_see": 0.0}
