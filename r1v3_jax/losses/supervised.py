"""Sums over weighted tokens, and the supervised loss."""

import jax
import jax.numpy as jnp


def weighted_sum(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns sum_t w_t x_t, float32[B, T] each.

    Tokens of weight 0 are left out, not multiplied: 0 * nan would be nan.
    """
    return jnp.sum(jnp.where(weights != 0, x, 0.0) * weights)


def cross_entropy(logprobs: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns -sum_t w_t log p(t), float32[B, T] each: supervised fine-tuning."""
    return -weighted_sum(logprobs, weights)
