"""Means over the samples of a step."""

import numpy as np

from r1v3_jax.rollout.group import Group


def not_finite(groups: list[Group]) -> str:
    """What of the samples no update may see: a reward or a log-probability of the sampler that is
    not finite; empty if all are well. (A failed verification has no reward: it is masked.)
    """
    for group in groups:
        if not all(np.isfinite(s.total) for s in group.scores if s.total is not None):
            return f"a reward of {group.example.id} is"
        held = (
            np.arange(group.completions.logprobs.shape[1])
            < group.completions.lengths[:, None]
        )
        if not np.isfinite(group.completions.logprobs[held]).all():
            return f"a log-probability of the sampler, {group.example.id}, is"
    return ""


def statistics(groups: list[Group], limit: int) -> dict[str, float]:
    """Means over the samples of a step, under the names that users of TRL know, and the accuracy of
    each source if there are several.
    """
    scores = [score for group in groups for score in group.scores]
    known = [score for score in scores if score.total is not None]
    lengths = np.concatenate([group.completions.lengths for group in groups])
    ended = np.concatenate([group.completions.ended for group in groups])
    reward = np.asarray([score.total for score in known] or [0.0])
    by_source: dict[str, list[float]] = {}
    for group in groups:
        right = [score.accuracy for score in group.scores if score.total is not None]
        by_source.setdefault(group.example.source, []).extend(right)
    several = by_source if len(by_source) > 1 else {}
    return {
        "reward": float(reward.mean()),
        "reward_std": float(reward.std()),
        "accuracy": float(np.mean([score.accuracy for score in known] or [0.0])),
        "format": float(np.mean([score.format for score in known] or [0.0])),
        "penalty": float(np.mean([score.penalty for score in known] or [0.0])),
        "verifier_errors": len(scores) - len(known),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(1 - ended.mean()),
        "slots/busy": float(np.mean([group.busy for group in groups])),
        "length_limit": limit,
        **{
            f"accuracy/{name}": float(np.mean(right))
            for name, right in several.items()
            if right
        },
    }
