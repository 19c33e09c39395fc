"""Measures a GRPO step as one size after the other grows, and plots it against its arithmetic."""

import dataclasses

import jax
import parts
from options import RUNS, SHAPE, SLOTS
from shapes import Shape

from r1v3_jax.report import plots

AXES = {  # what grows, and to what
    "prompts": (1, 2, 4, 8),
    "group_size": (4, 8, 16, 32),
    "prompt_tokens": (64, 128, 256, 512),
    "new_tokens": (32, 64, 128, 256, 512),
}


def growth(base: Shape) -> dict:
    """Measures along one axis at a time, around `base`.

    Returns {"rows": {axis: [{"value", "flops", "load", "rollout", "update"}]}, ...}.
    """
    unit = unit_here()
    rows = {}
    for axis, values in AXES.items():
        rows[axis] = []
        for value in values:
            shape = dataclasses.replace(base, **{axis: value})
            report = measure(shape)
            timings = report["timings"]
            row = {"value": value, "flops": report["flops"], "load": report["load"]}
            for name in ("rollout", "update"):
                row[name] = timings[name]
            rows[axis].append(row)
            print(
                f"{axis} {value}: rollout {timings['rollout'][unit]['min']:.3f} s, "
                f"update {timings['update'][unit]['min']:.3f} s, "
                f"{report['flops']['step'] / 1e9:.1f} GFLOP",
                flush=True,
            )
            jax.clear_caches()  # each size compiles programs of its own
    return {
        "name": SHAPE.value,
        "versions": report["versions"],
        "unit": unit,
        "rows": rows,
    }


def measure(shape: Shape) -> dict:
    bench = parts.Bench(shape, slots=SLOTS.value)
    bench.run(["step"], RUNS.value)
    return bench.report()


def unit_here() -> str:
    """Returns what to compare: on a CPU its own seconds, which other work does not change."""
    return "cpu_s" if jax.default_backend() == "cpu" else "wall_s"


def plot_growth(result: dict):
    """Draws a panel for each axis; dotted lines show how the arithmetic grows."""
    unit = result["unit"]
    title = f"Seconds a GRPO step at shape {result['name']}, against its arithmetic"
    figure, panels = plots.blank(title, columns=len(result["rows"]))
    styles = {"rollout": (plots.BLUE, "o-"), "update": (plots.ORANGE, "s-")}
    for axes, (axis, rows) in zip(panels, result["rows"].items(), strict=True):
        values = [row["value"] for row in rows]
        for name, (colour, style) in styles.items():
            seconds = [row[name][unit]["min"] for row in rows]
            # From the measured seconds of the smallest size on.
            base_flops = rows[0]["flops"][name]
            work = [seconds[0] * row["flops"][name] / base_flops for row in rows]
            axes.plot(values, seconds, style, color=colour, label=name)
            axes.plot(values, work, ":", color=colour, label=f"{name}, by FLOPs")
        axes.set(xscale="log", yscale="log", xlabel=axis.replace("_", " "))
        axes.set_xticks(values, values)
        axes.xaxis.minorticks_off()
    # One scale: how steep a line is can be compared between panels.
    limits = [axes.get_ylim() for axes in panels]
    lowest = min(low for low, _ in limits)
    highest = max(high for _, high in limits)
    for axes in panels:
        axes.set_ylim(lowest, highest)
    panels[0].set_ylabel("CPU seconds" if unit == "cpu_s" else "wall seconds")
    return plots.legend(figure, *panels)
