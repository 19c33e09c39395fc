"""Sends what a run logs to Weights & Biases or Trackio, where the run names a project.

Each service has a process of its own (`to_wandb.py`, `to_trackio.py`), a thread that writes to it,
and a queue of limited length in front. So an error, a crash or a network that hangs there costs the
run nothing but a warning. Knows numbers and texts, nothing of models, and imports no more than the
processes need.
"""

import base64
import contextlib
import dataclasses
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import r1v3_jax

ROOM = (
    256  # messages that wait for a slow service; what comes then is lost, and counted
)
PATIENCE_S = 60.0  # at the end of a run, for what is not sent yet
LEAVING_S = 5.0  # the same where the run failed, or a preemption gives it little time
SAMPLE = "ShownSample"  # the key of one in a message
LEFT_ALONE_S = 120  # that a process may go on after its run has died


@dataclasses.dataclass(frozen=True)
class ShownSample:
    """An answer as TensorBoard and the like show it: short texts, one small picture."""

    id: str
    prompt: str
    wanted: str
    completion: str
    verdict: str
    reward: float | None
    picture: bytes = b""  # a PNG or JPEG; empty: the question has none
    size: tuple[int, int] = (0, 0)  # width and height of the picture


def check_installed(package: str, project: str) -> None:
    """Raises ValueError if a project is named and the service's package is not there."""
    if not project:
        return
    spec = importlib.util.find_spec(package)
    # A folder of that name, as wandb leaves in the working directory, has no origin.
    if spec is None or spec.origin is None:
        raise ValueError(
            f"{package}={project!r}, and the package {package} is not installed; pip install "
            f"{package}, or leave --config.{package} empty"
        )


