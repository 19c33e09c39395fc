"""One prompt, its G samples, their scores."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from r1v3_jax.processing.processor import Encoded
from r1v3_jax.rewards.score import Score
from r1v3_jax.sampling.state import Completions
from r1v3_jax.types import Example, PolicyBatch


@dataclasses.dataclass(frozen=True)
class Group:
    """One prompt and its G samples, on the host.

    prompt: as encoded. tokens int32[G, C], lengths int32[G], ...: see `sampler.Completions`. busy:
    of its rollout, the tokens sampled for each of the decode slots in each of the steps.
    """

    example: Example
    prompt: Encoded
    completions: Completions
    texts: list[str]
    scores: list[Score]
    busy: float = 1.0

    @property
    def rewards(self) -> np.ndarray:
        """float32[G]; nan where the verifier failed."""
        return np.asarray(
            [np.nan if s.total is None else s.total for s in self.scores], np.float32
        )

    @property
    def has_signal(self) -> bool:
        known = self.rewards[~np.isnan(self.rewards)]
        return len(known) > 1 and bool(known.max() > known.min())


def busy(batch: PolicyBatch) -> float:
    """The share of the tokens that an update computes, prompts aside, which were sampled."""
    held = batch.rows.segment_ids > 0
    return float(held.sum() / (batch.used * held[0].size))


def rows(groups: list[Group]) -> Iterator[dict]:
    """One JSON row a sample, for the rollouts file."""

    def six_digits(numbers: np.ndarray) -> list[float]:
        return np.round(numbers.astype(np.float64), 6).tolist()

    for group in groups:
        for g, (text, score) in enumerate(zip(group.texts, group.scores, strict=True)):
            size = int(group.completions.lengths[g])
            yield {
                "id": group.example.id,
                "sample": g,
                "images": len(group.example.images),
                "prompt": group.example.question,
                "completion": text,
                "answer": group.example.answer,
                "reward": score.total,
                "accuracy": score.accuracy,
                "format": score.format,
                "verdict": score.verdict.name.lower(),
                "tokens": group.completions.tokens[g, :size].tolist(),
                "logprobs": six_digits(group.completions.logprobs[g, :size]),
                "entropies": six_digits(group.completions.entropies[g, :size]),
            }
