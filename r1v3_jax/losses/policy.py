"""Policy losses, estimates of the KL divergence, and the sampler's importance weights.

Every loss is a sum over tokens of weight times term. The weights carry the aggregation (see
`advantages.TokenMean` and its siblings) and count over the whole step, so the losses of
micro-batches add up to that of the full batch.

A loss that a config may choose is a frozen dataclass: its fields are its strengths, and its
docstring is its equation. To add one, write a class with the same `__call__`. A loss that needs
more than these four arrays, as the ratio of a whole sample in GSPO, also needs `rows.segment_ids`:
add it to `PolicyLoss`, to every loss, and to the call in `train/policy_gradient.py`.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from r1v3_jax.losses.supervised import weighted_sum


class PolicyLoss(Protocol):
    """A loss of a micro-batch: float32[B, T] each -> (loss, metrics)."""

    def __call__(
        self,
        logprobs: jax.Array,
        old_logprobs: jax.Array,
        advantages: jax.Array,
        weights: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...


@dataclasses.dataclass(frozen=True)
class Clipped:
    """sum_t w_t * -min(r A, clip(r, 1 - low, 1 + high) A), r = exp(logprobs - old_logprobs).

    Skywork-R1V3 report, equation 7; with two bounds, DAPO (arXiv 2503.14476). The metrics are the
    shares of tokens, by weight, whose gradient the lower and the upper bound cut off.
    """

    low: float = 0.2
    high: float = 0.2

    def __post_init__(self):
        if not 0 <= self.low <= 1:
            raise ValueError(f"Clipped.low is {self.low!r}; it must be between 0 and 1")
        if not self.high >= 0:
            raise ValueError(f"Clipped.high is {self.high!r}; it must be at least 0")

    def __call__(self, logprobs, old_logprobs, advantages, weights):
        floor = 1 - self.low
        ceiling = 1 + self.high
        # Padding may hold anything: the ratio of a token without weight is 1.
        ratio = jnp.exp(jnp.where(weights != 0, logprobs - old_logprobs, 0.0))
        clipped = jnp.clip(ratio, floor, ceiling)
        loss = weighted_sum(
            -jnp.minimum(ratio * advantages, clipped * advantages), weights
        )
        # Where a bound cuts: too small a ratio of a bad token, too large a ratio of a good one.
        total = jnp.maximum(jnp.sum(weights), 1e-9)
        cut_low = weighted_sum((ratio < floor) & (advantages < 0), weights) / total
        cut_high = weighted_sum((ratio > ceiling) & (advantages > 0), weights) / total
        return loss, {"clip_ratio/low": cut_low, "clip_ratio/high": cut_high}


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


def importance_weights(
    old_logprobs: jax.Array, sampler_logprobs: jax.Array, cap: float
) -> jax.Array:
    """Returns min(exp(old - sampler), cap), without gradient: truncated importance sampling.

    A token counts for so much because the sampler's forward pass drew it, not the trainer's.
    float32[B, T] each.
    """
    ratio = jnp.exp(old_logprobs - sampler_logprobs)
    return jax.lax.stop_gradient(jnp.minimum(ratio, cap))
