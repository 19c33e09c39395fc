"""Which checkpoint is chosen, and why."""

import numpy as np

from r1v3_jax.evaluate.statistics import rank_correlation


def select(checkpoints: list[dict], by: str) -> tuple[dict, str]:
    """The chosen one of [{step, critical_entropy, accuracy: {mean, low, high, n}}], and why, in a
    sentence.

    critical_entropy, accuracy: the highest. both: the highest critical-token entropy among the
    checkpoints whose accuracy is not clearly below the best (their intervals overlap).
    """
    if not checkpoints:
        raise ValueError("no checkpoint to choose from; set grpo.evaluate_every")

    best = max(checkpoints, key=lambda c: c["accuracy"]["mean"])
    if by == "accuracy":
        return (
            best,
            f"step {best['step']}: the highest held-out accuracy, {best['accuracy']['mean']:.3f}",
        )
    pool = checkpoints
    if by == "both":
        pool = [
            c for c in checkpoints if c["accuracy"]["high"] >= best["accuracy"]["low"]
        ]
    chosen = max(pool, key=lambda c: (_entropy(c), c["accuracy"]["mean"]))
    among = (
        f", of the {len(pool)} not clearly below the best in accuracy"
        if by == "both"
        else ""
    )
    return chosen, (
        f"step {chosen['step']}: the highest critical-token entropy, "
        f"{chosen['critical_entropy']:.3f} nats{among}"
    )


def selectable(checkpoints: list[dict]) -> set[int]:
    """Steps that `select` might still choose, whatever is measured later: those that no other one
    beats both in accuracy and in critical-token entropy.
    """

    def beaten(c):
        return any(
            _entropy(d) > _entropy(c)
            and d["accuracy"]["mean"] > c["accuracy"]["mean"]
            and d["accuracy"]["high"] >= c["accuracy"]["high"]
            for d in checkpoints
        )

    return {c["step"] for c in checkpoints if not beaten(c)}


def _entropy(checkpoint: dict) -> float:
    value = checkpoint["critical_entropy"]
    return -1.0 if np.isnan(value) else value


def correlation(checkpoints: list[dict]) -> float:
    """Rank correlation of critical-token entropy and held-out accuracy over the checkpoints; nan if
    undefined.
    """
    pairs = [
        (c["critical_entropy"], c["accuracy"]["mean"])
        for c in checkpoints
        if not np.isnan(c["critical_entropy"])
    ]
    return (
        rank_correlation(*zip(*pairs, strict=True)) if len(pairs) > 1 else float("nan")
    )
