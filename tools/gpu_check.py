"""Checks this program on a GPU, part by part: does it run, is it right, where does the time go.

python tools/gpu_check.py --out=gpu --parts=device,tests,tiny,sampler        # is it right
python tools/gpu_check.py --out=gpu --parts=profile,hlo,variants,step,cudnn  # where the time goes
python tools/gpu_check.py --out=gpu --parts=transformers,trl                 # beside others
python tools/gpu_check.py --out=gpu --platform=cpu --parts=device,tiny       # the driver, on a CPU

Each part is a process with a time limit: one that fails or hangs ends nothing else. A part prints
one line, and leaves NAME.log, what it wrote, in --out, where summary.json has what came of each.
Exit code 1 if a part failed. Was not run on a GPU; see docs/gpu.md.
"""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from r1v3_jax import cli
from r1v3_jax.files import read_json, write_json

ROOT = Path(__file__).parents[1]
BENCH = [sys.executable, str(ROOT / "tools" / "bench")]
BIG = "--shape=internvl3_1b"  # of one GPU

# What a GPU can get wrong in numbers: the model, sampling, losses, an update, saved states.
TESTS = (
    "tests/models/test_attention_cudnn.py",
    "tests/models/test_model_precision.py",
    "tests/models/test_packed_rows.py",
    "tests/sampling/test_next_token.py",
    "tests/sampling/test_sampling.py",
    "tests/losses",
    "tests/train/test_train.py",
    "tests/train/test_shared_prompts.py",
    "tests/run/test_checkpoints.py",
)

