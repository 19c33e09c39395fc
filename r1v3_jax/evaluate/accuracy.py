"""Held-out accuracy with its interval, the entropy of critical tokens, and the choice of a
checkpoint.
"""

import dataclasses
from collections.abc import Callable

from r1v3_jax.evaluate.statistics import wilson
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import GroupSampler, sample
from r1v3_jax.types import Example


def sample_groups(
    sampler: GroupSampler,
    model,
    source: Callable[[int], Example],
    count: int,
    batch: int,
    key,
) -> list[Group]:
    """Samples for the first `count` good rows of a source, `batch` prompts at a time; without their
    pictures, which in a large set would fill the memory.
    """
    groups = (group for _, group in sample(sampler, model, source, count, batch, key))
    return [
        dataclasses.replace(
            group, prompt=None, example=dataclasses.replace(group.example, images=())
        )
        for group in groups
    ]


def accuracy(groups: list[Group]) -> dict[str, float]:
    """{mean, low, high, n}: the share of right answers with its 95% interval (Wilson).

    A failed verification is not an answer: it leaves n. Right is a verdict: what a rule by degrees
    gives for an answer that is not counts in rewards, and not here.
    """
    scores = [s for group in groups for s in group.scores if s.total is not None]
    mean, low, high = wilson(
        sum(s.verdict is Verdict.RIGHT for s in scores), len(scores)
    )
    return {"mean": mean, "low": low, "high": high, "n": len(scores)}
