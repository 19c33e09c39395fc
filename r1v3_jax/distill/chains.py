"""What a checkpoint says to the questions of a source, written down: chains and pass rates.

Chains of thought for a cold start are sampled, verified and filtered as Skywork-R1V3 made its own
(report, section 3.2): a chain is kept if its answer is right and it neither rambles nor runs over.
`mixtures.with_chains` reads them back. Pass rates tell which questions a policy always or never
solves; `mixtures.ByPassRate` reads those. One JSON row a question.
"""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group


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
        if score.verdict is not Verdict.RIGHT:
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


def chains(
    groups: Iterable[tuple[int, Group]], keep: Filter
) -> tuple[list[dict], dict[str, int]]:
    """Rows for the questions of `rollout.sample`, and how many samples met which verdict.

    Of an example's kept chains the shortest is taken; an example without one has no row.
    """
    rows, verdicts = [], collections.Counter()
    for index, group in groups:
        said = [keep.verdict(group, g) for g in range(len(group.texts))]
        verdicts.update(said)
        kept = [g for g, verdict in enumerate(said) if verdict == "kept"]
        if kept:
            best = min(kept, key=lambda g: (group.completions.lengths[g], g))
            rows.append(
                {"index": index, "id": group.example.id, "chain": group.texts[best]}
            )
    return rows, dict(verdicts)