# Flags of XLA that may make decoding faster, each against `none`. Nothing sets them: they were not
# measured. The first two turn CUDA graphs off, and on for loops and branches too.
VARIANTS = {
    "none": "",
    "no_graphs": "--xla_gpu_enable_command_buffer=",
    "graphs_of_loops": (
        "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
        "DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL --xla_gpu_graph_min_graph_size=1"
    ),
    "slices_fused": "--xla_gpu_enable_dynamic_slice_fusion=true",
    "no_triton": "--xla_gpu_enable_triton_gemm=false",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """A process. In its words and variables, {out} stands for the file or folder it writes."""

    command: list[str]
    seconds: int  # that it may take
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def bench(*arguments: str, seconds: int, **environment: str) -> Part:
    return Part([*BENCH, *arguments, "--out={out}.json"], seconds, environment)


EXACT = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
PARTS = {
    "device": Part(
        [
            sys.executable,
            "-c",
            "import jax; print(jax.__version__, jax.devices()[0].device_kind)",
        ],
        60,
    ),
    "tests": Part(
        [sys.executable, "-m", "pytest", "-q", "--maxfail=20", *TESTS],
        240,
        EXACT,
    ),
    "tiny": bench("--shape=tunix", "--parts=sampler,step", "--runs=3", seconds=120),
    "sampler": bench(BIG, "--parts=sampler", "--runs=2", seconds=150),
    "profile": bench(BIG, "--parts=sampler,profile,products", "--runs=3", seconds=150),
    "hlo": bench(
        BIG,
        "--parts=sampler",
        "--runs=1",
        seconds=150,
        XLA_FLAGS="--xla_dump_to={out} --xla_dump_hlo_as_text "
        "--xla_dump_hlo_module_re=jit_decode",
    ),
    **{
        f"variant_{name}": bench(
            BIG, "--parts=sampler", "--runs=3", seconds=90, XLA_FLAGS=value
        )
        for name, value in VARIANTS.items()
    },
    "step": bench(BIG, "--parts=step,naive", "--runs=2", seconds=150),
    "cudnn": bench(BIG, "--parts=step", "--runs=2", "--attention=cudnn", seconds=150),
    "transformers": bench(
        BIG, "--compare=transformers", "--device=gpu", "--pairs=3", seconds=400
    ),
    "trl": bench(
        "--compare=trl",
        "--device=gpu",
        "--dtype=bfloat16",
        "--pairs=3",
        seconds=400,
    ),
}
SEVERAL = {"variants": [name for name in PARTS if name.startswith("variant_")]}

PARTS_FLAG = flags.DEFINE_list(
    "parts", ["device", "tests", "tiny"], f"Of {', '.join([*PARTS, *SEVERAL])}."
)
OUT = flags.DEFINE_string("out", None, "Directory of the results.", required=True)
PLATFORM = flags.DEFINE_enum(
    "platform", "gpu", ["gpu", "cpu"], "cpu: to try this program, not to measure."
)
SECONDS = flags.DEFINE_integer(
    "seconds", None, "That a part may take, in place of its own limit.", 1
)
PYTHON = flags.DEFINE_string(
    "peer_python", None, "Python with torch and TRL; default: this one."
)


def main():
    names = expand(PARTS_FLAG.value)
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in names:
        results[name] = run_part(name, out)
        print(line_of(name, results[name]), flush=True)
        # After every part: a call that is cut off leaves what it found.
        write_json(out / "summary.json", results)
    failed = sum(result["outcome"] != "passed" for result in results.values())
    if failed:
        sys.exit(
            f"error: {failed} of {len(names)} parts failed; {out}/NAME.log says why"
        )


def expand(names: list[str]) -> list[str]:
    """Returns the parts, with those of `variants` in its place. ValueError for an unknown one."""
    for name in names:
        if name not in PARTS and name not in SEVERAL:
            raise ValueError(
                f"--parts: no part {name!r}; there are {', '.join([*PARTS, *SEVERAL])}"
            )
    return [part for name in names for part in SEVERAL.get(name, [name])]


def run_part(name: str, out: Path) -> dict:
    """Runs a part, and returns what came of it, for summary.json."""
    part = PARTS[name]
    own = str(out.absolute() / name)
    command = [word.replace("{out}", own) for word in part.command]
    if any(word.startswith("--compare") for word in command):
        python = PYTHON.value or sys.executable
        command += [f"--{peer}_python={python}" for peer in ("trl", "transformers")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    environment["JAX_PLATFORMS"] = "cuda" if PLATFORM.value == "gpu" else "cpu"
    environment["TESTS_PLATFORM"] = environment["JAX_PLATFORMS"]
    for variable, value in part.environment.items():
        environment[variable] = value.replace("{out}", own)

    started = time.monotonic()
    limit = SECONDS.value or part.seconds
    with open(f"{own}.log", "w") as log:
        # A group of its own: what a part started ends with it.
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            outcome = "failed" if code else "passed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome = f"stopped after {limit} s"
    result = {
        "outcome": outcome,
        "seconds": round(time.monotonic() - started, 1),
        "command": command,
        "environment": part.environment,
        "says": last_line(Path(f"{own}.log")),
    }
    report = Path(f"{own}.json")
    if outcome == "passed" and report.exists():
        result |= numbers_of(read_json(report))
    if name == "hlo" and outcome == "passed":
        result["decode"] = operations(Path(own))
    return result


def last_line(log: Path) -> str:
    """Returns the last line that is not empty, "" of an empty log."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def numbers_of(report: dict) -> dict:
    """Returns what a report of the bench comes to: median wall seconds, rates, ratios."""
    if "timings" not in report:
        ratios = {
            f"{peer}: {quantity}": row["median"]
            for peer, result in report.items()
            for quantity, row in result["ratios"].items()
        }
        return {"ratios": ratios}
    timings = report["timings"]
    result = {
        "wall_s": {name: row["wall_s"]["median"] for name, row in timings.items()}
    }
    rates = {
        name: row["tokens_per_s"]
        for name, row in timings.items()
        if "tokens_per_s" in row
    }
    if rates:
        result["tokens_per_s"] = rates
    if "decode" in timings:
        # A step of decoding gives every sample one token.
        steps = report["shape"]["new_tokens"]
        result["ms_a_token"] = 1e3 * timings["decode"]["wall_s"]["median"] / steps
    for name in ("mfu", "peak_device_gib"):
        if name in report:
            result[name] = report[name]
    return result


def operations(dump: Path) -> dict[str, int]:
    """Counts what decoding is made of, in the largest compiled program of a dump.

    Kernels are launched one by one; copies and slices of weights would be traffic that nobody
    needs.
    """
    texts = list(dump.glob("*after_optimizations.txt"))
    if not texts:
        return {}
    text = max(texts, key=lambda path: path.stat().st_size).read_text()
    kinds = ("fusion", "custom-call", "copy", "dynamic-slice", "while", "conditional")
    return {kind: len(re.findall(rf" {kind}\(", text)) for kind in kinds}


def line_of(name: str, result: dict) -> str:
    """Returns a line: the part, how it ended, and its first numbers or its last words."""
    numbers = {}
    for key in ("tokens_per_s", "ratios", "wall_s"):
        numbers = result.get(key) or numbers
        if numbers:
            break
    words = "  ".join(f"{key} {value:,.2f}" for key, value in numbers.items())
    if "ms_a_token" in result:
        words += f"  {result['ms_a_token']:.2f} ms a token"
    return f"{name:26} {result['outcome']:22} {result['seconds']:7.1f} s  {words or result['says']}"


if __name__ == "__main__":
    cli.run(main)
