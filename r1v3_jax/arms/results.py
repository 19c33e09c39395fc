"""Reads what the runs of a comparison left, and compares the arms question by question."""

import math
from pathlib import Path

import numpy as np

from r1v3_jax.arms.answers import Answers, read_answers
from r1v3_jax.arms.plan import Comparison, baselines
from r1v3_jax.arms.reach import samples_needed
from r1v3_jax.arms.stage_results import by_stage
from r1v3_jax.evaluate.statistics import clustered_interval, t_interval
from r1v3_jax.evaluate.verdicts import CREDIT, known_shares, paired, share_interval
from r1v3_jax.files import dumps, read_json, write_text
from r1v3_jax.report.run_numbers import read_rows, series

PROBE = "eval/accuracy"  # the metric whose curve is measured in any case


def compare(
    comparison: Comparison,
    metrics: list[str],
    first: int,
    reach: tuple[str, float] | None = None,
) -> dict:
    """Returns everything that arms.json holds; `plan.baselines` says what is compared to what.

    metrics: names of metrics whose means are wanted. first: over how many steps of a stage the
    means and the probe's curve go; 0: over all. reach: a set, and the accuracy on it to which the
    samples are wanted, see `reach.samples_needed`.
    """
    answers = {
        arm: {seed: read_answers(comparison, arm, seed) for seed in comparison.seeds}
        for arm in comparison.arms
    }
    check_questions(answers)
    drop_plain_credit(answers)
    compared = baselines(comparison.arms)
    baseline = next(iter(comparison.arms))
    summary = {
        "config": comparison.config,
        "differs": {arm: fields for arm, (_, fields) in compared.items()},
        "compared_to": {arm: other for arm, (other, _) in compared.items()},
        "arms": list(comparison.arms),
        "seeds": list(comparison.seeds),
        "first": first,
        "accuracy": accuracies(answers),
        "differences": differences(answers, compared),
        "stages": by_stage(comparison, compared),
        "reach": samples_needed(comparison, answers, *reach) if reach else None,
        "metrics": {},
        "runs": run_rows(comparison),
    }
    for name in [PROBE, *metrics]:
        means = metric_means(comparison, name, first)
        if means is not None:
            summary["metrics"][name] = summarise_metric(means, baseline)
        elif name in metrics:
            raise ValueError(
                f"no run logged {name!r} behind the shared stages; metrics.jsonl of a run has "
                "the names, and STAGE:NAME is that of one stage"
            )
    return summary


def drop_plain_credit(answers: Answers) -> None:
    """Removes, in place, the credit of sets where no answer of any run has partial credit."""
    runs_sets = [sets for seeds in answers.values() for sets in seeds.values()]
    for name in [name for name in runs_sets[0] if name.endswith(CREDIT)]:
        plain = name.removesuffix(CREDIT)
        credit = [list(sets[name].values()) for sets in runs_sets]
        right = [list(sets[plain].values()) for sets in runs_sets]
        if np.array_equal(credit, right, equal_nan=True):
            for sets in runs_sets:
                del sets[name]


def check_questions(answers: Answers) -> None:
    """Raises ValueError unless every run answered the same questions."""
    runs_of = {
        (arm, seed): sets
        for arm, seeds in answers.items()
        for seed, sets in seeds.items()
    }
    (first, wanted), *others = runs_of.items()
    for run, sets in others:
        for name in {**wanted, **sets}:
            if wanted.get(name, {}).keys() != sets.get(name, {}).keys():
                raise ValueError(
                    f"{run[0]}, seed {run[1]} answered other questions of {name!r} than "
                    f"{first[0]}, seed {first[1]}: {len(sets.get(name, ()))} and "
                    f"{len(wanted.get(name, ()))}; make one of them anew with the sets and "
                    "questions of the other"
                )


def accuracies(answers: Answers) -> dict:
    """Returns {set: {arm: {"seeds": {seed: (mean, low, high)}, "all": (mean, low, high)}}}.

    A seed's interval is that of its questions; the interval of all is over seeds and questions.
    """
    by_set = {}
    for arm, seeds in answers.items():
        for name in next(iter(seeds.values())):
            clusters = {seed: known_shares(sets[name]) for seed, sets in seeds.items()}
            by_set.setdefault(name, {})[arm] = {
                "seeds": {seed: share_interval(x) for seed, x in clusters.items()},
                "all": clustered_interval(list(clusters.values())),
            }
    return by_set


