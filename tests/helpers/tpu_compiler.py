"""What the tests that ask the TPU compiler share. No TPU is needed, nothing is run on one.

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

TOPOLOGY = "v5p:2x2x1"  # four chips

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,  # there is none for macOS
    reason='needs the TPU compiler: pip install "jax[tpu]"',
)


def devices() -> list:
    """The chips to compile for; to be called in the program."""
    return compiler.devices(topology.parse(TOPOLOGY))


def answer_of(file: str):
    """What `file`, run as a program, prints last."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": paths, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
