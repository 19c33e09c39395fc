"""Which checkpoint of a run is chosen, and why. Knows measurements; no weights and no files.

A checkpoint here is {step, critical_entropy, accuracy: {mean, low, high, n}, ...}.
"""

import numpy as np

from r1v3_jax.evaluate.statistics import rank_correlation


def select(checkpoints: list[dict], by: str) -> tuple[dict, str]:
    """Returns the chosen checkpoint and the reason, in a sentence.

    by = critical_entropy, accuracy: the highest. both: the highest critical-token entropy among the
    checkpoints whose accuracy is not clearly below the best (their intervals overlap).
    """
    if not checkpoints:
        raise ValueError("no checkpoint to choose from; set grpo.evaluate_every")

    best = max(checkpoints, key=_accuracy)
    if by == "accuracy":
        reason = f"the highest held-out accuracy, {_accuracy(best):.3f}"
        return best, f"step {best['step']}: {reason}"
    pool = checkpoints
    among = ""
    if by == "both":
        floor = best["accuracy"]["low"]
        pool = [c for c in checkpoints if c["accuracy"]["high"] >= floor]
        among = f", of the {len(pool)} not clearly below the best in accuracy"
    chosen = max(pool, key=lambda c: (_entropy(c), _accuracy(c)))
    return chosen, (
        f"step {chosen['step']}: the highest critical-token entropy, "
        f"{chosen['critical_entropy']:.3f} nats{among}"
    )


def selectable(checkpoints: list[dict]) -> set[int]:
    """Returns the steps that `select` might still choose, whatever is measured later.

    These are the checkpoints that no other one beats both in accuracy and in critical-token
    entropy.
    """
    return {
        checkpoint["step"]
        for checkpoint in checkpoints
        if not any(_beats(rival, checkpoint) for rival in checkpoints)
    }


def _beats(rival: dict, checkpoint: dict) -> bool:
    """Whether `rival` is preferred to `checkpoint` in every choice of `select`."""
    return (
        _entropy(rival) > _entropy(checkpoint)
        and _accuracy(rival) > _accuracy(checkpoint)
        # Else it might be left out by a later, better one whose interval still overlaps the
        # checkpoint's.
        and rival["accuracy"]["high"] >= checkpoint["accuracy"]["high"]
    )


def _accuracy(checkpoint: dict) -> float:
    return checkpoint["accuracy"]["mean"]


def _entropy(checkpoint: dict) -> float:
    """Returns the critical-token entropy; -1, less than any, if no critical word was sampled."""
    value = checkpoint["critical_entropy"]
    return -1.0 if np.isnan(value) else value


def correlation(checkpoints: list[dict]) -> float:
    """Returns the rank correlation of critical-token entropy and held-out accuracy.

    Checkpoints without a critical word are left out. nan if it is undefined.
    """
    known = [c for c in checkpoints if not np.isnan(c["critical_entropy"])]
    if len(known) < 2:
        return float("nan")
    entropies = [c["critical_entropy"] for c in known]
    return rank_correlation(entropies, [_accuracy(c) for c in known])
