"""The numbers of a benchmark: its score, the 95% interval, pass@k, categories, budgets.

Intervals are over questions (or what the benchmark counts), not over answers: five answers to one
question are alike. Answers that nobody could judge count as wrong for the lower end and as right
for the upper one.
"""

import math
from collections import Counter, defaultdict

import numpy as np

from r1v3_jax.benchmarks.aggregates import Units, Z
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.scoring import Score
from r1v3_jax.benchmarks.table import Benchmark
from r1v3_jax.evaluate.statistics import share_interval

# Columns that group questions, where a file has them.
CATEGORIES = "l2-category category task subject skill level question_type".split()
MAX_CATEGORIES = 60  # values of a column; one with more groups nothing


def interval(units: Units) -> tuple[float, float, float]:
    """Returns (score, low, high) with its 95% interval, 0 to 1.

    score -+ 1.96 s / sqrt(U), s the deviation of the residuals of the U units.
    """
    if units.got.shape[1] == 1 and np.all(units.of == 1):
        return share_interval(units.got[:, 0])
    score = units.score()
    half = half_width(units.residuals())
    return score, max(0.0, score - half), min(1.0, score + half)


def half_width(residuals: np.ndarray) -> float:
    """Returns half the 95% interval of a mean with these residuals; inf for fewer than two."""
    count = len(residuals)
    if count < 2:
        return math.inf
    return Z * float(residuals.std(ddof=1)) / math.sqrt(count)


def bounds(scores: list[list[Score]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns float[Q, R] twice: 1 for right answers, those not known as wrong, and as right."""
    rows = [[score.right for score in of_question] for of_question in scores]
    least = np.array([[float(bool(x)) for x in row] for row in rows])
    most = np.array([[float(x is None or x) for x in row] for row in rows])
    return least, most


def accuracy(
    benchmark: Benchmark, questions: list[Question], scores: list[list[Score]]
) -> dict:
    """Returns {accuracy, lowest, highest, low, high} of all runs, 0 to 1.

    scores: [Q][R]. accuracy: None if some answers are not known; the score then lies between lowest
    and highest. low, high: its 95% interval, as wide as both.
    """
    least, most = bounds(scores)
    lowest, low, _ = interval(benchmark.aggregate(questions, least))
    highest, _, high = interval(benchmark.aggregate(questions, most))
    is_known = np.array_equal(least, most)
    return {
        "accuracy": lowest if is_known else None,
        "lowest": lowest,
        "highest": highest,
        "low": low,
        "high": high,
    }


def by_run(
    benchmark: Benchmark, questions: list[Question], scores: list[list[Score]]
) -> list[float]:
    """Returns the score of each run, what is not known counted as wrong."""
    least, _ = bounds(scores)
    runs = range(least.shape[1])
    return [benchmark.aggregate(questions, least[:, [run]]).score() for run in runs]


def pass_at(scores: list[list[Score]]) -> dict[str, float]:
    """Returns {"k": pass@k} for k = 1 ... R, the mean over questions of 1 - C(R - c, k) / C(R, k).

    c: right answers of the R. Unbiased (Chen and others, arXiv 2107.03374).
    """
    least, _ = bounds(scores)
    runs = least.shape[1]
    right = least.sum(axis=1).astype(int)
    return {
        str(k): float(
            np.mean([1 - math.comb(runs - c, k) / math.comb(runs, k) for c in right])
        )
        for k in range(1, runs + 1)
    }


def by_category(questions: list[Question], scores: list[list[Score]]) -> dict:
    """Returns {column: {value: {n, accuracy}}} of the columns that group questions."""
    least, _ = bounds(scores)
    shares = least.mean(axis=1)
    columns = {}
    for column in CATEGORIES:
        groups = defaultdict(list)
        for question, share in zip(questions, shares, strict=True):
            if column in question.fields:
                groups[question.fields[column]].append(float(share))
        if 0 < len(groups) <= MAX_CATEGORIES:
            columns[column] = {
                value: {"n": len(group), "accuracy": float(np.mean(group))}
                for value, group in sorted(groups.items())
            }
    return columns


def decided(scores: list[list[Score]]) -> dict[str, float]:
    """Returns the share of answers that each of rule, box, judge, ... has decided."""
    counts = Counter(score.by for of_question in scores for score in of_question)
    total = counts.total()
    return {who: count / total for who, count in sorted(counts.items())}


def difference(a: Units, b: Units) -> tuple[float, float]:
    """Returns score b - score a of the same units, and half its 95% interval."""
    return b.score() - a.score(), half_width(b.residuals() - a.residuals())


def compare(
    benchmark: Benchmark,
    questions: list[Question],
    first: list[list[Score]],
    second: list[list[Score]],
) -> dict[str, float]:
    """Returns {difference, low, high} of second - first on the same questions, paired.

    The interval is of the differences unit by unit, which is narrower than that of two intervals.
    What is not known counts for the one side at the lower end and for the other at the upper.
    """
    ends = []
    for first_end, second_end in ((1, 0), (0, 1)):
        a = benchmark.aggregate(questions, bounds(first)[first_end])
        b = benchmark.aggregate(questions, bounds(second)[second_end])
        ends.append(difference(a, b))
    (lowest, low_half), (highest, high_half) = ends
    return {
        "difference": (lowest + highest) / 2,
        "low": max(-1.0, lowest - low_half),
        "high": min(1.0, highest + high_half),
    }