class Tracker:
    """One service of a run. No method waits for it, but `close`, and none raises.

    package: "wandb" or "trackio". Messages are (name, arguments); the process ends behind "close".
    """

    def __init__(self, package: str, project: str, workdir: Path, about: dict):
        self.package = package
        self.folder = Path(workdir) / "trackers"
        self.log_file = self.folder / f"{package}.log"
        self.lost = 0
        self._messages: queue.Queue = queue.Queue(ROOM)
        self._is_off = False
        self._process = None
        self._thread = threading.Thread(target=self._send, daemon=True)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            begin = {
                "project": project,
                "id": self._id(),
                "folder": str(self.folder),
                **about,
            }
            self._put("begin", begin)
            # It finds this very package, however the run has found it.
            root = str(Path(r1v3_jax.__file__).parents[1])
            paths = [root, os.environ.get("PYTHONPATH", "")]
            with self.log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", f"r1v3_jax.run.to_{package}"],
                    env={
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                    },
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
        except Exception as error:  # any: the run goes on without it
            self._tell(error)
            return
        self._thread.start()

    def log(self, stage: str, step: int, values: dict[str, float | int]) -> None:
        """Sends the numbers of a step."""
        numbers = {name: float(value) for name, value in values.items()}
        self._put("log", stage, step, numbers)

    def show(self, stage: str, step: int, samples: list[ShownSample]) -> None:
        """Sends a few samples of a step."""
        self._put("show", stage, step, samples)

    def summary(self, values: dict[str, float]) -> None:
        """Sends numbers of the whole run."""
        self._put("summary", values)

    def close(self, exit_code: int = 0) -> None:
        """Ends the run there, and waits PATIENCE_S for what is not sent yet.

        exit_code: not 0 for a run that failed or must leave. Such a run waits LEAVING_S, and leaves
        the process to itself; of one that is whole the process is ended.
        """
        if self._process is None:
            return
        patience = LEAVING_S if exit_code else PATIENCE_S
        deadline = time.monotonic() + patience
        # A full queue has room again, unless the thread has met an error or the service hangs.
        while self._thread.is_alive() and time.monotonic() < deadline:
            try:
                self._messages.put(("close", (exit_code,)), timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self.lost and not self._is_off:
            warnings.warn(
                f"{self.package} was too slow: {self.lost} messages of this run are not there",
                stacklevel=2,
            )
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            if exit_code:
                return
            self._tell(f"it did not end within {PATIENCE_S:.0f} s")
            self._process.kill()
            self._process.wait()
        if self._process.returncode:
            self._tell(f"its process ended with {self._process.returncode}")
        # The other end is closed by now: a thread that was writing has its error.
        self._thread.join(1.0)
        # Unless a process that the service has started holds it: to close it would wait for that.
        if self._thread.is_alive():
            return
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def _id(self) -> str:
        """Returns the id of the run there: the same when it is resumed."""
        path = self.folder / f"{self.package}.id"
        if not path.exists():
            path.write_text(uuid.uuid4().hex[:12] + "\n")
        return path.read_text().strip()

    def _put(self, name: str, *arguments) -> None:
        """Puts a message into the queue; one that finds it full is lost."""
        if self._is_off:
            return
        try:
            self._messages.put_nowait((name, arguments))
        except queue.Full:
            self.lost += 1

    def _send(self) -> None:
        """Hands the messages to the process, in a thread; ends with it."""
        process = self._process
        try:
            write(process.stdin, self._messages.get())
            # It prints where the run is to be seen, once it has begun.
            address = process.stdout.readline().decode(errors="replace").strip()
            if not address:
                raise OSError("it did not begin")
            print(f"{self.package}: {address}", flush=True)
            name = ""
            while name != "close":
                name, arguments = self._messages.get()
                write(process.stdin, (name, arguments))
            process.stdin.close()
        except (
            Exception
        ) as error:  # any: a closed pipe, a message that no process can read
            self._tell(error)

    def _tell(self, problem) -> None:
        """Switches the service off, and warns of it, once."""
        if self._is_off:
            return
        self._is_off = True
        last = ""
        with contextlib.suppress(OSError):
            lines = self.log_file.read_text(errors="replace").split("\n")
            last = next((f" ({x.strip()})" for x in reversed(lines) if x.strip()), "")
        warnings.warn(
            f"no more {self.package}: {problem}{last}; the run goes on, {self.log_file} has more",
            stacklevel=3,
        )


@contextlib.contextmanager
def trackers_of(
    projects: dict[str, str], workdir: Path, about: dict
) -> Iterator[tuple[Tracker, ...]]:
    """Yields a tracker for each package that has a project; at the end they are closed.

    about: {"name": of the run, "config": its fields}.
    """
    trackers = tuple(
        Tracker(package, project, workdir, about)
        for package, project in projects.items()
        if project
    )
    exit_code = 1
    try:
        yield trackers
        exit_code = 0
    finally:
        for tracker in trackers:
            tracker.close(exit_code)


# -------------------------------------------------------------------------------------------------
# both ends of the pipe


def write(stream: BinaryIO, message: tuple) -> None:
    """Writes a message into the pipe, as a line of JSON."""
    stream.write(json.dumps(message, default=_as_json).encode() + b"\n")
    stream.flush()


def read_messages(stream: BinaryIO) -> Iterator[tuple[str, list]]:
    """Yields the messages of the pipe. Behind the last of a run that died comes nothing."""
    for line in stream:
        # The run died while it wrote this one.
        if not line.endswith(b"\n"):
            return
        name, arguments = json.loads(line, object_hook=_from_json)
        yield name, arguments


def _as_json(sample: ShownSample) -> dict:
    """Returns a sample as JSON has it, its picture in base64."""
    picture = base64.b64encode(sample.picture).decode()
    return {SAMPLE: {**vars(sample), "picture": picture}}


def _from_json(fields: dict):
    """Returns the sample of `_as_json`; another object as it is."""
    if fields.keys() != {SAMPLE}:
        return fields
    sample = fields[SAMPLE]
    picture = base64.b64decode(sample["picture"])
    return ShownSample(**{**sample, "picture": picture, "size": tuple(sample["size"])})


def serve(begin, log, show, summary, finish) -> None:
    """Does in a service's process what the messages say, to their end.

    begin(**about) returns where the run is to be seen; finish(exit_code) ends it, with 1 if the
    run died. What the service prints goes into its log, and signals are the run's to handle.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The pipes are this process's alone: one that the service starts would keep them open.
    messages = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = sys.stderr
    handlers = {"log": log, "show": show, "summary": summary}
    exit_code = 1
    for name, arguments in read_messages(messages):
        if name == "close":
            (exit_code,) = arguments
            break
        if name == "begin":
            print(begin(**arguments[0]), file=answer, flush=True)
        else:
            handlers[name](*arguments)
    # The run is over: nobody waits longer than this.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LEFT_ALONE_S)
    finish(exit_code)
