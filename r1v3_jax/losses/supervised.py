"""Weighted sums, cross-entropy."""

import jax
import jax.numpy as jnp


def weighted_sum(x: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_t w_t x_t. Tokens of weight 0 are left out, not multiplied: 0 * nan would be nan."""
    return jnp.sum(jnp.where(weights != 0, x, 0.0) * weights)


def cross_entropy(logprobs: jax.Array, weights: jax.Array) -> jax.Array:
    """-sum_t w_t log p(t), float32[B, T] each: supervised fine-tuning."""
    return -weighted_sum(logprobs, weights)
