"""One prompt and its G samples on the host, without and with their scores."""

import dataclasses

import numpy as np

from r1v3_jax.processing.processor import Encoded
from r1v3_jax.rewards.reward import Score
from r1v3_jax.sampling.state import Completions
from r1v3_jax.types import Example


@dataclasses.dataclass(frozen=True)
class Answered:
    """One prompt and its G samples, which nobody has scored."""

    example: Example
    prompt: Encoded
    completions: Completions  # tokens int32[G, C], lengths int32[G], ...
    texts: list[str]
    # Passes of samples in its rollout, for each of the decode slots in each of the steps.
    busy_slots: float = dataclasses.field(default=1.0, kw_only=True)
    # Tokens sampled in its rollout for each pass of a sample through the model; None: nothing was
    # guessed, and it is 1.
    tokens_a_pass: float | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Group(Answered):
    """One prompt, its G samples and their scores."""

    scores: list[Score]

    @property
    def rewards(self) -> np.ndarray:
        """float32[G]; nan where the verifier failed."""
        totals = [np.nan if s.total is None else s.total for s in self.scores]
        return np.asarray(totals, np.float32)

    @property
    def has_signal(self) -> bool:
        """Whether the rewards differ: only then an advantage is not 0."""
        known = self.rewards[~np.isnan(self.rewards)]
        return len(known) > 1 and bool(known.max() > known.min())

    @property
    def is_mixed(self) -> bool:
        """Whether some answers are better than others: 0 < right < G, where each is 0 or 1."""
        known = [s.accuracy for s in self.scores if s.total is not None]
        return len(set(known)) > 1
