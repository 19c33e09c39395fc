"""Losses against their equations written out in numpy, one sample at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1v3_jax.losses import (
    K1,
    K2,
    K3,
    Clipped,
    ConstantLength,
    GroupCentred,
    GroupRelative,
    SequenceMean,
    TokenMean,
    Truncated,
)
from r1v3_jax.losses.supervised import cross_entropy

RAGGED = np.array(
    [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]], bool
)

ONCE = np.ones(len(RAGGED))


def numbers(seed, shape=RAGGED.shape, scale=0.5):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def test_group_advantages_written_out():
    rewards = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], np.float32)
    std = np.sqrt(0.75 / 3)  # unbiased, of [1 0 0 0]
    expected = [
        [
            0.5 / np.sqrt(1 / 3),
            -0.5 / np.sqrt(1 / 3),
            0.5 / np.sqrt(1 / 3),
            -0.5 / np.sqrt(1 / 3),
        ],
        [0, 0, 0, 0],
        [0.75 / std, -0.25 / std, -0.25 / std, -0.25 / std],
    ]
    got = GroupRelative()(rewards, np.ones((3, 4), bool), None)
    np.testing.assert_allclose(got, expected, atol=1e-5)  # eps 1e-6 in the denominator


def test_group_advantages_are_torchs_of_the_valid_samples():
    import torch

    rewards = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    valid = np.random.default_rng(1).random((5, 8)) < 0.7
    got = GroupRelative()(np.where(valid, rewards, np.nan), valid, None)
    for row, mask, advantages in zip(rewards, valid, got, strict=True):
        known = torch.from_numpy(row[mask])
        expected = (known - known.mean()) / (known.std() + 1e-6)
        np.testing.assert_allclose(advantages[mask], expected, atol=1e-5)
        assert not advantages[~mask].any()


def test_dr_grpo_does_not_divide():
    got = GroupCentred()(np.array([[1.0, 0, 0, 0]]), np.ones((1, 4), bool), None)
    np.testing.assert_allclose(got, [[0.75, -0.25, -0.25, -0.25]])


def test_a_group_with_one_valid_sample_has_no_signal():
    got = GroupRelative()(np.array([[1.0, np.nan]]), np.array([[True, False]]), None)
    np.testing.assert_array_equal(got, [[0, 0]])


@pytest.mark.parametrize("aggregation", [TokenMean(), SequenceMean(), ConstantLength()])
def test_aggregations_against_loops(aggregation):
    x, max_tokens = numbers(2), 7
    rows = [x[b][RAGGED[b]] for b in range(len(x)) if RAGGED[b].any()]
    expected = {
        TokenMean: np.concatenate(rows).mean(),
        SequenceMean: np.mean([row.mean() for row in rows]),
        ConstantLength: sum(row.sum() for row in rows) / (max_tokens * len(rows)),
    }[type(aggregation)]
    weights = aggregation(RAGGED, max_tokens, ONCE)
    np.testing.assert_allclose(-cross_entropy(x, weights), expected, rtol=1e-5)


def test_clipped_policy_loss_against_a_loop():
    logprobs, old, advantages = numbers(3), numbers(4), numbers(5, scale=1.0)
    weights = SequenceMean()(RAGGED, 5, ONCE)
    expected, low, high = 0.0, 0.0, 0.0
    for b, t in np.argwhere(RAGGED):
        ratio, advantage, w = (
            np.exp(logprobs[b, t] - old[b, t]),
            advantages[b, t],
            weights[b, t],
        )
        expected -= w * min(ratio * advantage, np.clip(ratio, 0.8, 1.28) * advantage)
        low += w * (ratio < 0.8 and advantage < 0)
        high += w * (ratio > 1.28 and advantage > 0)
    got, metrics = Clipped(low=0.2, high=0.28)(logprobs, old, advantages, weights, None)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_ratio/low"], low, rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_ratio/high"], high, rtol=1e-5)
    assert low > 0 and high > 0  # the example exercises both


def test_on_policy_gradient_is_the_policy_gradient():
    """At ratio 1 nothing is clipped: d loss / d logprob = -weight * advantage."""
    logprobs, advantages = numbers(6), numbers(7, scale=1.0)
    weights = TokenMean()(RAGGED, 5, ONCE)
    gradient = jax.grad(lambda x: Clipped()(x, logprobs, advantages, weights, None)[0])(
        jnp.asarray(logprobs)
    )
    np.testing.assert_allclose(gradient, -weights * advantages, atol=1e-6)


def test_gradient_beyond_a_bound_is_zero():
    #                 ratio too high   too high, but A < 0   too low    too low, but A > 0
    logprobs = jnp.asarray([[1.0, 1.0, -1.0, -1.0]])
    advantages = jnp.asarray([[1.0, -1.0, -1.0, 1.0]])
    weights = jnp.ones((1, 4))
    gradient = jax.grad(lambda x: Clipped()(x, 0 * x, advantages, weights, None)[0])(
        logprobs
    )
    assert gradient[0, 0] == 0 and gradient[0, 2] == 0
    assert gradient[0, 1] != 0 and gradient[0, 3] != 0


def test_weightless_tokens_may_hold_anything():
    weights = np.array([[0.0, 1.0]], np.float32)
    bad = jnp.asarray([[jnp.nan, -0.5]])

    def loss(x):
        return Clipped()(x, bad, bad, weights, None)[0]

    value, gradient = jax.value_and_grad(loss)(bad)
    assert np.isfinite(value) and np.isfinite(np.asarray(gradient)).all()


def test_kl_estimators_written_out():
    policy, reference = jnp.log(jnp.asarray(0.5)), jnp.log(jnp.asarray(0.25))
    np.testing.assert_allclose(K1()(policy, reference), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(K2()(policy, reference), np.log(2) ** 2 / 2, rtol=1e-6)
    np.testing.assert_allclose(K3()(policy, reference), 0.5 - 1 + np.log(2), rtol=1e-5)


def test_kl_estimators_are_right_on_average():
    """k1 and k3 are unbiased: their mean under the policy is the KL of two distributions."""
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.5, 0.3])
    exact = (p * np.log(p / q)).sum()
    for estimator in (K1(), K3()):
        mean = (p * np.asarray(estimator(jnp.log(p), jnp.log(q)))).sum()
        np.testing.assert_allclose(mean, exact, rtol=1e-5)


def test_kl_estimators_pull_towards_the_reference_on_average():
    """The mean gradient over samples is that of the KL: of k1 and k2 exactly, of k3 its direction.

    The samples are fixed: their probabilities have no gradient, as in a loss over rollouts.
    """
    logits = jnp.asarray([0.3, -0.8, 1.1, 0.2])
    reference = jnp.log(jnp.asarray([0.4, 0.1, 0.3, 0.2]))

    def kl(logits):
        logprobs = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(logprobs) * (logprobs - reference))

    def mean(logits, estimator):
        logprobs = jax.nn.log_softmax(logits)
        frequencies = jax.lax.stop_gradient(jnp.exp(logprobs))
        return jnp.sum(frequencies * estimator(logprobs, reference))

    exact = jax.grad(kl)(logits)
    for estimator in (K1(), K2()):
        gradient = jax.grad(mean)(logits, estimator)
        np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-7)
    k3 = jax.grad(mean)(logits, K3())
    cosine = jnp.vdot(k3, exact) / jnp.linalg.norm(k3) / jnp.linalg.norm(exact)
    assert cosine > 0.9


def test_importance_weights_are_capped_and_constant():
    old, sampled = jnp.asarray([0.0, 0.0, 0.0]), jnp.asarray([0.0, -2.0, 1.0])
    np.testing.assert_allclose(
        Truncated(2.0)(old, sampled, None, None), [1, 2, np.exp(-1)], rtol=1e-6
    )
    gradient = jax.grad(lambda x: Truncated(2.0)(x, sampled, None, None).sum())(old)
    np.testing.assert_array_equal(gradient, [0, 0, 0])


@pytest.mark.parametrize(
    ("bounds", "message"),
    [({"low": 1.5}, "Clipped.low is 1.5"), ({"high": -0.1}, "Clipped.high is -0.1")],
)
def test_bounds_that_cannot_be_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        Clipped(**bounds)


def test_a_deviation_without_eps_is_refused():
    with pytest.raises(ValueError, match="GroupRelative.eps is 0; it must be positive"):
        GroupRelative(eps=0)
