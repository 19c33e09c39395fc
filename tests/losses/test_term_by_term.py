"""GDPO: every term of the reward normalised by itself, against its formula in float64."""

import statistics

import numpy as np
import pytest

from r1v3_jax.losses import GroupRelative, Part, TermByTerm


def by_formula(valid, parts, eps=1e-6):
    """The advantages sample by sample, in Python's floats."""
    groups = range(len(valid))
    samples = range(len(valid[0]))
    total = {(p, g): 0.0 for p in groups for g in samples}
    for part in parts:
        for p in groups:
            spoken = [
                g for g in samples if valid[p][g] and not np.isnan(part.said[p][g])
            ]
            said = [float(part.said[p][g]) for g in spoken]
            if len(said) < 2:
                continue
            mean = statistics.fmean(said)
            deviation = statistics.stdev(said)
            for g, x in zip(spoken, said, strict=True):
                total[p, g] += part.weights[p][g] * (x - mean) / (deviation + eps)
    known = [total[p, g] for p in groups for g in samples if valid[p][g]]
    mean = statistics.fmean(known)
    deviation = statistics.stdev(known)
    return [
        [
            (total[p, g] - mean) / (deviation + eps) if valid[p][g] else 0.0
            for g in samples
        ]
        for p in groups
    ]


@pytest.mark.parametrize("seed", range(3))
def test_ragged_steps_are_those_of_the_formula(seed):
    """Samples without a verdict, terms that say nothing, weights of rows: all at once."""
    rng = np.random.default_rng(seed)
    valid = rng.random((4, 6)) < 0.8
    parts = []
    for scale in (1.0, 0.01, 100.0):
        said = np.round(scale * rng.normal(size=(4, 6)), 3)
        said[rng.random((4, 6)) < 0.2] = np.nan
        parts.append(Part(said, rng.uniform(0.1, 1, (4, 6))[:, :1] * np.ones((4, 6))))
    rewards = np.where(valid, 1.0, np.nan)
    got = TermByTerm()(rewards, valid, None, parts)
    expected = by_formula(valid, parts)
    # float32 advantages of each term, and float32 in the end.
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert not got[~valid].any()


def test_the_example_of_the_docstring():
    """And sums that are equal, whose parts are not."""
    right = Part(np.array([[1.0, 1.0, 0.0, 0.0]]), np.full((1, 4), 0.8))
    short = Part(np.array([[0.0, 1.0, 1.0, 0.0]]), np.full((1, 4), 0.2))
    rewards = 0.8 * right.said + 0.2 * short.said
    got = TermByTerm()(rewards, np.ones((1, 4), bool), None, [right, short])
    a = np.array([0.52, 0.87, -0.52, -0.87])
    np.testing.assert_allclose(got[0], a / a.std(ddof=1), atol=0.01)
    # Sums that are equal: the group has no signal, its parts have.
    even = Part(short.said, np.full((1, 4), 0.8))
    crossed = Part(1 - short.said, np.full((1, 4), 0.4))
    rewards = np.full((1, 4), 0.5, np.float32)
    assert not GroupRelative()(rewards, np.ones((1, 4), bool), None).any()
    apart = TermByTerm()(rewards, np.ones((1, 4), bool), None, [even, crossed])
    assert apart[0, 1] > 0 > apart[0, 0]


def test_a_group_without_signal_stays_without():
    """Equal parts in one group, a single sample in another: 0, exactly."""
    said = np.array([[0.1, 0.1, 0.1], [1.0, np.nan, 0.0], [0.3, 0.5, 0.9]])
    valid = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool)
    got = TermByTerm()(said, valid, None, [Part(said, np.full((3, 3), 0.7))])
    assert not got[:2].any() and got[2].any()
    assert not TermByTerm()(said, valid, None, []).any()


def test_a_term_alone_is_group_relative_up_to_one_scale():
    rng = np.random.default_rng(5)
    said = rng.normal(size=(3, 5))
    whole = np.ones((3, 5), bool)
    got = TermByTerm()(said, whole, None, [Part(said, np.full((3, 5), 0.3))])
    alone = GroupRelative()(said, whole, None)
    np.testing.assert_allclose(
        got / alone, np.full((3, 5), got[0, 0] / alone[0, 0]), rtol=1e-4
    )


def test_eps_must_be_positive():
    with pytest.raises(ValueError, match="TermByTerm.eps is 0.0; it must be positive"):
        TermByTerm(eps=0.0)
