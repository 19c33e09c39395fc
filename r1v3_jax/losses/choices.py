"""How often each sample of a step counts, and which of its tokens push. On the host, in numpy.

What a config may choose is a frozen dataclass; to add one, write a class with the same `__call__`.
"""

import dataclasses
from typing import Protocol

import numpy as np


class SampleWeight(Protocol):
    """How often each sample counts: float[P, G], at least 0.

    advantages: float32[P, G]. ended: bool[P, G], False where a sample was cut at the length limit.
    valid: bool[P, G], False where the verifier failed. random: the same on every host.
    """

    def __call__(
        self,
        advantages: np.ndarray,
        ended: np.ndarray,
        valid: np.ndarray,
        random: np.random.Generator,
    ) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class AllAlike:
    """Every sample counts once."""

    def __call__(self, advantages, ended, valid, random):
        return np.ones(advantages.shape)


@dataclasses.dataclass(frozen=True)
class WithoutCut:
    """A sample that was cut at the length limit counts nothing (DAPO's overlong filtering)."""

    def __call__(self, advantages, ended, valid, random):
        return ended.astype(float)


@dataclasses.dataclass(frozen=True)
class Prioritized:
    """Draws the step anew from its samples, those with a large advantage more often: PAD.

    ReVisual-R1 (arXiv 2506.04207), as its code does it. Of the samples with low < |A| < high,
    `ratio` times as many as the step has are drawn with replacement, with probabilities
    proportional to (|A| + 1e-8)^power; a sample counts as often as it was drawn. If no sample is
    within the bounds all count once.
    """

    power: float = 1.5
    low: float = 0.03
    high: float = 0.97
    ratio: float = 1.5

    def __post_init__(self):
        _check_bounds(self)
        if not self.ratio > 0:
            raise ValueError(
                f"Prioritized.ratio is {self.ratio!r}; it must be positive"
            )

    def __call__(self, advantages, ended, valid, random):
        size = np.abs(advantages.astype(float))
        likelihood = np.where(
            _within(self, size, valid), (size + 1e-8) ** self.power, 0
        )
        draws = int(valid.sum() * self.ratio)
        return _drawn(likelihood, draws, random)


@dataclasses.dataclass(frozen=True)
class SoftPrioritized:
    """PAD as its paper writes it: probabilities proportional to exp(|A| / temperature).

    ReVisual-R1 (arXiv 2506.04207), algorithm 1. min(share of the step, samples within the bounds)
    are drawn with replacement, of those with low <= |A| <= high.
    """

    temperature: float = 0.3
    low: float = 0.03
    high: float = 0.97
    share: float = 1.0

    def __post_init__(self):
        _check_bounds(self)
        for name in ("temperature", "share"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"SoftPrioritized.{name} is {getattr(self, name)!r}; it must be positive"
                )

    def __call__(self, advantages, ended, valid, random):
        size = np.abs(advantages.astype(float))
        is_within = _within(self, size, valid, inclusive=True)
        # Less the largest: the shares are the same, and exp cannot overflow.
        largest = size[is_within].max(initial=0.0)
        likelihood = np.where(is_within, np.exp((size - largest) / self.temperature), 0)
        draws = min(int(np.ceil(valid.sum() * self.share)), int(is_within.sum()))
        return _drawn(likelihood, draws, random)


def _within(weight, size: np.ndarray, valid: np.ndarray, inclusive=False) -> np.ndarray:
    """Returns which samples have an |A| within the bounds of a weight."""
    if inclusive:
        return valid & (weight.low <= size) & (size <= weight.high)
    return valid & (weight.low < size) & (size < weight.high)


def _drawn(
    likelihood: np.ndarray, draws: int, random: np.random.Generator
) -> np.ndarray:
    """Returns how often each sample is drawn; 1 each if none can be."""
    total = likelihood.sum()
    if total == 0 or draws == 0:
        return np.ones(likelihood.shape)
    shares = likelihood.ravel() / total
    return random.multinomial(draws, shares).reshape(likelihood.shape).astype(float)


def _check_bounds(weight) -> None:
    """Raises ValueError unless 0 <= low < high."""
    if not 0 <= weight.low < weight.high:
        raise ValueError(
            f"{type(weight).__name__}: low = {weight.low!r} and high = {weight.high!r}; wanted "
            "0 <= low < high, as 0.03 and 0.97"
        )


class TokenChoice(Protocol):
    """Which tokens the advantage pushes: float32[P, G, C] entropies, bool[P, G, C] learnt -> bool.

    learnt: the tokens that the model chose. The others stay in every count and in the KL term.
    """

    def __call__(self, entropies: np.ndarray, learnt: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class AllTokens:
    """Every token that the model chose."""

    def __call__(self, entropies, learnt):
        return learnt


@dataclasses.dataclass(frozen=True)
class HighEntropy:
    """The `share` of the step's tokens at which the policy was least sure (arXiv 2506.01939).

    The entropies are the sampler's, over all samples of the step.
    """

    share: float = 0.2

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(
                f"HighEntropy.share is {self.share!r}; it must lie in (0, 1], as 0.2"
            )

    def __call__(self, entropies, learnt):
        if not learnt.any():
            return learnt
        floor = np.quantile(entropies[learnt], 1 - self.share)
        return learnt & (entropies >= floor)
