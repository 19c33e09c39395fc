"""Estimates of the KL divergence from the policy to a reference, a token at a time."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp


class KLEstimator(Protocol):
    """An estimate of KL(policy || reference) a token, from samples of the policy.

    J. Schulman, "Approximating KL divergence" (2020). float32[B, T] each.
    """

    def __call__(self, logprobs: jax.Array, ref_logprobs: jax.Array) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class K1:
    """d = logprobs - ref_logprobs: unbiased, may be negative. Its gradient is that of d^2 / 2.

    The gradient of d itself is that of logprobs alone, and zero on average over samples of the
    policy: a loss with it would not pull the policy to the reference at all. So the value is d and
    the gradient is K2's, whose average is that of the KL.
    """

    def __call__(self, logprobs, ref_logprobs):
        d = logprobs - ref_logprobs
        half_square = 0.5 * d * d
        # In value d; the second term alone has a gradient.
        return jax.lax.stop_gradient(d - half_square) + half_square


@dataclasses.dataclass(frozen=True)
class K2:
    """d^2 / 2, d = logprobs - ref_logprobs: low variance; its gradient is that of the KL."""

    def __call__(self, logprobs, ref_logprobs):
        d = logprobs - ref_logprobs
        return 0.5 * d * d


@dataclasses.dataclass(frozen=True)
class K3:
    """exp(-d) - 1 + d, d = logprobs - ref_logprobs: unbiased and never negative."""

    def __call__(self, logprobs, ref_logprobs):
        d = logprobs - ref_logprobs
        return jnp.exp(-d) - 1 + d
