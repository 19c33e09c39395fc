"""Each loss and correction against its formula, sample by sample in float64, in packed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1v3_jax.losses import (
    Cispo,
    Clipped,
    Gmpo,
    Gspo,
    Masked,
    Sapo,
    Truncated,
    WholeSequence,
)
from r1v3_jax.losses.schedules import Line
from r1v3_jax.losses.segments import segment_mean, segment_sum

# Rows of several samples, one of them long, one of a single token, and padding behind them.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1], [1, 2, 2, 3, 0, 0]])
# Forced tokens have no weight; they are in no mean over a sample either.
LEARNT = (SEGMENTS > 0) & ~np.array(
    [[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool
)


def samples():
    """Yields the learnt tokens of each sample, as indices into a [B, T] array."""
    for row, segments in enumerate(SEGMENTS):
        for segment in range(1, segments.max() + 1):
            yield row, np.flatnonzero((segments == segment) & LEARNT[row])


def batch(seed=0):
    """logprobs, old, advantages (the same in a sample) and weights, float64[B, T] each."""
    rng = np.random.default_rng(seed)
    logprobs = rng.normal(-1.5, 0.5, SEGMENTS.shape)
    old = logprobs + rng.normal(0, 0.5, SEGMENTS.shape)
    advantages = np.zeros(SEGMENTS.shape)
    for row in range(len(SEGMENTS)):
        for segment in range(1, SEGMENTS[row].max() + 1):
            advantages[row, SEGMENTS[row] == segment] = rng.normal()
    weights = np.where(LEARNT, rng.uniform(0.5, 1, SEGMENTS.shape), 0.0)
    return logprobs, old, advantages, weights


# The formulas of one sample: vectors of its learnt tokens -> the term of each token.


def clipped(logp, old, a, low=0.2, high=0.28):
    r = np.exp(logp - old)
    return -np.minimum(r * a, np.clip(r, 1 - low, 1 + high) * a)


def dual_clipped(logp, old, a):
    terms = clipped(logp, old, a)
    return np.where(a < 0, np.minimum(terms, -1.2 * a), terms)


def cispo(logp, old, a, constant):
    # `constant`: the ratio of another evaluation, which has no gradient.
    return -np.clip(constant, 0.0, 1.5) * a * logp


def sapo(logp, old, a):
    tau = np.where(a > 0, 1.0, 1.05)
    return -4 / tau / (1 + np.exp(-tau * (np.exp(logp - old) - 1))) * a


def gspo(logp, old, a, low=0.1, high=0.15):
    s = np.exp(np.mean(logp - old))
    return -np.minimum(s * a, np.clip(s, 1 - low, 1 + high) * a)


def gmpo(logp, old, a, bound=0.4):
    sign = np.sign(a)
    q = np.clip(logp - old, -bound, bound)
    q = sign * np.minimum(sign * (logp - old), sign * q)
    return -a * np.exp(np.mean(q))


LOSSES = {
    "clipped": (Clipped(0.2, 0.28), clipped),
    "dual clip": (Clipped(0.2, 0.28, dual=1.2), dual_clipped),
    "cispo": (Cispo(high=0.5), cispo),
    "sapo": (Sapo(), sapo),
    "gspo": (Gspo(0.1, 0.15), gspo),
    "gmpo": (Gmpo(0.4), gmpo),
}


def by_formula(formula, logprobs, old, advantages, weights, **options):
    total = 0.0
    for row, tokens in samples():
        at = (row, tokens)
        constant = {"constant": options["constant"][at]} if options else {}
        terms = formula(logprobs[at], old[at], advantages[at], **constant)
        total += (weights[at] * terms).sum()
    return total


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_and_its_gradient_are_those_of_its_formula(name, seed):
    loss, formula = LOSSES[name]
    logprobs, old, advantages, weights = batch(seed)
    options = {"constant": np.exp(logprobs - old)} if name == "cispo" else {}
    expected = by_formula(formula, logprobs, old, advantages, weights, **options)
    # Central differences of the formula, one token at a time.
    step = 1e-6
    gradient = np.zeros_like(logprobs)
    for place in np.ndindex(logprobs.shape):
        moved = []
        for sign in (1, -1):
            near = logprobs.copy()
            near[place] += sign * step
            moved.append(by_formula(formula, near, old, advantages, weights, **options))
        gradient[place] = (moved[0] - moved[1]) / (2 * step)

    with jax.enable_x64(True):
        # Padding and forced tokens may hold anything.
        logprobs = jnp.asarray(np.where(LEARNT, logprobs, np.nan))
        value, got = jax.value_and_grad(
            lambda x: loss(x, old, advantages, weights, jnp.asarray(SEGMENTS))[0]
        )(logprobs)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(got / scale, gradient / scale, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_at_the_old_policy_every_loss_has_the_policy_gradient(name):
    """At ratio 1 nothing is clipped, and the gradients of a sample add up to -sum(w) A."""
    loss, _ = LOSSES[name]
    logprobs, _, advantages, _ = batch()
    weights = np.where(LEARNT, 1.0, 0.0)  # the same in a sample, as in `SequenceMean`
    gradient = jax.grad(
        lambda x: loss(x, logprobs, advantages, weights, jnp.asarray(SEGMENTS))[0]
    )(jnp.asarray(logprobs))
    for row, tokens in samples():
        # SAPO's gate has slope 1 there: (4 / tau) tau sigmoid'(0) = 1.
        expected = -advantages[row, tokens].sum()
        np.testing.assert_allclose(gradient[row, tokens].sum(), expected, rtol=1e-5)


def test_what_the_bounds_cut_off_is_counted_by_weight():
    logprobs, old, advantages, weights = batch()
    _, metrics = Clipped(0.2, 0.28)(logprobs, old, advantages, weights, None)
    ratio = np.exp(logprobs - old)
    low = weights[(ratio < 0.8) & (advantages < 0)].sum()
    high = weights[(ratio > 1.28) & (advantages > 0)].sum()
    assert low > 0 and high > 0
    np.testing.assert_allclose(metrics["clip_ratio/low"], low, rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_ratio/high"], high, rtol=1e-5)


def test_sums_over_segments_written_out():
    x = jnp.asarray([[1.0, 2, 3, 4, 5, 0]])
    ids = jnp.asarray([[1, 1, 1, 2, 2, 0]])
    np.testing.assert_array_equal(segment_sum(x, ids), [[6, 6, 6, 9, 9, 0]])
    counted = jnp.asarray([[True, False, True, False, False, False]])
    np.testing.assert_array_equal(segment_mean(x, counted, ids), [[2, 2, 2, 0, 0, 0]])


def test_a_short_sample_behind_a_long_one_keeps_its_digits():
    """8,190 tokens of 1e4 stand before two of 1e-4: a difference of sums would lose them."""
    x = np.full((1, 8192), 1e4, np.float32)
    x[0, -2:] = 1e-4
    ids = np.ones((1, 8192), np.int32)
    ids[0, -2:] = 2
    got = segment_sum(jnp.asarray(x), jnp.asarray(ids))
    np.testing.assert_allclose(got[0, -1], 2e-4, rtol=1e-6)


def test_corrections_written_out():
    old = np.log([[0.5, 0.5, 0.5, 0.5, 1.0, 1.0]])
    sampled = np.log([[0.5, 0.25, 0.1, 0.8, 0.5, 0.5]])
    weights = np.array([[1.0, 1, 1, 1, 1, 0]])
    ids = jnp.asarray([[1, 1, 1, 1, 2, 2]])
    # A token without weight has the factor 1, whatever it holds.
    masked = Masked(0.7, 3.0)(old, sampled, weights, ids)
    np.testing.assert_allclose(masked, [[1, 2, 0, 0, 2, 1]], rtol=1e-6)
    # 1 * 2 * 5 * 0.625 = 6.25, and 2: the token without weight is in no product.
    whole = WholeSequence(10.0)(old, sampled, weights, ids)
    np.testing.assert_allclose(whole, [[6.25] * 4 + [2, 2]], rtol=1e-5)
    whole = WholeSequence(3.0)(old, sampled, weights, ids)
    np.testing.assert_allclose(whole, [[3] * 4 + [2, 2]], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clipped(dual=0.5), "Clipped.dual is 0.5; it must be above 1, as 3.0"),
        (lambda: Gspo(low=-1), "Gspo.low is -1; it must be between 0 and 1"),
        (lambda: Gmpo(-0.1), "Gmpo.bound is -0.1; it must be at least 0"),
        (lambda: Sapo(negative=0), "Sapo.negative is 0; it must be positive"),
        (lambda: Sapo(Line(1.0, 2.0)), "Sapo.positive is Line.*; it must be positive"),
        (lambda: Clipped(dual=Line(3.0, 4.0)), "Clipped.dual is Line.*; it must be"),
        (lambda: Clipped(high="0.28"), "Clipped.high is '0.28'; it must be at least 0"),
        (lambda: Masked(2.0, 0.5), "wanted 0 <= low < 1 < high"),
        (lambda: WholeSequence(0.5), "WholeSequence.cap is 0.5; it must be at least 1"),
        (lambda: Truncated(Line(1.0, 2.0)), "Truncated.cap is Line.*; it must be at"),
        (
            lambda: Clipped(high=lambda progress: 0.2 - progress),
            "Clipped.high is -.* at 21% of the run; it must be at least 0",
        ),
    ],
)
def test_strengths_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("correction", [Truncated(2.0), Masked(), WholeSequence()])
def test_what_padding_holds_does_not_reach_a_correction(correction):
    old = jnp.array([[0.1, -0.2, jnp.nan]])
    weights = jnp.array([[0.5, 0.5, 0.0]])
    segments = jnp.array([[1, 1, 0]])
    factors = correction(old, jnp.zeros((1, 3)), weights, segments)
    assert np.isfinite(factors * weights).all()
