"""Lines over steps as SVG: where each point is drawn, and the numbers to read off.

Knows numbers alone. Colours and dashes are classes of the style sheet.
"""

import dataclasses
import math

import numpy as np

from r1v3_jax.report.run_numbers import Series

WIDTH = 640
HEIGHT = 260
LEFT = 56  # of the labels of the y axis
RIGHT = 12
TOP = 10
BOTTOM = 30  # of the labels of the x axis
POINTS = 120  # of a line; more are put together
ROWS = 12  # of the table below a chart
COLOURS = 8  # of the style sheet: c0 to c7


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart, in pixels and in numbers."""

    name: str
    colour: str  # a class
    path: str  # of an SVG path
    points: list[tuple[float, float, str]]  # x, y, note
    first: str
    last: str
    low: str
    high: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with everything that its template prints."""

    title: str
    explanation: str
    unit: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    steps: list[int]  # the rows of the table
    table: list[list[str]]  # a row a step, a column a line


def chart(
    title: str, explanation: str, unit: str, lines: dict[str, Series | None]
) -> Chart | None:
    """Returns a chart of the lines that there are, or None if there are none."""
    known = {name: thinned(line) for name, line in lines.items() if line is not None}
    if not known:
        return None

    # 1. The window: all steps, all values, and 0 unless everything is far from it.
    steps = np.concatenate([steps for steps, _ in known.values()])
    values = np.concatenate([values for _, values in known.values()])
    values = values[np.isfinite(values)]
    x_ticks = ticks(float(steps.min()), float(steps.max()), whole=True)
    y_ticks = ticks(*window(values))
    x_range = (float(steps.min()), max(float(steps.max()), float(steps.min()) + 1))
    y_range = (y_ticks[0], y_ticks[-1])

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (step - x_range[0]) / (x_range[1] - x_range[0]) * (
            WIDTH - LEFT - RIGHT
        )
        y = TOP + (y_range[1] - value) / (y_range[1] - y_range[0]) * (
            HEIGHT - TOP - BOTTOM
        )
        return round(x, 1), round(y, 1)

    # 2. The lines.
    drawn = [
        draw_line(name, f"c{i % COLOURS}", line, place)
        for i, (name, line) in enumerate(known.items())
    ]

    # 3. The table: some steps, evenly, of the longest line.
    longest = max((line[0] for line in known.values()), key=len)
    chosen = longest[np.unique(np.linspace(0, len(longest) - 1, ROWS).astype(int))]
    table = [[value_at(line, step) for line in known.values()] for step in chosen]
    return Chart(
        title=title,
        explanation=explanation,
        unit=unit,
        lines=drawn,
        x_ticks=[
            (place(x, y_range[0])[0], short(x)) for x in x_ticks if x <= x_range[1]
        ],
        y_ticks=[(place(x_range[0], y)[1], short(y)) for y in y_ticks],
        steps=[int(step) for step in chosen],
        table=table,
    )


def thinned(line: Series) -> Series:
    """Puts neighbours together until there are at most POINTS: their mean, at their last step.

    5 values for at most 2 points: the means of 3 and of 2.
    """
    steps, values = line
    if len(steps) <= POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), POINTS)
    means = []
    for part in parts:
        known = values[part][np.isfinite(values[part])]
        means.append(known.mean() if len(known) else np.nan)
    return steps[[part[-1] for part in parts]], np.asarray(means)


def window(values: np.ndarray) -> tuple[float, float]:
    """Returns the lowest and highest value that an axis must show."""
    if not len(values):
        return 0.0, 1.0
    low = float(values.min())
    high = float(values.max())
    # 0 is in sight unless that would squeeze the line into the upper half.
    if low > 0 and low < high / 2:
        low = 0.0
    if low == high:
        return low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5
    return low, high


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Returns about five round numbers from below `low` to above `high`.

    whole: between them, and without fractions: 0 to 89 -> 0, 20, 40, 60, 80.
    """
    span = max(high - low, 1e-12)
    power = 10.0 ** math.floor(math.log10(span / 4))
    size = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= 5)
    if whole:
        size = max(1.0, round(size))
        first, last = math.ceil(low / size), math.floor(high / size)
    else:
        first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [float(f"{i * size:.12g}") for i in range(first, max(last, first) + 1)]


def draw_line(name: str, colour: str, line: Series, place) -> Line:
    """Returns a line in pixels. A value that is not finite interrupts it."""
    steps, values = line
    path = []
    points = []
    pen = "M"
    for step, value in zip(steps, values, strict=True):
        if not np.isfinite(value):
            pen = "M"
            continue
        x, y = place(step, value)
        path.append(f"{pen}{x} {y}")
        points.append((x, y, f"{name}, step {step}: {short(value)}"))
        pen = "L"
    known = values[np.isfinite(values)]
    return Line(
        name=name,
        colour=colour,
        path="".join(path),
        points=points,
        first=short(known[0]),
        last=short(known[-1]),
        low=short(known.min()),
        high=short(known.max()),
    )


def value_at(line: Series, step: int) -> str:
    """Writes the value at a step, or the last one before it; "-" if there is none."""
    steps, values = line
    i = int(np.searchsorted(steps, step, side="right")) - 1
    return short(values[i]) if i >= 0 and np.isfinite(values[i]) else "-"


def short(value: float) -> str:
    """Writes a number with four digits: 0.8823, 37.27, 13940."""
    value = float(value)
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}"
