"""Wilson's interval and Spearman's rank correlation. Knows numbers alone."""

import math

import numpy as np


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
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # Exactly 0 and 1 at the ends, where the formula is off by a rounding error.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return p, low, high


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
    if len(x) < 2 or np.isnan(x).any() or np.isnan(y).any():
        return math.nan
    a = _centred_ranks(x)
    b = _centred_ranks(y)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Returns the ranks minus their mean: [30, 10, 20, 20] -> [4, 1, 2.5, 2.5] - 2.5."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # counts [1 2 1] of 10, 20, 30: the last ranks are [1 3 4], the mean ranks [1 2.5 4].
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks = mean_ranks[inverse]
    return ranks - ranks.mean()
