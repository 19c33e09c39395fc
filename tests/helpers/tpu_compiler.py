"""Asks the TPU compiler: what the tests that do so share. No TPU is needed, nothing is run on one.

A test file that compiles is also a program: it prints a line of JSON, in a process of its own,
because libtpu reads its environment once.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from r1v3_jax.config import topology
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