def differences(answers: Answers, compared: dict[str, tuple[str, list[str]]]) -> dict:
    """Returns {set: {arm: difference}} of each arm to its baseline, paired question by question.

    compared: {arm: (baseline, fields)}, see `plan.baselines`.

    A difference has "mean", "low" and "high" over seeds and questions, "seeds", the difference of
    each, and "t", the interval of those alone. "unverified": the answers, over all seeds, that have
    no partner because the verifier failed in either run.
    """
    by_set = {}
    for arm, seeds in answers.items():
        if arm not in compared:
            continue
        baseline, _ = compared[arm]
        for name in next(iter(seeds.values())):
            clusters = {
                seed: paired(sets[name], answers[baseline][seed][name])
                for seed, sets in seeds.items()
            }
            mean, low, high = clustered_interval(list(clusters.values()))
            by_seed = {seed: float(x.mean()) for seed, x in clusters.items()}
            by_set.setdefault(name, {})[arm] = {
                "mean": mean,
                "low": low,
                "high": high,
                "seeds": by_seed,
                "t": t_interval(list(by_seed.values()))[1:],
                "unverified": sum(
                    len(seeds[seed][name]) - len(pairs)
                    for seed, pairs in clusters.items()
                ),
            }
    return by_set


def metric_means(comparison: Comparison, name: str, first: int) -> dict | None:
    """Returns {arm: {seed: mean of a metric}}, of the first stage that logged it; else None.

    name: as "reward/correct", or "said:reward/correct" for that of stage `said` alone. The mean
    over steps is the area under the curve, by trapezoids, over its width: measurements need not be
    equally far apart.
    """
    means = {}
    stage, _, metric = name.rpartition(":")
    for arm, seed in comparison.runs():
        rows = read_rows(comparison.workdir(arm, seed) / "metrics.jsonl")
        stages = [stage] if stage else comparison.arms[arm].stages
        curves = [series(rows, one, metric) for one in stages]
        curves = [curve for curve in curves if curve is not None]
        if curves:
            means.setdefault(arm, {})[seed] = mean_height(*curves[0], first)
    return means or None


def mean_height(steps: np.ndarray, values: np.ndarray, first: int) -> float:
    """Returns the mean height of a curve over its first steps, those below `first`; 0: over all.

    steps 9, 19, 39 with values .2, .4, .6: (10 x .3 + 20 x .5) / 30
    """
    chosen = np.isfinite(values)
    if first:
        chosen &= steps < first
    steps, values = steps[chosen], values[chosen]
    if len(steps) == 0:
        return math.nan
    if len(steps) == 1:
        return float(values[0])
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def summarise_metric(means: dict, baseline: str) -> dict:
    """Returns {arm: {"seeds", "mean", "difference"}}; the difference is paired by seed."""
    by_arm = {}
    for arm, seeds in means.items():
        by_arm[arm] = {"seeds": seeds, "mean": float(np.mean(list(seeds.values())))}
        others = means.get(baseline, {})
        if arm != baseline and others.keys() == seeds.keys():
            gaps = [value - others[seed] for seed, value in seeds.items()]
            by_arm[arm]["difference"] = t_interval(gaps)
    return by_arm


def run_rows(comparison: Comparison) -> list[dict]:
    """Returns one row a run: its seconds, its compilations after warm-up, its chosen steps."""
    rows = []
    for arm, seed in comparison.runs():
        summary = read_json(comparison.workdir(arm, seed) / "summary.json")
        rows.append(
            {
                "arm": arm,
                "seed": seed,
                "wall_s": summary["wall_s"],
                "compiles_after_warmup": summary["compiles_after_warmup"],
                "chosen_step": summary.get("chosen_step"),
                "versions": summary["versions"],
            }
        )
    return rows


def write(path: Path, summary: dict) -> None:
    """Writes arms.json. It takes no device, unlike `files.write_json`: a run may hold it."""
    write_text(path, dumps(summary, indent=2) + "\n")
