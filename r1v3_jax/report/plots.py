"""The pictures and the table of a run, drawn by python -m r1v3_jax.report WORKDIR.

Each picture is a function `(rows, summary) -> Figure`, or None if the run has nothing to show in
it. Knows nothing but these two, the contents of metrics.jsonl and summary.json; works on a run in
progress too.
"""

from pathlib import Path

import numpy as np

from r1v3_jax.report.run_numbers import (
    BLIND,
    accuracies,
    bounds,
    ends,
    interval,
    known,
    label,
    measured,
    percent,
    read_rows,
    read_summary,
    rewarded_stages,
    series,
    smooth,
    supervised_stages,
)

# Okabe and Ito's palette, told apart with any colour vision; lines differ in style as well.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
GREY = "#7F7F7F"
GRPO_STEP = "GRPO step (faint: as logged, bold: moving mean)"
TO = "\N{RIGHTWARDS ARROW}"
# Stages of other names are purple.
COLOURS = {
    "base": SKY,
    "cold_start": BLUE,
    "grpo": ORANGE,
    "connector": GREEN,
    BLIND: GREY,
}
TITLE_LENGTH = 72  # characters that fit above a picture


def plot_run(directory) -> list[Path]:
    """Writes `directory`/plots/NAME.png for every picture that the run has numbers for."""
    directory = Path(directory)
    rows = read_rows(directory / "metrics.jsonl")
    summary = read_summary(directory)
    folder = directory / "plots"
    figures = {}
    # 1. Of each stage with rewards. The first one has the plain names.
    for number, stage in enumerate(rewarded_stages(rows)):
        for picture in (reward, length, entropy):
            name = f"{picture.__name__}_{stage}" if number else picture.__name__
            figures[name] = picture(rows, stage)

    # 2. Of the whole run.
    for picture in (accuracy_by_stage, selection, loss):
        figures[picture.__name__] = picture(rows, summary)

    # 3. No folder for a run without pictures.
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            folder.mkdir(exist_ok=True)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=150)
            paths.append(path)
    return paths


# The pictures.


def reward(rows: list[dict], stage: str):
    """Draws mean reward and its two parts against the step."""
    total = series(rows, stage, "reward")
    if total is None:
        return None
    start, end = ends(total)
    num_steps = len(total[0])
    title = f"Mean reward {start:.2f} {TO} {end:.2f} over {num_steps} steps of {stage}"
    figure, (axes,) = blank(title)
    lines = {
        "reward": (total, BLUE, "-"),
        "accuracy part": (series(rows, stage, "accuracy"), ORANGE, "--"),
        "format part": (series(rows, stage, "format"), GREEN, "-."),
    }
    draw(axes, lines)
    # A little room at both ends, so that lines at 0 and 1 can be seen.
    axes.set(
        xlabel=GRPO_STEP,
        ylabel="mean over a step's samples (0 to 1)",
        ylim=(-0.03, 1.03),
    )
    return legend(figure, axes)


def length(rows: list[dict], stage: str):
    """Draws completion tokens, and the share that was cut off at the limit."""
    mean = series(rows, stage, "completions/mean_length")
    longest = series(rows, stage, "completions/max_length")
    clipped = series(rows, stage, "completions/clipped_ratio")
    limit = series(rows, stage, "length_limit")
    # A run without GRPO has none of these metrics.
    if mean is None:
        return None
    start, end = ends(mean)
    num_steps = len(mean[0])
    title = f"Mean completion {start:.0f} {TO} {end:.0f} tokens over {num_steps} steps of {stage}"
    figure, panels = blank(title, 1 if clipped is None else 2)

    # 1. Lengths, above.
    draw(panels[0], {"mean": (mean, BLUE, "-"), "longest": (longest, ORANGE, "--")})
    if limit is not None:
        steps, values = limit
        panels[0].step(
            steps,
            values,
            ":",
            where="post",
            color=GREY,
            linewidth=2,
            label="limit",
        )
    panels[0].set(ylabel="completion tokens", ylim=(0, None))

    # 2. The share cut off, below. The axis begins under 0, so that a line at 0 can be seen.
    if clipped is not None:
        steps, ratios = clipped
        percents = 100 * ratios
        draw(panels[1], {"cut off at the limit": ((steps, percents), PURPLE, "-")})
        top = max(5.0, 1.1 * np.nanmax(percents))
        panels[1].set(ylabel="cut off (%)", ylim=(-0.03 * top, top))
    panels[-1].set_xlabel(GRPO_STEP)
    return legend(figure, *panels)


