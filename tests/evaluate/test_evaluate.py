"""Critical words, entropies, and the choice of a checkpoint."""

import time
import types

import numpy as np
import pytest

from r1v3_jax.evaluate import critical_tokens, selection


def group(tokens, entropies):
    """Samples of one prompt, as far as entropies look at them."""
    lengths = np.asarray([len(row) for row in tokens])
    width = lengths.max()

    def pad(rows, fill):
        return np.asarray([list(row) + [fill] * (width - len(row)) for row in rows])

    completions = types.SimpleNamespace(
        tokens=pad(tokens, 0), entropies=pad(entropies, 0.0), lengths=lengths
    )
    return types.SimpleNamespace(completions=completions)


def checkpoint(step, entropy, mean, half=0.05):
    interval = {"mean": mean, "low": mean - half, "high": mean + half, "n": 100}
    return {"step": step, "critical_entropy": entropy, "accuracy": interval}


def test_critical_mask_written_out():
    ids = np.array([5, 7, 8, 2, 7, 9, 7, 8])
    expected = [0, 1, 0, 0, 0, 1, 1, 0]
    np.testing.assert_array_equal(
        critical_tokens.critical_mask(ids, [[7, 8], [9]]), expected
    )


def test_critical_mask_is_as_fast_as_the_devices_need_it():
    """The devices wait while every step searches all tokens that it sampled."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, 200_000)
    sequences = [[0, 1], [2], [3, 3, 1], [1, 0, 2, 2], list(range(300_000))]
    started = time.process_time()
    mask = critical_tokens.critical_mask(ids, sequences)
    # About 2 ms; one comparison a place took 3 s.
    assert time.process_time() - started < 0.5
    text = "".join(map(str, ids))
    for start in range(5000):
        words = ("01", "2", "331", "1022")
        assert mask[start] == text.startswith(words, start)
    short = critical_tokens.critical_mask(ids[:1], [[ids[0], 9]])
    assert short.tolist() == [False]


def test_entropies_written_out():
    #                 critical: 7              none             critical: 7, twice
    tokens = [[1, 7, 2], [1, 2], [7, 7, 3, 4]]
    values = [[0.1, 1.0, 0.3], [0.5, 0.7], [2.0, 4.0, 0.2, 0.2]]
    got = critical_tokens.entropies([group(tokens, values)], [[7]], high=0.9)
    assert got["critical_count"] == 3
    # A mean of means.
    np.testing.assert_allclose(got["critical_entropy"], np.mean([1.0, 3.0]))
    np.testing.assert_allclose(
        got["critical_entropy_next"], np.mean([0.3, (4.0 + 0.2) / 2])
    )
    np.testing.assert_allclose(got["entropy"], np.mean(sum(values, [])), rtol=1e-6)
    np.testing.assert_allclose(got["high_entropy_fraction"], 3 / 9)


def test_no_critical_word_is_nan_not_zero():
    got = critical_tokens.entropies([group([[1, 2]], [[0.1, 0.2]])], [[7]], high=1.0)
    assert np.isnan(got["critical_entropy"]) and got["critical_count"] == 0


CHECKPOINTS = [
    checkpoint(20, 1.5, 0.40),
    checkpoint(40, 0.9, 0.72),
    checkpoint(60, 1.1, 0.70),
    checkpoint(80, float("nan"), 0.71),
]


@pytest.mark.parametrize(
    "criterion, step, reason",
    [
        ("accuracy", 40, "the highest held-out accuracy, 0.720"),
        ("critical_entropy", 20, "the highest critical-token entropy, 1.500"),
        ("both", 60, "of the 3 not clearly below the best"),
        ("last", 80, "the last"),
    ],
)
def test_select(criterion, step, reason):
    chosen, why = selection.select(CHECKPOINTS, criterion)
    assert chosen["step"] == step and reason in why


def test_intervals_that_overlap_are_not_told_apart():
    best = checkpoint(40, 0.9, 0.72)  # in [0.67, 0.77]
    # Its mean is below 0.67 too, but its upper bound is not.
    overlapping = checkpoint(60, 1.1, 0.63)  # in [0.58, 0.68]
    apart = checkpoint(80, 1.3, 0.60)  # in [0.55, 0.65]
    chosen, why = selection.select([best, overlapping, apart], "both")
    assert chosen is overlapping and "of the 2 not clearly below the best" in why


def test_correlation_leaves_out_what_has_no_entropy():
    assert selection.correlation(CHECKPOINTS) == pytest.approx(-1.0)
    assert np.isnan(selection.correlation(CHECKPOINTS[:1]))


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="set grpo.evaluate_every"):
        selection.select([], "both")


def test_what_can_no_longer_be_chosen_written_out():
    steps = selection.selectable(
        [
            checkpoint(10, 0.9, 0.3),  # the most entropy
            checkpoint(20, 0.5, 0.6),  # beaten by 30 in both
            checkpoint(30, 0.7, 0.7),
            checkpoint(40, 0.2, 0.8),  # the best accuracy
            checkpoint(50, float("nan"), 0.1),
        ]
    )
    assert steps == {10, 30, 40}


@pytest.mark.parametrize("criterion", ["accuracy", "critical_entropy", "both"])
def test_whatever_comes_the_chosen_one_was_kept(criterion):
    """A checkpoint that was dropped on the way is never the one chosen at the end."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        kept = set()
        measured = []
        for step in range(1, 9):
            entropy = float(rng.choice([0.1, 0.2, 0.3, 0.4, np.nan]))
            measured.append(checkpoint(step, entropy, float(rng.integers(0, 6)) / 6))
            kept = (kept | {step}) & selection.selectable(measured)
        assert selection.select(measured, criterion)[0]["step"] in kept
