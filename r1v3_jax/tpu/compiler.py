"""Compiles programs with the TPU compiler for a slice that this machine does not have.

The package libtpu holds the whole compiler; with the environment variables of `environment` it
compiles for any slice on any machine. Each program is compiled in a child process, and its outcome
is cached. Knows the programs of a run by name; nothing of what the outcomes are used for.
"""

import dataclasses
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TextIO

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from r1v3_jax.config import Run
from r1v3_jax.config.topology import Topology, parse
from r1v3_jax.files import atomic_file
from r1v3_jax.rollout.programs import evaluation_programs
from r1v3_jax.run import tpu_flags
from r1v3_jax.run.program import Program
from r1v3_jax.sharding import make_mesh, shard_bytes
from r1v3_jax.stages.kinds import stage_programs

GIB = 2**30

# A part of every key of the cache. To be raised when the fields of an outcome change their meaning.
OUTCOME = 2

# In a child's environment: what it compiles, as JSON: a job (see `job_of`) with "name" and "out".
CHILD = "R1V3_DRY_RUN_CHILD"

# Set to end all children, and to start none.
stopped = threading.Event()


# -------------------------------------------------------------------------------------------------
# a slice that is not there


def environment(topology: Topology) -> dict[str, str]:
    """Returns the variables with which libtpu compiles for `topology` here, in any process."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # several processes compile at the same time
        "TPU_ACCELERATOR_TYPE": topology.accelerator_type,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def devices(topology: Topology) -> list:
    """Returns the chips of all slices to compile for, and sets the environment for them.

    ImportError without the package libtpu, ValueError if it is too old.
    """
    os.environ.update(environment(topology))
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'the TPU compiler is not installed; pip install "r1v3_jax[tpu]"'
        ) from error
    tpu_flags.installed_libtpu()
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # jax may have been imported before
    described = topologies.get_topology_desc(
        platform="tpu",
        topology_name=topology.slice_name,
        num_slices=topology.slices,
    )
    return described.devices


def check_options(chips: list, kind: str) -> None:
    """Raises ValueError if the compiler refuses one of its options, with the line of their file.

    chips: some of `devices`. A small all-gather between two of them is enough to find that out.
    """
    pair = chips[:2]
    mesh = jax.sharding.Mesh(pair, "chips")
    shards = NamedSharding(mesh, PartitionSpec("chips"))
    whole = NamedSharding(mesh, PartitionSpec())
    rows = jax.ShapeDtypeStruct((8 * len(pair), 128), jnp.float32, sharding=shards)
    gather = jax.jit(lambda x: x, out_shardings=whole)
    # First "", what holds for all programs; then those that have options of their own.
    programs = {"", *(flag.program for flag in tpu_flags.chosen_flags(kind))}
    for program in sorted(programs):
        options = tpu_flags.options(kind, program=program)
        try:
            gather.lower(rows).compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            sentence = tpu_flags.refused_flag(str(error), kind, program)
            raise ValueError(sentence or f"the TPU compiler fails: {error}") from error


# -------------------------------------------------------------------------------------------------
# compiling, or remembering


def job_of(
    banned: tuple[int, ...],
    *,
    mesh: tuple[int, int, int] | None = None,
    all_at_once: bool = False,
) -> dict:
    """Returns what a child has to know beside its command, which is that of this process.

    banned: `Tokenizer.banned_token_ids`. mesh: in place of the config's. all_at_once: without the
    `slots` of stages.
    """
    return {"banned": banned, "mesh": mesh, "all_at_once": all_at_once}


def varied(config: Run, job: dict) -> Run:
    """Returns the config that a job is about."""
    if job["mesh"] is not None:
        config = dataclasses.replace(config, mesh=tuple(job["mesh"]))
    if job["all_at_once"]:
        stages = {}
        for name, stage in config.stages.items():
            if getattr(stage, "slots", 0):
                stages[name] = dataclasses.replace(stage, slots=0)
        config = config.with_stages(**stages)
    return config


def outcome_of(
    name: str,
    lowered: jax.stages.Lowered,
    topology: str,
    job: dict,
    full: bool,
) -> dict:
    """Returns what the compiler makes of one program, from the cache or from a child process.

    {"hlo": text, "peak": bytes, "arguments": bytes}, of one chip. A program that exceeds the
    chip's memory has no text, and also a "limit" in bytes. name: "grpo/decode". full: with machine
    code, which takes longer. The cache holds text and numbers only, in a directory of the user's.
    """
    arguments = shard_bytes(lowered.in_avals)
    path = cache() / f"{_key(name, lowered, topology, full)}.json.gz"
    if path.is_file():
        outcome = json.loads(gzip.decompress(path.read_bytes()))
    else:
        outcome = _compile_elsewhere(name, job, full, parse(topology).kind)
        with atomic_file(path, shared=True) as partial:
            partial.write_bytes(gzip.compress(json.dumps(outcome).encode(), 6))
    return outcome | {"arguments": arguments}


def cache() -> Path:
    """Returns the directory of the outcomes, which only the user can read.

    It is $XDG_CACHE_HOME/r1v3_jax/dry_run.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "r1v3_jax" / "dry_run"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _key(name: str, lowered: jax.stages.Lowered, topology: str, full: bool) -> str:
    """Returns a hash of everything that the outcome depends on."""
    import libtpu

    versions = libtpu.__version__, jax.__version__
    variables = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
    values = [os.environ.get(variable, "") for variable in variables]
    # The text of a program does not say for which chip it is.
    options = _options(name, parse(topology).kind)
    settings = [topology, options, versions, values, full, OUTCOME]
    identity = json.dumps([lowered.as_text(), *settings], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def _function(name: str) -> str:
    """Returns the jitted function of a program: "grpo/probe_decode" -> "decode"."""
    return Program.function(name.rpartition("/")[2])


def _options(name: str, kind: str) -> dict[str, str]:
    """Returns the compiler's options for a program, as "grpo/probe_decode", and chips of a kind."""
    return tpu_flags.options(kind, program=_function(name))


# -------------------------------------------------------------------------------------------------
# the parent of a child process


def _compile_elsewhere(name: str, job: dict, full: bool, kind: str) -> dict:
    """Compiles one program in a child process and returns its outcome; kind: of chips."""
    directory = Path(tempfile.mkdtemp(prefix="r1v3_dry_run_"))
    try:
        with (directory / "log").open("w+") as log:
            child = _start_child(name, job, full, directory, log)
            try:
                outcome = _wait_for(child, name, full, directory)
            finally:
                child.kill()
                child.wait()
            if outcome is not None:
                return outcome
            log.seek(0)
            return _excess(name, log.read(), kind)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _start_child(
    name: str, job: dict, full: bool, directory: Path, log: TextIO
) -> subprocess.Popen:
    """Runs the command of this process once more, for one program."""
    job = {**job, "name": name, "out": str(directory)}
    variables = {**os.environ, CHILD: json.dumps(job)}
    if not full:
        # The compiler writes the scheduled program down on its way to the machine code.
        dump = f"--xla_dump_to={directory} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_"
        variables["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump}".strip()
    command = [sys.executable, *sys.orig_argv[1:]]
    return subprocess.Popen(command, env=variables, stdout=log, stderr=log)


def _wait_for(
    child: subprocess.Popen, name: str, full: bool, directory: Path
) -> dict | None:
    """Returns the outcome as soon as there is one; None if the child failed."""
    while child.poll() is None:
        time.sleep(0.5)
        if stopped.is_set():
            raise RuntimeError(f"{name}: stopped")
        # Without machine code the scheduled program is enough, and the child is killed.
        if not full and (outcome := _scheduled(directory, name)):
            return outcome
    if child.returncode != 0:
        return None
    if full:
        peak = json.loads((directory / "full.json").read_text())["peak"]
        return {"hlo": (directory / "full.txt").read_text(), "peak": peak}
    # The child may have ended between two looks at its files.
    return _scheduled(directory, name)


def _scheduled(directory: Path, name: str) -> dict | None:
    """Returns the outcome from the files of the scheduled program, once they are complete."""
    stem = f"*.jit_{_function(name)}.*after_optimizations"
    texts = sorted(directory.glob(f"{stem}.txt"))
    reports = sorted(directory.glob(f"{stem}-memory-usage-report.txt"))
    if not (texts and reports):
        return None
    text = texts[-1].read_text()
    report = reports[-1].read_text()
    peak = re.search(r"Memory Space: default.*?\nTotal bytes: (\d+)\D", report)
    # The entry is written last, and its brace ends the file.
    is_whole = "\nENTRY " in text and text.rstrip().endswith("}")
    if peak is None or not is_whole:
        return None
    return {"hlo": text, "peak": int(peak[1])}


def _excess(name: str, log: str, kind: str) -> dict:
    """Returns the outcome of a program that is too large for chips of a kind.

    ValueError if the child failed for another reason.
    """
    size = r"([\d.]+)([GM])"
    # The compiler reports it in one of two ways.
    patterns = (
        rf"\({size}\) exceeds available HBM \({size}\)",
        rf"Used {size} of {size} hbm",
    )
    for pattern in patterns:
        if match := re.search(pattern, log):
            used, used_unit, limit, limit_unit = match.groups()
            unit = {"G": GIB, "M": 2**20}
            return {
                "hlo": "",
                "peak": int(float(used) * unit[used_unit]),
                "limit": int(float(limit) * unit[limit_unit]),
            }
    if sentence := tpu_flags.refused_flag(log, kind, _function(name)):
        raise ValueError(f"{name} does not compile: {sentence}")
    raise ValueError(f"{name} does not compile:\n{log[-4000:]}")


# -------------------------------------------------------------------------------------------------
# the child


def compile_here(config: Run) -> None:
    """Compiles the program that the environment names, in a child, and writes the outcome."""
    job = json.loads(os.environ[CHILD])
    directory = Path(job["out"])
    banned = tuple(job["banned"])
    config = varied(config, job)
    topology = parse(config.topology)
    mesh = make_mesh(config.mesh, devices(topology), slices=topology.slices)
    stage, _, label = job["name"].partition("/")
    if stage == "evaluate":
        table = evaluation_programs(config, mesh, banned)
    else:
        table = stage_programs(config, stage, mesh, banned)
    program = next(program for program in table if program.label == label)
    compile_program(program, job["name"], topology.kind, directory)


def compile_program(program: Program, name: str, kind: str, directory: Path) -> None:
    """Compiles one program for chips of a kind, and writes the outcome into a directory."""
    options = _options(name, kind)
    compiled = program.lower().compile(compiler_options=options)
    # The most that arguments, outputs and temporaries take together at any moment.
    memory = compiled.memory_analysis()
    peak = memory.peak_memory_in_bytes
    arguments = memory.argument_size_in_bytes
    if peak < arguments:
        raise ValueError(
            f"this TPU compiler reports {peak} bytes for the peak of a program whose arguments "
            f'have {arguments}; install another libtpu: pip install -U "r1v3_jax[tpu]"'
        )
    (directory / "full.txt").write_text(compiled.as_text())
    (directory / "full.json").write_text(json.dumps({"peak": peak}))
