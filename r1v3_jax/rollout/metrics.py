"""Means over the samples of a step, and what no update may learn from."""

import numpy as np

from r1v3_jax.rollout.group import Group


def not_finite(groups: list[Group]) -> str:
    """Names the first reward or sampler log-probability that is not finite; "" if all are.

    Such samples must never reach an update. (A failed verification has no reward: it is masked.)
    """
    for group in groups:
        totals = [score.total for score in group.scores if score.total is not None]
        if not np.all(np.isfinite(totals)):
            return f"a reward of {group.example.id} is"
        logprobs = group.completions.logprobs
        # Slots behind the end of a sample may hold anything.
        slots = np.arange(logprobs.shape[1])
        is_sampled = slots < group.completions.lengths[:, None]
        if not np.isfinite(logprobs[is_sampled]).all():
            return f"a log-probability of the sampler, {group.example.id}, is"
    return ""


def statistics(groups: list[Group], token_limit: int) -> dict[str, float]:
    """Returns means over the samples of a step, under the names that users of TRL know.

    With several sources the accuracy of each is among them.
    """
    scores = [score for group in groups for score in group.scores]
    # A failed verification has no reward; it is counted in `verifier_errors` and nowhere else.
    known = [score for score in scores if score.total is not None]
    lengths = np.concatenate([group.completions.lengths for group in groups])
    ended = np.concatenate([group.completions.ended for group in groups])
    # Where every verification failed, the means are 0.
    reward = np.asarray([score.total for score in known] or [0.0])
    accuracy = [score.accuracy for score in known] or [0.0]
    form = [score.format for score in known] or [0.0]
    penalty = [score.penalty for score in known] or [0.0]
    return {
        "reward": float(reward.mean()),
        "reward_std": float(reward.std()),
        "accuracy": float(np.mean(accuracy)),
        "format": float(np.mean(form)),
        "penalty": float(np.mean(penalty)),
        "verifier_errors": len(scores) - len(known),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(1 - ended.mean()),
        "slots/busy": float(np.mean([group.busy_slots for group in groups])),
        "length_limit": token_limit,
        **accuracy_by_source(groups),
    }


def mean_entropy(groups: list[Group]) -> float:
    """Returns the policy's mean entropy over the tokens that it sampled, in nats."""
    entropies = []
    for group in groups:
        completions = group.completions
        is_sampled = (
            np.arange(completions.tokens.shape[1]) < completions.lengths[:, None]
        )
        entropies.append(completions.entropies[is_sampled & completions.chosen])
    return float(np.mean(np.concatenate(entropies), dtype=np.float64))


def accuracy_by_source(groups: list[Group]) -> dict[str, float]:
    """Returns {"accuracy/SOURCE": mean} if there are several sources, else nothing."""
    by_source: dict[str, list[float]] = {}
    for group in groups:
        known = [s.accuracy for s in group.scores if s.total is not None]
        by_source.setdefault(group.example.source, []).extend(known)
    if len(by_source) < 2:
        return {}
    return {
        f"accuracy/{source}": float(np.mean(accuracies))
        for source, accuracies in by_source.items()
        if accuracies
    }
