"""Proves a run before its machine is rented: --dry_run.

Shows what the data looks like to the model, then compiles every program of the run with the real
TPU compiler, for a slice that is not there, and prints what the compiler reports: memory,
collectives, and an estimate of the time. Every figure is the compiler's estimate; nothing is run.

Each program is compiled in a process of its own (`compiler.py`), which is stopped when the compiler
has scheduled the program and placed its arrays. With `full` it goes on until the machine code is
there, and the compiler's own cycle counts are used. The outcome is cached by a hash of the program:
a second dry run of unchanged programs takes seconds.
"""

import concurrent.futures
import contextlib
import dataclasses
import math
import time

from r1v3_jax.config import GRPO, Run
from r1v3_jax.config.topology import Topology, parse
from r1v3_jax.data.made import not_made
from r1v3_jax.models.flops import model_flops
from r1v3_jax.processing.processor import Processor
from r1v3_jax.report import rows
from r1v3_jax.rollout.programs import evaluation_programs
from r1v3_jax.run.program import Program
from r1v3_jax.sharding import make_mesh, slice_of
from r1v3_jax.stages.kinds import kind_of, open_reader, stage_programs
from r1v3_jax.tpu import compiler
from r1v3_jax.tpu.chips import CHIPS
from r1v3_jax.tpu.compiled import Compiled
from r1v3_jax.tpu.compiler import GIB, outcome_of, stopped
from r1v3_jax.tpu.estimate import estimate
from r1v3_jax.tpu.guesses import guessed_step
from r1v3_jax.tpu.lengths import Lengths, drawn
from r1v3_jax.tpu.published import decoding, decoding_line
from r1v3_jax.tpu.uneven import slower_slots, uneven_line, uneven_step


def show_samples(config: Run, processor: Processor, count: int = 3) -> None:
    """Prints what the model sees of the first good rows of each stage."""
    for name, stage in config.selected_stages().items():
        waits_for = not_made(stage)
        if waits_for:
            print(f"{name}: its rows are made by {', '.join(waits_for)}")
            continue
        reader = open_reader(stage, processor, config.data)
        with contextlib.closing(reader):
            items, consumed = reader.take(count)
        for item in items:
            print(f"{name} {rows.on_terminal(item, processor)}")
        for drop in consumed.drops:
            print(rows.plain(f"{name} {drop['id']}: left out, {drop['reason']}"))


def run(
    config: Run,
    banned: tuple[int, ...],
    *,
    full: bool,
    only: tuple[str, ...] = (),
    lengths: Lengths | None = None,
) -> dict:
    """Compiles every program, prints the table, and returns what goes into the JSON file.

    banned: `Tokenizer.banned_token_ids`. only: names of the programs wanted, as "grpo/decode".
    lengths: of samples, for which a step is priced beside the one whose rows are all full.
    """
    if lengths is not None and not sampling_stages(config):
        raise ValueError(
            f"--dry_run_lengths is about sampled answers, and no stage of {config.name} has a "
            "rollout; leave it out"
        )
    # 1. The programs, by name.
    topology = parse(config.topology)
    chips = compiler.devices(topology)
    compiler.check_options(chips, topology.kind)
    mesh = make_mesh(config.mesh, chips, slices=topology.slices)
    table = programs_by_name(config, mesh, banned)
    unknown = sorted(set(only) - set(table))
    if unknown:
        raise ValueError(f"no program {unknown[0]!r}; there are: {', '.join(table)}")
    if only:
        table = {name: program for name, program in table.items() if name in only}
    print(
        f"{topology.name}: {topology.chips} chips on {topology.hosts} hosts, mesh data x fsdp x "
        f"tensor = {config.mesh}. All figures are estimates of the TPU compiler; nothing is run."
    )

    # 2. Compile them.
    started = time.time()
    compiled = compile_all(table, topology, mesh, compiler.job_of(banned), full)
    remark = "" if full else " (no machine code made)"
    print(f"compiled in {time.time() - started:.0f} s{remark}")

    # 3. What a step of each stage takes.
    chip = CHIPS[topology.kind]
    steps = {}
    for name in config.selected_stages():
        programs = programs_of_stage(name, compiled)
        # A step is only known if all of its programs are.
        if only or not all(program.fits for program in programs.values()):
            continue
        steps[name] = step_of(config, name, programs, chip.flops)
        print(step_line(name, steps[name]))
        if name in sampling_stages(config):
            job = compiler.job_of(banned, all_at_once=True)
            steps[name] |= sampled_step(
                config, name, steps[name], programs, lengths, mesh, job, full
            )

    # 4. The JSON file.
    summary = {
        "topology": topology.name,
        "chips": topology.chips,
        "mesh": list(config.mesh),
        "full": full,
        "fits": all(program.fits for program in compiled.values()),
        "programs": {name: program_json(entry) for name, entry in compiled.items()},
        "stages": steps,
    }
    # The figures of one stage stand for the run; None if none is known.
    shown = steps.get(main_stage(config, steps), {})
    return summary | {key: shown.get(key) for key in ("step_seconds", "mfu")}


