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
import math
import time

from r1v3_jax.config import GRPO, Run
from r1v3_jax.config.topology import parse
from r1v3_jax.models.flops import model_flops
from r1v3_jax.processing.processor import Processor
from r1v3_jax.report import rows
from r1v3_jax.rollout import programs
from r1v3_jax.run.program import Program
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages.kinds import of_stage
from r1v3_jax.tpu import compiler
from r1v3_jax.tpu.compiler import GIB, outcome_of, stopped
from r1v3_jax.tpu.estimate import CHIPS, Estimate, estimate


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
        return (
            full - self.estimate.parts["kernels"] / 2
            if self.program.trips > 1
            else full
        )


def show_samples(config: Run, processor: Processor, count: int = 3) -> None:
    """Prints what the model sees of the first good rows of each stage."""
    for stage in (config.stage,) if config.stage else config.pipeline:
        reader = of_stage(getattr(config, stage), processor, config.data)
        with contextlib.closing(reader):
            items, drawn = reader.take(count)
        for item in items:
            print(f"{stage} {rows.on_terminal(item, processor)}")
        for drop in drawn.drops:
            print(rows.plain(f"{stage} {drop['id']}: left out, {drop['reason']}"))


def run(
    config: Run, banned: tuple[int, ...], *, full: bool, only: tuple[str, ...] = ()
) -> dict:
    """Compiles and prints; returns what goes into the JSON file. `banned`:
    `Tokenizer.banned_token_ids`; `only`: names of the programs wanted, as "grpo/decode".
    """
    topology = parse(config.topology)
    chip = CHIPS[topology.kind]
    mesh = make_mesh(config.mesh, compiler.devices(topology))
    coords = [tuple(device.coords) for device in mesh.devices.flat]
    stages = (config.stage,) if config.stage else config.pipeline
    table = [
        (stage, p) for stage in stages for p in of_stage(config, stage, mesh, banned)
    ]
    if config.evaluate.sets:
        table += [("evaluate", p) for p in programs.of_evaluation(config, mesh, banned)]
    names = [f"{stage}/{p.label}" for stage, p in table]
    if unknown := set(only) - set(names):
        raise ValueError(
            f"no program {sorted(unknown)[0]!r}; there are: {', '.join(names)}"
        )
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
            pool.submit(
                outcome_of, f"{stage}/{p.label}", p.lower(), topology.name, banned, full
            )
            for stage, p in table
        ]
        for (stage, program), outcome in zip(table, found, strict=True):
            name = f"{stage}/{program.label}"
            compiled[name] = one = _compiled(outcome.result(), program, chip, coords)
            print(_line(name, one), flush=True)
    finally:  # of a failure or an interruption: nothing more is begun
        stopped.set()
        pool.shutdown(cancel_futures=True)
        stopped.clear()
    print(
        f"compiled in {time.time() - begun:.0f} s"
        + ("" if full else " (no machine code made)")
    )
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
        mine = {
            n.partition("/")[2]: c
            for n, c in compiled.items()
            if n.startswith(f"{stage}/")
        }
        if not only and all(one.fits for one in mine.values()):
            summary["stages"][stage] = step = _step(config, stage, mine, chip.flops)
            print(_step_line(stage, step))
    shown = (
        "grpo" if "grpo" in summary["stages"] else next(iter(summary["stages"]), None)
    )
    for key in ("step_seconds", "mfu"):
        summary[key] = summary["stages"][shown][key] if shown else None
    return summary


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
        prompt, length = (
            config_of_stage.max_prompt_tokens,
            config_of_stage.max_completion_tokens,
        )
        new = config_of_stage.prompts * config_of_stage.group_size * length
        learnt = (
            (config_of_stage.prompts * prompt, prompt / 2),
            (new, prompt + length / 2),
        )
        updates = config_of_stage.updates_per_rollout
    else:
        new = config_of_stage.rows * config_of_stage.row_tokens
        learnt, updates = ((new, config_of_stage.row_tokens / 2),), 1
    flops = updates * sum(
        model_flops(config, *x, config_of_stage.trainable) for x in learnt
    )
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
    parts = ", ".join(
        f"{name} {seconds:.2f}" for name, seconds in step["seconds"].items()
    )
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
