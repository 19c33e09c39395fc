"""TPU slices by name, and the TPU compiler for one that is not there.

"v5p:4x4x8" is 128 chips of a v5p in a torus of 4 x 4 x 8. The package libtpu holds the whole
compiler; with the environment that `environment` names it serves any slice on any machine.
"""

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

import jax

from r1v3_jax.config import Run
from r1v3_jax.config.topology import Slice, parse
from r1v3_jax.files import atomic_file
from r1v3_jax.rollout.programs import evaluation_programs
from r1v3_jax.run import tpu_flags
from r1v3_jax.run.program import Program
from r1v3_jax.sharding import make_mesh, shard_bytes
from r1v3_jax.stages.kinds import stage_programs


def environment(topology: Slice) -> dict[str, str]:
    """Variables with which libtpu compiles for `topology` here, also several at once."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
        "TPU_ACCELERATOR_TYPE": topology.accelerator_type,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def devices(topology: Slice) -> list:
    """The chips of a slice that is not there, to compile for. Sets the environment.

    ImportError without the package libtpu.
    """
    os.environ.update(environment(topology))
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'the TPU compiler is not installed; pip install "r1v3_jax[tpu]"'
        ) from error
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # jax may have been imported before
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology.name
    ).devices


GIB = 2**30


OUTCOME = 2  # raised when what is kept of a compilation comes to mean something else


# In a child's environment: what it compiles, as JSON {"name", "out", "banned"}.
CHILD = "R1V3_DRY_RUN_CHILD"


def compile_here(config: Run) -> None:
    """In a child: compiles the program that the environment names, and writes what came out."""
    asked = json.loads(os.environ[CHILD])
    out, banned = Path(asked["out"]), tuple(asked["banned"])
    mesh = make_mesh(config.mesh, devices(parse(config.topology)))
    stage, _, program = asked["name"].partition("/")
    if stage == "evaluate":
        table = evaluation_programs(config, mesh, banned)
    else:
        table = stage_programs(config, stage, mesh, banned)
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


def outcome_of(
    name: str,
    lowered: jax.stages.Lowered,
    topology: str,
    banned: tuple[int, ...],
    full: bool,
) -> dict:
    """{"hlo", "peak", "arguments"}, and "limit" if it is over that: of one program, from the cache
    or from the compiler.

    The cache holds text and numbers only, in a directory of the user's.
    """
    import libtpu

    versions = libtpu.__version__, jax.__version__
    environment = [
        os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
    ]
    # The text does not say for which chip it is.
    how = [topology, tpu_flags.flags(), versions, environment, full, OUTCOME]
    identity = json.dumps([lowered.as_text(), *how], sort_keys=True)
    arguments = shard_bytes(lowered.in_avals)
    path = cache() / f"{hashlib.sha256(identity.encode()).hexdigest()}.json.gz"
    if path.is_file():
        return json.loads(gzip.decompress(path.read_bytes())) | {"arguments": arguments}
    outcome = _compile_elsewhere(name, banned, full)
    with atomic_file(path, shared=True) as partial:
        partial.write_bytes(gzip.compress(json.dumps(outcome).encode(), 6))
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
                    if stopped.is_set():
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
    found = re.search(
        r"\(([\d.]+)([GM])\) exceeds available HBM \(([\d.]+)([GM])\)", log
    )
    found = found or re.search(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm", log)
    if found is None:
        raise ValueError(f"{name} does not compile:\n{log[-4000:]}")
    unit = {"G": GIB, "M": 2**20}
    used, limit = (float(found[i]) * unit[found[i + 1]] for i in (1, 3))
    return {"hlo": "", "peak": int(used), "limit": int(limit)}


stopped = threading.Event()


def _scheduled(out: Path, name: str) -> dict | None:
    """What the compiler has written of the scheduled program, once it is all there."""
    function = Program.function(name.rpartition("/")[2])
    stem = f"*.jit_{function}.*after_optimizations"
    hlo = sorted(out.glob(f"{stem}.txt"))
    report = sorted(out.glob(f"{stem}-memory-usage-report.txt"))
    if not (hlo and report):
        return None
    text = hlo[-1].read_text()
    total = re.search(
        r"Memory Space: default.*?\nTotal bytes: (\d+)\D", report[-1].read_text()
    )
    # The entry is written last, and closed at the end of the file.
    if total is None or "\nENTRY " not in text or not text.rstrip().endswith("}"):
        return None
    return {"hlo": text, "peak": int(total[1])}
