"""Reads the verdicts that a stage left of its held-out questions, and compares two in pairs.

Shares: {question: share of right answers, nan where no answer was verified}.
"""

import math
from pathlib import Path

import numpy as np

from r1v3_jax.evaluate.statistics import clustered_interval, wilson
from r1v3_jax.files import read_jsonl

# Behind the name of a set: what answers are worth, not which are right.
CREDIT = ", credit"


def read_shares(path: Path) -> dict[str, dict[str, float]]:
    """Returns {set: shares} of a verdicts.jsonl.

    The set "NAME, credit" has what the answers are worth on average, partial credit included.
    """
    sets: dict[str, dict[str, float]] = {}
    for row in read_jsonl(path):
        sets.setdefault(row["set"], {})[row["id"]] = known_mean(row["right"])
        # Verdicts that were written before credit was have none.
        credit = known_mean(row.get("credit", row["right"]))
        sets.setdefault(f"{row['set']}{CREDIT}", {})[row["id"]] = credit
    return sets


def known_mean(numbers: list) -> float:
    """Returns the mean of the numbers that are not None; nan if all are."""
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known else math.nan


def known_shares(shares: dict[str, float]) -> np.ndarray:
    """Returns the shares of the questions that were verified, float64[Q]."""
    values = np.asarray(list(shares.values()), np.float64)
    return values[~np.isnan(values)]


def share_interval(shares: np.ndarray) -> tuple[float, float, float]:
    """Returns (mean, low, high) of one run: Wilson's interval, or the bootstrap's of shares."""
    if np.isin(shares, (0.0, 1.0)).all():
        return wilson(int(shares.sum()), len(shares))
    return clustered_interval([shares])


def paired(shares: dict[str, float], others: dict[str, float]) -> np.ndarray:
    """Returns share minus other share of each question that both runs had verified."""
    numbers = np.asarray(
        [share - others[question] for question, share in shares.items()]
    )
    return numbers[~np.isnan(numbers)]
