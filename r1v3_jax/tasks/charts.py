r"""A task of bar charts, drawn from real tables: what stands how high, and which is the taller.

      9|    #          What color is the second tallest bar?                            second
      7|    #   #      red 4;blue 9;green 7;9>7>4 / </think> / \boxed{green}
       |    #   #
      4|#   #   #      How many bars are taller than the red one?                       above
       |#   #   #      red 4;blue 9>4 1;green 7>4 2 / </think> / \boxed{2}
       +----------     (a slash is a newline)

A chart has two to five bars without any text, each with a colour of its own and the value of a real
row of `chart_tables` (`pip install vega_datasets`). Heights are tenths of the chart's own height.
So that a picture of 112 pixels tells bars apart, they differ by a tenth or more, and none ends
halfway between two tenths.

Levels: `read` only lists the bars, `easy` asks one thing of them, `normal` compares two, and
`hard` takes two steps. Everything is a pure function of an index, and no row of a table is in
both splits. Knows nothing of models or rewards.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from r1v3_jax.tasks.chart_tables import load_groups
from r1v3_jax.tasks.digit_questions import check_choice, check_weights, choose_weighted
from r1v3_jax.types import Example

COLOURS = {
    "red": "#d62728",
    "green": "#2ca02c",
    "blue": "#1f5adc",
    "yellow": "#f5d200",
    "purple": "#943cbd",
    "black": "#000000",
}
GRID_COLOUR = "#e1e1e1"  # a line at every second tenth
AXIS_COLOUR = "#808080"
LINE = 0.6  # points, of 1/72 of the picture's side
SPLITS = ("train", "held_out")
# The kinds of question of each level, equally often.
LEVELS = {
    "read": ("list",),
    "easy": ("count", "tallest", "shortest"),
    "normal": ("taller", "shorter"),
    "hard": ("second", "above"),
}
KINDS = tuple(itertools.chain.from_iterable(LEVELS.values()))
# The wordings of each kind, equally often; {0} and {1} are colours.
QUESTIONS = {
    "list": (
        "List the bars from left to right.",
        "Name each bar and its height.",
    ),
    "count": (
        "How many bars are there?",
        "Count the bars.",
    ),
    "tallest": (
        "What color is the tallest bar?",
        "Which color has the highest bar?",
    ),
    "shortest": (
        "What color is the shortest bar?",
        "Which color has the lowest bar?",
    ),
    "taller": (
        "Is the {0} bar taller than the {1} bar?",
        "Is {0} higher than {1}?",
    ),
    "shorter": (
        "Is the {0} bar shorter than the {1} bar?",
        "Is {0} lower than {1}?",
    ),
    "second": (
        "What color is the second tallest bar?",
        "Which color has the second highest bar?",
    ),
    "above": (
        "How many bars are taller than the {0} one?",
        "Count the bars that are higher than the {0} bar.",
    ),
}
# How many bars a chart has, equally often. The second tallest of two would be the shortest.
BARS = (2, 3, 4, 5)
BARS_OF_HARD = (3, 4, 5)
# Tenths that the tallest bar of a chart may have, equally often: each height is one digit.
TALLEST = (7, 8, 9)
GAP = 1.0  # tenths, the least difference of two bars
UNCLEAR = 0.05  # tenths; 3.46 and 3.54 are neither 3 nor 4
MARGIN = 6 / 112  # of the picture's side, on each side of the chart
BAR_WIDTH = 0.7  # of a bar's place


@dataclasses.dataclass(frozen=True)
class Chart:
    """Some bars from left to right, with the rows they are drawn from."""

    table: str
    title: str  # what the values are: "yield at Duluth in 1931"
    rows: tuple[str, ...]  # of the table, one for each bar
    labels: tuple[str, ...]  # "Manchuria"
    values: tuple[float, ...]  # as in the table
    colours: tuple[str, ...]
    heights: tuple[float, ...]  # in tenths of the chart's height

    @property
    def tenths(self) -> dict[str, int]:
        """Returns {colour: its height as one reads it}, from left to right."""
        return dict(zip(self.colours, map(round, self.heights), strict=True))


@dataclasses.dataclass(frozen=True)
class Charts:
    """Questions about the charts of one split."""

    split: Literal["train", "held_out"] = "train"  # of the rows; no row is in both
    seed: int = 0
    size: int = 112  # pixels a side of a picture

    def __post_init__(self):
        check_choice("split", self.split, SPLITS)
        if self.size < 56:
            raise ValueError(
                f"size is {self.size} pixels, of which a tenth of a chart has too few; 112 would do"
            )

    def example(self, index: int, level: str = "normal") -> Example:
        """Makes example number `index` of a level: a pure function of arguments and fields."""
        kind, wording, chart, asked = self._problem(index, level)
        result = answer(kind, chart.tenths, asked)
        work = chain(kind, chart.tenths, asked)
        return Example(
            id=f"charts/{self.split}/{self.seed}/{level}/{index}",
            images=(draw(chart, self.size),),
            question=wording.format(*asked),
            answer=result,
            chain=f"{work}\n</think>\n\\boxed{{{result}}}",
            level=level,
            kind=kind,
            verifier="number" if result.isdigit() else "string",
            source="charts",
            metadata={
                "table": chart.table,
                "title": chart.title,
                "bars": dict(zip(chart.colours, chart.labels, strict=True)),
                "values": dict(zip(chart.colours, chart.values, strict=True)),
            },
        )

    def chart(self, index: int, level: str = "normal") -> Chart:
        """Returns what the picture of that example shows."""
        _, _, chart, _ = self._problem(index, level)
        return chart

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its level drawn by weight.

        Example: Charts().mix(easy=1, normal=2, hard=1).
        """
        check_weights("level", weights, LEVELS)
        return functools.partial(self._mixed, tuple(weights), tuple(weights.values()))

    def _mixed(
        self, levels: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        u = self._rng(index, 0).random()
        return self.example(index, choose_weighted(levels, weights, u))

    def _problem(
        self, index: int, level: str
    ) -> tuple[str, str, Chart, tuple[str, ...]]:
        """Returns kind, wording, chart, and the two colours that a question may name."""
        check_choice("level", level, LEVELS)
        rng = self._rng(index, 1 + list(LEVELS).index(level))
        kind = LEVELS[level][rng.integers(len(LEVELS[level]))]
        wording = QUESTIONS[kind][rng.integers(len(QUESTIONS[kind]))]
        sizes = BARS_OF_HARD if level == "hard" else BARS
        chart = draw_chart(self.split, int(rng.choice(sizes)), rng)
        asked = tuple(rng.permutation(chart.colours)[:2].tolist())
        return kind, wording, chart, asked

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns the generator of one example. Streams: 0 mixes, 1 to 4 the LEVELS."""
        seeds = [self.seed, SPLITS.index(self.split), stream, index]
        return np.random.default_rng(seeds)


# 1. Charts


def draw_chart(split: str, bars: int, rng: np.random.Generator) -> Chart:
    """Draws a table, a group of its values, and `bars` of them that can be told apart."""
    tables = list(load_groups(split).values())
    # Each number of bars has many charts; a table that is drawn in vain gives way to another.
    while True:
        groups = tables[rng.integers(len(tables))]
        group = groups[rng.integers(len(groups))]
        tallest = TALLEST[rng.integers(len(TALLEST))]
        chosen = rng.permutation(len(group.values))[:bars]
        if len(chosen) < bars:
            continue
        values = [group.values[i] for i in chosen]
        heights = [value / max(values) * tallest for value in values]
        if _are_clear(heights):
            break
    colours = rng.permutation(list(COLOURS))[:bars].tolist()
    return Chart(
        table=group.table,
        title=group.title,
        rows=tuple(group.rows[i] for i in chosen),
        labels=tuple(group.labels[i] for i in chosen),
        values=tuple(values),
        colours=tuple(colours),
        heights=tuple(heights),
    )


def _are_clear(heights: list[float]) -> bool:
    """Whether a picture shows which bar is the taller, and how many tenths each has."""
    ordered = sorted([0.0, *heights])
    gaps = [b - a for a, b in itertools.pairwise(ordered)]
    return min(gaps) >= GAP and all(
        abs(height % 1 - 0.5) > UNCLEAR for height in heights
    )


def draw(chart: Chart, size: int = 112) -> Image.Image:
    """Draws a chart of `size` x `size` pixels, RGB: bars on a pale grid between two axes."""
    # Imported here: training loads this module and must not need matplotlib for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    # Without pyplot, and without Axes, whose ticks cost more than all that is seen.
    figure = Figure(figsize=(1, 1), dpi=size, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    low = MARGIN
    high = 1 - MARGIN
    side = high - low
    # 1. The grid, behind the bars.
    for tenth in range(2, 11, 2):
        y = low + side * tenth / 10
        line = Line2D([low, high], [y, y], color=GRID_COLOUR, linewidth=LINE, zorder=0)
        figure.add_artist(line)
    # 2. The bars, each in the middle of its place.
    place = side / len(chart.heights)
    bars = zip(chart.colours, chart.heights, strict=True)
    for number, (colour, height) in enumerate(bars):
        corner = (low + place * (number + (1 - BAR_WIDTH) / 2), low)
        width = place * BAR_WIDTH
        fill = COLOURS[colour]
        bar = Rectangle(corner, width, side * height / 10, facecolor=fill, zorder=1)
        figure.add_artist(bar)
    # 3. The axes, from the upper left to the lower right.
    axes = Line2D([low, low, high], [high, low, low], color=AXIS_COLOUR, zorder=2)
    axes.set_linewidth(LINE)
    figure.add_artist(axes)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return Image.fromarray(pixels.copy())


# 2. Answers


def answer(kind: str, tenths: dict[str, int], asked: tuple[str, str]) -> str:
    """Works out the answer to a kind of question about {colour: height}.

    asked: the two colours that a question may name. Bars have different heights.
    """
    order = sorted(tenths, key=tenths.get, reverse=True)
    first, other = asked
    match kind:
        case "list":
            return _listed(tenths)
        case "count":
            return f"{len(tenths)}"
        case "tallest":
            return order[0]
        case "shortest":
            return order[-1]
        case "taller":
            return "yes" if tenths[first] > tenths[other] else "no"
        case "shorter":
            return "yes" if tenths[first] < tenths[other] else "no"
        case "second":
            return order[1]
        case "above":
            return f"{order.index(first)}"
    raise AssertionError(kind)


def chain(kind: str, tenths: dict[str, int], asked: tuple[str, str]) -> str:
    """Writes the work of an answer: what is seen, from left to right, and what follows from it.

    count     1 red;2 blue;3 green
    tallest   red 4;blue 9;green 7;9>7>4     the same for second
    shortest  red 4;blue 9;green 7;4<7<9
    taller    red 4;blue 9;4<9               the same for shorter
    above     red 4;blue 9>4 1;green 7>4 2   red is asked; 1 and 2 count the taller ones
    """
    first, other = asked
    match kind:
        case "list":
            return _listed(tenths)
        case "count":
            return ";".join(f"{i} {colour}" for i, colour in enumerate(tenths, 1))
        case "tallest" | "second":
            order = sorted(tenths.values(), reverse=True)
            return f"{_listed(tenths)};{'>'.join(map(str, order))}"
        case "shortest":
            order = sorted(tenths.values())
            return f"{_listed(tenths)};{'<'.join(map(str, order))}"
        case "taller" | "shorter":
            seen = _listed({first: tenths[first], other: tenths[other]})
            return f"{seen};{_compared(tenths[first], tenths[other])}"
        case "above":
            steps = [f"{first} {tenths[first]}"]
            taller = 0
            for colour in tenths:
                if colour == first:
                    continue
                taller += tenths[colour] > tenths[first]
                compared = _compared(tenths[colour], tenths[first])
                steps.append(f"{colour} {compared} {taller}")
            return ";".join(steps)
    raise AssertionError(kind)


def _listed(tenths: dict[str, int]) -> str:
    return ";".join(f"{colour} {height}" for colour, height in tenths.items())


def _compared(a: int, b: int) -> str:
    return f"{a}>{b}" if a > b else f"{a}<{b}"


def answer_prior(level: str) -> dict[str, float]:
    """Returns {kind: accuracy of the best constant answer}: what guessing blindly achieves.

    Exact odds, the same in both splits: how many bars there are, their colours and the colours
    that a question names are drawn evenly, whatever the table.
    """
    check_choice("level", level, LEVELS)
    colour = 1 / len(COLOURS)
    priors = {
        "count": 1 / len(BARS),
        "tallest": colour,
        "shortest": colour,
        "taller": 1 / 2,
        "shorter": 1 / 2,
        "second": colour,
        # With n bars, 0 to n - 1 are taller than one of them, equally often.
        "above": sum(1 / n for n in BARS_OF_HARD) / len(BARS_OF_HARD),
    }
    return {kind: priors[kind] for kind in LEVELS[level]}
