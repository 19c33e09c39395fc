"""Scoring shared by the processes of a run: each scores a block of the samples."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1v3_jax.rewards.score import Score, scored
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict


def own_block(count: int) -> range:
    """Returns which of `count` samples this process scores: equal blocks, the last one shorter.

    10 samples on 4 processes: 0-2, 3-5, 6-8, 9.
    """
    size = -(-count // jax.process_count())
    start = jax.process_index() * size
    return range(min(start, count), min(start + size, count))


def gather_scores(own_scores: list[Score], weights: list[float]) -> list[Score]:
    """Returns the scores of all samples in order, from each process's block.

    For samples scored by other processes only verdict, accuracy and format are known, not the
    extracted answer or the reason. weights: the accuracy weight of each sample.
    """
    if jax.process_count() == 1:
        return own_scores
    verdicts = list(Verdict)
    count = len(weights)
    # One row a sample: verdict, accuracy, format. All processes have tables of one shape.
    block_size = -(-count // jax.process_count())
    table = np.zeros((block_size, 3), np.float32)
    for row, score in zip(table, own_scores, strict=False):
        row[:] = verdicts.index(score.verdict), score.accuracy or 0.0, score.format
    table = multihost_utils.process_allgather(table, tiled=True)[:count]

    scores = []
    for (verdict, accuracy, form), weight in zip(table, weights, strict=True):
        # Rounded as `detection.overlap` rounds: float32 holds six digits.
        credit = round(float(accuracy), 6)
        check = Check(verdicts[int(verdict)], None, "", credit)
        scores.append(scored(check, float(form), weight))
    return scores
