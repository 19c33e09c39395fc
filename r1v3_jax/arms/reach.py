"""How many samples it takes to an accuracy: arms of the same stages are points of one curve."""

import itertools
import math

from r1v3_jax.arms.answers import Answers
from r1v3_jax.arms.plan import Comparison
from r1v3_jax.config import GRPO, Collect, Run
from r1v3_jax.evaluate.statistics import t_interval
from r1v3_jax.evaluate.verdicts import known_shares


def samples_drawn(run: Run, shared: tuple[str, ...]) -> int:
    """Returns how many answers a run draws from a model to learn from, behind the shared stages.

    ValueError for a stage that draws as many as it needs.
    """
    total = 0
    for name, stage in run.stages.items():
        if name in shared:
            continue
        if isinstance(stage, Collect):
            total += stage.questions * stage.samples
        elif isinstance(stage, GRPO):
            if stage.refills:
                raise ValueError(
                    f"{name}.refills is {stage.refills}: how many samples a step "
                    "draws is not known beforehand; set it to 0"
                )
            total += stage.steps * stage.prompts * stage.group_size
    return total


def samples_to(points: list[tuple[int, float]], target: float) -> float:
    """Returns the samples at which a curve first reaches `target`; nan if it does not.

    points: (samples, accuracy), at least one, in any order. Between two points the curve is a line:

        samples_to([(100, 0.5), (200, 0.9)], 0.7) -> 150

    A curve whose first point is already there has that point's samples, which is at most right.
    """
    points = sorted(points)
    if points[0][1] >= target:
        return float(points[0][0])
    for (samples, accuracy), (more, higher) in itertools.pairwise(points):
        if higher >= target:
            share = (target - accuracy) / (higher - accuracy)
            return samples + share * (more - samples)
    return math.nan


def samples_needed(
    comparison: Comparison, answers: Answers, name: str, target: float
) -> dict:
    """Returns how many samples each curve takes until the accuracy of a set is `target`.

    name: a set that every arm is measured on. Arms with stages of the same names and kinds lie on
    one curve. ValueError for an unknown set, or if there is one curve alone.

    {"set", "target", "curves": {arms, as "grpo_4, grpo_8": {"points": [(arm, samples, mean
    accuracy), ...], "needed": {seed: samples}}}, "share": (mean, low, high)}: the share is that of
    the last curve's samples in the first's, with Student's interval over the logarithms of the
    seeds' ratios; None where some seed does not get there.
    """
    # 1. Which arms lie on one curve.
    curves: dict[tuple, list[str]] = {}
    for arm, run in comparison.arms.items():
        kinds = tuple((stage, type(config)) for stage, config in run.stages.items())
        curves.setdefault(kinds, []).append(arm)
    if len(curves) < 2:
        raise ValueError(
            "--reach compares curves, and all arms have the same stages, so they are one curve; "
            "wanted arms of other stages, as in recipes/samples_needed"
        )

    # 2. Their points, and where each crosses the target.
    found = {}
    for arms in curves.values():
        drawn = {
            arm: samples_drawn(comparison.arms[arm], comparison.shared) for arm in arms
        }
        accuracy = {arm: _accuracy_by_seed(answers[arm], name) for arm in arms}
        points = [
            (arm, drawn[arm], sum(accuracy[arm].values()) / len(accuracy[arm]))
            for arm in arms
        ]
        needed = {
            seed: samples_to(
                [(drawn[arm], accuracy[arm][seed]) for arm in arms], target
            )
            for seed in comparison.seeds
        }
        found[", ".join(arms)] = {"points": points, "needed": needed}

    # 3. The last curve against the first, seed by seed. Ratios are compared by their logarithms.
    first, *_, last = found.values()
    ratios = [last["needed"][seed] / first["needed"][seed] for seed in comparison.seeds]
    share = None
    if all(math.isfinite(ratio) for ratio in ratios):
        interval = t_interval([math.log(ratio) for ratio in ratios])
        share = tuple(math.exp(value) for value in interval)
    return {"set": name, "target": target, "curves": found, "share": share}


def _accuracy_by_seed(seeds: dict, name: str) -> dict[int, float]:
    """Returns {seed: accuracy on a set}; ValueError if an arm was not measured on it."""
    for sets in seeds.values():
        if name not in sets:
            raise ValueError(
                f"no set {name!r} to reach an accuracy on; there are {', '.join(sets)}"
            )
    return {
        seed: float(known_shares(sets[name]).mean()) for seed, sets in seeds.items()
    }
