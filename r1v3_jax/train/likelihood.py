"""How likely an answer is to the reference behind its thoughts, as a part of the reward."""

import dataclasses

import numpy as np

from r1v3_jax.config import GRPO
from r1v3_jax.data.placement import fetch
from r1v3_jax.losses.schedules import value
from r1v3_jax.processing.tokenizer import Tokenizer
from r1v3_jax.rewards.helpers import Likely, likelihood_terms
from r1v3_jax.rewards.reward import name_of, total
from r1v3_jax.rollout.group import Group
from r1v3_jax.train.policy_batch import of_samples
from r1v3_jax.types import PolicyBatch

LIKELIHOOD = "likelihood"  # what a term compares, in logs


def with_likelihood(
    groups: list[Group],
    batch: PolicyBatch,
    config: GRPO,
    tokenizer: Tokenizer,
    progress: float,
) -> list[Group]:
    """Returns the groups with what `Likely` says of each sample in its reward.

    batch: of these groups, with the log-probabilities of the reference. progress: of the stage, 0
    to 1. All processes must call this at the same moment.
    """
    pattern = [set(choices) for choices in tokenizer.closing("</think>")]
    table = np.asarray(fetch(batch.rows.ref_logprobs), np.float64)
    logprobs = of_samples(table, groups, config)
    for weight, term in likelihood_terms(config.reward):
        groups = [
            _with_term(
                group,
                [
                    likelihood(ids[: len(x)], x, pattern, tokenizer.end_token_id)
                    for ids, x in zip(group.completions.tokens, of_group, strict=True)
                ],
                term,
                value(weight, progress),
            )
            for group, of_group in zip(groups, logprobs, strict=True)
        ]
    return groups


def likelihood(
    ids: np.ndarray, logprobs: np.ndarray, pattern: list[set[int]], end: int
) -> float:
    """Returns exp(mean log p) of what stands behind the last </think>; 0 if nothing does.

    ids, logprobs: int[T] and float[T] of one sample. pattern: see `Tokenizer.closing`. end: the
    token that ends a turn, which is no part of the answer.
    """
    size = len(pattern)
    for start in range(len(ids) - size, -1, -1):
        if all(int(ids[start + k]) in pattern[k] for k in range(size)):
            is_answer = np.asarray(ids[start + size :]) != end
            answer = logprobs[start + size :][is_answer]
            return float(np.exp(answer.mean())) if len(answer) else 0.0
    return 0.0


def _with_term(
    group: Group, likelihoods: list[float], term: Likely, weight: float
) -> Group:
    """Returns a group with one more term; a sample without a reward stays without."""
    known = [None if score.total is None else score.accuracy for score in group.scores]
    said = term.compare(known, likelihoods)
    name = name_of(term)
    scores = []
    for score, part, likely in zip(group.scores, said, likelihoods, strict=True):
        if score.total is not None:
            parts = {**score.parts, LIKELIHOOD: likely}
            weights = {**score.weights, LIKELIHOOD: 0.0}
            if part is not None:
                parts[name] = part
                weights[name] = weight
            score = dataclasses.replace(
                score, total=total(parts, weights), parts=parts, weights=weights
            )
        scores.append(score)
    return dataclasses.replace(group, scores=scores)
