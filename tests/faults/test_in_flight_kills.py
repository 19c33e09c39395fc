"""Runs with prompts in flight: killed or asked to leave anywhere, they end with the same bits."""

import random
import signal
import time

import commands
import numpy as np
import pytest
import runs

FLIGHT = """
from r1v3_jax.losses import Truncated

grpo = replace(
    config.stages["grpo"],
    in_flight=24,
    correction=Truncated(2.0),
    checkpoint_every=4,
    buckets=((24, 8),),
)
config = config.with_stages(grpo=grpo)
"""
FLAGS = ["--config.stage=grpo"]


@pytest.fixture(scope="module")
def flight(place):
    """Runs of three steps' prompts under way, which save after steps 3, 7 and 9."""
    config = place.directory / "flight.py"
    config.write_text(runs.CONFIG + FLIGHT)
    return runs.Place(place.directory, config)


@pytest.fixture(scope="module")
def unkilled(flight, whole):
    workdir = runs.copy_cold_start(whole, flight.directory / "unkilled")
    flight.run(workdir, *FLAGS)
    return workdir


def test_what_is_logged(unkilled):
    rows = runs.lines(unkilled, "grpo")
    # Nothing is carried over a save: all tokens of the step behind it are new.
    fresh = [row["step"] for row in rows if row["age/max"] == 0]
    assert {0, 4, 8} <= set(fresh)
    assert max(row["age/max"] for row in rows) in (1, 2)
    assert all(0 < row["ess"] <= 1 + 1e-4 for row in rows)
    assert all(0 <= row["masked"] <= 1 for row in rows)
    assert all(0 < row["slots/busy"] <= 1 for row in rows)
    old = [row for row in rows if row["age/max"]]
    assert old and min(row["ess"] for row in old) < 1 - 1e-6


def test_killed_while_samples_are_in_flight(flight, whole, unkilled, shows):
    workdir = runs.copy_cold_start(whole, flight.directory / "killed")
    for step in (1, 5, 8):
        processes = flight.start(workdir, *FLAGS)
        runs.wait_for_line(workdir, processes, "grpo", step)
        commands.kill(processes)
    flight.run(workdir, *FLAGS)
    same = runs.fingerprint(workdir) == runs.fingerprint(unkilled)
    shows("1, 2 in flight, three kills: the same bits", same, True, same)


def test_asked_to_leave_between_two_saves(flight, whole, unkilled, shows):
    """What is in flight is in no state: the run goes on from the one before."""
    workdir = runs.copy_cold_start(whole, flight.directory / "term")
    (process,) = flight.start(workdir, *FLAGS)
    runs.wait_for_line(workdir, [process], "grpo", 4)
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=120)
    shows("3 in flight, SIGTERM: exit code", code, 42, code == 42)
    states = workdir / "grpo" / "states"
    saved = [path.name for path in states.iterdir() if (path / "manifest").exists()]
    newest = max(map(int, saved))
    assert newest in (4, 8)
    assert f"grpo, step {newest} is saved" in runs.said(workdir)
    flight.run(workdir, *FLAGS)
    same = runs.fingerprint(workdir) == runs.fingerprint(unkilled)
    shows("3 in flight, SIGTERM and resumed: the same bits", same, True, same)


def test_a_storm_of_kills_in_flight(flight, whole, unkilled, shows, request):
    """SIGKILL at random moments of the reinforcement, of runs that get a step further each."""
    kills = request.config.getoption("storm")
    if not kills:
        pytest.skip("random kills: run tests/run.sh --storm")
    wanted = runs.fingerprint(unkilled)
    moments = random.Random(1)
    differ = killed = 0
    while killed < kills:
        workdir = runs.copy_cold_start(whole, flight.directory / f"storm_{killed}")
        while True:
            before = len(runs.lines(workdir))
            (process,) = flight.start(workdir, *FLAGS)
            while len(runs.lines(workdir)) <= before and process.poll() is None:
                time.sleep(0.01)
            deadline = time.monotonic() + moments.uniform(0, 4)
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            if process.poll() is not None:
                assert process.returncode == 0, runs.said(workdir)[-4000:]
                break
            commands.kill([process])
            killed += 1
        differ += runs.fingerprint(workdir) != wanted
    shows(f"1, 2 in flight, {killed} kills: runs that differ", differ, 0, not differ)


def test_two_processes_are_one(flight, whole):
    flags = [*FLAGS, "--config.mesh=(2, 2, 1)", "--config.grpo.steps=4"]
    flags += ["--config.grpo.evaluate_every=0"]
    tables = []
    for processes in (1, 2):
        workdir = runs.copy_cold_start(whole, flight.directory / f"of_{processes}")
        flight.run(workdir, *flags, devices=4 // processes, processes=processes)
        tables.append(runs.lines(workdir, "grpo"))
    one, two = tables
    assert [row["step"] for row in two] == [0, 1, 2, 3]
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, str) or value is None:
                continue
            np.testing.assert_allclose(
                ours[name], value, rtol=1e-5, atol=1e-5, err_msg=name
            )
