"""What watches a run: signals, a step that is stuck, slow hosts, numbers that are not well.

Knows metrics by name and nothing of models.
"""

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

GRACE_S = 5


class Watchdog:
    """Ends a process whose step does not end, after writing the stacks of all its threads to
    stderr; a context manager. The clocks run in C and in the kernel: a thread that holds the
    interpreter does not stop them. Between stacks and end there is time for the other processes of
    the run to write theirs: the end of one ends them all.

    The first step has `stuck_first_step_s`, for it compiles, and so has one that may compile again;
    each other a multiple of the median.
    """

    def __init__(self, config: Health):
        self.config, self.seconds, self.began = config, [], 0.0

    def __enter__(self) -> "Watchdog":
        self._wait(self.config.stuck_first_step_s)
        return self

    def __exit__(self, *_) -> None:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)

    def step(self) -> float:
        """Says that a step has ended; the seconds it took."""
        now = time.monotonic()
        took, self.began = now - self.began, now
        self.seconds.append(took)
        self._wait(self.limit())
        return took

    def limit(self) -> float:
        """Seconds that the step at work may take. The first one, which compiled, is no measure."""
        if len(self.seconds) < 2:
            return self.config.stuck_first_step_s
        median = statistics.median(self.seconds[1:][-100:])
        return max(self.config.stuck_after_medians * median, self.config.stuck_after_s)

    def may_compile(self) -> None:
        """Says of the step at work that it may meet a shape that none before it had."""
        self._wait(self.config.stuck_first_step_s)

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Around what no step before it is a measure of: a save, a probe."""
        self._wait(self.config.stuck_first_step_s)
        yield
        self._wait(self.limit())

    def _wait(self, limit: float) -> None:
        self.began = self.began or time.monotonic()
        if self.config.stuck_after_medians:
            faulthandler.dump_traceback_later(max(limit, 0.001))
            signal.alarm(
                math.ceil(limit) + GRACE_S
            )  # SIGALRM, which nothing here handles


_own_work = [0.0]  # seconds of the step at work, so far


@contextlib.contextmanager
def own_work() -> Iterator[None]:
    """Around work of this host alone, of which the devices and the other hosts have no part."""
    start = time.monotonic()
    yield
    _own_work[0] += time.monotonic() - start


class HostClock:
    """How long this host keeps the others waiting: what it does itself in a step (`own_work`), and
    the longest time for which it was not running at all, stopped or swapped out. A context manager.
    """

    TICK_S = 0.2

    def __init__(self):
        self.paused_s = 0.0
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
        last = time.monotonic()
        while not self._stop.wait(self.TICK_S):
            now = time.monotonic()
            self.paused_s, last = max(self.paused_s, now - last - self.TICK_S), now

    def step(self, config: Health) -> dict[str, float]:
        """Metrics of a step, from all hosts; says which one is slow."""
        mine = np.float32(max(_own_work.pop(), self.paused_s))
        _own_work.append(0.0)
        self.paused_s = 0.0
        if jax.process_count() == 1:
            return {"time/host_0_s": float(mine)}
        every = multihost_utils.process_allgather(mine)
        slowest = int(every.argmax())
        late = float(every[slowest] - np.median(np.delete(every, slowest)))
        if config.slow_host_above_s and late > config.slow_host_above_s:
            where = (
                f" ({socket.gethostname()})" if slowest == jax.process_index() else ""
            )
            logging.warning(
                "process %d%s kept the others waiting for %.1f s of this step: look at its disk, "
                "its memory, and what else runs there",
                slowest, where, late,
            )  # fmt: skip
        return {f"time/host_{slowest}_s": float(every[slowest])}  # the slowest one's
