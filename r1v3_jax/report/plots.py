"""The pictures and the table of a run: python -m r1v3_jax.report WORKDIR

Reads metrics.jsonl and summary.json and knows nothing else; works on a run in progress too. Each
picture is a function `(rows, summary) -> Figure`, or None where the run has nothing to show in it.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

from r1v3_jax.files import read_jsonl

# Okabe and Ito's palette, told apart with any colour vision; lines differ in style as well.
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = (
    "#0072B2 #D55E00 #009E73 #CC79A7 #56B4E9 #7F7F7F".split()
)
GRPO_STEP = "GRPO step (faint: as logged, bold: moving mean)"
SUPERVISED = ("base", "cold_start", "connector")
BOUNDS = ("mean", "low", "high")
TO = "\N{RIGHTWARDS ARROW}"
BLIND = "images as noise"
COLOURS = {
    "base": SKY,
    "cold_start": BLUE,
    "grpo": ORANGE,
    "connector": GREEN,
    BLIND: GREY,
}


def plot_run(directory) -> list[Path]:
    """Writes `directory`/plots/NAME.png for every picture that the run has numbers for."""
    directory = Path(directory)
    rows, summary = read_rows(directory / "metrics.jsonl"), read_summary(directory)
    paths = []
    for picture in (reward, length, entropy, accuracy_by_stage, selection, loss):
        if (figure := picture(rows, summary)) is not None:
            paths.append(directory / "plots" / f"{picture.__name__}.png")
            paths[-1].parent.mkdir(exist_ok=True)
            figure.savefig(paths[-1], dpi=150)
    return paths


def read_rows(path: Path) -> list[dict]:
    """The whole lines of a metrics.jsonl, none if there is no such file."""
    return read_jsonl(path) if path.exists() else []


def read_summary(directory: Path) -> dict:
    path = directory / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def reward(rows: list[dict], summary: dict):
    """Mean reward and its two parts against the step."""
    lines = {
        "reward": (series(rows, "grpo", "reward"), BLUE, "-"),
        "accuracy part": (series(rows, "grpo", "accuracy"), ORANGE, "--"),
        "format part": (series(rows, "grpo", "format"), GREEN, "-."),
    }
    main = lines["reward"][0]
    if main is None:
        return None
    a, b = ends(main)
    figure, (axes,) = blank(
        f"Mean reward {a:.2f} {TO} {b:.2f} over {len(main[0])} GRPO steps"
    )
    draw(axes, lines)
    axes.set(
        xlabel=GRPO_STEP,
        ylabel="mean over a step's samples (0 to 1)",
        ylim=(-0.03, 1.03),
    )
    return legend(figure, axes)


def length(rows: list[dict], summary: dict):
    """Completion tokens, and the share that was cut off at the limit."""
    lines = {
        "mean": (series(rows, "grpo", "completions/mean_length"), BLUE, "-"),
        "longest": (series(rows, "grpo", "completions/max_length"), ORANGE, "--"),
    }
    clipped = series(rows, "grpo", "completions/clipped_ratio")
    main = lines["mean"][0]
    if main is None:
        return None
    a, b = ends(main)
    title = (
        f"Mean completion {a:.0f} {TO} {b:.0f} tokens over {len(main[0])} GRPO steps"
    )
    figure, panels = blank(title, 1 if clipped is None else 2)
    draw(panels[0], lines)
    if (limit := series(rows, "grpo", "length_limit")) is not None:
        panels[0].step(
            *limit, ":", where="post", color=GREY, linewidth=2, label="limit"
        )
    panels[0].set(ylabel="completion tokens", ylim=(0, None))
    if clipped is not None:
        clipped = clipped[0], 100 * clipped[1]
        draw(panels[1], {"cut off at the limit": (clipped, PURPLE, "-")})
        top = max(5.0, 1.1 * np.nanmax(clipped[1]))
        panels[1].set(
            ylabel="cut off (%)", ylim=(-0.03 * top, top)
        )  # a line at 0 can be seen
    panels[-1].set_xlabel(GRPO_STEP)
    return legend(figure, *panels)


def entropy(rows: list[dict], summary: dict):
    """Entropy of all sampled tokens, and where a critical word begins."""
    lines = {
        "all tokens": (series(rows, "grpo", "entropy"), BLUE, "-"),
        "first token of a critical word": (
            series(rows, "grpo", "critical_entropy"),
            ORANGE,
            "--",
        ),
    }
    main = lines["all tokens"][0]
    if main is None:
        return None
    a, b = ends(main)
    figure, (axes,) = blank(
        f"Token entropy {a:.2f} {TO} {b:.2f} nats over {len(main[0])} GRPO steps"
    )
    draw(axes, lines)
    axes.set(xlabel=GRPO_STEP, ylabel="entropy (nats per token)", ylim=(0, None))
    return legend(figure, axes)


def accuracy_by_stage(rows: list[dict], summary: dict):
    """Bars with 95% intervals: a group a set, a bar a stage."""
    stages, sets = accuracies(summary)
    if not sets:
        return None
    trained = [values for stage, values in stages.items() if stage != BLIND]
    gains = [
        f"{name} {percent(trained[0].get(name))} {TO} {percent(trained[-1].get(name))}"
        for name in sets
        if len(trained) > 1
    ]
    title = f"Held-out accuracy, first to last stage: {', '.join(gains)}"
    short = gains and len(title) < 72  # characters, what the picture is wide
    figure, (axes,) = blank(title if short else "Held-out accuracy after each stage")
    width = 0.8 / len(stages)
    for i, (stage, values) in enumerate(stages.items()):
        at = [k for k, name in enumerate(sets) if measured(values.get(name))]
        mean, low, high = bounds([values[sets[k]] for k in at])
        x = [k + (i - (len(stages) - 1) / 2) * width for k in at]
        axes.bar(
            x, mean, 0.9 * width, color=COLOURS[stage], label=label(stage), zorder=2
        )
        axes.errorbar(
            x, mean, [mean - low, high - mean], fmt="none", ecolor="black", capsize=3
        )
        for text, *top in zip(mean, x, high, strict=True):
            axes.annotate(
                f"{text:.0f}", top, (0, 3), textcoords="offset points", ha="center"
            )
    axes.set(ylabel="right answers (%), with 95% interval")
    axes.margins(y=0.1)
    axes.set_xticks(range(len(sets)), sets)
    axes.grid(False, axis="x")
    return legend(figure, axes)


def selection(rows: list[dict], summary: dict):
    """Each checkpoint's critical-token entropy against its accuracy; the chosen one is marked."""
    points = [
        c
        for c in summary.get("checkpoints", [])
        if known(c["critical_entropy"]) and measured(c["accuracy"])
    ]
    if not points:
        return None
    chosen, correlation = summary.get("chosen_step"), summary.get("rank_correlation")
    title = f"{len(points)} checkpoint{'s' if len(points) > 1 else ''}"
    if known(correlation):
        title += f": rank correlation of entropy and accuracy {correlation:+.2f}"
    figure, (axes,) = blank(title)
    x, step = ([c[key] for c in points] for key in ("critical_entropy", "step"))
    mean, low, high = bounds([c["accuracy"] for c in points])
    axes.errorbar(
        x, mean, [mean - low, high - mean], fmt="none", ecolor=GREY, alpha=0.6, zorder=2
    )
    dots = axes.scatter(x, mean, c=step, cmap="cividis", s=60, zorder=3)
    for c, value in zip(points, mean, strict=True):
        if c["step"] == chosen:
            axes.scatter(
                c["critical_entropy"], value, s=260, facecolor="none", edgecolor=ORANGE,
                linewidth=2.5, label=f"chosen: step {chosen}", zorder=4,
            )  # fmt: skip
    figure.colorbar(dots, ax=axes, label="GRPO step", pad=0.02)
    axes.set(
        xlabel="critical-token entropy (nats)",
        ylabel="held-out accuracy (%), with 95% interval",
    )
    return legend(figure, axes)


