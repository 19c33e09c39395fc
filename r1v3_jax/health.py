"""What watches a run: signals, a step that is stuck, slow hosts, numbers that are not well.

Knows metrics by name and nothing of models.
"""

import contextlib
import faulthandler
import itertools
import math
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from r1v3_jax.config import Health

GRACE_S = 5
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
            signal.alarm(math.ceil(limit) + GRACE_S)  # SIGALRM, which nothing here handles


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
        self._ticker = threading.Thread(target=self._tick, daemon=True, name="host clock")

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
            where = f" ({socket.gethostname()})" if slowest == jax.process_index() else ""
            logging.warning(
                "process %d%s kept the others waiting for %.1f s of this step: look at its disk, "
                "its memory, and what else runs there",
                slowest, where, late,
            )  # fmt: skip
        return {f"time/host_{slowest}_s": float(every[slowest])}  # the slowest one's


def alarms(metrics: dict[str, float], config: Health) -> dict[str, str]:
    """{name: what is wrong and what to do} of the thresholds that a step's metrics cross."""
    h = config
    known = {
        "entropy_collapse": (
            metrics.get("entropy", np.nan) < h.entropy_below,
            f"the policy's entropy fell below {h.entropy_below} nats: it says the same whatever it "
            "is asked; lower the learning rate, raise clip_high, or go back to a checkpoint",
        ),
        "entropy_explosion": (
            h.entropy_above and metrics.get("entropy", np.nan) > h.entropy_above,
            f"the policy's entropy rose above {h.entropy_above} nats: lower the learning rate, or "
            "go back to a checkpoint",
        ),
        "zero_signal": (
            h.zero_signal_above
            and metrics.get("frac_reward_zero_std", np.nan) > h.zero_signal_above,
            f"more than {h.zero_signal_above:.0%} of the groups have equal rewards and teach "
            "nothing: the questions are too easy or too hard, or the verifier accepts nothing",
        ),
        "sampler_gap": (
            h.sampler_gap_above and metrics.get("sampler_gap", np.nan) > h.sampler_gap_above,
            f"sampler and trainer disagree by more than {h.sampler_gap_above} nats a token: they "
            "do not compute the same policy (temperature, weights or masks differ; of rollout_int8 "
            "some is expected)",
        ),
        "clipped_length": (
            h.clipped_above and metrics.get("completions/clipped_ratio", np.nan) > h.clipped_above,
            f"more than {h.clipped_above:.0%} of the completions were cut at the length limit: "
            "raise max_completion_tokens, or use shaping.overlong",
        ),
    }
    return {name: text for name, (crossed, text) in known.items() if crossed}


class Alarms:
    """The alarms of a stage: each said once when it begins, and counted in every step it lasts."""

    def __init__(self, stage: str, config: Health):
        self.stage, self.config, self.ringing = stage, config, set()

    def step(self, step: int, metrics: dict[str, float]) -> dict[str, int]:
        found = alarms(metrics, self.config)
        for name in found.keys() - self.ringing:
            if jax.process_index() == 0:
                logging.warning("%s, step %d: %s (alarm/%s)", self.stage, step, found[name], name)
        self.ringing = set(found)
        return {f"alarm/{name}": 1 for name in found}


def not_finite(config: Health, what: str, batch, path: Path, skipped: int) -> None:
    """For a step whose numbers were not finite, and so changed nothing: writes its batch to `path`,
    STAGE_STEP.npz, and ends the run or lets it go on.

    what: was not finite. batch: a pytree of arrays, whole on this host. skipped: such steps of the
    stage, this one among them. FloatingPointError if that is the policy, or they are too many.
    """
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        named = jax.tree_util.tree_flatten_with_path(batch)[0]
        np.savez(path, **{jax.tree_util.keystr(p).lstrip("."): np.asarray(x) for p, x in named})
    said = f"{path.stem}: {what} not finite; the update was not applied, its batch is in {path}"
    if config.not_finite == "stop" or skipped > config.max_skipped:
        raise FloatingPointError(
            f"{said} ({skipped} such steps in this stage, health.not_finite = "
            f"{config.not_finite!r}, health.max_skipped = {config.max_skipped}). Look at it, or "
            "lower the learning rate; --config.health.not_finite=skip goes on without such steps"
        )
    logging.warning("%s; the run goes on", said)
