"""Writes a comparison as tables of Markdown; percent, and points where two are subtracted."""

import math


def tables(summary: dict) -> str:
    """Returns every table of a comparison, one under the other."""
    parts = [
        head(summary),
        accuracy_table(summary),
        difference_table(summary),
        stage_table(summary),
        reach_table(summary),
        *(metric_table(summary, name) for name in summary["metrics"]),
        run_table(summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def head(summary: dict) -> str:
    """Returns two sentences: what differs, and whether anything was compiled twice."""
    compared_to = summary["compared_to"]
    differs = ", ".join(
        f"`{arm}` from `{compared_to[arm]}` in {', '.join(f'`{field}`' for field in fields)}"
        for arm, fields in summary["differs"].items()
    )
    compiles = sum(row["compiles_after_warmup"] for row in summary["runs"])
    return (
        f"`{summary['config']}`: what differs: {differs}. "
        f"Compilations after warm-up, all runs: {compiles}."
    )


def accuracy_table(summary: dict) -> str:
    """Returns held-out accuracy by set and arm: the mean of the seeds, then each seed."""
    seeds = summary["seeds"]
    rows = [["set", "arm", "mean", *(f"seed {seed}" for seed in seeds)]]
    for name, arms in summary["accuracy"].items():
        for arm, accuracy in arms.items():
            by_seed = [percent(*accuracy["seeds"][seed]) for seed in seeds]
            rows.append([name, arm, percent(*accuracy["all"]), *by_seed])
    return markdown(rows)


def difference_table(summary: dict) -> str:
    """Returns the paired differences to the arm that each is compared to, in points."""
    compared_to = summary["compared_to"]
    rows = [
        [
            "set",
            "difference",
            "95% interval",
            "each seed",
            "interval of the seeds alone (t)",
        ]
    ]
    for name, arms in summary["differences"].items():
        for arm, gap in arms.items():
            by_seed = ", ".join(points(x) for x in gap["seeds"].values())
            # Answers that the verifier failed on are in no difference.
            left_out = gap["unverified"]
            note = f" ({left_out} unverified)" if left_out else ""
            rows.append(
                [
                    name,
                    f"{arm} - {compared_to[arm]}: **{points(gap['mean'])}**{note}",
                    between(gap["low"], gap["high"]),
                    by_seed,
                    between(*gap["t"]),
                ]
            )
    return markdown(rows)


def stage_table(summary: dict) -> str:
    """Returns what each measured stage adds; "" where no arm has several of its own."""
    stages = {}
    for row in summary["stages"]:
        stages.setdefault(row["arm"], set()).add(row["stage"])
    if max(map(len, stages.values()), default=0) < 2:
        return ""
    rows = [
        [
            "arm",
            "stage",
            "set",
            "accuracy",
            "since the stage before",
            "to the other arm",
        ]
    ]
    for row in summary["stages"]:
        since = gap_words(row["since"], row["to_stage"])
        gap = gap_words(row["gap"], row["to_arm"])
        accuracy = percent(*row["accuracy"])
        rows.append([row["arm"], row["stage"], row["set"], accuracy, since, gap])
    return markdown(rows)


def gap_words(gap: tuple | None, other: str) -> str:
    """Writes a difference as "+1.2 (-0.4 to +2.8; t -1.0 to +3.4), grpo"; "-" if there is none."""
    if gap is None:
        return "-"
    mean, low, high, *of_seeds = gap
    return f"{points(mean)} ({between(low, high)}; t {between(*of_seeds)}), {other}"


def reach_table(summary: dict) -> str:
    """Returns the samples that each curve takes to an accuracy; "" if none was asked for."""
    reach = summary["reach"]
    if reach is None:
        return ""
    goal = f"samples to {100 * reach['target']:g}% on {reach['set']}"
    rows = [["curve: samples, accuracy", f"{goal}, each seed"]]
    for curve in reach["curves"].values():
        points_in_words = ", ".join(
            f"{arm}: {samples}, {100 * accuracy:.1f}"
            for arm, samples, accuracy in curve["points"]
        )
        needed = ", ".join(
            "not reached" if math.isnan(value) else f"{value:.0f}"
            for value in curve["needed"].values()
        )
        rows.append([points_in_words, needed])
    if reach["share"] is None:
        return markdown(rows)
    mean, low, high = reach["share"]
    interval = "-" if math.isnan(low) else f"{low:.2f} to {high:.2f}"
    return (
        f"{markdown(rows)}\n\n"
        f"The last curve takes {mean:.2f} times the samples of the first (t {interval})."
    )


def metric_table(summary: dict, name: str) -> str:
    """Returns the mean height of a metric's curve by arm, and its difference to the first arm."""
    steps = f"the first {summary['first']} steps" if summary["first"] else "all steps"
    first = summary["arms"][0]
    rows = [[f"`{name}`, mean over {steps}", "mean", "each seed", f"minus {first} (t)"]]
    for arm, metric in summary["metrics"][name].items():
        by_seed = ", ".join(f"{value:.4g}" for value in metric["seeds"].values())
        gap = "-"
        if "difference" in metric:
            mean, low, high = metric["difference"]
            gap = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
        rows.append([arm, f"{metric['mean']:.4g}", by_seed, gap])
    return markdown(rows)


def run_table(summary: dict) -> str:
    """Returns one row a run."""
    rows = [["run", "seconds", "compilations after warm-up", "checkpoint chosen"]]
    for run in summary["runs"]:
        chosen = "-" if run["chosen_step"] is None else f"step {run['chosen_step']}"
        label = f"{run['arm']}, seed {run['seed']}"
        compiles = str(run["compiles_after_warmup"])
        rows.append([label, f"{run['wall_s']:.0f}", compiles, chosen])
    return markdown(rows)


def percent(mean: float, low: float, high: float) -> str:
    """Writes shares as "81.2 (79.8 to 82.5)", in percent."""
    return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def points(share: float) -> str:
    """Writes a difference of shares as "+1.2", in points."""
    return f"{100 * share:+.1f}"


def between(low: float, high: float) -> str:
    """Writes an interval as "-0.4 to +2.8"; "-" if there is none, as of one seed."""
    return "-" if math.isnan(low) else f"{points(low)} to {points(high)}"


def markdown(rows: list[list[str]]) -> str:
    """Writes a table, whose first row is its head."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    line = "|" + "---|" * len(rows[0])
    return "\n".join([head, line, *body])