def loss(rows: list[dict], summary: dict):
    """Training and validation loss of the supervised stages, a panel a stage."""
    stages = [stage for stage in SUPERVISED if series(rows, stage, "loss") is not None]
    if not stages:
        return None
    parts = [
        f"{label(stage)} {ends(series(rows, stage, 'loss'))[1]:.2f}" for stage in stages
    ]
    figure, panels = blank("Loss at the end: " + ", ".join(parts), columns=len(stages))
    for stage, axes in zip(stages, panels, strict=True):
        draw(axes, {"training": (series(rows, stage, "loss"), BLUE, "-")})
        if (held_out := series(rows, stage, "eval/loss")) is not None:
            axes.plot(*held_out, "o--", color=ORANGE, markersize=4, label="held out")
        axes.set(xlabel=f"{label(stage)} step", ylim=(0, None))
    panels[0].set_ylabel("loss (nats per token)")
    return legend(figure, *panels)


def table(summary: dict) -> str:
    """Held-out accuracy in percent with 95% intervals, a row a stage, a column a set.

    | stage | normal (n = 1000) |  hard (n = 1000) |
    | ----- | ----------------: | ---------------: |
    | base  | 12.4 [10.5, 14.6] | 8.0 [ 6.5,  9.8] |
    """
    stages, sets = accuracies(summary)
    if not sets:
        return "No held-out set was evaluated."
    header = ["stage", *(f"{name} ({questions(stages, name)})" for name in sets)]
    body = [
        [label(stage), *(interval(values.get(name)) for name in sets)]
        for stage, values in stages.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in (header, rule, *body)
    ]
    caption = "Held-out accuracy in percent, with 95% intervals."
    return "\n".join([caption, "", *(f"| {' | '.join(line)} |" for line in lines)])


