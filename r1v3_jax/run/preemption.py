"""SIGTERM: all hosts save the same step."""

import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

PREEMPTED = 42  # exit code: the state is saved, the same command goes on


_terminated = threading.Event()


_asked = itertools.count()


def catch_sigterm() -> None:
    """From now on the first SIGTERM does not end this process: `preempted` tells of it; the second
    does. For a process that is not one of several; those have JAX's own catcher, which all of them
    hear of.
    """

    def caught(*_):
        _terminated.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    if not jax.distributed.is_initialized():
        signal.signal(signal.SIGTERM, caught)


def preempted() -> bool:
    """Whether the machine is to be taken away (SIGTERM). All processes of a run call it in the same
    places and hear of it in the same one, so that all save the same step.
    """
    # JAX chooses a number of a call that is still to come, so calls are numbered through the run.
    if not _terminated.is_set() and jax.distributed.is_initialized():
        if multihost_utils.reached_preemption_sync_point(next(_asked)):
            _terminated.set()
    return _terminated.is_set()


def leave(what: str) -> None:
    """Ends a preempted run. what: is saved."""
    print(f"preempted; {what} is saved, the same command goes on from it", flush=True)
    raise SystemExit(PREEMPTED)


def leave_if_preempted(stage: str) -> None:
    """For work between the steps of stages: what is lost of it is done again."""
    if preempted():
        leave(f"{stage}, its last step")
