"""Which sampled chains of thought are worth learning from (`Filter`).

As Skywork-R1V3 made its own (report, section 3.2): chains are sampled, verified and filtered; a
chain is kept if its answer is right and it neither rambles nor runs over.
"""

import collections
import dataclasses

import numpy as np

from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group

KEPT = "kept"  # the verdict on a sample that a row was made of


@dataclasses.dataclass(frozen=True)
class Filter:
    """The conditions on a chain, besides a right answer."""

    # Of the whole completion, `</think>` and answer included; 0: as many as were sampled.
    max_tokens: int = 0
    # A chain rambles if some `ngram` tokens in a row occur more than `repeats` times.
    ngram: int = 16
    repeats: int = 2

    def verdict(self, group: Group, sample: int) -> str:
        """Returns "kept", or why the chain of one sample is not kept."""
        score = group.scores[sample]
        size = int(group.completions.lengths[sample])
        # A completion that was cut off has no end, whatever was found in it.
        is_long = self.max_tokens and size > self.max_tokens
        if not group.completions.ended[sample] or is_long:
            return "too long"
        if score.verdict is not Verdict.RIGHT:
            # Without a total nobody knows whether the answer was right.
            return "wrong" if score.total is not None else "verifier failed"
        if score.format != 1:
            return "format"
        tokens = group.completions.tokens[sample, :size]
        if rambles(tokens, self.ngram, self.repeats):
            return "rambles"
        return KEPT


def rambles(ids: np.ndarray, ngram: int, repeats: int) -> bool:
    """Whether some `ngram` of int[T] ids in a row occur more than `repeats` times."""
    # ids = [5 5 5 5 5], ngram = 3: the windows at 0, 1 and 2 are equal, so 5 5 5 occurs 3 times.
    windows = range(len(ids) - ngram + 1)
    counts = collections.Counter(
        tuple(ids[start : start + ngram].tolist()) for start in windows
    )
    return max(counts.values(), default=0) > repeats
