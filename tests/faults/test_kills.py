"""Killed at any moment, resumed by the same command, the run ends with the same bits."""

import json
import random
import shutil
import signal
import time

import commands
import pytest
import runs

from r1v3_jax.run import checkpoints


def to_be_repeated(workdir) -> int:
    """Returns how many steps were logged and are in no good state."""
    rows = runs.lines(workdir)
    if not rows or (workdir / rows[-1]["stage"] / "done").exists():
        return 0
    saved = checkpoints.States(workdir / rows[-1]["stage"] / "states").steps()
    return rows[-1]["step"] + 1 - max(saved, default=0)


# --- six chosen moments ------------------------------------------------------------------------


def wait_for(condition, process, workdir):
    """Returns once there is what `condition()` looks for; the run must not end before."""
    end = time.monotonic() + 300
    while not (found := condition()):
        assert process.poll() is None, runs.said(workdir)[-4000:]
        assert time.monotonic() < end, runs.said(workdir)[-4000:]
        time.sleep(0.001)
    return found


def seconds_of(workdir, step: int) -> dict[str, float] | None:
    """Returns what the line of a step of GRPO says that its parts took; None before it is there."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return None
    for line in path.read_text().split("\n")[:-1]:
        row = json.loads(line)
        if (row["stage"], row["step"]) == ("grpo", step):
            return {name: row[f"time/{name}_s"] for name in ("rollout", "update")}
    return None


def unfinished_save(workdir) -> bool:
    """Whether the second state of the cold start is being written."""
    return (workdir / "cold_start/states/20").exists() and not sealed(workdir)


def sealed(workdir) -> bool:
    manifest = workdir / "cold_start/states/20/manifest"
    return manifest.exists() and any(manifest.iterdir())


def between_stages(workdir) -> bool:
    return (workdir / "cold_start/done").exists() and not runs.lines(workdir, "grpo")


def at_start(workdir, process):
    """Before the first step: the model is made, nothing is logged."""
    wait_for((workdir / "run.json").exists, process, workdir)
    return lambda: not runs.lines(workdir)


def in_a_save(workdir, process):
    wait_for(lambda: unfinished_save(workdir), process, workdir)
    return lambda: not sealed(workdir)


def between_two_stages(workdir, process):
    wait_for((workdir / "cold_start/done").exists, process, workdir)
    return lambda: between_stages(workdir)


def in_a_rollout(workdir, process):
    """Step 1 took so long for its rollout: half of that into the one of step 2."""
    took = wait_for(lambda: seconds_of(workdir, 1), process, workdir)
    time.sleep(took["rollout"] / 2)
    return lambda: seconds_of(workdir, 2) is None


def in_an_update(workdir, process):
    """Behind the rollout of step 4, as long as that of step 3, where a state is saved."""
    took = wait_for(lambda: seconds_of(workdir, 4), process, workdir)
    time.sleep(took["rollout"] + took["update"] / 2)
    return lambda: runs.lines(workdir, "grpo")[-1]["step"] in (4, 5)


def in_the_export(workdir, process):
    wait_for((workdir / "export.partial").exists, process, workdir)
    return lambda: not (workdir / "summary.json").exists()


MOMENTS = (
    at_start,
    in_a_save,
    between_two_stages,
    in_a_rollout,
    in_an_update,
    in_the_export,
)


def test_killed_at_six_moments(place, whole, shows):
    """One run, killed six times. Each time the same command goes on, from what is on the disk."""
    wanted = runs.fingerprint(whole)
    grpo = [row for row in wanted["metrics"] if row["stage"] == "grpo"]
    assert any(abs(row["loss"]) > 1e-4 for row in grpo)  # it learns
    workdir = place.directory / "killed"
    hits, repeated = [], []
    for moment in MOMENTS:
        (process,) = place.start(workdir)
        was_hit = moment(workdir, process)
        commands.kill([process])
        assert process.returncode == -signal.SIGKILL
        hits.append(was_hit())
        repeated.append(to_be_repeated(workdir))
    # In an interpreter of its own: a fork has the hash seed of those before.
    place.run(workdir, real=True)
    shows("1 six kills: moments that were hit", sum(hits), 6, all(hits))
    same = runs.fingerprint(workdir) == wanted
    shows("1, 2, 13, 17 six kills: the same bits as without one", same, True, same)
    steps = [(row["stage"], row["step"]) for row in runs.lines(workdir)]
    assert len(set(steps)) == len(steps) == len(wanted["metrics"])
    # Of cold_start, whose interval of 10 is the longest; while its save goes on it is not there.
    most = max(repeated)
    shows("1 most steps of one kill done again", most, "10 + 5", most <= 15)


# --- random moments ----------------------------------------------------------------------------


def test_a_storm_of_kills(place, whole, shows, request):
    """SIGKILL at random times; every other one comes once the run has got further."""
    kills = request.config.getoption("storm")
    if not kills:
        pytest.skip("random kills: run tests/run.sh --storm")
    wanted, random_times = runs.fingerprint(whole), random.Random(0)
    seconds = place.run(place.directory / "second")
    same = runs.fingerprint(place.directory / "second") == wanted
    shows("17 the same seed twice: the same bits", same, True, same)
    killed = ended = 0
    repeated, equal = [], []
    storm = place.directory / "storm"
    while killed < kills or storm.exists():
        before = len(runs.lines(storm))
        (process,) = place.start(storm, real=bool(killed % 2))
        wait = random_times.uniform(0, seconds / 3) if killed < kills else 600
        if killed % 2 and killed < kills:
            wait = random_times.uniform(0, 3)
            while len(runs.lines(storm)) <= before and process.poll() is None:
                time.sleep(0.01)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            commands.kill([process])
            killed += 1
            repeated.append(to_be_repeated(storm))
            continue
        assert process.returncode == 0, runs.said(storm)[-4000:]
        ended += 1
        equal.append(runs.fingerprint(storm) == wanted)
        steps = [(row["stage"], row["step"]) for row in runs.lines(storm)]
        assert len(set(steps)) == len(steps) == len(wanted["metrics"])
        shutil.rmtree(storm)
    what = f"1, 2, 13 {killed} kills: runs of {ended} that differ"
    shows(what, equal.count(False), 0, all(equal))
    most = max(repeated)
    shows("1 most steps of a random kill done again", most, "10 + 5", most <= 15)


# --- asked to leave ----------------------------------------------------------------------------


def test_sigterm(place, whole, shows):
    workdir = runs.copy_cold_start(whole, place.directory / "term")
    flags = ["--config.stage=grpo", "--config.grpo.checkpoint_every=1000"]
    processes = place.start(workdir, *flags)
    runs.wait_for_line(workdir, processes, "grpo", 3)
    began = time.monotonic()
    processes[0].send_signal(signal.SIGTERM)
    code = processes[0].wait(timeout=120)
    took = time.monotonic() - began
    step = runs.lines(workdir, "grpo")[-1]["step"] + 1
    shows("3 SIGTERM: exit code", code, 42, code == 42)
    what = "3 SIGTERM: seconds to the end, the step at work and 5"
    shows(what, f"{took:.1f}", 10, took < 10)
    states = workdir / "grpo" / "states"
    saved = [path.name for path in states.iterdir() if (path / "manifest").exists()]
    shows("3 SIGTERM: the step that is saved", saved, [str(step)], saved == [str(step)])
    place.run(workdir, *flags)
    same = runs.lines(workdir, "grpo") == runs.lines(whole, "grpo")
    shows("3 SIGTERM and resumed: the same numbers", same, True, same)
