"""What a run reports: metrics.jsonl, TensorBoard, trackers, the terminal.

Knows numbers and files, nothing of models. Process 0 alone prints and writes; the other processes
call the same functions, and nothing happens.

metrics.jsonl holds one object a step: "stage", "step", then the metrics by name. Names of measured
time end in `_s` or `_per_s`; everything else is equal in two runs of one seed. JSON has no word for
what is not finite: nan (nothing to measure) is null, the infinities are "Infinity" and "-Infinity".
"""

import contextlib
import importlib.metadata
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax

import r1v3_jax
from r1v3_jax.files import dumps, first_process, read_jsonl, write_text
from r1v3_jax.run.progress import progress
from r1v3_jax.run.tensorboard import TensorBoard
from r1v3_jax.run.trackers import ShownSample, Tracker


class Logger:
    """Writes the metrics of a stage to file, TensorBoard and terminal; a context manager.

    Each step is logged once, in order, counted from 0. resume_step: the first step that will be
    logged. Lines of this stage from there on are of a run that was cut short, and are removed.
    """

    def __init__(
        self,
        directory,
        *,
        total_steps: int,
        stage: str,
        quiet: bool = False,
        resume_step: int = 0,
        trackers: tuple[Tracker, ...] = (),
    ):
        self.directory = Path(directory)
        self.stage = stage
        self.total_steps = total_steps
        self.resume_step = resume_step
        self.last_step = resume_step - 1
        self.quiet = quiet
        self.trackers = trackers
        # Open in the first process, between __enter__ and __exit__.
        self.file = None
        self.board = None
        self.progress = None

    def __enter__(self) -> "Logger":
        if not first_process():
            return self
        # Steps that will be logged again are taken out first: each step is in the file once.
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "metrics.jsonl"
        drop_lines(path, self.stage, self.resume_step)
        self.file = path.open("a", encoding="utf-8")
        board = self.directory / "tensorboard"
        self.board = TensorBoard(board, self.stage, self.resume_step)
        if not self.quiet:
            self.progress = progress(self.stage, self.total_steps, self.resume_step)
        return self

    def __exit__(self, *_) -> None:
        for output in (self.file, self.board, self.progress):
            if output is not None:
                output.close()

    def sync(self) -> None:
        """Waits until everything logged is on the disk; call it before a state is saved."""
        if self.file is not None:
            os.fsync(self.file.fileno())

    def log(self, step: int, values: dict[str, float | int]) -> None:
        """Appends one line; the operating system has it when this returns."""
        if step <= self.last_step:
            raise ValueError(
                f"{self.stage}: step {step} comes after step {self.last_step}; each step is "
                "logged once and in order"
            )
        reserved = {"stage", "step"} & set(values)
        if reserved:
            raise ValueError(
                f"a metric cannot be called {reserved.pop()!r}: every line has that key"
            )
        self.last_step = step
        if self.file is None:
            return
        # In the order of names, so that two runs of one seed write the same bytes.
        row = {"stage": self.stage, "step": step}
        row |= {key: values[key] for key in sorted(values)}
        self.file.write(dumps(row) + "\n")
        self.file.flush()
        self.board.log(step, values)
        for tracker in self.trackers:
            tracker.log(self.stage, step, values)
        if self.progress is not None:
            self.progress.log(step, values, memory())

    def show(self, step: int, samples: list[ShownSample]) -> None:
        """Sends a few samples of a step to TensorBoard and the trackers."""
        if self.file is None:
            return
        self.board.show(step, samples)
        for tracker in self.trackers:
            tracker.show(self.stage, step, samples)


def read(directory) -> list[dict]:
    """Returns the lines of a run's metrics.jsonl, except a last one that is still being written."""
    rows = read_jsonl(Path(directory) / "metrics.jsonl")
    return [
        {key: value if key == "stage" else _number(value) for key, value in row.items()}
        for row in rows
    ]


def drop_lines(path: Path, stage: str, resume_step: int) -> None:
    """Removes the stage's lines from `resume_step` on from the file, and a torn last line."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    kept = [
        line + "\n"
        for line, row in zip(lines, read_jsonl(path), strict=True)
        if row["stage"] != stage or row["step"] < resume_step
    ]
    write_text(path, "".join(kept))


class Timer:
    """Adds up seconds by purpose: `with timer("rollout"): ...` adds to "time/rollout_s"."""

    def __init__(self):
        self.values: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        key = f"time/{name}_s"
        start = time.perf_counter()
        try:
            yield
        finally:
            self.values[key] = self.values.get(key, 0.0) + time.perf_counter() - start


def _number(value) -> float | int:
    """Returns the number that `files.dumps` wrote."""
    if value is None:
        return math.nan
    return float(value) if isinstance(value, str) else value


def peak_rss_gib() -> float:
    """Returns the most memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return peak / 2**30  # bytes
    return peak / 2**20  # KiB


def memory() -> str:
    """Returns what this process has held at most, and the fullest of its devices."""
    words = f"host {peak_rss_gib():.1f} GiB"
    full = []
    for device in jax.local_devices():
        # A CPU has none, and some plugins say so with an error.
        with contextlib.suppress(Exception):
            stats = device.memory_stats()
            full.append((stats["bytes_in_use"] / 2**30, stats["bytes_limit"] / 2**30))
    if not full:
        return words
    used, limit = max(full)
    return f"{words}  device {used:.1f} of {limit:.1f} GiB"


def versions() -> dict[str, str]:
    """Returns what a run runs on: versions of its packages, and the kind of device."""
    out = {"r1v3_jax": r1v3_jax.__version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "optax", "transformers", "numpy"):
        out[name] = importlib.metadata.version(name)
    device = jax.devices()[0]
    return out | {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "commit": commit(),
    }


def commit() -> str:
    """Returns the commit of the checkout that runs, "" outside of one; "+" behind it: changed."""
    root = Path(r1v3_jax.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    asked = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], **asked)
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], **asked)
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")
