"""What each measured stage of an arm adds, question by question."""

from r1v3_jax.arms.answers import measured_stages, read_answers
from r1v3_jax.arms.plan import Comparison
from r1v3_jax.evaluate.statistics import clustered_interval, t_interval
from r1v3_jax.evaluate.verdicts import CREDIT, known_shares, paired


def by_stage(
    comparison: Comparison, compared: dict[str, tuple[str, list[str]]]
) -> list[dict]:
    """Returns a row for each measured stage of each arm, behind the stages that all share.

    {arm, stage, set, accuracy: (mean, low, high), to_stage, since, to_arm, gap}: `since` is the
    paired difference to the arm's measured stage before, `to_stage`; `gap` that to the same stage
    of the arm that it is compared to, or to that arm's last measured stage: `to_arm` says to which,
    as "grpo, second". None where there is nothing to compare with. Of sets that are pooled only the
    pool is here.
    """
    rows = []
    for arm, run in comparison.arms.items():
        stages = measured_stages(run)
        for position, stage in enumerate(stages):
            if stage in comparison.shared:
                continue
            answers = answers_of(comparison, arm, stage)
            before = stages[position - 1] if position else ""
            since = answers_of(comparison, arm, before) if before else {}
            other, _ = compared.get(arm, ("", []))
            gap, there = {}, ""
            if other:
                others = measured_stages(comparison.arms[other])
                there = stage if stage in others else others[-1]
                gap = answers_of(comparison, other, there)
            for name, clusters in answers.items():
                rows.append(
                    {
                        "arm": arm,
                        "stage": stage,
                        "set": name,
                        "accuracy": clustered_interval(
                            [known_shares(shares) for shares in clusters.values()]
                        ),
                        "to_stage": before,
                        "since": difference(clusters, since.get(name)),
                        "to_arm": f"{other}, {there}" if other else "",
                        "gap": difference(clusters, gap.get(name)),
                    }
                )
    return rows


def answers_of(comparison: Comparison, arm: str, stage: str) -> dict:
    """Returns {set: {seed: {question: share}}} after one stage of an arm."""
    sets = {}
    evaluate = comparison.arms[arm].evaluate
    pooled = dict(evaluate.asked(evaluate.after_stage(stage)).pooled)
    parts = {part for names in pooled.values() for part in names}
    for seed in comparison.seeds:
        for name, shares in read_answers(comparison, arm, seed, stage).items():
            if not name.endswith(CREDIT) and name not in parts:
                sets.setdefault(name, {})[seed] = shares
    return sets


def difference(clusters: dict, others: dict | None) -> tuple | None:
    """Returns (mean, low, high, low of t, high of t) of the paired differences.

    The first interval is over seeds and questions, the second over the means of the seeds. None if
    there is nothing to compare with, or the questions are others.
    """
    if others is None:
        return None
    pairs = []
    for seed, shares in clusters.items():
        if shares.keys() != others[seed].keys():
            return None
        pairs.append(paired(shares, others[seed]))
    _, low, high = t_interval([float(pair.mean()) for pair in pairs])
    return *clustered_interval(pairs), low, high
