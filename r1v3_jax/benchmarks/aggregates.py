"""From answers to a benchmark's score: a mean, or what the benchmark's authors count instead.

An aggregate returns `Units`: what is drawn when an exam is set, of which each has a share in the
score. With one answer a question the unit is the question; where a picture is asked about five
times, it is the picture. Its interval is over units, because answers of one unit are alike.
"""

import collections
import dataclasses
import itertools
import math

import numpy as np

from r1v3_jax.benchmarks.question import Question

Z = 1.96  # of a 95% interval


@dataclasses.dataclass(frozen=True)
class Units:
    """What each unit adds to the K ratios of which the score is the mean.

    score = mean over k of sum_u got[u, k] / sum_u of[u, k]
    """

    got: np.ndarray  # float64[U, K], mean of the runs
    of: np.ndarray  # float64[U, K]

    def ratios(self) -> np.ndarray:
        """float64[K]; nan without units."""
        if not len(self.got):
            return np.full(self.got.shape[1:] or (1,), math.nan)
        return self.got.sum(axis=0) / self.of.sum(axis=0)

    def score(self) -> float:
        """The mean of the ratios, 0 to 1."""
        return float(self.ratios().mean())

    def residuals(self) -> np.ndarray:
        """float64[U], whose mean's deviation is that of the score, to first order.

        Of a plain mean it is value - mean. Cochran, Sampling Techniques, 1977, section 6.4.
        """
        per_unit = (self.got - self.ratios() * self.of) / self.of.mean(axis=0)
        return per_unit.mean(axis=1)


def by_question(questions: list[Question], right: np.ndarray) -> Units:
    """Each question counts alike. right: float[Q, R], 1 for a right answer in a run."""
    got = right.mean(axis=1)[:, None]
    return Units(got, np.ones_like(got))


def circular(questions: list[Question], right: np.ndarray) -> Units:
    """MMBench: a question is right if it is in every rotation of its options.

    The rotations of question 7 are rows 7, 1000007, 2000007, or have g_index 7.
    """
    groups = collections.defaultdict(list)
    for row, question in enumerate(questions):
        groups[_group_index(question)].append(row)
    got = np.array([right[rows].min(axis=0).mean() for rows in groups.values()])
    got = got.reshape(-1, 1)
    return Units(got, np.ones_like(got))


def _group_index(question: Question) -> str:
    if "g_index" in question.fields:
        return question.fields["g_index"].removesuffix(".0")
    try:
        return str(int(float(question.index)) % 1_000_000)
    except ValueError:
        raise ValueError(
            f"index {question.index!r}: rotations need whole numbers, as 7 and 1000007, or a "
            "column g_index"
        ) from None


def hallusion(questions: list[Question], right: np.ndarray) -> Units:
    """HallusionBench: the mean of the shares of right answers, figures and questions.

    A figure is right if all questions about it are, a question if it is for all figures. The index
    ends in _SET_FIGURE_QUESTION; the unit is the set.
    """
    sets = collections.defaultdict(list)
    for row, question in enumerate(questions):
        parts = question.index.split("_")
        if len(parts) < 6:
            raise ValueError(
                f"index {question.index!r}: wanted HallusionBench's, whose parts 4 to 6 between _ "
                "are set, figure and question"
            )
        place = (question.fields.get("l2-category", ""), parts[3])
        sets[place].append((row, parts[4], parts[5]))
    got = []
    of = []
    for members in sets.values():
        rows = [row for row, _, _ in members]
        figures = _all_right(right, members, 1)
        asked = _all_right(right, members, 2)
        got.append([right[rows].mean(axis=1).sum(), sum(figures), sum(asked)])
        of.append([len(rows), len(figures), len(asked)])
    return Units(np.array(got, np.float64), np.array(of, np.float64))


def _all_right(right: np.ndarray, members: list[tuple], part: int) -> list[float]:
    """Returns how often all rows that agree in one part are right, for each of its values."""
    ordered = sorted(members, key=lambda member: member[part])
    return [
        float(right[[row for row, *_ in same]].min(axis=0).mean())
        for _, same in itertools.groupby(ordered, key=lambda member: member[part])
    ]


def wemath_strict(questions: list[Question], right: np.ndarray) -> Units:
    """WeMath: problems, each with its single steps; a right one counts if its steps are right.

    Value of a problem: 1 if it and all steps are right, 1/2 if only the steps are (inadequate
    generalisation), else 0 (rote memorisation, or insufficient knowledge).
    """
    problems = collections.defaultdict(dict)
    for row, question in enumerate(questions):
        steps, _, place = question.fields.get("key", "").partition("steps_")
        if steps and place:
            problems[(steps, question.fields.get("ID", ""))][place] = row
    values = []
    for (_, name), rows in problems.items():
        if "multi" not in rows or len(rows) < 2:
            raise ValueError(
                f"ID {name!r}: wanted a row with the key 2steps_multi and its steps 2steps_1, ..."
            )
        whole = right[rows["multi"]]
        steps = np.min(
            [right[row] for place, row in rows.items() if place != "multi"], axis=0
        )
        values.append(float((steps * (0.5 + 0.5 * whole)).mean()))
    got = np.array(values, np.float64).reshape(-1, 1)
    return Units(got, np.ones_like(got))
