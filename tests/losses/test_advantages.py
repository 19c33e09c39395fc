"""Advantages, sample weights and token choices against their formulas, group by group."""

import itertools
import statistics

import numpy as np
import pytest

from r1v3_jax.losses import (
    AllAlike,
    BatchRelative,
    ConstantLength,
    GaussianRanks,
    GroupCentred,
    GroupRelative,
    HighEntropy,
    LeaveOneOut,
    Prioritized,
    SequenceMean,
    SoftPrioritized,
    TokenMean,
    Whitened,
    WithoutCut,
)

NAN = np.nan
REWARDS = np.array(
    [[1, 0, 1, 0.5], [1, 1, 1, 1], [0, 0.25, NAN, 0], [NAN, 1, NAN, NAN]], np.float32
)
VALID = ~np.isnan(REWARDS)
LENGTHS = np.array([[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8], [9, 7, 9, 3]])


def others_mean(group, i):
    return np.mean([reward for j, reward in enumerate(group) if j != i])


def test_leave_one_out_compares_with_the_others():
    got = LeaveOneOut()(REWARDS, VALID, LENGTHS)
    for rewards, valid, advantages in zip(REWARDS, VALID, got, strict=True):
        known = rewards[valid]
        if len(known) == 1:
            assert not advantages.any()
            continue
        expected = [r - others_mean(known, i) for i, r in enumerate(known)]
        np.testing.assert_allclose(advantages[valid], expected, atol=1e-6)
        assert not advantages[~valid].any()


def test_batch_relative_divides_by_the_deviation_of_all():
    got = BatchRelative()(REWARDS, VALID, LENGTHS)
    deviation = statistics.stdev(REWARDS[VALID].astype(float))
    centred = GroupCentred()(REWARDS, VALID, LENGTHS)
    np.testing.assert_allclose(got, centred / (deviation + 1e-6), atol=1e-6)


def test_whitened_is_standard_over_all_tokens():
    got = Whitened()(REWARDS, VALID, LENGTHS)
    centred = GroupCentred()(REWARDS, VALID, LENGTHS)
    tokens = []  # the centred reward of each token of the samples that are compared
    for group, lengths, valid in zip(centred, LENGTHS, VALID, strict=True):
        if valid.sum() > 1:
            tokens += np.repeat(group[valid], lengths[valid]).tolist()
    mean, deviation = np.mean(tokens), np.std(tokens, ddof=1)
    compared = VALID & (VALID.sum(axis=1, keepdims=True) > 1)
    expected = np.where(compared, (centred - mean) / deviation, 0)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    # Groups with equal rewards have an advantage too: that of the mean of all.
    assert (got[1] == got[1, 0]).all() and got[1, 0] != 0


def test_gaussian_ranks_written_out():
    got = GaussianRanks()(REWARDS, VALID, LENGTHS)
    quantile = statistics.NormalDist().inv_cdf
    first = [quantile((k + 0.5) / 4) for k in range(4)]
    upper = (first[2] + first[3]) / 2
    np.testing.assert_allclose(got[0], [upper, first[0], upper, first[1]], rtol=1e-6)
    np.testing.assert_allclose(got[1], 0, atol=1e-6)
    assert not got[3].any() and not got[~VALID].any()


@pytest.mark.parametrize("size", [1, 6, 7, 10])
def test_equal_rewards_have_no_rank(size):
    rewards = np.full((1, size), 0.3, np.float32)
    got = GaussianRanks()(rewards, rewards > 0, np.ones((1, size), int))
    assert not got.any()  # not even a rounding error


def test_ranks_do_not_see_the_scale_of_rewards():
    scaled = np.sign(REWARDS) * np.abs(REWARDS) ** 3 * 100
    kwargs = {"valid": VALID, "lengths": LENGTHS}
    np.testing.assert_array_equal(
        GaussianRanks()(scaled, **kwargs), GaussianRanks()(REWARDS, **kwargs)
    )


