"""Imports what commands need, once, and runs each command that it is asked for in a fork.

fork_server.py FD: requests and replies are lines of JSON on the socket FD; see `commands.py`. It
ends when the socket is closed.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import sys
import threading
import traceback
from typing import NoReturn

# What the commands import. Not the launcher: its flags are defined once.
import flax  # noqa: F401
import jax
import matplotlib.pyplot  # noqa: F401
import ml_collections  # noqa: F401
import orbax.checkpoint  # noqa: F401
import PIL.Image  # noqa: F401
import transformers  # noqa: F401

sys.path.insert(0, os.getcwd())
import r1v3_jax.pipeline.pipeline
import r1v3_jax.pipeline.preflight
import r1v3_jax.report.plots
import r1v3_jax.rewards.verify
import r1v3_jax.tasks.digits  # noqa: F401

# JAX reads these variables when it is imported.
JAX_SETTINGS = {
    "JAX_PLATFORMS": str,
    "JAX_COMPILATION_CACHE_DIR": str,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": lambda value: value not in ("0", "false", ""),
}


def serve(fd: int) -> list[str] | None:
    """Answers requests. Returns the arguments of a command in its fork, None at the end."""
    with os.fdopen(fd, "rb") as requests:
        for line in requests:
            request = json.loads(line)
            if "ended" in request:
                pid, status = os.waitpid(request["ended"], os.WNOHANG)
                reply = {"code": os.waitstatus_to_exitcode(status) if pid else None}
            else:
                reply = {"pid": fork()}
                if reply["pid"] == 0:
                    become(request)
                    return request["arguments"]
            os.write(fd, json.dumps(reply).encode() + b"\n")
    return None


def fork() -> int:
    """Forks; the new process leads a session of its own when this returns."""
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(is_ready)
    else:
        os.close(is_ready)
        os.read(ready, 1)  # nothing, once the other end is closed
    os.close(ready)
    return pid


def become(request: dict) -> None:
    """Makes this fork what an interpreter would be that was started for the request."""
    append = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    for fd, path in ((1, request["output"]), (2, request["errors"])):
        file = os.open(path, append, 0o644)
        os.dup2(file, fd)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    for variable, parse in JAX_SETTINGS.items():
        if variable in os.environ:
            jax.config.update(variable.lower(), parse(os.environ[variable]))
    os.chdir(request["cwd"])
    if limit := request["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def run(arguments: list[str]) -> None:
    """Runs `python ARGUMENTS` in this interpreter."""
    sys.orig_argv = [sys.executable, *arguments]
    searched = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[:0] = [os.getcwd(), *searched]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[:0] = [os.path.dirname(os.path.abspath(arguments[0])), *searched]
        runpy.run_path(arguments[0], run_name="__main__")


def exit_code_of(arguments: list[str]) -> int:
    """Runs `python ARGUMENTS` and says what Python would say at its end."""
    try:
        run(arguments)
    except SystemExit as stop:
        if isinstance(stop.code, int | None):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(code: int) -> NoReturn:
    """Ends as an interpreter does, without the second of a core that it takes to tidy up."""
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    gc.freeze()  # what is there now is not looked at again, in no fork
    command = serve(int(sys.argv[1]))
    if command:
        end(exit_code_of(command))
