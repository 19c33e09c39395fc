"""Losses and advantages: pure functions of arrays, their docstrings are their equations.

Every loss is a sum over tokens of weight times term. The weights carry the aggregation (see
`token_weights`) and count over the whole step, so the losses of micro-batches add up to that of the
full batch.
"""

import jax
import jax.numpy as jnp

from r1v3_jax.losses.supervised import weighted_sum


def clipped_policy_loss(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    weights: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """sum_t w_t * -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = exp(logprobs -
    old_logprobs).

    float32[B, T] each. Skywork-R1V3 report, equation 7; with two bounds, DAPO (arXiv 2503.14476).
    Also the share of tokens whose gradient the lower and the upper bound cut off, by weight.
    """
    ratio = jnp.exp(jnp.where(weights != 0, logprobs - old_logprobs, 0.0))
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = weighted_sum(-jnp.minimum(ratio * advantages, clipped * advantages), weights)
    total = jnp.maximum(jnp.sum(weights), 1e-9)
    low = weighted_sum((ratio < 1 - clip_low) & (advantages < 0), weights) / total
    high = weighted_sum((ratio > 1 + clip_high) & (advantages > 0), weights) / total
    return loss, {"clip_ratio/low": low, "clip_ratio/high": high}


def kl(logprobs: jax.Array, ref_logprobs: jax.Array, estimator: str) -> jax.Array:
    """An estimate, a token, of KL(policy || reference) from samples of the policy; d = logprobs -
    ref_logprobs.

    k1: d, unbiased, may be negative. k2: d^2 / 2, low variance, its gradient is that of the KL.
    k3: exp(-d) - 1 + d, unbiased and never negative. (J. Schulman, "Approximating KL divergence".)
    """
    d = logprobs - ref_logprobs
    if estimator == "k1":
        return d
    if estimator == "k2":
        return 0.5 * d * d
    return jnp.exp(-d) - 1 + d


def importance_weights(
    old_logprobs: jax.Array, sampler_logprobs: jax.Array, cap: float
) -> jax.Array:
    """min(exp(old - sampler), cap), without gradient: what a token counts for, given that the
    sampler's forward pass and not the trainer's drew it (truncated importance sampling).
    """
    return jax.lax.stop_gradient(
        jnp.minimum(jnp.exp(old_logprobs - sampler_logprobs), cap)
    )
