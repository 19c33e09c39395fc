"""The launcher in two processes with two CPU devices each, which stand for two slices.

    python tests/helpers/two_slices.py --config=digits_smoke --config.mesh="(2, 2, 1)" --workdir=DIR

A run knows its slices from the name of its TPU topology, and a CPU has none: here they are told.
"""

import os
import socket
import subprocess
import sys

from xla_flags import xla_flags


def start_both(arguments: list[str]) -> int:
    """Starts two processes of this file and returns an exit code that is not 0, if there is one."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(2)}
    processes = []
    for number in range(2):
        flags = [
            f"--coordinator=localhost:{port}",
            "--num_processes=2",
            f"--process_id={number}",
        ]
        command = [sys.executable, __file__, *flags, *arguments]
        processes.append(subprocess.Popen(command, env=environment))
    code = processes[0].wait()
    if code:  # the other would wait for it for ever
        processes[1].kill()
    return processes[1].wait() or code


def launch() -> None:
    """Runs the launcher for one of two slices."""
    from r1v3_jax.config import Run
    from r1v3_jax.launch import main

    Run.slices = 2
    main()


if __name__ == "__main__":
    if any(argument.startswith("--process_id=") for argument in sys.argv):
        launch()
    else:
        sys.exit(start_both(sys.argv[1:]))
