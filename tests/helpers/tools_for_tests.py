"""Tools as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# One device, not the eight of the tests.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}


def run_tool(name: str, *arguments, devices: int = 1) -> subprocess.CompletedProcess:
    """`python tools/NAME.py ARGUMENTS` from the root of the repository, to its end."""
    environment = dict(ENVIRONMENT)
    if devices > 1:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.run(
        [sys.executable, f"tools/{name}.py", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600,
    )  # fmt: skip
