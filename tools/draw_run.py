"""Draws what a digits run has learnt: an image with the answer of the model, and its progress.

    python tools/draw_run.py WORKDIR --out=docs/pictures/digits.png

Left: the image of a question, and the completion that the policy wrote for it in the last rollout
on disk. The colour of a token is the entropy of the policy where the token was sampled. Right: mean
reward of each GRPO step, and accuracy on the held-out probe.

Reads rollouts, metrics, summary and tokenizer of WORKDIR. The image is not in a rollout; the task
makes it again from the id of its question.
"""

import json
import math
import sys
from pathlib import Path

from absl import app, flags
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from r1v3_jax.processing.tokenizer import load as load_tokenizer
from r1v3_jax.report import plots
from r1v3_jax.tasks import digits
from r1v3_jax.types import Example

OUT = flags.DEFINE_string("out", None, "The PNG to write.", required=True)
QUESTION = flags.DEFINE_string(
    "question", "", "The id of a question in the last rollout; default: chosen."
)

COLUMNS = 24  # characters of a line of the completion
LINES = 6  # of the completion that there is room for
COLOURS = "YlGnBu"  # pale where the policy is sure; told apart with any colour vision, and in grey
TITLE = {"fontsize": 12, "weight": "bold"}
NEWLINE = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        sys.exit(
            "error: wanted one argument, a finished run: tools/draw_run.py runs/digits"
        )
    try:
        figure = draw(Path(argv[1]), QUESTION.value)
        figure.savefig(OUT.value, dpi=200)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(OUT.value)


def draw(workdir: Path, question: str = "") -> Figure:
    """The figure of a run. ValueError or FileNotFoundError if the run has nothing to draw."""
    row, step = choose_row(workdir, question)
    example = example_of(row["id"])
    if (example.question, example.answer) != (row["prompt"], row["answer"]):
        raise ValueError(
            f"{row['id']} is another question in this version; draw a newer run"
        )
    tokenizer = load_tokenizer(workdir / "tokenizer")
    texts = [tokenizer.decode([token], skip_special=False) for token in row["tokens"]]

    scale = Normalize(0, max(0.5, math.ceil(2 * max(row["entropies"])) / 2))
    figure = Figure(figsize=(10.0, 3.9))
    FigureCanvasAgg(figure)
    draw_image(figure.add_axes((0.015, 0.25, 0.225, 0.577)), example)
    draw_tokens(
        figure.add_axes((0.265, 0.25, 0.36, 0.577)), texts, row["entropies"], scale
    )
    draw_scale(figure, figure.add_axes((0.265, 0.145, 0.25, 0.035)), scale)
    draw_progress(figure.add_axes((0.7, 0.145, 0.285, 0.682)), workdir)
    figure.text(
        0.015, 0.9, f"A question, and what the model writes (step {step})", **TITLE
    )
    figure.text(0.7, 0.9, progress_title(workdir), **TITLE)
    return figure


