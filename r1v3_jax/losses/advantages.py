"""Rewards -> advantages, and the weight of each token in a loss. On the host, in numpy.

What a config may choose is a frozen dataclass with its equation; to add one, write a class with the
same `__call__`.
"""

import dataclasses
from typing import Protocol

import numpy as np


class Advantage(Protocol):
    """Advantages within groups: float32[P, G] rewards, bool[P, G] valid -> float32[P, G].

    Samples that are not valid (their verifier failed) get 0 and take no part in their group's
    mean. A group with equal rewards, or with a single valid sample, has no signal: all 0.
    """

    def __call__(self, rewards: np.ndarray, valid: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class GroupRelative:
    """(r - mean) / (std + eps) within each group; the standard deviation is the unbiased one.

    GRPO (arXiv 2402.03300); Skywork-R1V3 report, equation 6.
    """

    eps: float = 1e-6

    def __post_init__(self):
        if not self.eps > 0:
            raise ValueError(f"GroupRelative.eps is {self.eps!r}; it must be positive")

    def __call__(self, rewards, valid):
        centred, count = centre(rewards, valid)
        # Samples that are not valid are 0 in `centred`, and add nothing.
        squares = (centred**2).sum(axis=1, keepdims=True)
        variance = squares / np.maximum(count - 1, 1)
        scaled = centred / (np.sqrt(variance) + self.eps)
        # A single sample has nothing to be compared with.
        return np.where(count > 1, scaled, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class GroupCentred:
    """r - mean within each group, not divided by the deviation: Dr. GRPO (arXiv 2503.20783)."""

    def __call__(self, rewards, valid):
        centred, count = centre(rewards, valid)
        return np.where(count > 1, centred, 0.0).astype(np.float32)


def centre(rewards: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtracts each group's mean over its valid samples.

    Returns float64[P, G], 0 where not valid, and the number of valid samples, int[P, 1].

        rewards [1 0 nan 1]   valid [1 1 0 1]   ->   [1/3 -2/3 0 1/3], 3
    """
    # In float64: the float32 mean of equal rewards may differ from them by a rounding error, which
    # would then be divided by a deviation of its own size.
    rewards = np.where(valid, rewards, 0.0).astype(np.float64)
    count = valid.sum(axis=1, keepdims=True)
    mean = rewards.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    return np.where(valid, rewards - mean, 0.0), count


class Aggregation(Protocol):
    """The weight of each token, so that a weighted sum over a step is the wanted mean.

    mask: bool[N, T], the tokens that are learnt from; a row is a sample, and a row without a token
    counts nowhere. max_tokens: the longest completion allowed. Returns float32[N, T].
    """

    def __call__(self, mask: np.ndarray, max_tokens: int) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class TokenMean:
    """1 / tokens of the whole step: every token counts the same (DAPO, arXiv 2503.14476)."""

    def __call__(self, mask, max_tokens):
        mask = np.asarray(mask, bool)
        weight = 1 / max(int(mask.sum()), 1)
        return np.where(mask, weight, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class SequenceMean:
    """1 / tokens of the sample / samples: the mean over samples of their means.

    Skywork-R1V3 report, equation 7.
    """

    def __call__(self, mask, max_tokens):
        mask = np.asarray(mask, bool)
        tokens = mask.sum(axis=1, keepdims=True)
        weight = 1 / np.maximum(tokens, 1) / count_samples(mask)
        return np.where(mask, weight, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ConstantLength:
    """1 / max_tokens / samples: no length in the denominator (Dr. GRPO, arXiv 2503.20783)."""

    def __call__(self, mask, max_tokens):
        mask = np.asarray(mask, bool)
        weight = 1 / max_tokens / count_samples(mask)
        return np.where(mask, weight, 0.0).astype(np.float32)


def count_samples(mask: np.ndarray) -> int:
    """Counts the rows with at least one token, at least 1."""
    return max(int(mask.any(axis=1).sum()), 1)
