"""The launcher and the tools as a user types them, forked from one interpreter.

To import what they need takes seconds of a core; a fork of an interpreter that has done so takes
none. That interpreter (`fork_server.py`) has no backend of JAX and no torch, and each command gets
an environment, a directory and a session of its own. With `real=True` a new interpreter is started
all the same: a fork has the hash seed of the others, and does not show that the imports work.
"""

import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from xla_flags import xla_flags

HELPERS = Path(__file__).parent
ROOT = HELPERS.parents[1]
LAUNCHER = ("-m", "r1v3_jax.launch")
TIMEOUT_S = 600


def environment(devices: int = 1, **changes: str) -> dict[str, str]:
    """Returns the variables of a command, with so many CPU devices."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS / 'children'}",
        **changes,
    }


def run(
    *arguments, cwd: Path = ROOT, env: dict | None = None, timeout: float = TIMEOUT_S
) -> subprocess.CompletedProcess:
    """Runs `python ARGUMENTS` in a fork, to its end.

    arguments: ("-m", module, ...) or (path of a script, ...), as behind `python`.
    """
    directory = server().directory
    number = server().count
    output = directory / f"{number}.stdout"
    errors = directory / f"{number}.stderr"
    process = start(*arguments, output=output, errors=errors, cwd=cwd, env=env)
    try:
        code = process.wait(timeout)
    finally:
        kill([process])
    said = (output.read_text(errors="replace"), errors.read_text(errors="replace"))
    for path in (output, errors):
        path.unlink()
    return subprocess.CompletedProcess(process.arguments, code, *said)


def run_tool(name: str, *arguments, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs `python tools/NAME.py ARGUMENTS` from the root of the repository, to its end."""
    return run(f"tools/{name}.py", *arguments, env=environment(devices))


def start(
    *arguments,
    output: Path,
    errors: Path | None = None,
    cwd: Path = ROOT,
    env: dict | None = None,
    file_size: int = 0,
    real: bool = False,
) -> "Forked | subprocess.Popen":
    """Starts `python ARGUMENTS`, in a session of its own; what it prints is added to files.

    errors: for stderr; None: the same file as stdout. file_size: no file may grow beyond it.
    real: in an interpreter of its own.
    """
    arguments = [str(argument) for argument in arguments]
    env = environment() if env is None else env
    if real:
        with output.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
    return server().start(
        arguments=arguments,
        output=str(output),
        errors=str(errors or output),
        cwd=str(cwd),
        env=env,
        file_size=file_size,
    )


def kill(processes, number: int = signal.SIGKILL) -> None:
    """Kills commands with what they started (the verifiers' processes), unless they have ended."""
    for process in processes:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
    for process in processes:
        process.wait(60)


@dataclasses.dataclass
class Forked:
    """A command that runs; the part of `subprocess.Popen` that tests use."""

    pid: int
    arguments: list[str]
    returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = server().ask(ended=self.pid)["code"]
        return self.returncode

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """Returns the exit code; subprocess.TimeoutExpired if there is none in time."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.arguments, timeout)
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Server:
    """The interpreter that forks; it ends when this process does."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.count = 0
        ours, theirs = socket.socketpair()
        self.log = directory / "server"
        with theirs, self.log.open("wb") as log:
            subprocess.Popen(
                [sys.executable, str(HELPERS / "fork_server.py"), str(theirs.fileno())],
                cwd=ROOT, env=environment(), pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.socket = ours.makefile("rwb")

    def ask(self, **request) -> dict:
        self.socket.write(json.dumps(request).encode() + b"\n")
        self.socket.flush()
        reply = self.socket.readline()
        if not reply:
            raise RuntimeError(f"no fork server: {self.log.read_text()[-4000:]}")
        return json.loads(reply)

    def start(self, **command) -> Forked:
        self.count += 1
        return Forked(self.ask(**command)["pid"], command["arguments"])


@functools.cache
def server() -> Server:
    """Returns the server of this process, which is started when it is first needed."""
    import tempfile

    directory = tempfile.TemporaryDirectory(prefix="r1v3_commands_")
    made = Server(Path(directory.name))
    made.temporary = directory  # goes with it
    return made
