"""What sampling and a GRPO step cost here: alone, against another program, or as the work grows.

python tools/bench --shape=tunix --runs=5 --out=parts.json
python tools/bench --compare=tunix,trl --out=compare.json
python tools/bench --compare=transformers --shape=trl
python tools/bench --growth --out=growth.json                    # and growth.png beside it

--parts: sampler (G samples a prompt, with --slots in a continuous batch), static (the same, so many
at a time as there are --slots), distinct (as many samples, each of a prompt of its own), step
(a whole GRPO step), profile (the sampler's programs one by one), products (a rollout's matrix
products and nothing else), naive (the update against one that repeats a prompt for each of its
samples). A part's first run compiles and is reported by itself.

CPU seconds are those of all threads: they hold on a busy machine, where wall time does not. In a
comparison the two programs run in turn, each in a fresh process, and are compared pair by pair;
what they are compared at is the shape of the other one's script.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import parts
from absl import flags
from shapes import SHAPES, Shape

from r1v3_jax import cli, hf
from r1v3_jax.files import write_json
from r1v3_jax.report import plots

SHAPE = flags.DEFINE_enum("shape", "tunix", list(SHAPES), "What is run.")
PARTS = flags.DEFINE_list("parts", ["step"], f"Of {', '.join(parts.PARTS)}.")
RUNS = flags.DEFINE_integer("runs", 5, "Of each part, after the one that compiles.", 1)
VOCAB = flags.DEFINE_integer("vocab", None, "Vocabulary, instead of the shape's.", 1024)
SLOTS = flags.DEFINE_integer(
    "slots", 0, "Rows of a continuous batch; 0: all rows at once.", 0
)
ATTENTION = flags.DEFINE_enum(
    "attention", "reference", ["reference", "splash"], "splash: a TPU's."
)
OUT = flags.DEFINE_string("out", None, "JSON file to write.")
GROWTH = flags.DEFINE_bool(
    "growth", False, "The step at growing sizes, around --shape."
)
COMPARE = flags.DEFINE_list("compare", [], "Of tunix, trl, transformers.")
PAIRS = flags.DEFINE_integer("pairs", 3, "Of runs, in a comparison.", 1)
BASELINES = flags.DEFINE_string(
    "baselines",
    str(Path(__file__).parent / "peers"),
    "Where the scripts of the others are.",
)
TUNIX_PYTHON = flags.DEFINE_string(
    "tunix_python", "tunix-env/bin/python", "Python with Tunix."
)
TRL_PYTHON = flags.DEFINE_string("trl_python", "trl-env/bin/python", "Python with TRL.")
TRANSFORMERS_PYTHON = flags.DEFINE_string(
    "transformers_python", sys.executable, "Python with transformers and torch."
)
MESH = cli.define_mesh()

INSTALL = {
    "tunix": ["google-tunix==0.1.7"],
    # The CPU build first and alone, or pip takes the one with CUDA.
    "trl": [
        "torch==2.13.0",
        "trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 pillow",
    ],
}
AXES = {  # what grows, to what
    "prompts": (1, 2, 4, 8),
    "group_size": (4, 8, 16, 32),
    "prompt_tokens": (64, 128, 256, 512),
    "new_tokens": (32, 64, 128, 256, 512),
}


def main():
    if OUT.value and not Path(OUT.value).absolute().parent.is_dir():
        raise ValueError(f"--out={OUT.value}: its directory does not exist")
    if unknown := [part for part in PARTS.value if part not in parts.PARTS]:
        raise ValueError(
            f"--parts: no part {unknown[0]!r}; there are {', '.join(parts.PARTS)}"
        )
    if COMPARE.value and (MESH.present or ATTENTION.present):
        raise ValueError(
            "--compare is made on one CPU; leave out --mesh and --attention"
        )
    if COMPARE.value:
        result = compare(COMPARE.value)
    elif GROWTH.value:
        if not OUT.value:
            raise ValueError(
                "--growth writes two files; name the first with --out=FILE.json"
            )
        with cli.set_mesh(MESH):
            result = growth(shape())
        plot_growth(result).savefig(Path(OUT.value).with_suffix(".png"), dpi=150)
    else:
        with cli.set_mesh(MESH):
            ready = parts.Bench(shape(), slots=SLOTS.value)
            ready.run(PARTS.value, RUNS.value)
            result = {"name": SHAPE.value, "slots": SLOTS.value, **ready.report()}
        show(result)
    if OUT.value:
        write_json(OUT.value, result)


def shape() -> Shape:
    found = SHAPES[SHAPE.value]
    compute = dataclasses.replace(found.compute, attention=ATTENTION.value)
    found = dataclasses.replace(found, compute=compute)
    return found if VOCAB.value is None else found.with_vocabulary(VOCAB.value)


def show(result: dict) -> None:
    load, versions = result["load"], result["versions"]
    print(
        f"shape {result['name']}, {result['parameters']:,} parameters, on {versions['device_kind']}"
        f", jax {versions['jax']}; load {load['before']:.1f} before, {load['after']:.1f} after"
    )
    heads = (
        "CPU s: min median max",
        "wall s: min median max",
        "tok/s",
        "tok/CPU s",
        "busy",
    )
    heads = "".join(
        f"{head:>{size}}" for head, size in zip(heads, (26, 26, 10, 11, 7), strict=True)
    )
    print(f"{'':14}{heads}{'compile s':>11}")
    for name, row in result["timings"].items():
        seconds = (
            " ".join(f"{row[unit][key]:8.3f}" for key in ("min", "median", "max"))
            for unit in ("cpu_s", "wall_s")
        )
        rates = [row.get(key) for key in ("tokens_per_s", "tokens_per_cpu_s")]
        rates = [f"{rate:,.0f}" if rate else "" for rate in rates]
        compiling = f"{row['compile_wall_s']:.1f}"
        line = "".join(f"{text:>26}" for text in seconds)
        busy = f"{row['busy']:.0%}" if "busy" in row else ""
        print(f"{name:14}{line}{rates[0]:>10}{rates[1]:>11}{busy:>7}{compiling:>11}")
    for part, gib in result["peak_rss_gib"].items():
        print(f"peak memory of the process after {part}: {gib:.2f} GiB")
    if "peak_device_gib" in result:
        print(f"peak memory of the device: {result['peak_device_gib']:.2f} GiB")
    for name, share in result.get("mfu", {}).items():
        print(f"MFU of {name}: {share:.1%} (what has to be computed, over time x peak)")


# -------------------------------------------------------------------------------------------------
# against another program


def compare(names: list[str]) -> dict:
    """{peer: {"pairs": [(theirs, ours, load)], "ratios": ...}}, the pairs run in turn."""
    peers = {
        "tunix": pair_with_tunix,
        "trl": pair_with_trl,
        "transformers": pair_with_transformers,
    }
    for name in names:
        check_peer(name, list(peers))
    result = {}
    for name in names:
        pairs, load = [], []
        with tempfile.TemporaryDirectory() as directory:
            for number in range(1, PAIRS.value + 1):
                before = os.getloadavg()[0]
                pairs.append(peers[name](Path(directory) / str(number)))
                load.append((before, os.getloadavg()[0]))
                print(
                    f"{name}, pair {number} of {PAIRS.value} done, load {load[-1]}",
                    flush=True,
                )
        found = parts.ratios(pairs)
        print(f"{name} over r1v3_jax, above 1 where r1v3_jax takes less:")
        for quantity, row in found.items():
            last = " / ".join(f"{side[quantity]:.2f}" for side in pairs[-1])
            each = "  ".join(f"{value:5.2f}" for value in row["pairs"])
            print(
                f"  {quantity:34} median {row['median']:5.2f}   pairs {each}   last {last}"
            )
        result[name] = {"pairs": pairs, "load": load, "ratios": found}
    return result


def check_peer(name: str, known: list[str]) -> None:
    """ValueError, with what to type, where a peer cannot be run."""
    if name not in known:
        raise ValueError(f"--compare: no peer {name!r}; there are {', '.join(known)}")
    python = {
        "tunix": TUNIX_PYTHON,
        "trl": TRL_PYTHON,
        "transformers": TRANSFORMERS_PYTHON,
    }[name]
    if not Path(python.value).is_file():
        lines = [f"python3.11 -m venv {name}-env"]
        lines += [
            f"{name}-env/bin/pip install {what}"
            for what in INSTALL.get(name, INSTALL["trl"])
        ]
        raise ValueError(
            f"--{python.name}={python.value}: no such file; name another, or type\n  "
            + "\n  ".join(lines)
        )
    if (
        name != "transformers"
        and not Path(BASELINES.value or "", f"{name}_baseline.py").is_file()
    ):
        raise ValueError(
            f"--baselines={BASELINES.value}: no {name}_baseline.py in that directory"
        )


def pair_with_tunix(directory: Path) -> tuple[dict, dict]:
    """Its sampler is given 32 prompts that differ; in its GRPO step 4 prompts are repeated."""
    script = [TUNIX_PYTHON.value, f"{BASELINES.value}/tunix_baseline.py", *vocabulary()]
    a = run([*script, "--what=sampler", f"--runs={RUNS.value}"], directory / "a")
    b = ours("tunix", "distinct", directory / "b")
    c = run([*script, "--what=grpo", f"--steps={RUNS.value + 3}"], directory / "c")
    d = ours("tunix", "step", directory / "d")
    grpo = {
        name: {unit: c["grpo"][f"{name}_{unit}"] for unit in ("cpu_s", "wall_s")}
        for name in ("rollout", "step")
    }
    return (
        quantities(a["peak_rss_gb"], sampler=a["sampler"])
        | quantities(c["peak_rss_gb"], **grpo),
        quantities(b["peak_rss_gib"]["distinct"], sampler=b["timings"]["distinct"])
        | quantities(d["peak_rss_gib"]["step"], **rollout_and_step(d)),
    )


def pair_with_trl(directory: Path) -> tuple[dict, dict]:
    """Its rollout is `generate` alone, without what TRL does around it."""
    script = [TRL_PYTHON.value, f"{BASELINES.value}/trl_baseline.py", *vocabulary()]
    a = run([*script, f"--steps={RUNS.value + 2}"], directory / "a")
    b = ours("trl", "step", directory / "b")
    return (
        quantities(
            a["peak_rss_gb"], rollout=a["generate"], step=a["step_with_optimizer"]
        ),
        quantities(b["peak_rss_gib"]["step"], **rollout_and_step(b)),
    )


def pair_with_transformers(directory: Path) -> tuple[dict, dict]:
    """`generate` of transformers on our weights and our prompts, at --shape."""
    directory.mkdir()
    wanted = shape()
    ready = parts.Bench(wanted)
    hf.save(ready.state.model, directory / "hf")
    prompts = ready.prompts()
    tiles = np.asarray(prompts.tiles)[0] if wanted.tiles else np.zeros(0, np.float32)
    np.savez(directory / "prompts.npz", tokens=prompts.tokens, tiles=tiles)
    command = [
        TRANSFORMERS_PYTHON.value, str(Path(__file__).parent / "peers" / "transformers_generate.py"),
        f"--directory={directory}", f"--samples={wanted.group_size}",
        f"--new={wanted.new_tokens}", f"--runs={RUNS.value}",
    ]  # fmt: skip
    a = run(command, directory / "a")
    b = ours(SHAPE.value, "sampler", directory / "b")
    return (
        quantities(a["peak_rss_gib"], sampler=a),
        quantities(b["peak_rss_gib"]["sampler"], sampler=b["timings"]["sampler"]),
    )


def vocabulary() -> list[str]:
    return [] if VOCAB.value is None else [f"--vocab={VOCAB.value}"]


def ours(shape: str, part: str, out: Path) -> dict:
    how = [
        f"--shape={shape}",
        f"--parts={part}",
        f"--runs={RUNS.value}",
        f"--slots={SLOTS.value}",
    ]
    return run([sys.executable, __file__, *how, *vocabulary()], out)


def run(command: list[str], out: Path) -> dict:
    """The JSON that a command writes to `--out`. ValueError if it fails, with what it said."""
    out.parent.mkdir(exist_ok=True)
    # Idle threads of torch would else spin, and take the CPU from those that work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, f"--out={out}"], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(out.read_text())


def rollout_and_step(result: dict) -> dict:
    return {name: result["timings"][name] for name in ("rollout", "step")}


def quantities(peak_rss_gib: float, **rows: dict) -> dict[str, float]:
    """{"rollout, CPU s": median, ..., "step, wall s": median, "step, peak GiB": ...}"""
    out = {}
    for name, row in rows.items():
        out |= {
            f"{name}, CPU s": row["cpu_s"]["median"],
            f"{name}, wall s": row["wall_s"]["median"],
        }
    return out | {f"{name}, peak GiB": peak_rss_gib}  # of the last: it holds the others


# -------------------------------------------------------------------------------------------------
# growth


def growth(base: Shape) -> dict:
    """{axis: [{"value", "flops", "rollout", "update", ...}]}: one axis at a time, around `base`."""
    rows = {axis: [] for axis in AXES}
    for axis, values in AXES.items():
        for value in values:
            ready = parts.Bench(
                dataclasses.replace(base, **{axis: value}), slots=SLOTS.value
            )
            ready.run(["step"], RUNS.value)
            found = ready.report()
            row = {"value": value, "flops": found["flops"], "load": found["load"]}
            rows[axis].append(
                row | {name: found["timings"][name] for name in ("rollout", "update")}
            )
            cpu = {
                name: row_[unit_here()]["min"]
                for name, row_ in found["timings"].items()
            }
            print(
                f"{axis} {value}: rollout {cpu['rollout']:.3f} s, update {cpu['update']:.3f} s, "
                f"{found['flops']['step'] / 1e9:.1f} GFLOP",
                flush=True,
            )
            del ready
            jax.clear_caches()  # each size compiles programs of its own
    return {
        "name": SHAPE.value,
        "versions": found["versions"],
        "unit": unit_here(),
        "rows": rows,
    }


def unit_here() -> str:
    """On a CPU its own seconds count, which other people's work does not change."""
    return "cpu_s" if jax.default_backend() == "cpu" else "wall_s"


