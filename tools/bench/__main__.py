"""Measures sampling and steps of GRPO and Preference: alone, against another program, or growing.

python tools/bench --shape=tunix --runs=5 --out=parts.json
python tools/bench --shape=pairs --parts=pairs
python tools/bench --compare=tunix,trl --out=compare.json
python tools/bench --compare=transformers --shape=trl
python tools/bench --compare=transformers --shape=internvl3_1b --device=gpu --attention=cudnn
python tools/bench --growth --out=growth.json                    # and growth.png beside it

--parts:
  sampler    G samples a prompt; with --slots, in a continuous batch
  static     the same in batches of --slots samples
  distinct   as many samples, each with its own prompt
  step       a whole GRPO step
  profile    the sampler's programs one by one
  products   a rollout's matrix products and nothing else
  naive      the update, against one that repeats a prompt for each of its samples
  pairs      a Preference step, against one that repeats a prompt for each of its two answers
A part's first run compiles and is reported by itself.

CPU seconds are those of all threads: they hold on a busy machine, where wall time does not. On a
GPU wall seconds count, taken when the device is done. In a comparison the two programs run in turn,
each in a fresh process, and are compared pair by pair, at the shape of the other program's script.
"""

import dataclasses
from pathlib import Path

import compare
import growth
import jax
import options
import parts
from absl import flags
from options import RUNS, SHAPE, SLOTS, selected_shape

from r1v3_jax import cli
from r1v3_jax.files import write_json
from r1v3_jax.run.platforms import check_platform

PARTS = flags.DEFINE_list("parts", ["step"], f"Of {', '.join(parts.PARTS)}.")
OUT = flags.DEFINE_string("out", None, "JSON file to write.")
GROWTH = flags.DEFINE_bool(
    "growth", False, "The step at growing sizes, around --shape."
)
MESH = cli.define_mesh()
# --help lists the flags of the other files too.
flags.adopt_module_key_flags(options)
flags.adopt_module_key_flags(compare)


def main():
    check_flags()
    if compare.COMPARE.value:
        result = compare.compare(compare.COMPARE.value)
    elif GROWTH.value:
        with cli.set_mesh(MESH):
            result = growth.growth(selected_shape())
        picture = Path(OUT.value).with_suffix(".png")
        growth.plot_growth(result).savefig(picture, dpi=150)
    else:
        with cli.set_mesh(MESH):
            shape = selected_shape()
            check_platform(shape.compute, jax.default_backend())
            bench = parts.Bench(shape, slots=SLOTS.value)
            bench.run(PARTS.value, RUNS.value)
            result = {"name": SHAPE.value, "slots": SLOTS.value, **bench.report()}
        show(result)
    if OUT.value:
        write_json(OUT.value, result)


def check_flags() -> None:
    """Raises ValueError, with what to type, before anything runs."""
    if OUT.value and not Path(OUT.value).absolute().parent.is_dir():
        raise ValueError(f"--out={OUT.value}: its directory does not exist")
    unknown = [part for part in PARTS.value if part not in parts.PARTS]
    if unknown:
        raise ValueError(
            f"--parts: no part {unknown[0]!r}; there are {', '.join(parts.PARTS)}"
        )
    if compare.COMPARE.value:
        if MESH.present:
            raise ValueError("--compare is made on one device; leave out --mesh")
        check_platform(selected_shape().compute, compare.DEVICE.value)
    elif compare.DEVICE.present:
        raise ValueError(
            "--device is where --compare is made; JAX_PLATFORMS=cuda chooses for the parts"
        )
    # The picture goes beside the JSON file, so there must be one.
    elif GROWTH.value and not OUT.value:
        raise ValueError(
            "--growth writes two files; name the first with --out=FILE.json"
        )


# -------------------------------------------------------------------------------------------------
# the table


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table."""

    title: str
    width: int


NAME_WIDTH = 18
COLUMNS = (
    Column("CPU s: min median max", 26),
    Column("wall s: min median max", 26),
    Column("tok/s", 10),
    Column("tok/CPU s", 11),
    Column("busy", 7),
    Column("compile s", 11),
)


def show(result: dict) -> None:
    """Prints what was measured."""
    load = result["load"]
    versions = result["versions"]
    print(
        f"shape {result['name']}, {result['parameters']:,} parameters, on {versions['device_kind']}"
        f", jax {versions['jax']}; load {load['before']:.1f} before, {load['after']:.1f} after"
    )
    print_row("", [column.title for column in COLUMNS])
    for name, row in result["timings"].items():
        cells = [
            three_numbers(row["cpu_s"]),
            three_numbers(row["wall_s"]),
            rate(row.get("tokens_per_s")),
            rate(row.get("tokens_per_cpu_s")),
            f"{row['busy']:.0%}" if "busy" in row else "",
            f"{row['compile_wall_s']:.1f}",
        ]
        print_row(name, cells)
    for part, gib in result["peak_rss_gib"].items():
        print(f"peak memory of the process after {part}: {gib:.2f} GiB")
    if "peak_device_gib" in result:
        print(f"peak memory of the device: {result['peak_device_gib']:.2f} GiB")
    # Only on an accelerator whose peak is known.
    for name, share in result.get("mfu", {}).items():
        print(f"MFU of {name}: {share:.1%} (what has to be computed, over time x peak)")


def print_row(name: str, cells: list[str]) -> None:
    """Prints a line of the table; a cell is as wide as its column, to the right."""
    line = f"{name:{NAME_WIDTH}}"
    for cell, column in zip(cells, COLUMNS, strict=True):
        line += cell.rjust(column.width)
    print(line)


def three_numbers(row: dict) -> str:
    return " ".join(f"{row[key]:8.3f}" for key in ("min", "median", "max"))


def rate(tokens: float | None) -> str:
    return f"{tokens:,.0f}" if tokens else ""


if __name__ == "__main__":
    cli.run(main)
