"""How often each question is solved."""

from collections.abc import Iterable

from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group


def pass_rates(groups: Iterable[tuple[int, Group]]) -> list[dict]:
    """{index, id, source, pass_rate, samples} of the questions of `rollout.sample`: the share of
    right answers among the samples whose verifier did not fail; null where all did.
    """
    rows = []
    for index, group in groups:
        right = [
            s.verdict is Verdict.RIGHT for s in group.scores if s.total is not None
        ]
        rate = sum(right) / len(right) if right else None
        row = {"index": index, "id": group.example.id, "source": group.example.source}
        rows.append({**row, "pass_rate": rate, "samples": len(right)})
    return rows
