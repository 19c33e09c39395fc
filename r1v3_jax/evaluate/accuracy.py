"""Samples for the questions of a set, and the share of right answers with its interval."""

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
    """Samples answers to the first `count` good rows of a source, `batch` prompts at a time.

    The groups come without their images, which would fill the memory if the set is large.
    """
    groups = []
    # Bad rows are skipped by `sample`, so the row numbers it yields do not matter here.
    for _, group in sample(sampler, model, source, count, batch, key):
        example = dataclasses.replace(group.example, images=())
        groups.append(dataclasses.replace(group, prompt=None, example=example))
    return groups


def accuracy(groups: list[Group]) -> dict[str, float]:
    """Returns {mean, low, high, n}: the share of right answers with its 95% interval (Wilson).

    Samples whose verification failed are not counted in n. Only the verdict RIGHT counts as
    correct: partial credit affects rewards, not accuracy.
    """
    scores = [score for group in groups for score in group.scores]
    # A failed verification, a verifier that ended or hung, has no total.
    verified = [score for score in scores if score.total is not None]
    correct = sum(score.verdict is Verdict.RIGHT for score in verified)
    mean, low, high = wilson(correct, len(verified))
    return {"mean": mean, "low": low, "high": high, "n": len(verified)}
