"""Which curves of a run are shown: the charts of a stage, each with what it shows in one line."""

import dataclasses

from r1v3_jax.report.charts import Chart, chart
from r1v3_jax.report.run_numbers import label, series, stages_that_log


@dataclasses.dataclass(frozen=True)
class Plan:
    """A chart that a stage may have: metrics by the names of their lines."""

    title: str
    explanation: str
    unit: str
    metrics: dict[str, str]


REWARDED = (
    Plan(
        "Reward",
        "What the samples of a step are worth on average, and its two oldest parts.",
        "mean over the samples of a step",
        {"reward": "reward", "right answers": "accuracy", "form": "format"},
    ),
    Plan(
        "Held-out probe",
        "Right answers to fixed questions that are never trained on.",
        "share of right answers",
        {"accuracy": "eval/accuracy"},
    ),
    Plan(
        "Length",
        "Tokens of an answer. Wrong ones that grow while right ones do not are loops.",
        "tokens",
        {
            "mean": "completions/mean_length",
            "right": "completions/mean_length_right",
            "wrong": "completions/mean_length_wrong",
            "longest": "completions/max_length",
            "limit": "length_limit",
        },
    ),
    Plan(
        "Answers that need a look",
        "Cut off at the limit; saying that the picture cannot be seen; thinking again.",
        "share of the samples",
        {
            "cut off": "completions/clipped_ratio",
            "cannot see": "completions/cannot_see",
            "think again": "completions/reflecting",
        },
    ),
    Plan(
        "Entropy",
        "How unsure the policy is where it samples; at 0 it says the same whatever it is asked.",
        "nats a token",
        {
            "all tokens": "entropy",
            "first token of a critical word": "critical_entropy",
            "the token after it": "critical_entropy_next",
        },
    ),
    Plan(
        "Sampler and trainer",
        "How far log p of sampler and trainer are apart; 0 where both compute the same policy.",
        "nats a token",
        {"gap": "sampler_gap"},
    ),
    Plan(
        "Tokens of older weights",
        "With prompts in flight: how evenly tokens count, and how many are bounded or masked.",
        "share of the tokens",
        {"effective sample size": "ess", "bounded or masked": "masked"},
    ),
    Plan(
        "Groups that teach",
        "Groups with equal rewards teach nothing; mixed ones have right and wrong answers.",
        "share of the groups",
        {"equal rewards": "frac_reward_zero_std", "mixed": "frac_mixed_answers"},
    ),
    Plan(
        "KL",
        "How far the policy has moved from its reference.",
        "nats a token",
        {"kl": "kl"},
    ),
    Plan(
        "Speed",
        "Tokens that were sampled in a second of the clock.",
        "tokens a second",
        {"sampled": "tokens_per_s"},
    ),
)
LEARNING = (
    Plan(
        "Loss",
        "What the stage makes smaller; of GRPO it says little.",
        "nats a token",
        {"training": "loss", "held out": "eval/loss"},
    ),
    Plan(
        "Size of an update",
        "Norm of the gradient before it is cut, and of what was added to the weights.",
        "norm",
        {"gradient": "grad_norm", "update": "update_norm"},
    ),
)
# Metrics with a name behind a prefix, one line each: terms of the reward.
TERMS = Plan(
    "Terms of the reward",
    "What each term says on average, before its weight.",
    "mean over the samples it speaks of",
    {},
)
SOURCES = (
    ("Right answers by source", "accuracy/", "", "share of the samples"),
    ("Reward by source", "", "/reward", "mean over the samples"),
    ("Cut off by source", "", "/completions/clipped_ratio", "share of the samples"),
    (
        "Length of right answers by source",
        "",
        "/completions/mean_length_right",
        "tokens",
    ),
)


def charts_of_stage(rows: list[dict], stage: str) -> list[Chart]:
    """Returns the charts of a stage that has numbers for them."""
    names = names_of(rows, stage)
    is_rewarded = "reward" in names
    found = [draw(plan, rows, stage) for plan in (REWARDED if is_rewarded else ())]
    if is_rewarded:
        terms = {
            name.removeprefix("reward/"): name
            for name in names
            if name.startswith("reward/")
        }
        found.insert(1, draw(dataclasses.replace(TERMS, metrics=terms), rows, stage))
    found += [draw(plan, rows, stage) for plan in LEARNING]
    found += source_charts(rows, stage, names)
    return [one for one in found if one is not None]


def source_charts(rows: list[dict], stage: str, names: list[str]) -> list[Chart | None]:
    """Returns the charts with a line for each source of the stage's data, if there are several."""
    found = []
    for title, before, behind, unit in SOURCES:
        metrics = {
            name.removeprefix(before).removesuffix(behind): name
            for name in names
            if name.startswith(before)
            and name.endswith(behind)
            and len(name) > len(before + behind)
        }
        # "reward/correct" is a term, and no source is called "eval".
        metrics.pop("eval", None)
        plan = Plan(
            title, "One line for each source of the stage's data.", unit, metrics
        )
        found.append(draw(plan, rows, stage))
    return found


def draw(plan: Plan, rows: list[dict], stage: str) -> Chart | None:
    """Returns the chart of a plan for one stage."""
    lines = {name: series(rows, stage, metric) for name, metric in plan.metrics.items()}
    return chart(plan.title, plan.explanation, plan.unit, lines)


def charts_side_by_side(runs: dict[str, list[dict]]) -> list[Chart]:
    """Returns charts with a line for each run and stage: runs is {name: rows of metrics}."""
    found = []
    plans = [
        *(
            (plan, plan.metrics[next(iter(plan.metrics))])
            for plan in (*REWARDED, *LEARNING)
        )
    ]
    for plan, metric in plans:
        lines = {}
        for name, rows in runs.items():
            for stage in stages_that_log(rows, metric):
                lines[f"{name}, {label(stage)}"] = series(rows, stage, metric)
        one = chart(plan.title, f"{plan.explanation} ({metric})", plan.unit, lines)
        if one is not None:
            found.append(one)
    return found


def names_of(rows: list[dict], stage: str) -> list[str]:
    """Returns the metrics that a stage logged, in order of name."""
    names = {name for row in rows if row["stage"] == stage for name in row}
    return sorted(names - {"stage", "step"})
