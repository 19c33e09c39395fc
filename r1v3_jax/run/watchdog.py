"""What watches a run from outside its numbers: a step that is stuck, hosts that are slow."""

import contextlib
import faulthandler
import math
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from r1v3_jax.config import Health

GRACE_S = 5  # between the stacks of a stuck process and its end
WINDOW = 100  # steps that the median is taken over


class Watchdog:
    """Kills the process if a step hangs; a context manager.

    First the stacks of all threads are written to stderr; GRACE_S seconds later the process ends,
    and the other processes of the run end with it, so each has time to write its own stacks. The
    clocks run in C and in the kernel: a thread that holds the interpreter does not stop them.

    The first step may take `stuck_first_step_s`, because it compiles, and so may a step that may
    compile again; each other step a multiple of the median.
    """

    def __init__(self, config: Health):
        self.config = config
        self.seconds: list[float] = []  # of each step so far
        self.began = 0.0  # the step at work; 0: not yet

    def __enter__(self) -> "Watchdog":
        self._set_clocks(self.config.stuck_first_step_s)
        return self

    def __exit__(self, *_) -> None:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)

    def step(self) -> float:
        """Takes down that a step has ended; returns the seconds it took."""
        now = time.monotonic()
        duration = now - self.began
        self.began = now
        self.seconds.append(duration)
        self._set_clocks(self.limit())
        return duration

    def limit(self) -> float:
        """Returns the seconds that the step at work may take."""
        measured = self.seconds[1:]  # the first step compiled: it is no measure
        if not measured:
            return self.config.stuck_first_step_s
        median = statistics.median(measured[-WINDOW:])
        return max(self.config.stuck_after_medians * median, self.config.stuck_after_s)

    def may_compile(self) -> None:
        """Gives the step at work the time of a first one: it may meet a new shape."""
        self._set_clocks(self.config.stuck_first_step_s)

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Surrounds work that earlier steps are no measure of: a save, a probe."""
        self._set_clocks(self.config.stuck_first_step_s)
        yield
        self._set_clocks(self.limit())

    def _set_clocks(self, limit: float) -> None:
        # Both clocks are set anew; the one that was set before no longer counts.
        self.began = self.began or time.monotonic()
        if self.config.stuck_after_medians:
            faulthandler.dump_traceback_later(max(limit, 0.001))
            # SIGALRM, which nothing here handles, ends the process.
            signal.alarm(math.ceil(limit) + GRACE_S)


class _OwnWork:
    """Seconds of the step at work that this host spent on work of its own."""

    seconds = 0.0


@contextlib.contextmanager
def own_work() -> Iterator[None]:
    """Measures work of this host alone, which the devices and the other hosts wait for."""
    start = time.monotonic()
    yield
    _OwnWork.seconds += time.monotonic() - start


class HostClock:
    """Measures how long this host keeps the others waiting; a context manager.

    That is what it does itself in a step (`own_work`), or the longest time for which it did not run
    at all because it was stopped or swapped out.
    """

    TICK_S = 0.2

    def __init__(self):
        self.paused_s = 0.0  # the longest pause of the step at work
        self._stop = threading.Event()
        self._ticker = threading.Thread(
            target=self._tick, daemon=True, name="host clock"
        )

    def __enter__(self) -> "HostClock":
        self._ticker.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._ticker.join()

    def _tick(self) -> None:
        """Wakes up every TICK_S; waking up later than that is a pause."""
        previous = time.monotonic()
        while not self._stop.wait(self.TICK_S):
            now = time.monotonic()
            self.paused_s = max(self.paused_s, now - previous - self.TICK_S)
            previous = now

    def step(self, config: Health) -> dict[str, float]:
        """Returns the time of the slowest host in a step, and logs which host is slow."""
        seconds = np.float32(max(_OwnWork.seconds, self.paused_s))
        _OwnWork.seconds = 0.0
        self.paused_s = 0.0
        if jax.process_count() == 1:
            return {"time/host_0_s": float(seconds)}
        by_host = multihost_utils.process_allgather(seconds)
        slowest = int(by_host.argmax())
        # Against the median of the others: with two hosts that is the other one.
        late = float(by_host[slowest] - np.median(np.delete(by_host, slowest)))
        if config.slow_host_above_s and late > config.slow_host_above_s:
            is_own = slowest == jax.process_index()
            name = f" ({socket.gethostname()})" if is_own else ""
            logging.warning(
                "process %d%s kept the others waiting for %.1f s of this step: look at its disk, "
                "its memory, and what else runs there",
                slowest,
                name,
                late,
            )
        return {f"time/host_{slowest}_s": float(by_host[slowest])}
