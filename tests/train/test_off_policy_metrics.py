"""How far the learning policy is from those that drew its tokens: a step in numbers."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from r1v3_jax.losses import Masked, Truncated, WholeSequence
from r1v3_jax.losses.corrections import is_cut
from r1v3_jax.train.policy_gradient import off_policy_sums, token_means

# Two samples of a row: ratios 1, 4, 1/2 and 1, 1; the sixth token is padding.
RATIOS = np.array([[1, 4, 0.5, 1, 1, 1]], np.float32)
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0]])
WEIGHTS = jnp.array([[0.2, 0.2, 0.2, 0.2, 0.2, 0]])


def measured(correction):
    sampled = jnp.full((1, 6), -2.0).at[0, 5].set(jnp.nan)
    old = sampled + np.log(RATIOS)
    rows = types.SimpleNamespace(
        loss_weights=WEIGHTS, sampler_logprobs=sampled, segment_ids=SEGMENTS
    )
    factors = correction(old, sampled, WEIGHTS, SEGMENTS)
    config = types.SimpleNamespace(correction=correction)
    sums = off_policy_sums(old, factors, rows, config)
    return token_means(sums | {"weight": WEIGHTS.sum(), "loss": jnp.float32(0)})


@pytest.mark.parametrize(
    "correction, masked",
    [
        (Truncated(2.0), 1 / 5),  # 4 is above 2
        (Truncated(8.0), 0),
        (Masked(0.6, 2.0), 2 / 5),  # 4, and 1/2
        # The products are 2 and 1: of a cap of 1.5 the first sample, of 1.0 both.
        (WholeSequence(1.5), 3 / 5),
        (WholeSequence(1.0), 1),
    ],
)
def test_masked_is_what_the_correction_cuts(correction, masked):
    found = measured(correction)
    assert found.keys() == {"ess", "masked", "weight", "loss"}
    assert float(found["masked"]) == pytest.approx(masked)
    # Before the correction: mean (1 + 4 + 1/2 + 1 + 1) / 5, of squares 19.25 / 5.
    assert float(found["ess"]) == pytest.approx(1.5**2 / 3.85)


def test_equal_ratios_count_all_tokens():
    sampled = jnp.full((1, 6), -2.0)
    rows = types.SimpleNamespace(loss_weights=WEIGHTS, sampler_logprobs=sampled)
    config = types.SimpleNamespace(correction=Truncated(2.0))
    sums = off_policy_sums(sampled - 0.5, jnp.exp(jnp.full((1, 6), -0.5)), rows, config)
    found = token_means(sums | {"weight": WEIGHTS.sum()})
    assert float(found["ess"]) == pytest.approx(1)


@pytest.mark.parametrize("cap", [1.5, 3.5, 7.7])
def test_a_bounded_product_is_seen_whatever_the_rounding(cap):
    # exp(log(3.5)) is less than 3.5 in float32.
    correction = WholeSequence(cap)
    sampled = jnp.full((1, 2), -2.0)
    weights = jnp.ones((1, 2))
    factors = correction(sampled + 3, sampled, weights, jnp.array([[1, 2]]))
    assert is_cut(correction, factors, jnp.exp(jnp.full((1, 2), 3.0))).all()


def test_a_step_without_weight_has_no_effective_size():
    none = {name: jnp.float32(0) for name in ("rho", "rho_squared", "weight")}
    assert np.isnan(float(token_means(none)["ess"]))


def test_ratios_beyond_float32_make_the_size_small_and_not_nan():
    sampled = jnp.full((1, 6), -2.0)
    old = sampled.at[0, 1].add(100.0)
    rows = types.SimpleNamespace(
        loss_weights=WEIGHTS, sampler_logprobs=sampled, segment_ids=SEGMENTS
    )
    correction = Truncated(2.0)
    factors = correction(old, sampled, WEIGHTS, SEGMENTS)
    config = types.SimpleNamespace(correction=correction)
    sums = off_policy_sums(old, factors, rows, config)
    # One of five tokens counts alone.
    assert float(token_means(sums | {"weight": WEIGHTS.sum()})["ess"]) == pytest.approx(
        0.2
    )