def entropy(rows: list[dict], stage: str):
    """Draws the entropy of all sampled tokens, and where a critical word begins."""
    mean = series(rows, stage, "entropy")
    critical = series(rows, stage, "critical_entropy")
    if mean is None:
        return None
    start, end = ends(mean)
    num_steps = len(mean[0])
    title = f"Token entropy {start:.2f} {TO} {end:.2f} nats over {num_steps} steps of {stage}"
    figure, (axes,) = blank(title)
    lines = {
        "all tokens": (mean, BLUE, "-"),
        "first token of a critical word": (critical, ORANGE, "--"),
    }
    draw(axes, lines)
    axes.set(xlabel=GRPO_STEP, ylabel="entropy (nats per token)", ylim=(0, None))
    return legend(figure, axes)


def accuracy_by_stage(rows: list[dict], summary: dict):
    """Draws bars with 95% intervals: a group for each set, a bar for each stage."""
    stages, sets = accuracies(summary)
    if not sets:
        return None
    figure, (axes,) = blank(
        _gains(stages, sets) or "Held-out accuracy after each stage"
    )
    # Groups are centred at 0, 1, 2 ...; with two stages the bars are 0.4 wide, at -0.2 and 0.2.
    width = 0.8 / len(stages)
    for i, (stage, values) in enumerate(stages.items()):
        offset = (i - (len(stages) - 1) / 2) * width
        # A stage has no bar for a set that it was not measured on.
        groups = [k for k, name in enumerate(sets) if measured(values.get(name))]
        x = [k + offset for k in groups]
        percents = bounds([values[sets[k]] for k in groups])
        _draw_bars(axes, x, percents, 0.9 * width, stage)
    axes.set(ylabel="right answers (%), with 95% interval")
    axes.margins(y=0.1)
    axes.set_xticks(range(len(sets)), sets)
    axes.grid(False, axis="x")
    return legend(figure, axes)


def _draw_bars(axes, x: list[float], percents, width: float, stage: str) -> None:
    """Draws the bars of one stage with intervals and numbers; `percents` is of `bounds`."""
    mean, low, high = percents
    axes.bar(
        x,
        mean,
        width,
        color=COLOURS.get(stage, PURPLE),
        label=label(stage),
        zorder=2,
    )
    axes.errorbar(
        x,
        mean,
        [mean - low, high - mean],
        fmt="none",
        ecolor="black",
        capsize=3,
    )
    # The number is written above the upper end of the interval.
    for value, *tip in zip(mean, x, high, strict=True):
        axes.annotate(
            f"{value:.0f}",
            tip,
            (0, 3),
            textcoords="offset points",
            ha="center",
        )


def _gains(stages: dict[str, dict], sets: list[str]) -> str:
    """Returns a title that says what training gained on each set; "" if it would not fit."""
    # Noise in place of the images is no stage of training.
    trained = [values for stage, values in stages.items() if stage != BLIND]
    if len(trained) < 2:
        return ""
    gains = []
    for name in sets:
        before = percent(trained[0].get(name))
        after = percent(trained[-1].get(name))
        gains.append(f"{name} {before} {TO} {after}")
    gained = ", ".join(gains)
    title = f"Held-out accuracy, first to last stage: {gained}"
    return title if len(title) < TITLE_LENGTH else ""


def selection(rows: list[dict], summary: dict):
    """Draws critical-token entropy against accuracy of checkpoints; the chosen one is ringed."""
    points = []
    for checkpoint in summary.get("checkpoints", []):
        # A checkpoint whose samples had no critical word has no such entropy.
        if known(checkpoint["critical_entropy"]) and measured(checkpoint["accuracy"]):
            points.append(checkpoint)
    if not points:
        return None
    chosen = summary.get("chosen_step")
    correlation = summary.get("rank_correlation")
    title = "1 checkpoint" if len(points) == 1 else f"{len(points)} checkpoints"
    if known(correlation):
        title += f": rank correlation of entropy and accuracy {correlation:+.2f}"
    figure, (axes,) = blank(title)
    _draw_points(figure, axes, points, chosen)
    axes.set(
        xlabel="critical-token entropy (nats)",
        ylabel="held-out accuracy (%), with 95% interval",
    )
    return legend(figure, axes)


def _draw_points(figure, axes, points: list[dict], chosen: int | None) -> None:
    """Draws a dot with its interval for each checkpoint, and a ring around the chosen one."""
    entropies = [point["critical_entropy"] for point in points]
    steps = [point["step"] for point in points]
    mean, low, high = bounds([point["accuracy"] for point in points])
    axes.errorbar(
        entropies,
        mean,
        [mean - low, high - mean],
        fmt="none",
        ecolor=GREY,
        alpha=0.6,
        zorder=2,
    )
    dots = axes.scatter(entropies, mean, c=steps, cmap="cividis", s=60, zorder=3)
    for point, value in zip(points, mean, strict=True):
        if point["step"] == chosen:
            axes.scatter(
                point["critical_entropy"],
                value,
                s=260,
                facecolor="none",
                edgecolor=ORANGE,
                linewidth=2.5,
                label=f"chosen: step {chosen}",
                zorder=4,
            )
    # The colour of a dot is its step.
    figure.colorbar(dots, ax=axes, label="GRPO step", pad=0.02)


