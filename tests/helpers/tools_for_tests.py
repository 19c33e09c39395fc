"""Runs tools as a user runs them, with one device unless a test asks for more."""

import subprocess

import commands


def run_tool(name: str, *arguments, devices: int = 1) -> subprocess.CompletedProcess:
    """`python tools/NAME.py ARGUMENTS` from the root of the repository, to its end."""
    return commands.run_tool(name, *arguments, devices=devices)


def succeed(tool: str, *arguments: str) -> str:
    """Runs a tool that must not fail or warn, and returns what it prints."""
    process = run_tool(tool, *arguments)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def run_all(tools: list[list[str]], devices: int = 1) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of several command lines [tool, argument, ...]."""
    processes = [run_tool(*command, devices=devices) for command in tools]
    return [(done.returncode, done.stdout, done.stderr) for done in processes]
