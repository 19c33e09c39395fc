"""Makes the runs of a comparison with the program's launcher, each in a process of its own.

What is done is not done again, and what was killed goes on: that is the launcher's own doing. Here
is only which run is next.
"""

import dataclasses
import fcntl
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from r1v3_jax.arms.plan import Comparison
from r1v3_jax.config import Run
from r1v3_jax.files import read_json
from r1v3_jax.pipeline.preflight import identity, only, part_of
from r1v3_jax.run.checkpoints import check_same
from r1v3_jax.run.preemption import PREEMPTED

LAUNCHER = (sys.executable, "-m", "r1v3_jax.launch")
POLL_S = 0.2
TAIL = 15  # lines of a log that an error shows


@dataclasses.dataclass(frozen=True)
class Job:
    """One start of the launcher."""

    label: str  # "constant, seed 1"
    arguments: tuple[str, ...]
    log: Path
    compiled: Path  # a directory of compiled programs, which the runs share


def make_runs(
    comparison: Comparison, processes: int = 1, tell: Callable[[str], None] = print
) -> None:
    """Makes every run that is not finished: the shared stages, then each arm with each seed.

    processes: runs side by side. ValueError with the end of its log for one that fails.
    """
    # 1. What all arms share, once, with the config's own seed.
    shared = comparison.shared
    arm, first = next(iter(comparison.arms.items()))
    for stage in shared:
        if (comparison.start / stage / "done").exists():
            check_same_run(first, comparison.start, {stage})
            continue
        job = make_job(comparison, arm, comparison.start, (f"--config.stage={stage}",))
        run_jobs([dataclasses.replace(job, label=f"the start, {stage}")], 1, tell)

    # 2. The arms.
    jobs = []
    for arm, seed in comparison.runs():
        workdir = comparison.workdir(arm, seed)
        if (workdir / "summary.json").exists():
            check_same_run(
                comparison.run(arm, seed), workdir, set(comparison.arms[arm].stages)
            )
            tell(f"{arm}, seed {seed}: done before")
            continue
        link_shared(comparison, workdir, shared)
        jobs.append(
            make_job(comparison, arm, workdir, (f"--config.seed={seed}",), seed)
        )
    run_jobs(jobs, processes, tell)


def make_job(
    comparison: Comparison,
    arm: str,
    workdir: Path,
    flags: tuple[str, ...],
    seed: int | None = None,
) -> Job:
    """Returns how the launcher is started for one run."""
    return Job(
        label=arm if seed is None else f"{arm}, seed {seed}",
        arguments=(
            f"--config={comparison.config}:{arm}",
            f"--workdir={workdir}",
            *comparison.flags,
            *flags,
        ),
        log=workdir.with_name(f"{workdir.name}.log"),
        compiled=comparison.directory / "compiled",
    )


def link_shared(comparison: Comparison, workdir: Path, shared: tuple[str, ...]) -> None:
    """Puts links to the finished shared stages into a run's directory, which goes on from them."""
    workdir.mkdir(parents=True, exist_ok=True)
    for stage in shared:
        link = workdir / stage
        if not link.is_symlink():
            # Relative: the whole directory may be moved.
            link.symlink_to(os.path.relpath(comparison.start / stage, workdir))


def check_same_run(run: Run, workdir: Path, stages: set[str]) -> None:
    """Raises ValueError if `stages` of `workdir` were made by another config than `run`."""
    path = workdir / "run.json"
    saved = read_json(path)
    current = identity(run, workdir)
    # Fields are compared by the part in front of the first dot: a stage, the model, the seed, ...
    # Other stages do not matter here, and those of another recipe may be in the directory too.
    parts = {part_of(key) for key in saved} & {part_of(key) for key in current}
    parts -= run.stages.keys() - stages
    advice = (
        "It is finished; choose another --workdir, or remove this one to make it anew"
    )
    check_same(path, only(saved, parts), only(current, parts), advice)


def run_jobs(jobs: list[Job], processes: int, tell: Callable[[str], None]) -> None:
    """Runs jobs, `processes` at a time, to their end; ends those that run if one fails."""
    waiting = deque(jobs)
    running: dict[Job, subprocess.Popen] = {}
    started = time.monotonic()
    done = 0
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.popleft()
                running[job] = start(job)
            time.sleep(POLL_S)
            for job, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[job]
                check_code(job, code)
                done += 1
                seconds = time.monotonic() - started
                tell(f"{job.label}: done ({done} of {len(jobs)}, {seconds:.0f} s)")
    finally:
        # The launcher saves and leaves when it is asked to end.
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def start(job: Job) -> subprocess.Popen:
    """Starts the launcher; what it prints is added to the job's log.

    The log is locked for as long as anything that was started here writes to it. So a run that
    survived its comparison is not joined by a second process in the same directory.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{job.label} still runs, started by an earlier command: {job.log} grows; "
                "wait for it, or end it"
            ) from None
        return subprocess.Popen(
            [*LAUNCHER, *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"JAX_COMPILATION_CACHE_DIR": str(job.compiled), **os.environ},
        )


def check_code(job: Job, code: int) -> None:
    """Raises ValueError for a job that did not end well."""
    if code == 0:
        return
    if code == PREEMPTED:
        raise ValueError(f"{job.label} was asked to leave; the same command goes on")
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    end = "\n".join(lines[-TAIL:])
    raise ValueError(f"{job.label} ended with code {code}; {job.log} ends with:\n{end}")
