"""Verification in processes of their own, with a hard deadline and a memory limit for each item.

The rules read what a model wrote: whatever it does to a parser, it must not stop a run. A process
that is late, that dies or that runs out of memory is killed and replaced. Its item becomes an
ERROR; no other item is lost, because a process holds one at a time.

The processes are fresh interpreters (`worker`), not forks: JAX has threads, which a fork cuts off.
They exchange JSON with this process over a socket.
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

# To import the rules: seconds on a free core, far more while a run compiles.
START_S = 120
FAILED_STARTS = 3  # in a row; then the items that wait are ERRORs
MAX_ITEMS = 2000  # of one process; then it is replaced, because its caches grow
MAX_LINE = 1 << 16  # bytes of a reply


@dataclasses.dataclass(frozen=True)
class Item:
    """One box to compare with one reference answer."""

    rules: tuple[Rule, ...]
    answer: str
    box: str


class Worker:
    """A process of the pool, and the item that it verifies.

    functions: of users, as "package.module:function"; the process imports them when it starts.
    """

    def __init__(
        self, memory_bytes: int, deadline_s: float, functions: tuple[str, ...]
    ):
        own_end, process_end = socket.socketpair()
        # -P: the directory that the run was started in is not searched for modules ...
        command = [sys.executable, "-P", "-m", "r1v3_jax.rewards.verifiers.worker"]
        # ... unless this process searches it.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        with process_end:
            self.process = subprocess.Popen(
                [*command, str(memory_bytes), str(int(deadline_s) + 1), *functions],
                stdin=process_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is the run's to handle
            )
        self.socket = own_end
        self.received = b""  # the part of a message that has come in
        self.ready = False  # whether the process has imported the rules
        self.items = 0  # sent to it so far
        self.index: int | None = None  # of the item it verifies; None: it is idle
        self.expires = time.monotonic() + START_S

    def send(self, index: int, item: Item, deadline_s: float) -> None:
        """Sends the process an item. OSError if the process is gone or does not read."""
        self.index = index
        self.items += 1
        self.expires = time.monotonic() + deadline_s
        self.socket.settimeout(deadline_s)
        rules = [(rule.name, rule.arguments) for rule in item.rules]
        message = {"rules": rules, "answer": item.answer, "box": item.box}
        self.socket.sendall(encode(message))

    def receive(self) -> dict | None:
        """Returns a whole message, or None if it has not come in yet.

        EOFError if the process has ended, ValueError if it sends something else.
        """
        data = self.socket.recv(MAX_LINE)
        if not data:
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
        except (ProcessLookupError, PermissionError):
            pass  # it is gone already, and its number may be another process's
        return self.process.wait()


class Pool:
    """At most `size` processes, started when there is work for them.

    deadline_s: for one item. memory_bytes: of one process. functions: of users, as
    "package.module:function"; each process imports them when it starts.
    """

    def __init__(
        self,
        size: int,
        deadline_s: float,
        memory_bytes: int,
        functions: tuple[str, ...] = (),
    ):
        self.size = size
        self.deadline_s = deadline_s
        self.memory_bytes = memory_bytes
        self.functions = functions
        self.workers: list[Worker] = []
        self.failed_starts = 0  # in a row
        self.start_problem = ""  # of the last one that failed
        self.ended = 0  # processes ended so far, by themselves or by the pool
        self.lock = threading.Lock()
        self.selector = selectors.DefaultSelector()

    def run(self, items: Sequence[Item]) -> list[Check]:
        """Returns a Check of each item, in order, each at most deadline_s after it was sent.

        Whatever happens to a process, nothing is raised.
        """
        with self.lock:
            self.items = items
            self.checks: list[Check | None] = [None] * len(items)
            self.waiting = collections.deque(range(len(items)))
            try:
                while None in self.checks:
                    self._start()
                    self._send()
                    self._receive()
            except BaseException:
                # Ctrl-C: nobody waits for the items at work, and their replies would come in
                # during the next run.
                self._close()
                raise
            return self.checks

    def _start(self) -> None:
        """Starts processes for the waiting items. If none can be started, they become ERRORs."""
        idle = sum(worker.index is None for worker in self.workers)
        wanted = min(self.size - len(self.workers), len(self.waiting) - idle)
        for _ in range(wanted):
            if self.failed_starts >= FAILED_STARTS:
                break
            try:
                worker = Worker(self.memory_bytes, self.deadline_s, self.functions)
            except OSError as error:
                self._count_failed_start(describe(error))
                continue
            self.workers.append(worker)
            self.selector.register(worker.socket, selectors.EVENT_READ, worker)
        if not self.workers and self.failed_starts >= FAILED_STARTS:
            reason = f"no verifier process starts: {self.start_problem}"
            for index in self.waiting:
                self._settle(index, Verdict.ERROR, reason)
            self.waiting.clear()
            self.failed_starts = 0  # the next batch tries again

    def _send(self) -> None:
        """Sends each idle process an item, as long as items wait."""
        for worker in list(self.workers):
            if not (self.waiting and worker.ready and worker.index is None):
                continue
            if worker.process.poll() is not None:  # ended by somebody else
                self._drop(worker)
                continue
            index = self.waiting.popleft()
            try:
                worker.send(index, self.items[index], self.deadline_s)
            except OSError:
                # The process has not read the item, so the item is not to blame: it waits again.
                worker.index = None
                self.waiting.appendleft(index)
                self._drop(worker)

    def _receive(self) -> None:
        """Waits for the next message or deadline; settles items and drops processes by it."""
        busy = [
            worker
            for worker in self.workers
            if worker.index is not None or not worker.ready
        ]
        expires = min((worker.expires for worker in busy), default=0.0)
        timeout = max(expires - time.monotonic(), 0.0)
        for key, _ in self.selector.select(timeout):
            worker = key.data
            try:
                self._read_message(worker)
            except EOFError:
                self._drop(worker)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._drop(worker, describe(error))
        now = time.monotonic()
        for worker in busy:
            # A message may have ended a process, or its item, in time.
            if worker not in self.workers or worker.expires > now:
                continue
            if worker.index is not None:
                self._drop(worker, f"deadline: no verdict in {self.deadline_s:g} s")
            elif not worker.ready:
                self._drop(worker, f"not started in {START_S} s")

    def _read_message(self, worker: Worker) -> None:
        message = worker.receive()
        if message is None:
            return
        if "failed" in message:  # the imports raised
            self._drop(worker, message["failed"])
        elif not worker.ready:  # the first message: the rules are imported
            worker.ready = True
            self.failed_starts = 0
        else:
            # Read before the process counts as idle: if the message is not a verdict, this raises,
            # and the process is dropped as one that still has its item.
            verdict = Verdict(message["verdict"])
            self._settle(worker.index, verdict, message["reason"], message["credit"])
            worker.index = None
            if message["last"] or worker.items >= MAX_ITEMS:
                self._drop(worker)

    def _settle(
        self, index: int, verdict: Verdict, reason: str, credit: float | None = None
    ) -> None:
        self.checks[index] = Check(verdict, self.items[index].box, reason, credit)

    def _drop(self, worker: Worker, reason: str = "") -> None:
        """Ends a process. The item that it verifies, if any, becomes an ERROR."""
        self.workers.remove(worker)
        self.selector.unregister(worker.socket)
        code = worker.kill()
        self.ended += 1
        reason = reason or f"the verifier's process died ({code})"
        if worker.index is not None:
            self._settle(worker.index, Verdict.ERROR, reason)
        if not worker.ready:
            self._count_failed_start(reason)

    def _count_failed_start(self, problem: str) -> None:
        self.failed_starts += 1
        self.start_problem = problem

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
    size: int, deadline_s: float, memory_bytes: int, functions: tuple[str, ...] = ()
) -> Pool:
    """Returns this process's pool with these limits. It lives as long as the process."""
    pool = Pool(size, deadline_s, memory_bytes, functions)
    atexit.register(pool.close)
    return pool
