"""Compares with other programs: runs theirs and ours in turn, each in a fresh process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import clock
import numpy as np
import parts
from absl import flags
from options import RUNS, SHAPE, SLOTS, VOCAB, selected_shape

from r1v3_jax import hf

HERE = Path(__file__).parent

COMPARE = flags.DEFINE_list("compare", [], "Of tunix, trl, transformers.")
PAIRS = flags.DEFINE_integer("pairs", 3, "Of runs, in a comparison.", 1)
BASELINES = flags.DEFINE_string(
    "baselines", str(HERE / "peers"), "Where the scripts of the others are."
)
TUNIX_PYTHON = flags.DEFINE_string(
    "tunix_python", "tunix-env/bin/python", "Python with Tunix."
)
TRL_PYTHON = flags.DEFINE_string("trl_python", "trl-env/bin/python", "Python with TRL.")
TRANSFORMERS_PYTHON = flags.DEFINE_string(
    "transformers_python", sys.executable, "Python with transformers and torch."
)

_TRL_PACKAGES = [
    # The CPU build first and alone, or pip takes the one with CUDA.
    "torch==2.13.0",
    "trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 pillow",
]
INSTALL = {
    "tunix": ["google-tunix==0.1.7"],
    "trl": _TRL_PACKAGES,
    "transformers": _TRL_PACKAGES,
}
PYTHONS = {
    "tunix": TUNIX_PYTHON,
    "trl": TRL_PYTHON,
    "transformers": TRANSFORMERS_PYTHON,
}


def compare(names: list[str]) -> dict:
    """Runs pairs of measurements, in turn, and prints how they compare.

    Returns {peer: {"pairs": [(theirs, ours)], "load": [(before, after)], "ratios": ...}}.
    """
    peers = {
        "tunix": pair_with_tunix,
        "trl": pair_with_trl,
        "transformers": pair_with_transformers,
    }
    # All are checked before the first is run, which takes minutes.
    for name in names:
        check_peer(name, list(peers))
    result = {}
    for name in names:
        pairs = []
        loads = []
        with tempfile.TemporaryDirectory() as directory:
            for number in range(1, PAIRS.value + 1):
                before = os.getloadavg()[0]
                pairs.append(peers[name](Path(directory) / str(number)))
                loads.append((before, os.getloadavg()[0]))
                progress = f"pair {number} of {PAIRS.value} done"
                print(f"{name}, {progress}, load {loads[-1]}", flush=True)
        ratios = clock.ratios(pairs)
        show_ratios(name, ratios, pairs[-1])
        result[name] = {"pairs": pairs, "load": loads, "ratios": ratios}
    return result


def show_ratios(name: str, ratios: dict, final_pair: tuple[dict, dict]) -> None:
    print(f"{name} over r1v3_jax, above 1 where r1v3_jax takes less:")
    for quantity, row in ratios.items():
        numbers = " / ".join(f"{side[quantity]:.2f}" for side in final_pair)
        values = "  ".join(f"{value:5.2f}" for value in row["pairs"])
        print(
            f"  {quantity:34} median {row['median']:5.2f}   pairs {values}   last {numbers}"
        )


def check_peer(name: str, known: list[str]) -> None:
    """Raises ValueError, with what to type, if a peer cannot be run."""
    if name not in known:
        raise ValueError(f"--compare: no peer {name!r}; there are {', '.join(known)}")
    python = PYTHONS[name]
    if not Path(python.value).is_file():
        lines = [f"python3.11 -m venv {name}-env"]
        for packages in INSTALL[name]:
            lines.append(f"{name}-env/bin/pip install {packages}")
        commands = "\n  ".join(lines)
        raise ValueError(
            f"--{python.name}={python.value}: no such file; name another, or type\n  "
            f"{commands}"
        )
    # The script for transformers is always beside this file.
    script = Path(BASELINES.value or "", f"{name}_baseline.py")
    if name != "transformers" and not script.is_file():
        raise ValueError(
            f"--baselines={BASELINES.value}: no {script.name} in that directory"
        )


# -------------------------------------------------------------------------------------------------
# a pair: what theirs takes, and ours


def pair_with_tunix(directory: Path) -> tuple[dict, dict]:
    """Measures its sampler on 32 prompts that differ, and a GRPO step with 4 repeated prompts."""
    script = [TUNIX_PYTHON.value, f"{BASELINES.value}/tunix_baseline.py", *vocabulary()]
    their_sampler = run(
        [*script, "--what=sampler", f"--runs={RUNS.value}"], directory / "a"
    )
    our_sampler = ours("tunix", "distinct", directory / "b")
    # Three steps warm up, and are not counted by the script.
    their_step = run(
        [*script, "--what=grpo", f"--steps={RUNS.value + 3}"], directory / "c"
    )
    our_step = ours("tunix", "step", directory / "d")

    grpo = {}
    for name in ("rollout", "step"):
        row = {
            unit: their_step["grpo"][f"{name}_{unit}"] for unit in ("cpu_s", "wall_s")
        }
        grpo[name] = row
    theirs = quantities(their_sampler["peak_rss_gb"], sampler=their_sampler["sampler"])
    theirs |= quantities(their_step["peak_rss_gb"], **grpo)
    our_row = our_sampler["timings"]["distinct"]
    own = quantities(our_sampler["peak_rss_gib"]["distinct"], sampler=our_row)
    own |= quantities(our_step["peak_rss_gib"]["step"], **rollout_and_step(our_step))
    return theirs, own


def pair_with_trl(directory: Path) -> tuple[dict, dict]:
    """Measures its step; its rollout is `generate` alone, without what TRL does around it."""
    script = [TRL_PYTHON.value, f"{BASELINES.value}/trl_baseline.py", *vocabulary()]
    # Two steps warm up, and are not counted by the script.
    their_step = run([*script, f"--steps={RUNS.value + 2}"], directory / "a")
    our_step = ours("trl", "step", directory / "b")
    theirs = quantities(
        their_step["peak_rss_gb"],
        rollout=their_step["generate"],
        step=their_step["step_with_optimizer"],
    )
    own = quantities(our_step["peak_rss_gib"]["step"], **rollout_and_step(our_step))
    return theirs, own


def pair_with_transformers(directory: Path) -> tuple[dict, dict]:
    """Measures `generate` of transformers on our weights and our prompts, at --shape."""
    directory.mkdir()
    shape = selected_shape()
    bench = parts.Bench(shape)
    # The script reads weights, ids and tiles: nothing is tokenised or drawn twice.
    hf.save(bench.state.model, directory / "hf")
    prompts = bench.prompts()
    tiles = np.asarray(prompts.tiles)[0] if shape.tiles else np.zeros(0, np.float32)
    np.savez(directory / "prompts.npz", tokens=prompts.tokens, tiles=tiles)
    command = [
        TRANSFORMERS_PYTHON.value,
        str(HERE / "peers" / "transformers_generate.py"),
        f"--directory={directory}",
        f"--samples={shape.group_size}",
        f"--new={shape.new_tokens}",
        f"--runs={RUNS.value}",
    ]
    their_run = run(command, directory / "a")
    our_run = ours(SHAPE.value, "sampler", directory / "b")
    return (
        quantities(their_run["peak_rss_gib"], sampler=their_run),
        quantities(
            our_run["peak_rss_gib"]["sampler"], sampler=our_run["timings"]["sampler"]
        ),
    )


def vocabulary() -> list[str]:
    return [] if VOCAB.value is None else [f"--vocab={VOCAB.value}"]


def ours(shape: str, part: str, out: Path) -> dict:
    """Runs one part of this program, in a fresh process."""
    command = [
        sys.executable,
        str(HERE / "__main__.py"),
        f"--shape={shape}",
        f"--parts={part}",
        f"--runs={RUNS.value}",
        f"--slots={SLOTS.value}",
        *vocabulary(),
    ]
    return run(command, out)


def run(command: list[str], out: Path) -> dict:
    """Returns the JSON that a command writes to `--out`.

    ValueError if it fails, with the end of what it printed.
    """
    out.parent.mkdir(exist_ok=True)
    # Otherwise idle threads of torch would spin, and take the CPU from those that work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [*command, f"--out={out}"], capture_output=True, text=True, env=environment
    )
    if process.returncode:
        raise ValueError(f"{' '.join(command)} failed:\n{process.stderr[-2000:]}")
    return json.loads(out.read_text())


def rollout_and_step(result: dict) -> dict:
    return {name: result["timings"][name] for name in ("rollout", "step")}


def quantities(peak_rss_gib: float, **rows: dict) -> dict[str, float]:
    """Returns {"rollout, CPU s": median, ..., "step, wall s": median, "step, peak GiB": ...}."""
    result = {}
    for name, row in rows.items():
        result[f"{name}, CPU s"] = row["cpu_s"]["median"]
        result[f"{name}, wall s"] = row["wall_s"]["median"]
    # The peak is that of the whole process; it is listed under the row that holds the others.
    result[f"{name}, peak GiB"] = peak_rss_gib
    return result
