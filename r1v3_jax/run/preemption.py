"""Preemption: after a SIGTERM all hosts of a run save the same step, and leave."""

import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

PREEMPTED = 42  # exit code: the state is saved, the same command goes on

_terminated = threading.Event()
_calls = itertools.count()  # of `preempted`, through the whole run


def catch_sigterm() -> None:
    """Makes the first SIGTERM set a flag that `preempted` reads; the second ends the process.

    For a run of one process. Several processes have JAX's own handler, which tells all of them.
    """

    def handle(*_):
        _terminated.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    if not jax.distributed.is_initialized():
        signal.signal(signal.SIGTERM, handle)


def preempted() -> bool:
    """Whether the machine is to be taken away (SIGTERM).

    All processes of a run call it in the same places and get the same answer in the same one, so
    that all save the same step.
    """
    # JAX picks the number of a call that is still to come, so calls are numbered through the run.
    if not _terminated.is_set() and jax.distributed.is_initialized():
        if multihost_utils.reached_preemption_sync_point(next(_calls)):
            _terminated.set()
    return _terminated.is_set()


def leave(what: str) -> None:
    """Ends a preempted run; `what` names what is saved."""
    print(f"preempted; {what} is saved, the same command goes on from it", flush=True)
    raise SystemExit(PREEMPTED)


def leave_if_preempted(stage: str) -> None:
    """Ends a preempted run between the steps of stages; what it was doing is done again."""
    if preempted():
        leave(f"{stage}, its last step")
