"""Killed at any moment, resumed by the same command, the run ends with the same bits."""

import random
import shutil
import signal
import time

import pytest
import runs

from r1v3_jax.run import checkpoints


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return runs.Place(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def whole(place):
    """The run that nobody kills, and the seconds it takes when its programs are compiled."""
    place.run(place.directory / "first")
    return place.directory / "whole", place.run(place.directory / "whole")


@pytest.fixture(scope="module")
def kills(request):
    """How many kills the storm is made of."""
    return 200 if request.config.getoption("--storm") else 20


def test_the_same_seed_twice(place, whole, shows):
    first, second = (
        runs.fingerprint(place.directory / name) for name in ("first", "whole")
    )
    rows = second["metrics"]
    assert any(
        row["stage"] == "grpo" and abs(row["loss"]) > 1e-4 for row in rows
    )  # it learns
    differing = [name for name in second if first[name] != second[name]]
    shows(
        "17 the same seed twice: files that differ", len(differing), 0, first == second
    )


def to_be_repeated(workdir) -> int:
    """Steps that were logged and are in no good state."""
    rows = runs.lines(workdir)
    if not rows or (workdir / rows[-1]["stage"] / "done").exists():
        return 0
    saved = checkpoints.States(workdir / rows[-1]["stage"] / "states").steps()
    return rows[-1]["step"] + 1 - max(saved, default=0)


def test_a_storm_of_kills(place, whole, shows, kills):
    """SIGKILL at random times: in the start, a rollout, an update, a save, between stages. Every
    other one comes once the run has got further.
    """
    workdir, seconds = whole
    wanted, random_times = runs.fingerprint(workdir), random.Random(0)
    killed = ended = 0
    repeated, equal = [], []
    storm = place.directory / "storm"
    while killed < kills or storm.exists():
        before = len(runs.lines(storm))
        processes = place.start(storm)
        wait = random_times.uniform(0, seconds / 3) if killed < kills else 600
        if killed % 2 and killed < kills:
            wait = random_times.uniform(0, 3)
            while len(runs.lines(storm)) <= before and processes[0].poll() is None:
                time.sleep(0.01)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and processes[0].poll() is None:
            time.sleep(0.01)
        if processes[0].poll() is None:
            runs.kill(processes)
            killed += 1
            repeated.append(to_be_repeated(storm))
            continue
        assert processes[0].returncode == 0, runs.said(storm)[-4000:]
        ended += 1
        equal.append(runs.fingerprint(storm) == wanted)
        steps = [(row["stage"], row["step"]) for row in runs.lines(storm)]
        assert len(set(steps)) == len(steps) == len(wanted["metrics"])
        shutil.rmtree(storm)
    what = f"1, 2, 13 {killed} kills: runs of {ended} that differ"
    shows(what, equal.count(False), 0, all(equal))
    # Of cold_start, whose interval of 10 is the longest; while its save goes on it is not there.
    shows(
        "1 most steps of one kill done again",
        max(repeated),
        "10 + 5",
        max(repeated) <= 15,
    )


def test_sigterm(place, whole, shows):
    workdir = place.directory / "term"
    shutil.copytree(whole[0] / "cold_start", workdir / "cold_start")
    for name in ("tokenizer", "run.json"):
        source = whole[0] / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, workdir / name)
    processes = place.start(
        workdir, "--config.stage=grpo", "--config.grpo.checkpoint_every=1000"
    )
    runs.wait_for_line(workdir, processes, "grpo", 4)
    began = time.monotonic()
    processes[0].send_signal(signal.SIGTERM)
    code = processes[0].wait(timeout=120)
    took = time.monotonic() - began
    step = runs.lines(workdir, "grpo")[-1]["step"] + 1
    shows("3 SIGTERM: exit code", code, 42, code == 42)
    shows(
        "3 SIGTERM: seconds to the end, the step at work and 5",
        f"{took:.1f}",
        10,
        took < 10,
    )
    saved = [
        p.name for p in (workdir / "grpo/states").iterdir() if (p / "manifest").exists()
    ]
    shows("3 SIGTERM: the step that is saved", saved, [str(step)], saved == [str(step)])
    place.run(workdir, "--config.stage=grpo", "--config.grpo.checkpoint_every=1000")
    same = runs.lines(workdir, "grpo") == runs.lines(whole[0], "grpo")
    shows("3 SIGTERM and resumed: the same numbers", same, True, same)
