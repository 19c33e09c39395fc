"""Runs tools as a user runs them."""

import json
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
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=600,
    )


def succeed(tool: str, *arguments: str) -> str:
    """Runs a tool that must not fail or warn, and returns what it prints."""
    process = run_tool(tool, *arguments)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


# Imports once, then runs every command line in a fork of its own, before JAX has a backend. A fork
# ends as the interpreter does, without its seconds of tidying up.
RUN_ALL = """
import json, os, runpy, sys, traceback
from r1v3_jax import hf
from r1v3_jax.processing import processor
from r1v3_jax.run import weights

for i, arguments in enumerate(json.load(sys.stdin)):
    if (child := os.fork()) == 0:
        for fd, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{sys.argv[1]}/{i}.{name}", os.O_CREAT | os.O_WRONLY), fd)
        sys.argv, code = arguments, 0
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int | None) else 1
            print(stop.code if isinstance(stop.code, str) else "", end="", file=sys.stderr)
        except BaseException:
            code = traceback.print_exc() or 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_all(directory: Path, commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of several command lines [tool, argument, ...]."""
    directory.mkdir()
    commands = [[f"tools/{tool}.py", *arguments] for tool, *arguments in commands]
    process = subprocess.run(
        [sys.executable, "-c", RUN_ALL, directory],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    assert process.returncode == 0, process.stderr
    results = []
    for i, code in enumerate(process.stdout.split()):
        stdout = (directory / f"{i}.stdout").read_text()
        stderr = (directory / f"{i}.stderr").read_text()
        results.append((int(code), stdout, stderr))
    return results
