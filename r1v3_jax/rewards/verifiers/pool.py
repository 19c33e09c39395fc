"""Verification in processes of their own, with a hard deadline and a limit of memory for each item.

What the rules are given was written by a model: whatever it does to a parser, it must not stop a
run. A process that is late, that dies or that eats its memory is killed and replaced. Its item is
an ERROR; no other item is lost, as a process holds one at a time.

The processes are fresh interpreters (`worker`), not forks: JAX has threads, which a fork cuts off.
They speak JSON over a socket.
"""

import atexit
import collections
import dataclasses
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from r1v3_jax.rewards.verifiers.routing import Rule, describe
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict
from r1v3_jax.rewards.verifiers.worker import encode

START_S = (
    120  # to import the rules; seconds on a free core, far more while a run compiles
)
FAILED_STARTS = 3  # in a row, and what is left is an ERROR
MAX_ITEMS = 2000  # of one process; then a new one takes its place, as caches grow
MAX_LINE = 1 << 16  # bytes of an answer


@dataclasses.dataclass(frozen=True)
class Item:
    """One box against one reference answer."""

    rules: tuple[Rule, ...]
    answer: str
    box: str


class Worker:
    """A process and the item it is at; `index` is None while there is none."""

    def __init__(self, memory_bytes: int, deadline_s: float, custom: tuple[str, ...]):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "r1v3_jax.rewards.verifiers.worker"]
        path = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(memory_bytes), str(int(deadline_s) + 1), *custom],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is the run's to handle
            )
        self.socket, self.received = ours, b""
        self.ready, self.items, self.index = False, 0, None
        self.expires = time.monotonic() + START_S

    def send(self, index: int, item: Item, deadline_s: float) -> None:
        """Gives the process an item. OSError if it is gone, or does not listen."""
        self.index, self.items = index, self.items + 1
        self.expires = time.monotonic() + deadline_s
        self.socket.settimeout(deadline_s)
        rules = [(rule.name, rule.arguments) for rule in item.rules]
        self.socket.sendall(
            encode({"rules": rules, "answer": item.answer, "box": item.box})
        )

    def receive(self) -> dict | None:
        """A whole message, or None if there is not one yet. EOFError if the process has ended,
        ValueError if it sends something else.
        """
        if not (data := self.socket.recv(MAX_LINE)):
            raise EOFError
        self.received += data
        if len(self.received) > MAX_LINE:
            raise ValueError("an answer without end")
        line, end, rest = self.received.partition(b"\n")
        if not end:
            return None
        self.received = rest
        return json.loads(line)

    def kill(self) -> int:
        """Ends the process and what it started; returns its exit code."""
        self.socket.close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads a group of its own
        except (
            ProcessLookupError,
            PermissionError,
        ):  # gone, and the number is another's
            pass
        return self.process.wait()