@pytest.mark.parametrize(
    "advantage",
    [GroupRelative(), GroupCentred(), BatchRelative(), LeaveOneOut(), GaussianRanks()],
)
def test_the_mean_of_a_group_is_zero(advantage):
    got = advantage(REWARDS, VALID, LENGTHS)
    np.testing.assert_allclose(got.sum(axis=1), 0, atol=1e-5)


# -------------------------------------------------------------------------------------------------
# how often a sample counts


ADVANTAGES = np.array([[0.5, -0.5, 0.01, 1.5], [0.9, -0.2, 0.0, 0.2]], np.float32)
ENDED = np.array([[True, False, True, True], [True, True, True, False]])
ALL = np.ones(ADVANTAGES.shape, bool)


def drawn(weight, seed=0, valid=ALL):
    return weight(ADVANTAGES, ENDED, valid, np.random.default_rng(seed))


def test_prioritized_draws_the_wanted_number_in_the_wanted_shares():
    weight = Prioritized(power=1.5, low=0.03, high=0.97, ratio=1.5)
    times = [drawn(weight, seed) for seed in range(4000)]
    assert all(x.sum() == 12 for x in times)  # 8 samples * 1.5
    size = np.abs(ADVANTAGES)
    shares = np.where((size > 0.03) & (size < 0.97), size**1.5, 0)
    # The mean of 4,000 draws of 12: a share of 0.4 has a standard error of 0.0022.
    np.testing.assert_allclose(
        np.mean(times, axis=0) / 12, shares / shares.sum(), atol=0.01
    )


def test_soft_prioritized_draws_by_exp():
    weight = SoftPrioritized(temperature=0.3)
    times = [drawn(weight, seed) for seed in range(4000)]
    size = np.abs(ADVANTAGES)
    is_within = (size >= 0.03) & (size <= 0.97)
    assert all(x.sum() == is_within.sum() for x in times)
    shares = np.where(is_within, np.exp(size / 0.3), 0)
    np.testing.assert_allclose(
        np.mean(times, axis=0) / is_within.sum(), shares / shares.sum(), atol=0.015
    )


def test_a_draw_is_the_same_on_every_host_and_another_in_every_step():
    weight = Prioritized()
    np.testing.assert_array_equal(drawn(weight, (3, 7)), drawn(weight, (3, 7)))
    draws = [drawn(weight, (3, step)) for step in range(8)]
    assert any((a != b).any() for a, b in itertools.pairwise(draws))


def test_what_failed_or_was_cut_is_not_drawn():
    valid = ALL.copy()
    valid[1, 0] = False
    assert all(drawn(Prioritized(), seed, valid)[1, 0] == 0 for seed in range(50))
    np.testing.assert_array_equal(drawn(WithoutCut()), ENDED)
    np.testing.assert_array_equal(drawn(AllAlike()), 1)


def test_without_a_sample_in_the_bounds_all_count():
    np.testing.assert_array_equal(drawn(Prioritized(low=2, high=3)), 1)
    np.testing.assert_array_equal(drawn(SoftPrioritized(low=2, high=3)), 1)


@pytest.mark.parametrize("aggregation", [TokenMean(), SequenceMean(), ConstantLength()])
def test_a_sample_that_counts_three_times_is_there_three_times(aggregation):
    """Also in the denominators: the mean is over what was drawn."""
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
    x = np.random.default_rng(0).normal(size=mask.shape)
    times = np.array([3.0, 1.0, 0.0])
    got = (aggregation(mask, 4, times) * x).sum()
    there_again = [0, 0, 0, 1]
    weights = aggregation(mask[there_again], 4, np.ones(4))
    np.testing.assert_allclose(got, (weights * x[there_again]).sum(), rtol=1e-6)


def test_high_entropy_keeps_the_share_that_is_least_sure():
    entropies = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    learnt = np.ones((2, 3, 4), bool)
    learnt[1, 2] = False  # 20 tokens are learnt from
    kept = HighEntropy(0.2)(entropies, learnt)
    assert kept.sum() == 4 and entropies[kept].min() == 16
    assert not HighEntropy(0.2)(entropies, np.zeros_like(learnt)).any()
