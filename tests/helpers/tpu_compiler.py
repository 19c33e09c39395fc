"""Asks the TPU compiler: what the tests that do so share. No TPU is needed, nothing is run on one.

A test file that compiles is also a program: it prints a line of JSON, in a process of its own,
because libtpu reads its environment once. What the compiler said is kept for later runs of the
tests, for the same text of a program and the same compiler.
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import kept_programs
import pytest

from r1v3_jax.config import topology
from r1v3_jax.files import atomic_file
from r1v3_jax.tpu import compiler

HELPERS = Path(__file__).parent
ROOT = HELPERS.parents[1]
TOPOLOGY = "v5p:2x2x1"  # four chips

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,  # macOS has none
    reason='needs the TPU compiler: pip install "jax[tpu]"',
)


def devices() -> list:
    """Returns the chips to compile for. To be called in the program, not in the tests."""
    return compiler.devices(topology.parse(TOPOLOGY))


def compiled(lowered, options: dict | None = None) -> dict:
    """Compiles a program, or remembers: {"text": ..., "bytes": {...}}, or {"error": ...}.

    bytes: of a chip's memory, {"arguments": ..., "output": ..., "temporary": ...}.
    """
    versions = [importlib.metadata.version(name) for name in ("libtpu", "jax")]
    flags = [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    identity = [lowered.as_text(), TOPOLOGY, options, versions, flags]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = kept_programs.tpu_programs() / f"{key}.json.gz"
    if path.exists():
        return json.loads(gzip.decompress(path.read_bytes()))
    outcome = _compile(lowered, options)
    with atomic_file(path, shared=True) as partial:
        partial.write_bytes(gzip.compress(json.dumps(outcome).encode()))
    return outcome


def _compile(lowered, options: dict | None) -> dict:
    import jax

    try:
        program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        return {"error": str(error)}
    memory = program.memory_analysis()
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "output": memory.output_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
    }
    return {"text": program.as_text(), "bytes": sizes}


def answer_of(file: str):
    """Runs `file` as a program and returns the JSON that it prints last."""
    paths = [str(ROOT), str(HELPERS), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    }
    process = subprocess.run(
        [sys.executable, file],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout.splitlines()[-1])
