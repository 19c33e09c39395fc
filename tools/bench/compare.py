"""Compares with other programs: runs theirs and ours in turn, each in a fresh process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import clock
import jax
import numpy as np
import parts
from absl import flags
from options import ATTENTION, DTYPE, RUNS, SHAPE, SLOTS, VOCAB, selected_shape

from r1v3_jax import hf

HERE = Path(__file__).parent

COMPARE = flags.DEFINE_list("compare", [], "Of tunix, trl, transformers.")
PAIRS = flags.DEFINE_integer("pairs", 3, "Of runs, in a comparison.", 1)
DEVICE = flags.DEFINE_enum(
    "device", "cpu", ["cpu", "gpu"], "Of both sides; on a GPU wall time alone counts."
)
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
    "trl==1.16.0 transformers==5.24.0 accelerate==1.15.0 datasets==5.2.0 pillow",
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
    # This process makes weights and prompts, on the CPU: one that has a GPU keeps its memory.
    jax.config.update("jax_platforms", "cpu")
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
    if DTYPE.value:
        script.append(f"--dtype={DTYPE.value}")
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
    theirs = quantities(their_sampler, sampler=their_sampler["sampler"])
    theirs |= quantities(their_step, **grpo)
    own = quantities(our_sampler, sampler=our_sampler["timings"]["distinct"])
    own |= quantities(our_step, **rollout_and_step(our_step))
    return theirs, own


def pair_with_trl(directory: Path) -> tuple[dict, dict]:
    """Measures its step; its rollout is `generate` alone, without what TRL does around it."""
    script = [TRL_PYTHON.value, f"{BASELINES.value}/trl_baseline.py", *vocabulary()]
    script += of_torch("float32")
    # Two steps warm up, and are not counted by the script.
    their_step = run([*script, f"--steps={RUNS.value + 2}"], directory / "a")
    our_step = ours("trl", "step", directory / "b")
    theirs = quantities(
        their_step,
        rollout=their_step["generate"],
        step=their_step["step_with_optimizer"],
    )
    return theirs, quantities(our_step, **rollout_and_step(our_step))


def pair_with_transformers(directory: Path) -> tuple[dict, dict]:
    """Measures `generate` of transformers on our weights and our prompts, at --shape.

    On a GPU twice: with the cache that grows, and with the static one, whose step is compiled.
    """
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
        *of_torch(shape.compute.dtype),
    ]
    their_run = run(command, directory / "a")
    our_run = ours(SHAPE.value, "sampler", directory / "b")
    our_row = our_run["timings"]["sampler"]
    theirs = quantities(their_run, sampler=their_run)
    own = quantities(our_run, sampler=our_row)
    if DEVICE.value == "gpu":
        name = "sampler, their cache static"
        static = run([*command, "--cache=static"], directory / "c")
        theirs |= quantities(static, **{name: static})
        own |= quantities(our_run, **{name: our_row})
    return theirs, own


def vocabulary() -> list[str]:
    return [] if VOCAB.value is None else [f"--vocab={VOCAB.value}"]


def of_torch(dtype: str) -> list[str]:
    """Returns the arguments of a script with torch. dtype: where --dtype does not say."""
    device = "cuda" if DEVICE.value == "gpu" else "cpu"
    return [f"--device={device}", f"--dtype={DTYPE.value or dtype}"]


def ours(shape: str, part: str, out: Path) -> dict:
    """Runs one part of this program, in a fresh process."""
    command = [
        sys.executable,
        str(HERE / "__main__.py"),
        f"--shape={shape}",
        f"--parts={part}",
        f"--runs={RUNS.value}",
        f"--slots={SLOTS.value}",
        f"--attention={ATTENTION.value}",
        *vocabulary(),
    ]
    if DTYPE.value:
        command.append(f"--dtype={DTYPE.value}")
    return run(command, out)


def run(command: list[str], out: Path) -> dict:
    """Returns the JSON that a command writes to `--out`.

    ValueError if it fails, with the end of what it printed.
    """
    out.parent.mkdir(exist_ok=True)
    # Otherwise idle threads of torch would spin, and take the CPU from those that work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    environment["JAX_PLATFORMS"] = "cuda" if DEVICE.value == "gpu" else "cpu"
    process = subprocess.run(
        [*command, f"--out={out}"], capture_output=True, text=True, env=environment
    )
    if process.returncode:
        raise ValueError(f"{' '.join(command)} failed:\n{process.stderr[-2000:]}")
    return json.loads(out.read_text())


def rollout_and_step(result: dict) -> dict:
    return {name: result["timings"][name] for name in ("rollout", "step")}


def quantities(report: dict, **rows: dict) -> dict[str, float]:
    """Returns {"rollout, CPU s": median, ..., "step, wall s": median, "step, peak GiB": ...}.

    report: what a process wrote, ours or theirs. On a GPU the CPU only waits: no CPU seconds, and
    the device's memory, where the report has it.
    """
    is_gpu = DEVICE.value == "gpu"
    result = {}
    for name, row in rows.items():
        if not is_gpu:
            result[f"{name}, CPU s"] = row["cpu_s"]["median"]
        result[f"{name}, wall s"] = row["wall_s"]["median"]
    # The peak is that of the whole process; it is listed under the row that holds the others.
    peak = report.get("peak_device_gib") if is_gpu else peak_of_process(report)
    if peak is not None:
        result[f"{name}, peak GiB"] = peak
    return result


def peak_of_process(report: dict) -> float:
    """Returns the peak of a process's memory: ours lists it by part, the scripts do not."""
    peak = report.get("peak_rss_gib", report.get("peak_rss_gb"))
    return max(peak.values()) if isinstance(peak, dict) else peak