def programs_by_name(config: Run, mesh, banned: tuple[int, ...]) -> dict[str, Program]:
    """Returns {"grpo/decode": Program, ...}: of every stage, and of the held-out questions."""
    table = {}
    for name in config.selected_stages():
        for program in stage_programs(config, name, mesh, banned):
            table[f"{name}/{program.label}"] = program
    # The programs are those of any set, also of sets that one stage alone is asked.
    if config.evaluate.sets or any(
        entry.sets for entry in config.evaluate.measurements
    ):
        for program in evaluation_programs(config, mesh, banned):
            table[f"evaluate/{program.label}"] = program
    return table


def sampling_stages(config: Run) -> list[str]:
    """Returns the names of the selected stages with a rollout that they learn from."""
    stages = config.selected_stages()
    return [name for name, stage in stages.items() if isinstance(stage, GRPO)]


def sampled_step(
    config: Run,
    name: str,
    step: dict,
    programs: dict[str, Compiled],
    lengths: Lengths | None,
    mesh,
    job: dict,
    full: bool,
) -> dict:
    """Returns and prints what else is said of a step that samples answers.

    Decoding at measured rates, a step with samples of `lengths`, and decoding without slots. job:
    of a child that compiles the last.
    """
    found = {"at_measured_rates": measured_rates(config, name, step, None)}
    if lengths is not None:
        uneven = uneven_step(config, name, programs, lengths, mesh)
        print(uneven_line(name, uneven))
        rates = measured_rates(config, name, uneven, lengths)
        found["with_lengths"] = uneven | {"at_measured_rates": rates}
    if config.stages[name].draft is not None:
        guessed = guessed_step(config, name, step, programs, None)
        print(guessed["sentence"])
        found["with_guesses"] = guessed
        if lengths is not None:
            guessed = guessed_step(config, name, uneven, programs, lengths)
            print(guessed["sentence"])
            found["with_lengths"]["with_guesses"] = guessed
    if config.stages[name].slots:
        other = all_at_once(config, name, mesh, job, full)
        slots = slower_slots(config, name, programs["decode"], other, lengths)
        print(slots["sentence"])
        found["slots"] = slots
    return found


def measured_rates(config: Run, name: str, step: dict, lengths: Lengths | None) -> dict:
    """Returns the decoding of a stage at the rates of published steps, and prints it.

    step: the figures of a step, with `seconds` by program. lengths: of samples; None: all full.
    """
    stage = config.stages[name]
    found = decoding(config, stage, drawn(stage, lengths))
    rest = step["step_seconds"] - step["seconds"]["decode"]
    print(decoding_line(name, found, rest))
    return found


def all_at_once(config: Run, name: str, mesh, job: dict, full: bool) -> Compiled:
    """Compiles the decoding of a stage without its slots."""
    print(f"{name}, decoding without slots:")
    config = compiler.varied(config, job)
    for program in stage_programs(config, name, mesh, tuple(job["banned"])):
        if program.label == "decode":
            label = f"{name}/decode"
            topology = parse(config.topology)
            return compile_all({label: program}, topology, mesh, job, full)[label]
    raise ValueError(f"{name} has no program decode")


def programs_of_stage(name: str, compiled: dict[str, Compiled]) -> dict[str, Compiled]:
    """Returns the programs of one stage: {"grpo/decode": ...} -> {"decode": ...}."""
    programs = {}
    for full_name, program in compiled.items():
        stage, _, label = full_name.partition("/")
        if stage == name:
            programs[label] = program
    return programs


def main_stage(config: Run, steps: dict) -> str:
    """Returns the stage whose figures stand for the run: the first with rewards, or the first."""
    rewarded = [name for name in steps if config.stages[name].IS_REWARDED]
    return next(iter([*rewarded, *steps]), "")


def compile_all(
    table: dict[str, Program],
    topology: Topology,
    mesh,
    job: dict,
    full: bool,
) -> dict[str, Compiled]:
    """Compiles the programs, two at a time, and prints a line about each; job: of `job_of`."""
    chip = CHIPS[topology.kind]
    places = {
        "coords": [tuple(device.coords) for device in mesh.devices.flat],
        "slices": [slice_of(device) for device in mesh.devices.flat],
    }
    compiled = {}
    pool = concurrent.futures.ThreadPoolExecutor(2)
    try:
        # Traced here, one after the other; compiled two at a time.
        outcomes = {}
        for name, program in table.items():
            lowered = program.lower()
            outcomes[name] = pool.submit(
                outcome_of, name, lowered, topology.name, job, full
            )
        for name, outcome in outcomes.items():
            compiled[name] = compiled_of(outcome.result(), table[name], chip, places)
            print(program_line(name, compiled[name]), flush=True)
    finally:  # after a failure or an interruption nothing more is started
        stopped.set()
        pool.shutdown(cancel_futures=True)
        stopped.clear()
    return compiled