class Pool:
    """`size` processes, started when there is work for them. custom: functions they import then."""

    def __init__(
        self,
        size: int,
        deadline_s: float,
        memory_bytes: int,
        custom: tuple[str, ...] = (),
    ):
        self.size, self.deadline_s, self.memory_bytes = size, deadline_s, memory_bytes
        self.custom = custom
        self.workers: list[Worker] = []
        self.failed_starts, self.why, self.ended = 0, "", 0
        self.lock = threading.Lock()
        self.selector = selectors.DefaultSelector()

    def run(self, items: Sequence[Item]) -> list[Check]:
        """A Check of each item, in order, at most deadline_s after a process took it up.

        Raises nothing of what happens to a process.
        """
        with self.lock:
            self.items, self.checks = items, [None] * len(items)
            self.waiting = collections.deque(range(len(items)))
            try:
                while None in self.checks:
                    self._start()
                    self._hand_out()
                    self._take_in()
            except BaseException:  # Ctrl-C: nobody waits for what the processes are at
                self._close()
                raise
            return self.checks

    def _start(self) -> None:
        """Starts processes for the items that wait. If none can be started they are ERRORs."""
        idle = sum(worker.index is None for worker in self.workers)
        for _ in range(min(self.size - len(self.workers), len(self.waiting) - idle)):
            if self.failed_starts >= FAILED_STARTS:
                break
            try:
                worker = Worker(self.memory_bytes, self.deadline_s, self.custom)
            except OSError as error:
                self.failed_starts, self.why = self.failed_starts + 1, describe(error)
                continue
            self.workers.append(worker)
            self.selector.register(worker.socket, selectors.EVENT_READ, worker)
        if not self.workers and self.failed_starts >= FAILED_STARTS:
            for index in self.waiting:
                self._settle(
                    index, Verdict.ERROR, f"no verifier process starts: {self.why}"
                )
            self.waiting.clear()
            self.failed_starts = 0  # the next batch tries again

    def _hand_out(self) -> None:
        for worker in list(self.workers):
            if not (self.waiting and worker.ready and worker.index is None):
                continue
            if worker.process.poll() is not None:  # somebody else has ended it
                self._drop(worker)
                continue
            index = self.waiting.popleft()
            try:
                worker.send(index, self.items[index], self.deadline_s)
            except OSError:  # it has read nothing, so the item has done nothing
                worker.index = None
                self.waiting.appendleft(index)
                self._drop(worker)

    def _take_in(self) -> None:
        """Waits for the next answer or deadline, and settles what there is to settle."""
        busy = [
            worker
            for worker in self.workers
            if worker.index is not None or not worker.ready
        ]
        rest = min((worker.expires for worker in busy), default=0.0) - time.monotonic()
        for key, _ in self.selector.select(max(rest, 0.0)):
            try:
                self._answer(key.data)
            except EOFError:
                self._drop(key.data)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._drop(key.data, describe(error))
        now = time.monotonic()
        for worker in [worker for worker in busy if worker in self.workers]:
            if worker.expires <= now and worker.index is not None:
                self._drop(worker, f"deadline: no verdict in {self.deadline_s:g} s")
            elif worker.expires <= now and not worker.ready:
                self._drop(worker, f"not started in {START_S} s")

    def _answer(self, worker: Worker) -> None:
        if (message := worker.receive()) is None:
            return
        if "failed" in message:
            self._drop(worker, message["failed"])
        elif not worker.ready:
            worker.ready, self.failed_starts = True, 0
        else:
            index, worker.index = worker.index, None
            said = Verdict(message["verdict"]), message["reason"], message["credit"]
            self._settle(index, *said)
            if message["last"] or worker.items >= MAX_ITEMS:
                self._drop(worker)

    def _settle(
        self, index: int, verdict: Verdict, reason: str, credit: float | None = None
    ) -> None:
        self.checks[index] = Check(verdict, self.items[index].box, reason, credit)

    def _drop(self, worker: Worker, reason: str = "") -> None:
        """Ends a process. The item that it is at, if any, is an ERROR."""
        self.workers.remove(worker)
        self.selector.unregister(worker.socket)
        code = worker.kill()
        self.ended += 1
        reason = reason or f"the verifier's process died ({code})"
        if worker.index is not None:
            self._settle(worker.index, Verdict.ERROR, reason)
        if not worker.ready:
            self.failed_starts, self.why = self.failed_starts + 1, reason

    def close(self) -> None:
        """Ends the processes; the next `run` starts others."""
        with self.lock:
            self._close()

    def _close(self) -> None:
        for worker in self.workers:
            self.selector.unregister(worker.socket)
            worker.kill()
        self.workers = []


@functools.cache
def get(
    size: int, deadline_s: float, memory_bytes: int, custom: tuple[str, ...] = ()
) -> Pool:
    """The pool of this process with these limits, which lives as long as the process."""
    pool = Pool(size, deadline_s, memory_bytes, custom)
    atexit.register(pool.close)
    return pool
