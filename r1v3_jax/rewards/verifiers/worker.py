"""One process of `pool`.

python -m r1v3_jax.rewards.verifiers.worker MEMORY_BYTES DEADLINE_S FUNCTION ...

Reads a JSON object a line from its standard input, which is a socket, and answers there with one.
It imports the rules and nothing else of this program: no jax, no accelerator.
"""

import json
import os
import resource
import signal
import socket
import sys


def main(memory_bytes: int, deadline_s: int, *functions: str) -> None:
    """Answers until the socket is closed."""
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # to all of a job: the step is still to be saved
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what a function prints, or asks for, is no answer
        os.dup2(nothing, standard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        from r1v3_jax.rewards.verifiers import custom, routing

        # Now, not in the time and the memory of the first answer that needs them.
        for name in functions:
            custom.load(name)
    except Exception as error:
        channel.sendall(encode({"failed": f"{type(error).__name__}: {error}"[:200]}))
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    channel.sendall(encode({"ready": os.getpid()}))
    with channel.makefile("rb") as lines:
        for line in lines:
            # Should the other side be gone, nobody kills this process: it ends itself.
            signal.alarm(deadline_s + 5)
            item = json.loads(line)
            rules = tuple(
                routing.Rule(name, tuple(map(tuple, arguments)))
                for name, arguments in item["rules"]
            )
            check = routing.check(rules, item["answer"], item["box"])
            signal.alarm(0)
            last = check.reason.startswith(
                "MemoryError"
            )  # whatever is still in its memory
            said = {
                "verdict": check.verdict.value,
                "reason": check.reason,
                "credit": check.credit,
            }
            channel.sendall(encode(said | {"last": last}))


def encode(message: dict) -> bytes:
    """One line of JSON. Text that is no Unicode, half a surrogate pair, passes as an escape."""
    return json.dumps(message).encode() + b"\n"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