def compiled_of(outcome: dict, program: Program, chip, places: dict) -> Compiled:
    """Returns one program's figures from the outcome of its compilation.

    places: `coords` and `slices` of the chips, as `tpu.estimate.estimate` takes them.
    """
    estimated = None
    if outcome["hlo"]:
        estimated = estimate(
            outcome["hlo"], chip=chip, dynamic_trips=program.trips, **places
        )
    # The compiler names its limit only where it refuses a program.
    limit = outcome.get("limit", int(chip.hbm_gib * GIB))
    peak = outcome["peak"] + program.resident
    return Compiled(program, outcome["arguments"], peak, limit, estimated)


def step_of(
    config: Run, name: str, compiled: dict[str, Compiled], peak_flops: float
) -> dict:
    """Returns the figures of one step of a stage; peak_flops: of one chip, a second."""
    stage = config.stages[name]
    chips = math.prod(config.mesh)
    seconds = {}
    across = 0.0
    for label, entry in compiled.items():
        if entry.program.calls:  # a validation or a probe is no part of a step
            seconds[label] = entry.seconds * entry.program.calls
            across += entry.bytes_across_slices * entry.program.calls
    total = sum(seconds.values())
    # What the model has to compute for these tokens, not what the programs compute: recomputed
    # layers do not count.
    work = kind_of(stage).work(stage)
    flops = work.updates * sum(
        model_flops(config, tokens, keys, stage.trainable)
        for tokens, keys in work.learnt
    )
    chip_hours = total * chips / 3600
    return {
        "seconds": seconds,
        "step_seconds": total,
        "tokens_per_second": work.new_tokens / total,
        # A stage that only collects has no update.
        "mfu": flops / (seconds["update"] * chips * peak_flops) if flops else None,
        "chip_hours_per_step": chip_hours,
        "chip_hours": chip_hours * stage.steps,
        "steps": stage.steps,
        "bytes_across_slices": across,  # that a chip sends
    }


def step_line(name: str, step: dict) -> str:
    """Formats the figures of a step, in one line."""
    parts = [f"{label} {seconds:.2f}" for label, seconds in step["seconds"].items()]
    across = ""
    if step["bytes_across_slices"]:
        across = f"; a chip sends {step['bytes_across_slices'] / 1e9:.2f} GB across slices a step"
    learning = ""
    if step["mfu"] is not None:
        learning = (
            f"update at {step['mfu']:.1%} MFU (6 N D + causal attention, over time x chips x "
            "peak); "
        )
    return (
        f"{name}: a step takes {step['step_seconds']:.1f} s by estimate, every row full "
        f"({', '.join(parts)}); "
        f"{step['tokens_per_second']:,.0f} tokens/s; {learning}"
        f"{step['chip_hours_per_step']:.2f} chip-hours a step, {step['chip_hours']:,.0f} for "
        f"{step['steps']:,} steps{across}"
    )


def program_line(name: str, compiled: Compiled) -> str:
    """Formats the figures of a program: memory and time, and below them its collectives."""
    memory = (
        f"{compiled.peak / GIB:6.2f} GiB of {compiled.limit / GIB:.2f} "
        f"(arguments {compiled.arguments / GIB:.2f}, beside it "
        f"{compiled.program.resident / GIB:.2f})"
    )
    estimated = compiled.estimate
    if not compiled.fits or estimated is None:
        return f"{name:30} {memory}  DOES NOT FIT"
    collectives = [
        f"{kind} {c.count:,.0f} x, {c.bytes / 1e9:.2f} GB, {c.exposed:.3f} s waited for"
        for kind, c in estimated.collectives.items()
    ]
    duration = f"{compiled.seconds:8.3f} s"
    # For a loop that ends on data the time of one trip is the more useful figure.
    if compiled.program.trips > 1:
        trip_ms = estimated.dynamic_loop_seconds * 1e3
        duration += f" ({trip_ms:.2f} ms a {compiled.program.trip})"
    return (
        f"{name:30} {memory}  {estimated.flops / 1e12:9.1f} TFLOP  {duration}  "
        f"bound by {estimated.bound}"
        f"\n{'':32}{', '.join(collectives) or 'no collectives'}"
    )


def program_json(compiled: Compiled) -> dict:
    """Returns the figures of a program for the JSON file."""
    figures = {
        "peak_gib": compiled.peak / GIB,
        "limit_gib": compiled.limit / GIB,
        "argument_gib": compiled.arguments / GIB,
        "resident_gib": compiled.program.resident / GIB,
        "calls": compiled.program.calls,
        "trips": compiled.program.trips,
    }
    estimated = compiled.estimate
    if estimated is None:  # it does not fit, and has no time
        return figures
    collectives = {
        kind: dataclasses.asdict(c) for kind, c in estimated.collectives.items()
    }
    return figures | {
        "flops": estimated.flops,
        "seconds": compiled.seconds,
        "seconds_with_a_full_cache": estimated.seconds,
        "seconds_a_trip": estimated.dynamic_loop_seconds,
        "parts": estimated.parts,
        "hbm_bytes": estimated.hbm_bytes,
        "bound": estimated.bound,
        "collectives": collectives,
    }
