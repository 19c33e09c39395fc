"""Runs as processes: side by side, failing, and surviving the command that started them."""

import sys

import pytest

from r1v3_jax.arms import runs


def test_a_log_that_grows_is_not_joined(tmp_path):
    """A run that outlived its comparison keeps its directory to itself."""
    job = runs.Job("held, seed 1", ("--nonsense",), tmp_path / "seed_1.log", tmp_path)
    with job.log.open("ab") as log:
        runs.fcntl.flock(log, runs.fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="held, seed 1 still runs"):
            runs.start(job)


def test_a_run_that_fails_shows_the_end_of_its_log(tmp_path):
    log = tmp_path / "seed_1.log"
    log.write_text("".join(f"line {i}\n" for i in range(40)))
    job = runs.Job("held, seed 1", (), log, tmp_path)
    with pytest.raises(ValueError, match="code 1; .*:\nline 25\nline 26"):
        runs.check_code(job, 1)
    runs.check_code(job, 0)


def python_job(tmp_path, label, program):
    return runs.Job(label, (program,), tmp_path / f"{label}.log", tmp_path)


def test_one_that_fails_ends_those_beside_it(tmp_path, monkeypatch):
    """None is left that would go on in a directory which the next command uses."""
    monkeypatch.setattr(runs, "LAUNCHER", (sys.executable, "-c"))
    slow = python_job(tmp_path, "slow", "import time; time.sleep(600)")
    fails = python_job(tmp_path, "fails", "print('why'); raise SystemExit(3)")
    never = python_job(tmp_path, "never", "print('ran')")
    told = []
    with pytest.raises(ValueError, match="fails ended with code 3; .*:\nwhy"):
        runs.run_jobs([slow, fails, never], 2, told.append)
    assert not told and not never.log.exists()
    # The log of the slow one is free again.
    runs.run_jobs([python_job(tmp_path, "slow", "print('again')")], 1, told.append)
    assert slow.log.read_text() == "again\n" and told[0].startswith(
        "slow: done (1 of 1"
    )


def test_runs_side_by_side(tmp_path, monkeypatch):
    """Each of two waits for what only the other writes."""
    monkeypatch.setattr(runs, "LAUNCHER", (sys.executable, "-c"))
    wait = (
        "import pathlib, time; pathlib.Path({mine!r}).touch()\n"
        "while not pathlib.Path({other!r}).exists(): time.sleep(0.01)"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    jobs = [
        python_job(tmp_path, "first", wait.format(mine=a, other=b)),
        python_job(tmp_path, "second", wait.format(mine=b, other=a)),
    ]
    told = []
    runs.run_jobs(jobs, 2, told.append)
    assert len(told) == 2
