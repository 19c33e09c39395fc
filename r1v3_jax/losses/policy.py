"""Policy losses: what an update makes smaller, a token at a time.

Every loss is a sum over tokens of weight times term. The weights carry the aggregation (see
`advantages.TokenMean` and its siblings) and count over the whole step, so the losses of
micro-batches add up to that of the full batch.

A loss that a config may choose is a frozen dataclass: its fields are its strengths, and its
docstring is its equation. To add one, write a class with the same `__call__`. In the equations r is
exp(logprobs - old_logprobs) of a token, A the advantage of its sample, w its weight, and sg(x) is x
without a gradient. Strengths that are a `schedules.Number` may move with the run.

The metrics are sums over tokens, by weight; `train.policy_gradient` divides them by all weight.
"""

import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from r1v3_jax.losses.schedules import Number
from r1v3_jax.losses.segments import segment_mean
from r1v3_jax.losses.supervised import weighted_sum

# exp of more is infinite in float32, and the gradient nan. Two policies that far apart at a token
# have nothing in common there.
MAX_LOG_RATIO = 20.0


class PolicyLoss(Protocol):
    """A loss of a micro-batch: float32[B, T] each -> (loss, metrics).

    segment_ids: int32[B, T], which tokens are one sample; see `types.SampleRows`. A loss with
    `READS_REFERENCE = True` is given the log-probabilities of the reference as its advantages.
    """

    def __call__(
        self,
        logprobs: jax.Array,
        old_logprobs: jax.Array,
        advantages: jax.Array,
        weights: jax.Array,
        segment_ids: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...


def log_ratio(
    logprobs: jax.Array, old_logprobs: jax.Array, weights: jax.Array
) -> jax.Array:
    """Returns log r, at most MAX_LOG_RATIO in size; 0 where a token has no weight.

    Padding may hold anything: nan there must not reach a sum.
    """
    difference = jnp.where(weights != 0, logprobs - old_logprobs, 0.0)
    return jnp.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def clipped_terms(
    ratio: jax.Array, advantages: jax.Array, low: Number, high: Number, weights
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns -min(ratio A, clip(ratio, 1 - low, 1 + high) A), and how much the bounds cut off."""
    floor = 1 - low
    ceiling = 1 + high
    bounded = jnp.clip(ratio, floor, ceiling)
    terms = -jnp.minimum(ratio * advantages, bounded * advantages)
    # Where a bound cuts: too small a ratio of a bad token, too large a ratio of a good one.
    cut_low = (ratio < floor) & (advantages < 0)
    cut_high = (ratio > ceiling) & (advantages > 0)
    metrics = {
        "clip_ratio/low": weighted_sum(cut_low, weights),
        "clip_ratio/high": weighted_sum(cut_high, weights),
    }
    return terms, metrics


def check_bounds(loss) -> None:
    """Raises ValueError unless the bounds `low` and `high` of a loss can be bounds of a ratio."""
    kind = type(loss).__name__
    check_number(f"{kind}.low", loss.low, 0, 1, "between 0 and 1")
    check_number(f"{kind}.high", loss.high, 0, float("inf"), "at least 0")


def check_number(name: str, number, low: float, high: float, wanted: str) -> None:
    """Raises ValueError unless a number is in [low, high] at every hundredth of a run."""
    if isinstance(number, jax.Array):  # its value at a step, in a compiled update
        return
    for hundredth in range(101 if callable(number) else 1):
        at = number(hundredth / 100) if callable(number) else number
        try:
            is_within = low <= at <= high
        except TypeError:  # a text, or what else has no order
            is_within = False
        if not is_within:
            where = f" at {hundredth}% of the run" if callable(number) else ""
            raise ValueError(f"{name} is {at!r}{where}; it must be {wanted}")


# -------------------------------------------------------------------------------------------------
# token by token


@dataclasses.dataclass(frozen=True)
class Clipped:
    """sum_t w_t * -min(r A, clip(r, 1 - low, 1 + high) A).

    Skywork-R1V3 report, equation 7; with two bounds, DAPO (arXiv 2503.14476). With `dual`, a token
    of a bad sample loses at most `dual` times its advantage, however large r is: -max(that, dual A)
    where A < 0 (arXiv 1912.09729; 10 in MiroMind-M1).
    """

    low: Number = 0.2
    high: Number = 0.2
    dual: float = 0.0  # 0: no such bound

    def __post_init__(self):
        check_bounds(self)
        # No schedule: with a bound that is 0 now and then an update would be two programs.
        if callable(self.dual) or (self.dual and not self.dual > 1):
            raise ValueError(
                f"Clipped.dual is {self.dual!r}; it must be above 1, as 3.0, or 0 for no bound"
            )

    def __call__(self, logprobs, old_logprobs, advantages, weights, segment_ids):
        ratio = jnp.exp(log_ratio(logprobs, old_logprobs, weights))
        terms, metrics = clipped_terms(ratio, advantages, self.low, self.high, weights)
        if self.dual:
            most = -self.dual * advantages
            cut = (advantages < 0) & (terms > most)
            terms = jnp.where(cut, most, terms)
            metrics["clip_ratio/dual"] = weighted_sum(cut, weights)
        return weighted_sum(terms, weights), metrics


@dataclasses.dataclass(frozen=True)
class Cispo:
    """sum_t w_t * -sg(clip(r, 1 - low, 1 + high)) A log p: no token loses its gradient.

    MiniMax-M1 (arXiv 2506.13585). The defaults bound r by 5 from above alone, as ScaleRL does
    (arXiv 2510.13786).
    """

    low: Number = 1.0
    high: Number = 4.0

    def __post_init__(self):
        check_bounds(self)

    def __call__(self, logprobs, old_logprobs, advantages, weights, segment_ids):
        ratio = jnp.exp(log_ratio(logprobs, old_logprobs, weights))
        bounded = jnp.clip(ratio, 1 - self.low, 1 + self.high)
        terms = -jax.lax.stop_gradient(bounded) * advantages * logprobs
        metrics = {
            "clip_ratio/low": weighted_sum(ratio < 1 - self.low, weights),
            "clip_ratio/high": weighted_sum(ratio > 1 + self.high, weights),
        }
        return weighted_sum(terms, weights), metrics


@dataclasses.dataclass(frozen=True)
class Sapo:
    """sum_t w_t * -(4 / tau) sigmoid(tau (r - 1)) A: a soft gate in place of a clip.

    SAPO (arXiv 2511.20347). tau is `positive` where A > 0, else `negative`; larger closes faster.
    """

    positive: float = 1.0
    negative: float = 1.05

    def __post_init__(self):
        for name in ("positive", "negative"):
            tau = getattr(self, name)
            if callable(tau) or not tau > 0:
                raise ValueError(f"Sapo.{name} is {tau!r}; it must be positive, as 1.0")

    def __call__(self, logprobs, old_logprobs, advantages, weights, segment_ids):
        ratio = jnp.exp(log_ratio(logprobs, old_logprobs, weights))
        tau = jnp.where(advantages > 0, self.positive, self.negative)
        gate = 4 / tau * jax.nn.sigmoid(tau * (ratio - 1))
        return weighted_sum(-gate * advantages, weights), {}


@dataclasses.dataclass(frozen=True)
class Distilled:
    """sum_t w_t * -r sg(log p_reference - log p): on-policy distillation.

    Each token of the policy's own samples has as its advantage by how much the teacher likes it
    more than the policy; the gradient is that of the reverse KL divergence at the token, on average
    over samples (arXiv 2306.13649). Rewards are measured and push nothing.
    """

    READS_REFERENCE: ClassVar[bool] = True

    def __call__(self, logprobs, old_logprobs, advantages, weights, segment_ids):
        ratio = jnp.exp(log_ratio(logprobs, old_logprobs, weights))
        gap = log_ratio(advantages, jax.lax.stop_gradient(logprobs), weights)
        metrics = {"teacher_kl": weighted_sum(-gap, weights)}
        return weighted_sum(-ratio * gap, weights), metrics


def reads_reference(loss) -> bool:
    """Returns whether a loss is given the reference's log-probabilities as its advantages."""
    return getattr(loss, "READS_REFERENCE", False)


# -------------------------------------------------------------------------------------------------
# by the ratio of a whole sample


@dataclasses.dataclass(frozen=True)
class Gspo:
    """sum_t w_t * -min(s A, clip(s, 1 - low, 1 + high) A), s = exp(mean over the sample of log r).

    GSPO (arXiv 2507.18071): one ratio a sample, with bounds of some ten-thousandths. It wants
    several updates a rollout (with one, s is 1), and `SequenceMean`.
    """

    low: Number = 3e-4
    high: Number = 4e-4

    def __post_init__(self):
        check_bounds(self)

    def __call__(self, logprobs, old_logprobs, advantages, weights, segment_ids):
        log_ratios = log_ratio(logprobs, old_logprobs, weights)
        ratio = jnp.exp(segment_mean(log_ratios, weights != 0, segment_ids))
        terms, metrics = clipped_terms(ratio, advantages, self.low, self.high, weights)
        return weighted_sum(terms, weights), metrics


@dataclasses.dataclass(frozen=True)
class Gmpo:
    """sum_t w_t * -A exp(mean over the sample of q), q = log r, clipped at the side A pushes to.

    q = min(log r, bound) where A > 0, else max(log r, -bound): the geometric mean of ratios that
    are clipped before it (arXiv 2507.20673). It wants `SequenceMean`.
    """

    bound: Number = 0.4  # of log r

    def __post_init__(self):
        check_number("Gmpo.bound", self.bound, 0, float("inf"), "at least 0")

    def __call__(self, logprobs, old_logprobs, advantages, weights, segment_ids):
        log_ratios = log_ratio(logprobs, old_logprobs, weights)
        is_good = advantages > 0
        from_above = jnp.minimum(log_ratios, self.bound)
        from_below = jnp.maximum(log_ratios, -self.bound)
        bounded = jnp.where(is_good, from_above, from_below)
        ratio = jnp.exp(segment_mean(bounded, weights != 0, segment_ids))
        metrics = {
            "clip_ratio/low": weighted_sum(
                ~is_good & (log_ratios < -self.bound), weights
            ),
            "clip_ratio/high": weighted_sum(
                is_good & (log_ratios > self.bound), weights
            ),
        }
        return weighted_sum(-ratio * advantages, weights), metrics