def accuracies(summary: dict) -> tuple[dict[str, dict], list[str]]:
    """{stage: {set: {mean, low, high, n}}} in the order they ran, and the names of the sets."""
    stages = {
        stage: values for stage, values in summary.get("accuracy", {}).items() if values
    }
    if summary.get("blind"):
        stages[BLIND] = summary["blind"]
    return stages, list(
        dict.fromkeys(name for values in stages.values() for name in values)
    )


def known(value) -> bool:
    """False for what is not finite, as a number or as JSON has it: None, "Infinity"."""
    return isinstance(value, int | float) and math.isfinite(value)


def measured(accuracy: dict | None) -> bool:
    """False for a set a stage was not asked, and for one whose every verification failed."""
    return accuracy is not None and known(accuracy["mean"])


def percent(accuracy: dict | None) -> str:
    return f"{100 * accuracy['mean']:.0f}%" if measured(accuracy) else "?"


def interval(accuracy: dict | None) -> str:
    if not measured(accuracy):
        return "-"
    mean, low, high = (f"{100 * accuracy[key]:.1f}" for key in BOUNDS)
    return f"{mean} [{low:>4}, {high:>4}]"


def bounds(accuracies: list[dict]) -> np.ndarray:
    """Rows of means, of lower and of upper bounds, in percent: float64[3, N]."""
    return 100 * np.asarray(
        [[accuracy[key] for accuracy in accuracies] for key in BOUNDS]
    )


def questions(stages: dict[str, dict], name: str) -> str:
    """How many questions a set has; a range where failed verifications left some out."""
    counts = [values[name]["n"] for values in stages.values() if name in values]
    few, many = min(counts), max(counts)
    return f"n = {many}" if few == many else f"n = {few} to {many}"


def label(stage: str) -> str:
    return stage.replace("_", " ")


def series(
    rows: list[dict], stage: str, name: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """(steps, values) of a metric, nan where it was not finite; None if it never was."""
    found = [row for row in rows if row["stage"] == stage and name in row]
    steps = np.asarray([row["step"] for row in found], int)
    values = np.asarray(
        [row[name] if known(row[name]) else np.nan for row in found], float
    )
    return None if np.isnan(values).all() else (steps, values)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving mean, weighted by a bell (Hann) that is an eighth of the values wide.

    What is nan or beyond an end has no weight. Fewer than 16 values stay as they are.
    """
    width = 2 * (len(values) // 16) + 1
    bell = np.hanning(width + 2)[1:-1]
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), bell, "same")
    weight = np.convolve(known, bell, "same")
    return np.divide(
        total, weight, out=np.full(len(values), np.nan), where=weight > 1e-9
    )


def ends(line: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """The first and the last value of the smoothed line."""
    values = smooth(line[1])
    values = values[np.isfinite(values)]
    return values[0], values[-1]


def blank(title: str, rows: int = 1, columns: int = 1):
    """An empty figure and its panels. Without pyplot: no display, no state that outlives it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(max(7.2, 3.4 * columns), 3.2 + 1.4 * rows), layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex="col").flat)
    for axes in panels:
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def draw(axes, lines: dict) -> None:
    """Each {name: ((steps, values), colour, style)}: faint as logged, and smoothed on top."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    for name, (line, colour, style) in lines.items():
        if line is not None:
            axes.plot(*line, ".-", color=colour, alpha=0.25, linewidth=1, markersize=3)
            dot = (
                "o" if len(line[0]) < 16 else ""
            )  # lone points between nan, and not smoothed
            axes.plot(
                line[0], smooth(line[1]), style, color=colour, linewidth=2, label=name,
                marker=dot, markersize=4,
            )  # fmt: skip


def legend(figure, *panels):
    """Puts one legend below all panels and returns the figure."""
    entries = {}  # each name once
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


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m r1v3_jax.report WORKDIR")
    directory = Path(sys.argv[1])
    print(*plot_run(directory), sep="\n")
    print(table(read_summary(directory)))


if __name__ == "__main__":
    main()
