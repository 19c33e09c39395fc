"""Tools as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# One device, not the eight of the tests.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}


def run_tool(name: str, *arguments) -> subprocess.CompletedProcess:
    """`python tools/NAME.py ARGUMENTS` from the root of the repository, to its end."""
    return subprocess.run(
        [sys.executable, f"tools/{name}.py", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=600,
    )  # fmt: skip
