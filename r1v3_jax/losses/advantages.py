"""Rewards -> advantages, and the weight of each token in a loss. On the host, in numpy.

What a config may choose is a frozen dataclass with its equation; to add one, write a class with the
same `__call__`. In the equations r is a reward, mean and std are those of its group, n counts the
group's samples; samples whose verifier failed take no part in any of them.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Part:
    """What one term of the reward says of the samples of a step, float64[P, G] each."""

    said: np.ndarray  # before its weight; nan where it said nothing
    weights: np.ndarray  # 0 where it said nothing


class Advantage(Protocol):
    """Advantages of a step: float32[P, G] rewards, bool[P, G] valid, int[P, G] lengths in tokens.

    parts: of the rewards, term by term; a reward is the sum of weight times what the term says.
    Returns float32[P, G]. Samples that are not valid (their verifier failed) get 0. A group with
    equal rewards, or with a single valid sample, has no signal: all 0 (but see `Whitened`).
    """

    def __call__(
        self,
        rewards: np.ndarray,
        valid: np.ndarray,
        lengths: np.ndarray,
        parts: Sequence[Part] = (),
    ) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class GroupRelative:
    """(r - mean) / (std + eps) within each group; the standard deviation is the unbiased one.

    GRPO (arXiv 2402.03300); Skywork-R1V3 report, equation 6.
    """

    eps: float = 1e-6

    def __post_init__(self):
        if not self.eps > 0:
            raise ValueError(f"GroupRelative.eps is {self.eps!r}; it must be positive")

    def __call__(self, rewards, valid, lengths, parts=()):
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

    def __call__(self, rewards, valid, lengths, parts=()):
        centred, count = centre(rewards, valid)
        return np.where(count > 1, centred, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class BatchRelative:
    """(r - mean) / (std of all rewards of the step + eps): a hard group counts no more than others.

    Lite PPO (arXiv 2508.08221); `scale_rewards="batch"` of TRL. The deviation is the unbiased one.
    """

    eps: float = 1e-6

    def __post_init__(self):
        if not self.eps > 0:
            raise ValueError(f"BatchRelative.eps is {self.eps!r}; it must be positive")

    def __call__(self, rewards, valid, lengths, parts=()):
        centred, count = centre(rewards, valid)
        all_rewards = np.asarray(rewards, np.float64)[valid]
        deviation = all_rewards.std(ddof=1) if len(all_rewards) > 1 else 0.0
        scaled = centred / (deviation + self.eps)
        return np.where(count > 1, scaled, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """r - mean of the others in the group = (r - mean) n / (n - 1): RLOO (arXiv 2402.14740)."""

    def __call__(self, rewards, valid, lengths, parts=()):
        centred, count = centre(rewards, valid)
        factor = count / np.maximum(count - 1, 1)
        return np.where(count > 1, centred * factor, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Whitened:
    """(c - m) / sqrt(v + eps), c = r - mean; m and v are mean and variance of c over all tokens.

    REINFORCE++ with a baseline (arXiv 2501.03262), as verl computes it: each sample counts as often
    as it has tokens, the variance is the unbiased one. Long samples that are worse than their
    group's mean raise the advantage of all others, also of a group with equal rewards.
    """

    eps: float = 1e-8

    def __post_init__(self):
        if not self.eps > 0:
            raise ValueError(f"Whitened.eps is {self.eps!r}; it must be positive")

    def __call__(self, rewards, valid, lengths, parts=()):
        centred, count = centre(rewards, valid)
        tokens = np.where(valid & (count > 1), lengths, 0).astype(np.float64)
        total = tokens.sum()
        if total < 2:
            return np.zeros_like(centred, np.float32)
        mean = (centred * tokens).sum() / total
        variance = ((centred - mean) ** 2 * tokens).sum() / (total - 1)
        scaled = (centred - mean) / np.sqrt(variance + self.eps)
        return np.where(tokens > 0, scaled, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class GaussianRanks:
    """Phi^-1((k - 1/2) / n), k the rank of r in its group: rewards of any scale become normal.

    G2RPO of OpenVLThinkerV2 (arXiv 2604.08539). Equal rewards share the mean of their values, so
    that a group with equal rewards has no signal.

        rewards [.2 .9 .2 .5]   ranks [1 4 2 3]   values [-1.15 1.15 -.32 .32]
        advantages [-.73 1.15 -.73 .32]
    """

    def __call__(self, rewards, valid, lengths, parts=()):
        advantages = np.zeros(np.shape(rewards), np.float32)
        quantile = statistics.NormalDist().inv_cdf
        for group, mask, out in zip(rewards, valid, advantages, strict=True):
            known = group[mask]
            count = len(known)
            # The mean of all values is 0 only but for rounding.
            if len(set(known)) <= 1:
                continue
            values = np.array([quantile((k + 0.5) / count) for k in range(count)])
            ordered = np.sort(known)
            out[mask] = [values[ordered == reward].mean() for reward in known]
        return advantages


@dataclasses.dataclass(frozen=True)
class TermByTerm:
    """a / (std of a over the step + eps), a = sum over terms of weight * (t - mean) / (std + eps).

    GDPO (arXiv 2601.05242): what each term t says is normalised by itself within its group, so that
    samples with one sum but other parts are told apart, and no term drowns another. `eps` and the
    unbiased deviations are those of `GroupRelative`. The mean of a over the step is 0, and not
    subtracted. A term that is equal in a whole group adds nothing there.

        right [1 1 0 0] and short [0 1 1 0], weights .8 and .2   ->   sums [.8 1 .2 0]
        normalised [.87 .87 -.87 -.87], [-.87 .87 .87 -.87]      ->   a [.52 .87 -.52 -.87]
    """

    eps: float = 1e-6

    def __post_init__(self):
        if not self.eps > 0:
            raise ValueError(f"TermByTerm.eps is {self.eps!r}; it must be positive")

    def __call__(self, rewards, valid, lengths, parts=()):
        alone = GroupRelative(self.eps)
        total = np.zeros(np.shape(rewards))
        for part in parts:
            has_said = valid & ~np.isnan(part.said)
            weights = np.where(has_said, part.weights, 0.0)
            # In float32, as rewards are: the float64 mean of equal ones is then exact.
            said = part.said.astype(np.float32)
            total += weights * alone(said, has_said, lengths)
        known = total[valid]
        deviation = known.std(ddof=1) if len(known) > 1 else 0.0
        return (total / (deviation + self.eps)).astype(np.float32)


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
    counts nowhere. max_tokens: the longest completion allowed. times: float[N], how often each
    sample counts, in the sum and in the count that it is divided by. Returns float32[N, T].
    """

    def __call__(
        self, mask: np.ndarray, max_tokens: int, times: np.ndarray
    ) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class TokenMean:
    """1 / tokens of the whole step: every token counts the same (DAPO, arXiv 2503.14476)."""

    def __call__(self, mask, max_tokens, times):
        tokens = (mask.sum(axis=1) * times).sum()
        weight = times[:, None] / (tokens or 1)
        return np.where(mask, weight, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class SequenceMean:
    """1 / tokens of the sample / samples: the mean over samples of their means.

    Skywork-R1V3 report, equation 7.
    """

    def __call__(self, mask, max_tokens, times):
        tokens = mask.sum(axis=1, keepdims=True)
        weight = times[:, None] / np.maximum(tokens, 1) / count_samples(mask, times)
        return np.where(mask, weight, 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ConstantLength:
    """1 / max_tokens / samples: no length in the denominator (Dr. GRPO, arXiv 2503.20783)."""

    def __call__(self, mask, max_tokens, times):
        weight = times[:, None] / max_tokens / count_samples(mask, times)
        return np.where(mask, weight, 0.0).astype(np.float32)


def count_samples(mask: np.ndarray, times: np.ndarray) -> float:
    """Counts the rows with at least one token, each as often as it counts; 1 if there is none."""
    return times[mask.any(axis=1)].sum() or 1
