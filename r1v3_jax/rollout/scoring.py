"""Every process scores its share."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1v3_jax.rewards.score import Score, scored
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict


def my_share(count: int) -> slice:
    """Which of `count` samples this process scores: equal blocks, the last one shorter."""
    size = -(-count // jax.process_count())
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def gather_scores(mine: list[Score], weights: list[float]) -> list[Score]:
    """The scores of all samples in order, from each process's share. Of the others' a process
    learns verdict, accuracy and format, not what was extracted and why. weights: of accuracy, of
    each.
    """
    if jax.process_count() == 1:
        return mine
    verdicts, count = list(Verdict), len(weights)
    table = np.zeros(
        (-(-count // jax.process_count()), 3), np.float32
    )  # equal on all processes
    for row, score in zip(table, mine, strict=False):
        row[:] = verdicts.index(score.verdict), score.accuracy or 0.0, score.format
    table = multihost_utils.process_allgather(table, tiled=True)[:count]
    out = []
    for (verdict, accuracy, form), weight in zip(table, weights, strict=True):
        # As `detection.overlap` rounds: float32 holds six digits.
        check = Check(verdicts[int(verdict)], None, "", round(float(accuracy), 6))
        out.append(scored(check, float(form), weight))
    return out
