"""Scoring shared by the processes of a run: each scores a block of the samples."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1v3_jax.rewards.reward import Reward, Score, total
from r1v3_jax.rewards.verifiers.verdict import Verdict

# Columns of a sample's row in the table that processes exchange; those of the terms follow: what
# each says (nan: nothing), then its weight.
VERDICT, ACCURACY, FORMAT, FAILED, FIRST_TERM = range(5)


def own_block(count: int) -> range:
    """Returns which of `count` samples this process scores: equal blocks, the last one shorter.

    10 samples on 4 processes: 0-2, 3-5, 6-8, 9.
    """
    size = -(-count // jax.process_count())
    start = jax.process_index() * size
    return range(min(start, count), min(start + size, count))


def gather_scores(own_scores: list[Score], count: int, reward: Reward) -> list[Score]:
    """Returns the scores of all `count` samples in order, from each process's block.

    Of samples scored by other processes the extracted answer and the words of reasons and problems
    are not known. A term is called on one process only: it may be slow, or draw.
    """
    if jax.process_count() == 1:
        return own_scores
    names = reward.names
    # All processes have tables of one shape.
    block_size = -(-count // jax.process_count())
    table = np.full((block_size, FIRST_TERM + 2 * len(names)), np.nan)
    for row, score in zip(table, own_scores, strict=False):
        row[:] = _to_row(score, names)
    # The devices have no float64: each number travels as two whole ones, and loses nothing.
    words = multihost_utils.process_allgather(table.view(np.uint32), tiled=True)
    gathered = np.ascontiguousarray(words).view(np.float64)[:count]
    return [_from_row(row, names) for row in gathered]


def _to_row(score: Score, names: tuple[str, ...]) -> list[float]:
    """Writes a score as numbers."""
    accuracy = np.nan if score.accuracy is None else score.accuracy
    failed = names.index(score.failed) if score.failed else -1
    said = [score.parts.get(name, np.nan) for name in names]
    weights = [score.weights.get(name, np.nan) for name in names]
    verdict = list(Verdict).index(score.verdict)
    return [verdict, accuracy, score.format, failed, *said, *weights]


def _from_row(row: np.ndarray, names: tuple[str, ...]) -> Score:
    """Reads a score that `_to_row` has written."""
    said = row[FIRST_TERM : FIRST_TERM + len(names)]
    weights = row[FIRST_TERM + len(names) :]
    parts = {
        name: float(part)
        for name, part in zip(names, said, strict=True)
        if not np.isnan(part)
    }
    weight_of = {
        name: float(weight)
        for name, weight in zip(names, weights, strict=True)
        if name in parts
    }
    verdict = list(Verdict)[int(row[VERDICT])]
    failed = names[int(row[FAILED])] if row[FAILED] >= 0 else ""
    is_known = verdict is not Verdict.ERROR and not failed
    return Score(
        total=total(parts, weight_of) if is_known else None,
        accuracy=None if np.isnan(row[ACCURACY]) else float(row[ACCURACY]),
        format=float(row[FORMAT]),
        verdict=verdict,
        extracted=None,
        reason="",
        parts=parts,
        weights=weight_of,
        failed=failed,
    )