def loss(rows: list[dict], summary: dict):
    """Draws training and validation loss of the supervised stages, a panel for each."""
    stages = [
        stage
        for stage in supervised_stages(rows)
        if series(rows, stage, "loss") is not None
    ]
    if not stages:
        return None
    parts = []
    for stage in stages:
        _, end = ends(series(rows, stage, "loss"))
        parts.append(f"{label(stage)} {end:.2f}")
    title = f"Loss at the end: {', '.join(parts)}"
    figure, panels = blank(title, columns=len(stages))
    for stage, axes in zip(stages, panels, strict=True):
        draw(axes, {"training": (series(rows, stage, "loss"), BLUE, "-")})
        # Evaluated now and then only, so it has points and is not smoothed.
        held_out = series(rows, stage, "eval/loss")
        if held_out is not None:
            steps, values = held_out
            axes.plot(
                steps,
                values,
                "o--",
                color=ORANGE,
                markersize=4,
                label="held out",
            )
        axes.set(xlabel=f"{label(stage)} step", ylim=(0, None))
    panels[0].set_ylabel("loss (nats per token)")
    return legend(figure, *panels)


# The table.


def table(summary: dict) -> str:
    """Writes held-out accuracy in percent with 95% intervals, a row a stage, a column a set.

    | stage | normal (n = 1000) |  hard (n = 1000) |
    | ----- | ----------------: | ---------------: |
    | base  | 12.4 [10.5, 14.6] | 8.0 [ 6.5,  9.8] |
    """
    stages, sets = accuracies(summary)
    if not sets:
        return "No held-out set was evaluated."
    # 1. The cells. A stage that was not evaluated on a set has "-" there.
    header = ["stage"]
    header += [f"{name} ({questions(stages, name)})" for name in sets]
    body = []
    for stage, values in stages.items():
        intervals = [interval(values.get(name)) for name in sets]
        body.append([label(stage), *intervals])

    # 2. Columns of equal width. The colon of Markdown aligns numbers at the right.
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    rule = ["-" * widths[0]]
    rule += ["-" * (width - 1) + ":" for width in widths[1:]]
    lines = ["Held-out accuracy in percent, with 95% intervals.", ""]
    for row in (header, rule, *body):
        cells = [row[0].ljust(widths[0])]
        for cell, width in zip(row[1:], widths[1:], strict=True):
            cells.append(cell.rjust(width))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def questions(stages: dict[str, dict], name: str) -> str:
    """Writes how many questions a set has; a range if failed verifications left some out.

    With several answers to each: "n = 1000, mean of 5".
    """
    counts = [values[name]["n"] for values in stages.values() if name in values]
    # Hard questions of three stages with n = 1000, 997 and 1000: "n = 997 to 1000".
    low = min(counts)
    high = max(counts)
    count = f"n = {high}" if low == high else f"n = {low} to {high}"
    samples = {
        values[name].get("samples", 1) for values in stages.values() if name in values
    }
    return f"{count}, mean of {max(samples)}" if max(samples) > 1 else count


# Drawing.


def blank(title: str, rows: int = 1, columns: int = 1):
    """Returns an empty figure and its panels.

    Made without pyplot: no display, no state that outlives the figure.
    """
    # Imported here: training loads this module and must not need matplotlib for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = max(7.2, 3.4 * columns)
    height = 3.2 + 1.4 * rows
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex="col").flat)
    # A pale grid below the lines, and no frame at the top and on the right.
    for axes in panels:
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def draw(axes, lines: dict) -> None:
    """Draws each {name: ((steps, values), colour, style)}: faint as logged, smoothed on top."""
    # There is no step 2.5.
    axes.xaxis.get_major_locator().set_params(integer=True)
    for name, (line, colour, style) in lines.items():
        if line is None:
            continue
        steps, values = line
        axes.plot(
            steps,
            values,
            ".-",
            color=colour,
            alpha=0.25,
            linewidth=1,
            markersize=3,
        )
        # So few values are not smoothed; a lone one between two nan is no line, only a point.
        marker = "o" if len(steps) < 16 else ""
        axes.plot(
            steps,
            smooth(values),
            style,
            color=colour,
            linewidth=2,
            label=name,
            marker=marker,
            markersize=4,
        )


def legend(figure, *panels):
    """Puts one legend below all panels and returns the figure."""
    # By name: a line that is in several panels is listed once.
    entries = {}
    for axes in panels:
        handles, names = axes.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    if entries:
        figure.legend(
            entries.values(),
            entries,
            loc="outside lower center",
            ncols=len(entries),
            frameon=False,
        )
    return figure
