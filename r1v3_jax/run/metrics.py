"""What a run reports: metrics.jsonl, TensorBoard, the progress line.

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
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
from tqdm import tqdm

import r1v3_jax
from r1v3_jax.files import dumps, first_process, read_jsonl, write_text

# On the progress line, in this order; everything else is in the file.
SHOWN = (
    "loss",
    "eval/loss",
    "reward",
    "accuracy",
    "format",
    "eval/accuracy",
    "entropy",
    "critical_entropy",
    "completions/mean_length",
    "grad_norm",
    "lr",
    "tokens_per_s",
)


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
    ):
        self.directory = Path(directory)
        self.stage = stage
        self.total_steps = total_steps
        self.resume_step = resume_step
        self.last_step = resume_step - 1
        self.quiet = quiet
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
        self.board = _TensorBoard(board, self.stage, self.resume_step)
        if not self.quiet:
            self.progress = _Progress(self.stage, self.total_steps, self.resume_step)
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
        if self.progress is not None:
            self.progress.log(step, values)


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


class _TensorBoard:
    """Writes scalars STAGE/NAME. Any failure is warned of once and never stops a run.

    It writes in the caller's thread: tensorboardX.SummaryWriter passes events to a thread through a
    queue of ten, and when that thread has died of a full disk, `add_scalar` soon waits for ever.
    """

    def __init__(self, directory: Path, stage: str, resume_step: int):
        self.stage = stage
        self.writer = None
        with self._harmless():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import SessionLog

            # A directory a stage: a restart is announced below by its step, for all tags of one.
            (directory / stage).mkdir(parents=True, exist_ok=True)
            prefix = str(directory / stage / "events")
            self.writer = EventsWriter(prefix, filename_suffix=f".{resume_step}")
            self._write(
                step=resume_step, session_log=SessionLog(status=SessionLog.START)
            )

    def log(self, step: int, values: dict[str, float | int]) -> None:
        if self.writer is None:
            return
        with self._harmless():
            from tensorboardX.proto.summary_pb2 import Summary

            # TensorBoard has no place for nan and infinities.
            scalars = [
                Summary.Value(tag=f"{self.stage}/{key}", simple_value=values[key])
                for key in sorted(values)
                if math.isfinite(values[key])
            ]
            self._write(step=step, summary=Summary(value=scalars))

    def close(self) -> None:
        if self.writer is not None:
            with self._harmless():
                self.writer.close()

    def _write(self, **fields) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.writer.write_event(Event(wall_time=time.time(), **fields))
        self.writer.flush()

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except (
            Exception
        ) as error:  # any: metrics.jsonl is the record, this is a view of it
            failed = self.writer
            self.writer = None
            with contextlib.suppress(Exception):
                failed.close()
            warnings.warn(
                f"no more TensorBoard scalars of {self.stage}: {error}", stacklevel=3
            )


class _Progress:
    """Prints a line that updates (on a terminal) or a line a step, with the time left."""

    def __init__(self, stage: str, total_steps: int, resume_step: int):
        self.stage = stage
        self.total_steps = total_steps
        self.stream = sys.stdout
        self.first: tuple[int, float] | None = (
            None  # the first step, and when it was done
        )
        self.bar = None
        if self.stream.isatty():
            self.bar = tqdm(
                total=total_steps,
                initial=resume_step,
                desc=stage,
                file=self.stream,
                dynamic_ncols=True,
                bar_format="{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
            )

    def log(self, step: int, values: dict[str, float | int]) -> None:
        """Shows a step."""
        shown = [f"{key} {values[key]:.4g}" for key in SHOWN if key in values]
        if self.bar is not None:
            self.bar.set_postfix_str("  ".join(shown), refresh=False)
            self.bar.update(step + 1 - self.bar.n)
            return
        now = time.perf_counter()
        if self.first is None:
            # This step compiled: the pace is measured from its end.
            self.first = (step, now)
        elif step + 1 < self.total_steps:
            first_step, first_time = self.first
            pace = (now - first_time) / (step - first_step)
            left = tqdm.format_interval(pace * (self.total_steps - step - 1))
            shown.append(f"{pace:.3g} s/step  left {left}")
        head = f"{self.stage} {step + 1}/{self.total_steps}"
        print("  ".join([head, *shown]), file=self.stream, flush=True)

    def close(self) -> None:
        """Ends the line that updates."""
        if self.bar is not None:
            self.bar.close()


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
