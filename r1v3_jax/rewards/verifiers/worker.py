"""The program of one process of `pool`.

python -m r1v3_jax.rewards.verifiers.worker MEMORY_BYTES DEADLINE_S FUNCTION ...

It reads one JSON object a line from its standard input, which is a socket, and sends one line back
through it for each. It imports the rules and nothing else of this program: no jax, no accelerator.
"""

import json
import os
import resource
import signal
import socket
import sys

GRACE_S = 5  # beyond the deadline; then the process ends itself


def main(memory_bytes: int, deadline_s: int, *functions: str) -> None:
    """Verifies items until the socket is closed. functions: of users, imported at the start."""
    # A job's SIGTERM reaches all its processes, but the run still scores and saves its last step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = socket.socket(fileno=os.dup(0))
    _silence()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        # Imported now, so that they take no time and no memory of the first item that needs them:
        # `expressions` brings sympy and math-verify.
        from r1v3_jax.rewards.verifiers import custom, expressions, routing  # noqa: F401

        for name in functions:
            custom.load(name)
    except Exception as error:
        channel.sendall(encode({"failed": f"{type(error).__name__}: {error}"[:200]}))
        return
    # The limit comes after the imports, which would count.
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    channel.sendall(encode({"ready": os.getpid()}))
    with channel.makefile("rb") as lines:
        for line in lines:
            # If the pool's process is gone, nobody kills this one: it ends itself.
            signal.alarm(deadline_s + GRACE_S)
            item = json.loads(line)
            # JSON made lists of the tuples: [["number", [["relative", 0.01]]]]
            rules = tuple(
                routing.Rule(name, tuple(map(tuple, arguments)))
                for name, arguments in item["rules"]
            )
            check = routing.check(rules, item["answer"], item["box"])
            signal.alarm(0)
            channel.sendall(encode(_reply(check)))


def _silence() -> None:
    """Closes the standard streams: what a function prints or reads must not reach the socket."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def _reply(check) -> dict:
    return {
        "verdict": check.verdict.value,
        "reason": check.reason,
        "credit": check.credit,
        # After a MemoryError the memory may still be full: the pool replaces this process.
        "last": check.reason.startswith("MemoryError"),
    }


def encode(message: dict) -> bytes:
    """Returns one line of JSON. Half a surrogate pair, which is no Unicode, passes as an escape."""
    return json.dumps(message).encode() + b"\n"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
