"""Proves a server before its machine is rented: how many slots fit, and how long a token takes.

Compiles the engine's programs with the TPU compiler for a slice that is not there, as `dry_run`
does for a run. Every figure is the compiler's estimate; nothing is run.
"""

import json
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.config.topology import Topology, parse
from r1v3_jax.engine import memory, programs
from r1v3_jax.engine.sizes import EngineSettings, sizes_of
from r1v3_jax.models.build import decode_compute
from r1v3_jax.run.program import Program, concrete, lower_on_mesh
from r1v3_jax.sharding import DECODE, make_mesh
from r1v3_jax.tpu import compiler
from r1v3_jax.tpu.compiled import Compiled
from r1v3_jax.tpu.compiler import GIB
from r1v3_jax.tpu.dry_run import compile_all, program_json


def dry_run(
    config: ModelConfig,
    settings: EngineSettings,
    topology: str,
    mesh_shape: tuple[int, int, int],
    *,
    full: bool = False,
) -> dict:
    """Compiles the programs of a server, prints a table, and returns its figures.

    topology: as "v5p:2x2x1". mesh_shape: data, fsdp, tensor. In a process that the compiler has
    started (`compiler.CHILD`) it compiles one of them, and the figures are empty.
    """
    slice_ = parse(topology)
    if slice_.slices > 1:
        raise ValueError(
            f"topology {slice_.name!r}: a server runs on one slice; {slice_.slice_name} would do"
        )
    chips = compiler.devices(slice_)
    mesh = make_mesh(mesh_shape, chips)
    table = serving_programs(config, settings, mesh)
    if os.environ.get(compiler.CHILD):
        compile_one(table, slice_)
        return {}
    compiler.check_options(chips, slice_.kind)
    print(
        f"{slice_.name}: {slice_.chips} chips, mesh data x fsdp x tensor = {mesh_shape}, "
        f"{settings.slots} slots of {settings.max_prompt_tokens} + {settings.max_tokens} tokens. "
        "All figures are estimates of the TPU compiler; nothing is run."
    )
    started = time.time()
    names = {f"serve/{program.label}": program for program in table}
    compiled = compile_all(names, slice_, mesh, compiler.job_of(()), full)
    print(f"compiled in {time.time() - started:.0f} s")
    figures = summary(config, settings, mesh, compiled)
    print(sentence(figures, settings))
    return figures


def compile_one(table: list[Program], topology: Topology) -> None:
    """Compiles the program that the environment names, in a child, and writes the outcome."""
    job = json.loads(os.environ[compiler.CHILD])
    _, _, label = job["name"].partition("/")
    program = next(program for program in table if program.label == label)
    compiler.compile_program(program, job["name"], topology.kind, Path(job["out"]))


def serving_programs(
    config: ModelConfig, settings: EngineSettings, mesh
) -> list[Program]:
    """Returns the programs that need most: the longest prompt, the most tiles, and a run."""
    compute = Compute(dtype="bfloat16", param_dtype="bfloat16", attention="splash")
    compute = decode_compute(compute)
    sizes = sizes_of(config, compute, settings, mesh)
    weights = memory.abstract_model(config, compute, mesh, settings.int8)
    model = nnx.merge(nnx.graphdef(weights), concrete(nnx.state(weights), mesh))
    state = concrete(memory.abstract_state(config, compute, sizes, mesh), mesh)

    def array(dtype, *shape, axes=()):
        spec = DECODE.placement(axes, mesh)
        sharding = jax.sharding.NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def program(function, *arguments, size: str = "", **options) -> Program:
        lower = lower_on_mesh(mesh, lambda: function.lower(model, state, *arguments))
        return Program(function.__name__, lower, size=size, **options)

    # Weights that a program does not read are no arguments of it, and are on the chip all the same.
    language = memory.bytes_on_device(model.language)
    tower = memory.bytes_on_device((model.vision, model.connector))
    number = array(jnp.int32)
    result = []
    # 1. The tower, with as many tiles as one call takes.
    if config.vision is not None:
        count = sizes.tile_buckets[-1]
        side = config.vision.image_size
        axes = ("tiles", None, None, None)
        tiles = array(jnp.float32, count, side, side, 3, axes=axes)
        encode = program(
            programs.encode, tiles, number, size=f"{count}", resident=language
        )
        result.append(encode)

    # 2. The longest prompt.
    tokens = array(jnp.int32, 1, sizes.cache_tokens)
    index = None if config.vision is None else tokens
    rows = array(jnp.int32, memory.groups_of(mesh))
    arguments = (tokens, number, index, rows)
    size = f"{sizes.cache_tokens}"
    result.append(program(programs.read, *arguments, size=size, resident=tower))

    # 3. New samples, and a run.
    change = jax.tree.map(
        lambda x: array(x.dtype, *x.shape), programs.no_change(sizes.slots)
    )
    result.append(program(programs.admit, change, resident=language + tower))
    run = program(
        programs.run,
        number,
        array(np.bool_),
        trips=programs.RUN_TOKENS,
        trip="token with full slots",
        resident=tower,
    )
    return [*result, run]


def summary(
    config: ModelConfig,
    settings: EngineSettings,
    mesh,
    compiled: dict[str, Compiled],
) -> dict:
    """Returns the figures: how many slots would fit, and times."""
    compute = decode_compute(
        Compute(dtype="bfloat16", param_dtype="bfloat16", attention="splash")
    )
    counted = memory.memory_of(config, compute, settings, mesh)
    groups = memory.groups_of(mesh)
    peak = max(entry.peak for entry in compiled.values())
    limit = min(entry.limit for entry in compiled.values())
    # What does not grow with the slots: the compiler's peak without the slots that were compiled.
    fixed = peak - settings.slots * counted.a_slot
    fit = int(max(0, limit - fixed) // counted.a_slot // groups * groups)
    times = {}
    for name, entry in compiled.items():
        if entry.estimate is not None:
            times[name] = entry.seconds
    run = compiled["serve/run"]
    token = None
    if run.fits and run.estimate is not None:
        token = run.estimate.dynamic_loop_seconds
    return {
        "slots": settings.slots,
        "fits": all(entry.fits for entry in compiled.values()),
        "slots_that_fit": fit,
        "gib_a_slot": counted.a_slot / GIB,
        "gib_of_weights": counted.weights / GIB,
        "gib_beside": (peak - counted.weights) / GIB
        - settings.slots * counted.a_slot / GIB,
        "limit_gib": limit / GIB,
        "seconds_a_token": token,
        "seconds": times,
        "programs": {name: program_json(entry) for name, entry in compiled.items()},
    }


def sentence(figures: dict, settings: EngineSettings) -> str:
    """Says how many slots fit and how long a token takes."""
    fit = figures["slots_that_fit"]
    wanted = settings.slots
    if figures["fits"]:
        slots = f"{wanted} slots fit, and {fit} would"
    else:
        slots = f"{fit} slots fit, {wanted} do not"
    text = (
        f"{slots}: weights {figures['gib_of_weights']:.2f} GiB a chip, "
        f"{figures['gib_a_slot']:.3f} GiB a slot, programs {figures['gib_beside']:.2f} GiB, of "
        f"{figures['limit_gib']:.2f}"
    )
    if figures["seconds_a_token"] is not None:
        milliseconds = figures["seconds_a_token"] * 1e3
        text += (
            f"; a token of all slots takes {milliseconds:.1f} ms with full slots, "
            f"{wanted / figures['seconds_a_token']:,.0f} tokens/s"
        )
    return text
