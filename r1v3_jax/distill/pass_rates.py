"""Measures how often each question is solved: which ones a policy always or never solves.

One JSON row a question, which `mixtures.ByPassRate` reads back.
"""

from collections.abc import Iterable

from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group


def pass_rates(groups: Iterable[tuple[int, Group]]) -> list[dict]:
    """Returns {index, id, source, pass_rate, samples} of each question of `rollout.sampler.sample`.

    pass_rate is the share of right answers among the samples whose verifier did not fail, and
    `samples` is their number; if all failed, pass_rate is None (null in JSON).
    """
    rows = []
    for index, group in groups:
        # One sample right, two wrong and one not verified: the pass rate is 1/3 of 3 samples.
        verified = [score for score in group.scores if score.total is not None]
        num_right = sum(score.verdict is Verdict.RIGHT for score in verified)
        row = {
            "index": index,
            "id": group.example.id,
            "source": group.example.source,
            "pass_rate": num_right / len(verified) if verified else None,
            "samples": len(verified),
        }
        rows.append(row)
    return rows