def choose_row(workdir: Path, question: str) -> tuple[dict, int]:
    """A sample of the last rollout on disk, as in its file, and the number of the step.

    Without the id of a question a typical one is chosen: of the right answers to the hardest level,
    that whose highest entropy is the median.
    """
    files = sorted((workdir / "rollouts").glob("grpo_*.jsonl"))
    if not files:
        raise FileNotFoundError(
            f"{workdir}/rollouts has no rollout of GRPO; draw a finished run"
        )
    rows = [
        json.loads(line) for line in files[-1].read_text(encoding="utf-8").splitlines()
    ]
    rows = [
        row
        for row in rows
        if row["verdict"] == "right" and row["id"].startswith("digits/")
    ]
    if question:
        rows = [row for row in rows if row["id"] == question]
    if not rows:
        wanted = f"a right answer to {question or 'a question about digits'}"
        raise ValueError(
            f"{files[-1]}: wanted {wanted}, there is none; try another --question"
        )
    hardest = max(rows, key=level_of)
    rows = [row for row in rows if level_of(row) == level_of(hardest)]
    rows.sort(key=lambda row: max(row["entropies"]))
    return rows[len(rows) // 2], int(files[-1].stem.rpartition("_")[2])


def level_of(row: dict) -> int:
    """How hard a question is, as the place of its level in the task's list."""
    return list(digits.LEVELS).index(row["id"].split("/")[4])


def example_of(name: str) -> Example:
    """The example that an id of the digits task names: digits/DOMAIN/SPLIT/SEED/LEVEL/INDEX."""
    try:
        _, domain, split, seed, level, index = name.split("/")
        source = digits.Digits(domain, split, seed=int(seed), augment=split == "train")
        return source.example(int(index), level)
    except ValueError as error:
        raise ValueError(
            f"{name!r} is no question of the digits task: {error}"
        ) from error


def draw_image(axes, example: Example) -> None:
    """The image, with the question and the answer below it."""
    axes.imshow(example.images[0], interpolation="nearest")
    axes.set(xticks=[], yticks=[], anchor="NW")
    below = {"ha": "center", "transform": axes.transAxes}
    axes.text(0.5, -0.15, example.question, fontsize=11, **below)
    axes.text(
        0.5, -0.28, f"right answer: {example.answer}", fontsize=9, color="0.35", **below
    )


def draw_tokens(
    axes, texts: list[str], entropies: list[float], scale: Normalize
) -> None:
    """The tokens of a completion, line by line, each in a box of the colour of its entropy.

    A run of newlines ends one line:   8 5 / </think> / / \\boxed{   ->   8 5 /
                                                                        </think> / /
                                                                        \\boxed{
    """
    colours, column, line = colormaps[COLOURS], 0, 0
    for number, (text, entropy) in enumerate(zip(texts, entropies, strict=True)):
        shown = text.replace("\n", NEWLINE)
        if column and column + len(shown) > COLUMNS:
            column, line = 0, line + 1
        colour = colours(scale(entropy))
        box = {"facecolor": colour, "edgecolor": "0.75", "linewidth": 0.5}
        axes.add_patch(Rectangle((column, line), len(shown), 0.84, **box))
        brightness = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
        axes.text(
            column + len(shown) / 2, line + 0.44, shown, family="monospace", fontsize=12,
            color="black" if brightness > 0.5 else "white", ha="center", va="center",
        )  # fmt: skip
        column += len(shown)
        if text.endswith("\n") and not "".join(
            texts[number + 1 : number + 2]
        ).startswith("\n"):
            column, line = 0, line + 1
    axes.set(xlim=(-0.05, COLUMNS + 0.05), ylim=(max(line + 1, LINES), -0.05))
    axes.axis("off")


def draw_scale(figure, axes, scale: Normalize) -> None:
    """The legend of the colours."""
    mappable = ScalarMappable(scale, colormaps[COLOURS])
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal")
    bar.outline.set(linewidth=0.5, edgecolor="0.75")
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label("entropy where the token was sampled (nats)", fontsize=9)


def draw_progress(axes, workdir: Path) -> None:
    """Reward of each step, accuracy of each probe, and accuracy before and after GRPO."""
    rows = plots.read_rows(workdir / "metrics.jsonl")
    summary = plots.read_summary(workdir)
    steps, rewards = plots.series(rows, "grpo", "reward")
    axes.plot(steps, rewards, color=plots.BLUE, alpha=0.25, linewidth=1)
    axes.plot(
        steps,
        plots.smooth(rewards),
        color=plots.BLUE,
        linewidth=2,
        label="reward of a step",
    )
    probes = [
        c for c in summary.get("checkpoints", []) if plots.measured(c["accuracy"])
    ]
    if probes:
        mean, low, high = plots.bounds([c["accuracy"] for c in probes]) / 100
        axes.errorbar(
            [c["step"] for c in probes], mean, [mean - low, high - mean], fmt="o--", capsize=3,
            color=plots.ORANGE, linewidth=1.5, label="held-out probe, sampled",
        )  # fmt: skip
    if ends := before_and_after(summary):
        values = [accuracy["mean"] for accuracy in ends]
        axes.plot(
            [0, steps[-1] + 1], values, "D", color=plots.GREEN, markersize=8, clip_on=False,
            zorder=5, label="held-out questions, greedy",
        )  # fmt: skip
    axes.set(ylim=(0, 1), xlim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("GRPO step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=9)


def before_and_after(summary: dict) -> tuple[dict, dict] | None:
    """Held-out accuracy after the stage before GRPO and after GRPO, over all levels of the task;
    None if the run did not measure both.
    """
    stages = list(summary.get("accuracy", {}))
    if "grpo" not in stages[1:]:
        return None
    before, after = (
        summary["accuracy"][stages[stages.index("grpo") - k]] for k in (1, 0)
    )
    name = "home" if "home" in after else next(iter(after))
    return before[name], after[name]


def progress_title(workdir: Path) -> str:
    ends = before_and_after(plots.read_summary(workdir))
    if ends is None:
        return "Progress during GRPO"
    return f"Held-out accuracy {plots.percent(ends[0])} {plots.TO} {plots.percent(ends[1])}"


if __name__ == "__main__":
    app.run(main)
