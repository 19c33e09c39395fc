"""The KL term as a part of the reward: what a sample's distance from the reference costs it."""

import dataclasses

import numpy as np

from r1v3_jax.config import GRPO
from r1v3_jax.data.placement import fetch
from r1v3_jax.losses.schedules import value
from r1v3_jax.rewards.reward import Score, total
from r1v3_jax.rollout.group import Group
from r1v3_jax.train.policy_batch import of_samples
from r1v3_jax.types import PolicyBatch

NAME = "kl"  # of the term, in logs


def with_kl(
    groups: list[Group], batch: PolicyBatch, config: GRPO, progress: float
) -> list[Group]:
    """Returns the groups with -kl_coef * (sum over a sample's tokens of its KL) in each reward.

    RLHF's reward (arXiv 2203.02155, equation 2), before advantages are taken. batch: of these
    groups, with the log-probabilities of policy and reference. progress: of the stage, 0 to 1. All
    processes must call this at the same moment.
    """
    old, ref = fetch((batch.rows.old_logprobs, batch.rows.ref_logprobs))
    divergence = np.asarray(config.kl_estimator(old, ref), np.float64)
    weight = -value(config.kl_coef, progress)
    divergences = of_samples(divergence, groups, config)
    charged = []
    for group, of_group in zip(groups, divergences, strict=True):
        scores = [
            _charged(score, float(tokens.sum()), weight)
            for score, tokens in zip(group.scores, of_group, strict=True)
        ]
        charged.append(dataclasses.replace(group, scores=scores))
    return charged


def _charged(score: Score, divergence: float, weight: float) -> Score:
    """Returns a score with one more term; one without a reward stays without."""
    if score.total is None:
        return score
    parts = {**score.parts, NAME: divergence}
    weights = {**score.weights, NAME: weight}
    reward = total(parts, weights)
    return dataclasses.replace(score, total=reward, parts=parts, weights=weights)
