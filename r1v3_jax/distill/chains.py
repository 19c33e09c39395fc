"""Filters the samples of a checkpoint into chains of thought for a cold start.

As Skywork-R1V3 made its own (report, section 3.2): chains are sampled, verified and filtered; a
chain is kept if its answer is right and it neither rambles nor runs over. One JSON row a question,
which `mixtures.with_chains` reads back.
"""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group


@dataclasses.dataclass(frozen=True)
class Filter:
    """The conditions on a chain, besides a right answer."""

    max_tokens: int  # of the whole completion, `</think>` and answer included
    # A chain rambles if some `ngram` tokens in a row occur more than `repeats` times.
    ngram: int = 16
    repeats: int = 2

    def verdict(self, group: Group, sample: int) -> str:
        """Returns "kept", or why the chain of one sample is not kept."""
        score = group.scores[sample]
        size = int(group.completions.lengths[sample])
        # A completion that was cut off has no end, whatever was found in it.
        if not group.completions.ended[sample] or size > self.max_tokens:
            return "too long"
        if score.verdict is not Verdict.RIGHT:
            # Without a total nobody knows whether the answer was right.
            return "wrong" if score.total is not None else "verifier failed"
        if score.format != 1:
            return "format"
        tokens = group.completions.tokens[sample, :size]
        if rambles(tokens, self.ngram, self.repeats):
            return "rambles"
        return "kept"


def rambles(ids: np.ndarray, ngram: int, repeats: int) -> bool:
    """Whether some `ngram` of int[T] ids in a row occur more than `repeats` times."""
    # ids = [5 5 5 5 5], ngram = 3: the windows at 0, 1 and 2 are equal, so 5 5 5 occurs 3 times.
    windows = range(len(ids) - ngram + 1)
    counts = collections.Counter(
        tuple(ids[start : start + ngram].tolist()) for start in windows
    )
    return max(counts.values(), default=0) > repeats


def chains(
    groups: Iterable[tuple[int, Group]], keep: Filter
) -> tuple[list[dict], dict[str, int]]:
    """Returns a JSON row for each question with a kept chain, and {verdict: samples}.

    Of several kept chains of a question the shortest is taken. groups: what
    `rollout.sampler.sample` yields.
    """
    rows = []
    counts = collections.Counter()
    for index, group in groups:
        verdicts = [keep.verdict(group, g) for g in range(len(group.texts))]
        counts.update(verdicts)
        kept = [g for g, verdict in enumerate(verdicts) if verdict == "kept"]
        if not kept:  # the question is too hard for this teacher
            continue
        lengths = group.completions.lengths
        shortest = min(
            kept, key=lambda g: lengths[g]
        )  # of equal ones the one sampled before
        chain = group.texts[shortest]
        rows.append({"index": index, "id": group.example.id, "chain": chain})
    return rows, dict(counts)
