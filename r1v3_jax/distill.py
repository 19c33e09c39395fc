"""Chains of thought from a teacher checkpoint, for a cold start: sampled, verified, filtered.

How Skywork-R1V3 made its own (report, section 3.2): a chain is kept if its answer is right and it
neither rambles nor runs over. One JSON row a question; `data.with_chains` reads them back.
"""

import collections
import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from r1v3_jax.models.r1v3 import for_decoding
from r1v3_jax.rollout import Group, Sampler
from r1v3_jax.types import Example


@dataclasses.dataclass(frozen=True)
class Filter:
    """What a chain must be, beside right. max_tokens: at most so long, `</think>` and answer
    counted. A chain rambles if some `ngram` tokens in a row come more than `repeats` times.
    """

    max_tokens: int
    ngram: int = 16
    repeats: int = 2

    def verdict(self, group: Group, sample: int) -> str:
        """`kept`, or why the chain is not."""
        score, size = group.scores[sample], int(group.completions.lengths[sample])
        if not group.completions.ended[sample] or size > self.max_tokens:
            return "too long"
        if score.accuracy != 1:
            return "wrong" if score.total is not None else "verifier failed"
        if score.format != 1:
            return "format"
        if rambles(group.completions.tokens[sample, :size], self.ngram, self.repeats):
            return "rambles"
        return "kept"


def rambles(ids: np.ndarray, ngram: int, repeats: int) -> bool:
    """Whether some `ngram` of int[T] ids in a row come more than `repeats` times."""
    seen = collections.Counter(
        tuple(ids[at : at + ngram].tolist()) for at in range(len(ids) - ngram + 1)
    )
    return max(seen.values(), default=0) > repeats


def distill(
    sampler: Sampler,
    model,
    source: Callable[[int], Example],
    count: int,
    batch: int,
    key: jax.Array,
    keep: Filter,
) -> tuple[list[dict], dict[str, int]]:
    """Rows for the first `count` examples of `source`, and how many samples met which verdict.

    Of an example's kept chains the shortest is taken; an example without one has no row.
    """
    model, rows, verdicts = for_decoding(model), [], collections.Counter()
    for start in range(0, count, batch):
        indices = range(start, start + batch)  # of one size, so that there is one program
        groups = sampler.groups(
            model,
            [source(index) for index in indices],
            jax.random.fold_in(key, start),
            sampler.sampling.max_tokens,
        )
        for index, group in list(zip(indices, groups, strict=True))[: count - start]:
            said = [keep.verdict(group, g) for g in range(len(group.texts))]
            verdicts.update(said)
            kept = [g for g, verdict in enumerate(said) if verdict == "kept"]
            if kept:
                best = min(kept, key=lambda g: (group.completions.lengths[g], g))
                rows.append({"index": index, "id": group.example.id, "chain": group.texts[best]})
    return rows, dict(verdicts)
