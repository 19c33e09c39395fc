"""A run proven before its machine is rented: --dry_run.

Shows what the data looks like to the model, then compiles every program of the run with the real
TPU compiler, for a slice that is not there, and prints what it says: memory, collectives, and an
estimate of the time. Every figure is the compiler's estimate; nothing is run.

Each program is compiled in a process of its own, which is stopped when the compiler has scheduled
the program and placed its arrays (`full`: not before it has made the machine code; then its own
cycle counts are used). What came out is kept, by the hash of what went in: a second dry run of
unchanged programs takes seconds.
"""

import concurrent.futures
import contextlib
import dataclasses
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax

from r1v3_jax import tpu
from r1v3_jax.config import GRPO, Run
from r1v3_jax.config.topology import parse
from r1v3_jax.estimate import CHIPS, Estimate, estimate
from r1v3_jax.models.flops import model_flops
from r1v3_jax.processing.processor import Encoder
from r1v3_jax.report import rows
from r1v3_jax.rollout import programs
from r1v3_jax.run import tpu_flags
from r1v3_jax.run.program import Program
from r1v3_jax.sharding import make_mesh, shard_bytes
from r1v3_jax.stages.kinds import of_stage

GIB = 2**30
OUTCOME = 2  # raised when what is kept of a compilation comes to mean something else
# In a child's environment: what it compiles, as JSON {"name", "out", "banned"}.
CHILD = "R1V3_DRY_RUN_CHILD"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler said of one program, for one chip. Sizes in bytes; peak: with what lies on
    the chip meanwhile.
    """

    program: Program
    arguments: int
    peak: int
    limit: int
    estimate: Estimate | None  # None: it does not fit

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit

    @property
    def seconds(self) -> float:
        """One call. The decoding kernel reads the slots in use, on average over the loop half of
        the cache; the compiler's figure is that of a full one.
        """
        full = self.estimate.seconds
        return full - self.estimate.parts["kernels"] / 2 if self.program.trips > 1 else full


def show_samples(config: Run, encoder: Encoder, count: int = 3) -> None:
    """Prints what the model sees of the first good rows of each stage."""
    for stage in (config.stage,) if config.stage else config.pipeline:
        reader = of_stage(getattr(config, stage), encoder, config.data)
        with contextlib.closing(reader):
            items, drawn = reader.take(count)
        for item in items:
            print(f"{stage} {rows.on_terminal(item, encoder)}")
        for drop in drawn.drops:
            print(rows.plain(f"{stage} {drop['id']}: left out, {drop['reason']}"))


def run(config: Run, banned: tuple[int, ...], *, full: bool, only: tuple[str, ...] = ()) -> dict:
    """Compiles and prints; returns what goes into the JSON file. `banned`:
    `Tokenizer.banned_token_ids`; `only`: names of the programs wanted, as "grpo/decode".
    """
    topology = parse(config.topology)
    chip = CHIPS[topology.kind]
    mesh = make_mesh(config.mesh, tpu.devices(topology))
    coords = [tuple(device.coords) for device in mesh.devices.flat]
    stages = (config.stage,) if config.stage else config.pipeline
    table = [(stage, p) for stage in stages for p in of_stage(config, stage, mesh, banned)]
    if config.evaluate.sets:
        table += [("evaluate", p) for p in programs.of_evaluation(config, mesh, banned)]
    names = [f"{stage}/{p.label}" for stage, p in table]
    if unknown := set(only) - set(names):
        raise ValueError(f"no program {sorted(unknown)[0]!r}; there are: {', '.join(names)}")
    if only:
        table = [(stage, p) for stage, p in table if f"{stage}/{p.label}" in only]
    print(
        f"{topology.name}: {topology.chips} chips on {topology.hosts} hosts, mesh data x fsdp x "
        f"tensor = {config.mesh}. All figures are estimates of the TPU compiler; nothing is run."
    )
    compiled, begun = {}, time.time()
    pool = concurrent.futures.ThreadPoolExecutor(2)
    try:
        # Traced here, one after the other; compiled two at a time.
        found = [
            pool.submit(_outcome, f"{stage}/{p.label}", p.lower(), topology.name, banned, full)
            for stage, p in table
        ]
        for (stage, program), outcome in zip(table, found, strict=True):
            name = f"{stage}/{program.label}"
            compiled[name] = one = _compiled(outcome.result(), program, chip, coords)
            print(_line(name, one), flush=True)
    finally:  # of a failure or an interruption: nothing more is begun
        _stopped.set()
        pool.shutdown(cancel_futures=True)
        _stopped.clear()
    print(f"compiled in {time.time() - begun:.0f} s" + ("" if full else " (no machine code made)"))
    summary = {
        "topology": topology.name,
        "chips": topology.chips,
        "mesh": list(config.mesh),
        "full": full,
        "fits": all(one.fits for one in compiled.values()),
        "programs": {name: _json(one) for name, one in compiled.items()},
        "stages": {},
    }
    for stage in stages:
        mine = {n.partition("/")[2]: c for n, c in compiled.items() if n.startswith(f"{stage}/")}
        if not only and all(one.fits for one in mine.values()):
            summary["stages"][stage] = step = _step(config, stage, mine, chip.flops)
            print(_step_line(stage, step))
    shown = "grpo" if "grpo" in summary["stages"] else next(iter(summary["stages"]), None)
    for key in ("step_seconds", "mfu"):
        summary[key] = summary["stages"][shown][key] if shown else None
    return summary


def compile_here(config: Run) -> None:
    """In a child: compiles the program that the environment names, and writes what came out."""
    asked = json.loads(os.environ[CHILD])
    out, banned = Path(asked["out"]), tuple(asked["banned"])
    mesh = make_mesh(config.mesh, tpu.devices(parse(config.topology)))
    stage, _, program = asked["name"].partition("/")
    table = (
        programs.of_evaluation(config, mesh, banned)
        if stage == "evaluate"
        else of_stage(config, stage, mesh, banned)
    )
    lowered = next(p for p in table if p.label == program).lower()
    compiled = lowered.compile(compiler_options=tpu_flags.flags())
    # Arguments, outputs and temporaries, as far as they are there at one time.
    memory = compiled.memory_analysis()
    peak = memory.peak_memory_in_bytes
    if peak < memory.argument_size_in_bytes:
        raise ValueError(
            f"this compiler says {peak} bytes for a program's peak, less than it is given"
        )
    (out / "full.txt").write_text(compiled.as_text())
    (out / "full.json").write_text(json.dumps({"peak": peak}))


# -------------------------------------------------------------------------------------------------
# compiling, or remembering


def _outcome(
    name: str, lowered: jax.stages.Lowered, topology: str, banned: tuple[int, ...], full: bool
) -> dict:
    """{"hlo", "peak", "arguments"}, and "limit" if it is over that: of one program, from the cache
    or from the compiler.

    The cache holds text and numbers only, in a directory of the user's.
    """
    import libtpu

    versions = libtpu.__version__, jax.__version__
    environment = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    # The text does not say for which chip it is.
    how = [topology, tpu_flags.flags(), versions, environment, full, OUTCOME]
    identity = json.dumps([lowered.as_text(), *how], sort_keys=True)
    arguments = shard_bytes(lowered.in_avals)
    path = cache() / f"{hashlib.sha256(identity.encode()).hexdigest()}.json.gz"
    if path.is_file():
        return json.loads(gzip.decompress(path.read_bytes())) | {"arguments": arguments}
    outcome = _compile_elsewhere(name, banned, full)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(gzip.compress(json.dumps(outcome).encode(), 6))
    partial.replace(path)
    return outcome | {"arguments": arguments}


def cache() -> Path:
    """Where outcomes are kept: $XDG_CACHE_HOME/r1v3_jax/dry_run, readable by the user alone."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "r1v3_jax" / "dry_run"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _compile_elsewhere(name: str, banned: tuple[int, ...], full: bool) -> dict:
    """Runs this command once more, for one program; its outcome, see `_outcome`."""
    out = Path(tempfile.mkdtemp(prefix="r1v3_dry_run_"))
    dump = f"--xla_dump_to={out} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_"
    asked = json.dumps({"name": name, "out": str(out), "banned": banned})
    environment = {**os.environ, CHILD: asked}
    if not full:
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump}".strip()
    command = [sys.executable, *sys.orig_argv[1:]]
    try:
        with (out / "log").open("w+") as log:
            child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                while child.poll() is None:
                    time.sleep(0.5)
                    if _stopped.is_set():
                        raise RuntimeError(f"{name}: stopped")
                    if not full and (outcome := _scheduled(out, name)):
                        return outcome
            finally:
                child.kill()
                child.wait()
            if child.returncode == 0 and full:
                peak = json.loads((out / "full.json").read_text())["peak"]
                return {"hlo": (out / "full.txt").read_text(), "peak": peak}
            # It may have been faster than a look at its files.
            if child.returncode == 0 and (outcome := _scheduled(out, name)):
                return outcome
            log.seek(0)
            return _refusal(name, log.read())
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _refusal(name: str, log: str) -> dict:
    """The numbers of a program that is too large; ValueError if it failed for another reason."""
    found = re.search(r"\(([\d.]+)([GM])\) exceeds available HBM \(([\d.]+)([GM])\)", log)
    found = found or re.search(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm", log)
    if found is None:
        raise ValueError(f"{name} does not compile:\n{log[-4000:]}")
    unit = {"G": GIB, "M": 2**20}
    used, limit = (float(found[i]) * unit[found[i + 1]] for i in (1, 3))
    return {"hlo": "", "peak": int(used), "limit": int(limit)}


_stopped = threading.Event()


def _scheduled(out: Path, name: str) -> dict | None:
    """What the compiler has written of the scheduled program, once it is all there."""
    function = Program.function(name.rpartition("/")[2])
    stem = f"*.jit_{function}.*after_optimizations"
    hlo = sorted(out.glob(f"{stem}.txt"))
    report = sorted(out.glob(f"{stem}-memory-usage-report.txt"))
    if not (hlo and report):
        return None
    text = hlo[-1].read_text()
    total = re.search(r"Memory Space: default.*?\nTotal bytes: (\d+)\D", report[-1].read_text())
    # The entry is written last, and closed at the end of the file.
    if total is None or "\nENTRY " not in text or not text.rstrip().endswith("}"):
        return None
    return {"hlo": text, "peak": int(total[1])}


def _compiled(outcome: dict, program: Program, chip, coords) -> Compiled:
    found = None
    if outcome["hlo"]:
        trips = program.trips
        found = estimate(outcome["hlo"], chip=chip, coords=coords, dynamic_trips=trips)
    limit = outcome.get("limit", int(chip.hbm_gib * GIB))
    peak = outcome["peak"] + program.resident
    return Compiled(program, outcome["arguments"], peak, limit, found)


def _step(config: Run, stage: str, compiled: dict[str, Compiled], peak: float) -> dict:
    """One step of a stage, program by program."""
    chips, config_of_stage = math.prod(config.mesh), getattr(config, stage)
    seconds = {
        name: one.seconds * one.program.calls
        for name, one in compiled.items()
        if one.program.calls  # a validation or a probe is no part of a step
    }
    total = sum(seconds.values())
    if isinstance(config_of_stage, GRPO):
        prompt, length = config_of_stage.max_prompt_tokens, config_of_stage.max_completion_tokens
        new = config_of_stage.prompts * config_of_stage.group_size * length
        learnt = ((config_of_stage.prompts * prompt, prompt / 2), (new, prompt + length / 2))
        updates = config_of_stage.updates_per_rollout
    else:
        new = config_of_stage.rows * config_of_stage.row_tokens
        learnt, updates = ((new, config_of_stage.row_tokens / 2),), 1
    flops = updates * sum(model_flops(config, *x, config_of_stage.trainable) for x in learnt)
    return {
        "seconds": seconds,
        "step_seconds": total,
        "tokens_per_second": new / total,
        "mfu": flops / (seconds["update"] * chips * peak),
        "chip_hours_per_step": total * chips / 3600,
        "chip_hours": total * chips / 3600 * config_of_stage.steps,
        "steps": config_of_stage.steps,
    }


def _step_line(stage: str, step: dict) -> str:
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in step["seconds"].items())
    return (
        f"{stage}: a step takes {step['step_seconds']:.1f} s by estimate, every row full "
        f"({parts}); "
        f"{step['tokens_per_second']:,.0f} tokens/s; update at {step['mfu']:.1%} MFU "
        "(6 N D + causal attention, over time x chips x peak); "
        f"{step['chip_hours_per_step']:.2f} chip-hours a step, {step['chip_hours']:,.0f} for "
        f"{step['steps']:,} steps"
    )


