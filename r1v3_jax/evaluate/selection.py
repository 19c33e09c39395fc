"""Which checkpoint of a run is chosen, and why. Knows measurements; no weights and no files.

A checkpoint here is {step, critical_entropy, accuracy: {mean, low, high, n}, ...}.
"""

import numpy as np

from r1v3_jax.evaluate.statistics import rank_correlation


def select(checkpoints: list[dict], criterion: str) -> tuple[dict, str]:
    """Returns the chosen checkpoint and the reason, in a sentence.

    criterion "critical_entropy" or "accuracy": the highest. "both": the highest critical-token
    entropy among the checkpoints whose accuracy is not clearly below the best (their intervals
    overlap). "last": the last one, whatever was measured.
    """
    if not checkpoints:
        raise ValueError("no checkpoint to choose from; set grpo.evaluate_every")

    if criterion == "last":
        last = checkpoints[-1]
        return last, f"step {last['step']}: the last"

    best = max(checkpoints, key=_accuracy)
    step = best["step"]
    value = _accuracy(best)
    if criterion == "accuracy":
        return best, f"step {step}: the highest held-out accuracy, {value:.3f}"

    # With the best accuracy 0.72 in [0.67, 0.77], 0.63 in [0.58, 0.68] is not clearly below it.
    pool = checkpoints
    among = ""
    if criterion == "both":
        floor = best["accuracy"]["low"]
        pool = [c for c in checkpoints if _upper_bound(c) >= floor]
        among = f", of the {len(pool)} not clearly below the best in accuracy"
    chosen = max(pool, key=_entropy_then_accuracy)
    step = chosen["step"]
    value = chosen["critical_entropy"]
    reason = f"the highest critical-token entropy, {value:.3f} nats{among}"
    return chosen, f"step {step}: {reason}"


def selectable(checkpoints: list[dict]) -> set[int]:
    """Returns the steps that `select` might still choose, whatever is measured later.

    These are the checkpoints that no other one beats both in accuracy and in critical-token
    entropy.
    """
    steps = set()
    for checkpoint in checkpoints:
        is_beaten = any(_beats(rival, checkpoint) for rival in checkpoints)
        if not is_beaten:
            steps.add(checkpoint["step"])
    return steps


def _beats(rival: dict, checkpoint: dict) -> bool:
    """Whether `rival` is preferred to `checkpoint` in every choice of `select`."""
    has_more_entropy = _entropy(rival) > _entropy(checkpoint)
    is_more_accurate = _accuracy(rival) > _accuracy(checkpoint)
    # With a lower upper bound the rival might be clearly below a later, better checkpoint when this
    # one is not yet.
    has_higher_bound = _upper_bound(rival) >= _upper_bound(checkpoint)
    return has_more_entropy and is_more_accurate and has_higher_bound


def _accuracy(checkpoint: dict) -> float:
    return checkpoint["accuracy"]["mean"]


def _upper_bound(checkpoint: dict) -> float:
    return checkpoint["accuracy"]["high"]


def _entropy_then_accuracy(checkpoint: dict) -> tuple[float, float]:
    return _entropy(checkpoint), _accuracy(checkpoint)


def _entropy(checkpoint: dict) -> float:
    """Returns the critical-token entropy; -1, less than any, if no critical word was sampled."""
    value = checkpoint["critical_entropy"]
    return -1.0 if np.isnan(value) else value


def correlation(checkpoints: list[dict]) -> float:
    """Returns the rank correlation of critical-token entropy and held-out accuracy.

    Checkpoints without a critical word are left out. nan if it is undefined.
    """
    entropies = []
    accuracies = []
    for checkpoint in checkpoints:
        entropy = checkpoint["critical_entropy"]
        if not np.isnan(entropy):
            entropies.append(entropy)
            accuracies.append(_accuracy(checkpoint))
    return rank_correlation(entropies, accuracies)
