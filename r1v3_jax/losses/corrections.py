"""How much a token counts because another program drew it than the one that learns.

The sampler's forward pass is not the trainer's: other kernels, 8 bits, weights one update old. In
the equations rho is exp(old_logprobs - sampler_logprobs) of a token: how much likelier the trainer
finds it. A correction has no gradient.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from r1v3_jax.losses.policy import log_ratio
from r1v3_jax.losses.segments import segment_sum


class Correction(Protocol):
    """The factor of each token's weight: float32[B, T] each -> float32[B, T].

    weights: a token without weight is in no product over its sample.
    """

    def __call__(
        self,
        old_logprobs: jax.Array,
        sampler_logprobs: jax.Array,
        weights: jax.Array,
        segment_ids: jax.Array,
    ) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class Truncated:
    """min(rho, cap): truncated importance sampling. cap 0: no correction."""

    cap: float = 0.0

    def __post_init__(self):
        if self.cap:
            _check_cap("Truncated", self.cap)

    def __call__(self, old_logprobs, sampler_logprobs, weights, segment_ids):
        ratio = jnp.exp(log_ratio(old_logprobs, sampler_logprobs, weights))
        return jax.lax.stop_gradient(jnp.minimum(ratio, self.cap))


@dataclasses.dataclass(frozen=True)
class Masked:
    """rho where it lies in [low, high], else 0: what the two see too differently does not count.

    IcePop's form, with the bounds that verl and TRL document.
    """

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self):
        if not 0 <= self.low < 1 < self.high:
            raise ValueError(
                f"Masked({self.low!r}, {self.high!r}): wanted 0 <= low < 1 < high, as (0.5, 2.0)"
            )

    def __call__(self, old_logprobs, sampler_logprobs, weights, segment_ids):
        ratio = jnp.exp(log_ratio(old_logprobs, sampler_logprobs, weights))
        is_near = (self.low <= ratio) & (ratio <= self.high)
        return jax.lax.stop_gradient(jnp.where(is_near, ratio, 0.0))


@dataclasses.dataclass(frozen=True)
class WholeSequence:
    """min(product of rho over the sample, cap), the same for all its tokens.

    Unbiased but for the cap, and far from 1 in long samples.
    """

    cap: float = 3.0

    def __post_init__(self):
        _check_cap("WholeSequence", self.cap)

    def __call__(self, old_logprobs, sampler_logprobs, weights, segment_ids):
        log_ratios = log_ratio(old_logprobs, sampler_logprobs, weights)
        log_product = segment_sum(log_ratios, segment_ids)
        # exp of what lies far above the cap would be infinite.
        bounded = jnp.minimum(log_product, jnp.log(self.cap))
        return jax.lax.stop_gradient(jnp.exp(bounded))


def is_cut(correction: Correction, factors: jax.Array, ratios: jax.Array) -> jax.Array:
    """Tells which tokens a correction bounds or masks, bool[B, T].

    factors: what it returned; ratios: rho. One that keeps rho as it is cuts nothing.
    """
    if isinstance(correction, WholeSequence):
        # exp(log(3.5)) is a little less than 3.5 in float32.
        return factors >= correction.cap * (1 - 1e-5)
    return factors != ratios


NOTHING = Truncated(0.0)  # the correction that changes no weight and is not computed


def _check_cap(kind: str, cap: float) -> None:
    if callable(cap) or not cap >= 1:
        raise ValueError(f"{kind}.cap is {cap!r}; it must be at least 1, as 2.0")