def plot_growth(result: dict):
    """A panel an axis; dotted, from the first point on, how the arithmetic grows."""
    unit = result["unit"]
    title = f"Seconds a GRPO step at shape {result['name']}, against its arithmetic"
    figure, panels = plots.blank(title, columns=len(result["rows"]))
    styles = {"rollout": (plots.BLUE, "o-"), "update": (plots.ORANGE, "s-")}
    for axes, (axis, rows) in zip(panels, result["rows"].items(), strict=True):
        values = [row["value"] for row in rows]
        for name, (colour, style) in styles.items():
            seconds = [row[name][unit]["min"] for row in rows]
            work = [
                seconds[0] * row["flops"][name] / rows[0]["flops"][name] for row in rows
            ]
            axes.plot(values, seconds, style, color=colour, label=name)
            axes.plot(values, work, ":", color=colour, label=f"{name}, by FLOPs")
        axes.set(xscale="log", yscale="log", xlabel=axis.replace("_", " "))
        axes.set_xticks(values, values)
        axes.xaxis.minorticks_off()
    ends = [axes.get_ylim() for axes in panels]
    for axes in panels:  # one scale: how steep a line is can be compared between panels
        axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    panels[0].set_ylabel("CPU seconds" if unit == "cpu_s" else "wall seconds")
    return plots.legend(figure, *panels)


if __name__ == "__main__":
    cli.run(main)
