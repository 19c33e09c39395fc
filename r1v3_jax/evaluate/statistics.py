"""Intervals of shares and of means, and Spearman's rank correlation. Knows numbers alone."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats  # jax needs scipy too


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """Returns (mean, low, high): a proportion and its 95% interval, by Wilson's score.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = successes / n. Stays
    within 0 and 1 and is not empty at either end. Without trials nothing is known: (nan, 0, 1).
    """
    successes = int(successes)
    n = int(n)
    if not 0 <= successes <= n:
        raise ValueError(
            f"{successes} successes in {n} trials; wanted 0 <= successes <= trials"
        )
    if n == 0:
        return math.nan, 0.0, 1.0
    p = successes / n
    square = z * z
    scale = 1 + square / n
    shifted = p + square / (2 * n)
    centre = shifted / scale
    variance = p * (1 - p) / n
    variance += square / (4 * n * n)
    half = z * math.sqrt(variance) / scale
    low = centre - half
    high = centre + half
    # Exactly 0 and 1 at the ends, where the formula is off by a rounding error.
    if successes == 0:
        low = 0.0
    if successes == n:
        high = 1.0
    return p, low, high


def mean_interval(shares, z: float = 1.96) -> tuple[float, float, float]:
    """Returns (mean, low, high): a mean of shares from 0 to 1, and its 95% interval.

    mean -+ z s / sqrt(n), s the unbiased deviation, within 0 and 1. One share a question, so that
    answers to the same question, which are alike, are not taken for independent ones. Shares that
    are all equal have no deviation, and their mean is still not known exactly: the interval is then
    Wilson's, of as many trials as there are shares.
    """
    shares = np.asarray(shares, np.float64)
    n = len(shares)
    if n == 0:
        return math.nan, 0.0, 1.0
    mean = float(shares.mean())
    if np.ptp(shares) == 0:
        _, low, high = wilson(round(mean * n), n)
        return mean, min(low, mean), max(high, mean)
    half = z * float(shares.std(ddof=1)) / math.sqrt(n)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def share_interval(shares) -> tuple[float, float, float]:
    """Returns (mean, low, high) of shares by question: Wilson's interval where each is 0 or 1."""
    shares = np.asarray(shares, np.float64)
    if np.isin(shares, (0.0, 1.0)).all():
        return wilson(int(shares.sum()), len(shares))
    return mean_interval(shares)


def clustered_interval(
    clusters: Sequence[np.ndarray], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Returns (mean, low, high): the mean over clusters, and its 95% interval by the bootstrap.

    clusters: float[Q] of each seed, a number a question; the clusters count alike. Clusters are
    drawn with replacement, then the questions of each that was drawn (Davison and Hinkley,
    Bootstrap Methods, 1997, section 3.8). The interval lies between the percentiles 2.5 and 97.5.

    With one cluster it is the bootstrap over its questions. With three it is a little too wide
    where clusters differ by chance alone, and too narrow where they truly differ by more than their
    questions explain: then `t_interval` of the clusters' means is the one to trust.
    """
    clusters = [np.asarray(numbers, np.float64) for numbers in clusters]
    if not clusters or any(len(numbers) == 0 for numbers in clusters):
        sizes = [len(numbers) for numbers in clusters]
        raise ValueError(f"clusters of {sizes} numbers; wanted one or more in each")
    rng = np.random.default_rng(seed)
    count = len(clusters)

    # 1. Means of resampled questions, [cluster, place, resample]: new ones for each place that a
    # cluster may be drawn for. Only how often each value is drawn matters: 1,000 differences of -1,
    # 0 and 1 are three counts.
    means = np.empty((count, count, resamples))
    for i, numbers in enumerate(clusters):
        values, counts = np.unique(numbers, return_counts=True)
        size = len(numbers)
        drawn = rng.multinomial(size, counts / size, (count, resamples))
        means[i] = drawn @ values / size

    # 2. Which cluster is drawn for each place.
    chosen = rng.integers(count, size=(count, resamples))
    places = np.arange(count)[:, None]
    resampled = means[chosen, places, np.arange(resamples)].mean(axis=0)
    low, high = np.percentile(resampled, (2.5, 97.5))
    mean = float(np.mean([numbers.mean() for numbers in clusters]))
    return mean, float(low), float(high)


def t_interval(values) -> tuple[float, float, float]:
    """Returns (mean, low, high): a mean of few numbers, and its 95% interval by Student's t.

    mean -+ t(0.975, n - 1) s / sqrt(n), s the unbiased deviation. One number alone tells nothing of
    its spread: (value, nan, nan).
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("no numbers; wanted one or more")
    mean = float(values.mean())
    if n == 1:
        return mean, math.nan, math.nan
    quantile = float(stats.t.ppf(0.975, n - 1))
    half = quantile * float(values.std(ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


def rank_correlation(x, y) -> float:
    """Returns Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank.

    nan if it is undefined: fewer than two pairs, a constant side, a nan among the values.
    """
    x = np.asarray(x, np.float64)
    y = np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(
            f"two rows of equal length are wanted, got shapes {x.shape} and {y.shape}"
        )
    if len(x) < 2:
        return math.nan
    if np.isnan(x).any() or np.isnan(y).any():
        return math.nan
    a = _centred_ranks(x)
    b = _centred_ranks(y)
    variance_of_x = float(a @ a)
    variance_of_y = float(b @ b)
    scale = math.sqrt(variance_of_x * variance_of_y)
    # A side without variance is correlated with nothing.
    if scale == 0:
        return math.nan
    covariance = float(a @ b)
    return covariance / scale


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Returns the ranks minus their mean: [30, 10, 20, 20] -> [4, 1, 2.5, 2.5] - 2.5."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # counts [1 2 1] of 10, 20, 30: the last ranks are [1 3 4], the mean ranks [1 2.5 4].
    last_ranks = np.cumsum(counts)
    mean_ranks = last_ranks - (counts - 1) / 2
    ranks = mean_ranks[inverse]
    return ranks - ranks.mean()