def _line(name: str, one: Compiled) -> str:
    gib = f"{one.peak / GIB:6.2f} GiB of {one.limit / GIB:.2f} (arguments {one.arguments / GIB:.2f}"
    gib += f", beside it {one.program.resident / GIB:.2f})"
    if not one.fits or one.estimate is None:
        return f"{name:30} {gib}  DOES NOT FIT"
    found = one.estimate
    moved = ", ".join(
        f"{kind} {c.count:,.0f} x, {c.bytes / 1e9:.2f} GB, {c.exposed:.3f} s waited for"
        for kind, c in found.collectives.items()
    )
    time_ = f"{one.seconds:8.3f} s"
    if one.program.trips > 1:
        time_ += f" ({found.dynamic_loop_seconds * 1e3:.2f} ms a {one.program.trip})"
    return (
        f"{name:30} {gib}  {found.flops / 1e12:9.1f} TFLOP  {time_}  bound by {found.bound}"
        f"\n{'':32}{moved or 'no collectives'}"
    )


def _json(one: Compiled) -> dict:
    found = one.estimate
    out = {
        "peak_gib": one.peak / GIB,
        "limit_gib": one.limit / GIB,
        "argument_gib": one.arguments / GIB,
        "resident_gib": one.program.resident / GIB,
        "calls": one.program.calls,
        "trips": one.program.trips,
    }
    if found is None:
        return out
    return out | {
        "flops": found.flops,
        "seconds": one.seconds,
        "seconds_with_a_full_cache": found.seconds,
        "seconds_a_trip": found.dynamic_loop_seconds,
        "parts": found.parts,
        "hbm_bytes": found.hbm_bytes,
        "bound": found.bound,
        "collectives": {k: dataclasses.asdict(c) for k, c in found.collectives.items()},
    }
