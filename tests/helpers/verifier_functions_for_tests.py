"""Functions that a row may name in `test_verifier_pool.py`; most of them do no good."""

import os
import subprocess


def same(answer, box):
    return answer == box


def loop(answer, box):
    if box == "start a child":
        child = subprocess.Popen(["sleep", "1000"])
        with open(answer, "w") as file:
            file.write(str(child.pid))
    while True:
        pass


def abort(answer, box):
    os.abort()


def leave(answer, box):
    os._exit(3)


def exhaust(answer, box):
    everything = []
    while True:
        everything.append(bytearray(1 << 24))


def raises(answer, box):
    return 1 / 0


def prints(answer, box):
    print('{"verdict": "wrong", "reason": "printed", "last": false}', flush=True)
    os.write(1, b'{"verdict": "wrong", "reason": "written", "last": false}\n')
    return True


def forge(answer, box):
    """Writes what is no verdict to whatever is open: the socket, too."""
    for number in range(3, 64):
        try:
            os.write(number, b"{}\n")
        except OSError:
            pass
    return True


def half(answer, box):
    return 1 if box == "all" else 0.5


def over(answer, box):
    return 1.5


def maybe(answer, box):
    return "maybe"


def parsers_are_loaded(answer, box):
    """Whether this process imported sympy before it was asked anything."""
    import sys

    return "sympy" in sys.modules
