"""Losses and advantages: pure functions of arrays, their docstrings are their equations.

Every loss is a sum over tokens of weight times term. The weights carry the aggregation (see
`token_weights`) and count over the whole step, so the losses of micro-batches add up to that of the
full batch.
"""

import jax
import jax.numpy as jnp
import numpy as np


def weighted_sum(x: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_t w_t x_t. Tokens of weight 0 are left out, not multiplied: 0 * nan would be nan."""
    return jnp.sum(jnp.where(weights != 0, x, 0.0) * weights)


def cross_entropy(logprobs: jax.Array, weights: jax.Array) -> jax.Array:
    """-sum_t w_t log p(t), float32[B, T] each: supervised fine-tuning."""
    return -weighted_sum(logprobs, weights)


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
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(old_logprobs - sampler_logprobs), cap))


def group_advantages(
    rewards: np.ndarray, valid: np.ndarray, *, divide_by_std: bool = True, eps: float = 1e-6
) -> np.ndarray:
    """(r - mean) / (std + eps) within each group: float32[P, G], bool[P, G] -> float32[P, G].

    Mean and (unbiased) standard deviation are over the valid samples of the group; the others get 0
    and take no part. A group with equal rewards, or with one valid sample, has no signal: all 0.
    divide_by_std False is Dr. GRPO (arXiv 2503.20783).
    """
    rewards = np.where(valid, rewards, 0.0).astype(np.float64)
    count = valid.sum(axis=1, keepdims=True)
    mean = rewards.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(valid, rewards - mean, 0.0)
    if divide_by_std:
        variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1)
        centred = centred / (np.sqrt(variance) + eps)
    return np.where(count > 1, centred, 0.0).astype(np.float32)


def token_weights(mask: np.ndarray, aggregation: str, max_tokens: int) -> np.ndarray:
    """The weight of each token, so that a weighted sum is the wanted mean: bool[B, T] -> float32[B,
    T].

    One row is one sample; rows without a token (masked samples) count nowhere.

    token      1 / tokens of the whole step (DAPO)
    sequence   1 / tokens of the sample / samples: the mean over samples of their means (equation 7)
    constant   1 / max_tokens / samples: no length in the denominator (Dr. GRPO)
    """
    mask = np.asarray(mask, bool)
    tokens, samples = mask.sum(axis=1, keepdims=True), max(int(mask.any(axis=1).sum()), 1)
    if aggregation == "token":
        weight = np.full_like(tokens, 1 / max(int(mask.sum()), 1), np.float64)
    elif aggregation == "sequence":
        weight = 1 / np.maximum(tokens, 1) / samples
    else:
        weight = np.full_like(tokens, 1 / max_tokens / samples, np.float64)
    return np.where(mask, weight, 0.0).astype(np.float32)
