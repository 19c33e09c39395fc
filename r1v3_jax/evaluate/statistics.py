"""Wilson interval, rank correlation."""

import math

import numpy as np


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """(mean, low, high): a proportion and its 95% interval, by Wilson's score.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = successes / n. Stays
    within 0 and 1 and is not empty at either end. n = 0 says nothing: (nan, 0, 1).
    """
    successes, n = int(successes), int(n)
    if not 0 <= successes <= n:
        raise ValueError(
            f"{successes} successes in {n} trials; wanted 0 <= successes <= trials"
        )
    if n == 0:
        return math.nan, 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return p, low, high


def rank_correlation(x, y) -> float:
    """Spearman's: Pearson's correlation of the ranks, equal values sharing their mean rank.

    nan where it is undefined: fewer than two pairs, a constant side, a nan among the values.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(
            f"two rows of equal length are wanted, got shapes {x.shape} and {y.shape}"
        )
    if len(x) < 2 or np.isnan(x).any() or np.isnan(y).any():
        return math.nan
    a, b = (ranks - ranks.mean() for ranks in (_ranks(x), _ranks(y)))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    """[30, 10, 20, 20] -> [4, 1, 2.5, 2.5]"""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
