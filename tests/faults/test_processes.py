"""Two processes of one run: preempted, killed, stuck, stopped. The coordinator, the heartbeat and
the collectives (gloo) are real.
"""

import dataclasses
import json
import signal
import time

import commands
import pytest
import runs

FLAGS = ["--config.stage=grpo", "--config.mesh=(2, 2, 1)", "--config.grpo.steps=6"]
FLAGS += ["--config.grpo.prompts=4", "--config.grpo.tiles=4"]
FLAGS += [
    "--config.grpo.evaluate_every=6"
]  # what it compiles is not compiled while time is taken
TWO = {"devices": 2, "processes": 2}
HEARTBEAT = 10


def grpo(workdir):
    return runs.lines(workdir, "grpo")


def begin(place, whole, name, *flags):
    """A copy of the cold start, and two processes that have logged three steps of GRPO."""
    workdir = runs.copy_cold_start(whole, place.directory / name)
    processes = place.start(
        workdir, *FLAGS, f"--heartbeat_s={HEARTBEAT}", *flags, **TWO
    )
    runs.wait_for_line(workdir, processes, "grpo", 2)
    return workdir, processes


def ends(processes, timeout):
    """(exit codes, seconds until both have ended); kills what is left after the time."""
    began = time.monotonic()
    try:
        codes = [
            p.wait(max(0.1, began + timeout - time.monotonic())) for p in processes
        ]
    except Exception:
        commands.kill(processes)
        raise
    return codes, time.monotonic() - began


@pytest.fixture(scope="module")
def stopped(place, whole):
    """(workdir, exit codes) of a run that nobody ends; one of its two hosts stands still for 5 s.

    What is killed and goes on must end with the same numbers.
    """
    workdir, processes = begin(
        place, whole, "stopped", "--config.health.slow_host_above_s=2"
    )
    processes[1].send_signal(signal.SIGSTOP)
    time.sleep(5)
    processes[1].send_signal(signal.SIGCONT)
    codes, _ = ends(processes, 300)
    return workdir, codes


def test_a_host_that_is_stopped_for_five_seconds(stopped, shows):
    workdir, codes = stopped
    shows("7 SIGSTOP for 5 s: exit codes", codes, [0, 0], codes == [0, 0])
    named = "process 1 (" in runs.said(
        workdir, 1
    ) and "kept the others waiting" in runs.said(workdir, 0)
    shows("7 SIGSTOP for 5 s: the log names the host", named, True, named)
    rows = [
        json.loads(line)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    longest = max(row.get("time/host_1_s", 0) for row in rows)
    shows(
        "7 SIGSTOP for 5 s: the metric of that host",
        f"{longest:.1f}",
        "over 4",
        longest > 4,
    )


def test_sigterm_to_one(place, whole, stopped, shows):
    workdir, processes = begin(
        place, whole, "term", "--config.grpo.checkpoint_every=1000"
    )
    processes[1].send_signal(signal.SIGTERM)
    codes, took = ends(processes, 120)
    shows("4 SIGTERM to one of two: exit codes", codes, [42, 42], codes == [42, 42])
    shows("4 SIGTERM to one of two: seconds", f"{took:.1f}", 10, took <= 10)
    states = workdir / "grpo" / "states"
    saved = [
        p.name for p in states.iterdir() if len(list((p / "manifest").glob("*"))) == 2
    ]
    last = str(grpo(workdir)[-1]["step"] + 1)
    shows("4 SIGTERM to one of two: saved", saved, [last], saved == [last])
    place.run(workdir, *FLAGS, **TWO)
    same = grpo(workdir) == grpo(stopped[0])
    shows("4 resumed: the same numbers", same, True, same)


def test_sigkill_of_one(place, whole, stopped, shows):
    workdir, processes = begin(place, whole, "killed")
    commands.kill(processes[1:])
    codes, took = ends(processes[:1], 120)
    limit = HEARTBEAT + 10
    shows(
        "5 SIGKILL of one of two: the other's exit code", codes, "not 0", codes != [0]
    )
    shows("5 SIGKILL of one of two: seconds", f"{took:.1f}", limit, took <= limit)
    commands.kill(processes[:1])
    place.run(workdir, *FLAGS, **TWO)
    same = grpo(workdir) == grpo(stopped[0])
    shows("5 resumed: the same numbers", same, True, same)


FAULTY = """
import functools
import time
from pathlib import Path

import jax


def faulty(source, flags, index):
    \"\"\"The source; in process 1 it hangs or fails once a file says so.\"\"\"
    if jax.process_index() == 1 and Path(flags, "stuck").exists():
        time.sleep(10_000)
    if jax.process_index() == 1 and Path(flags, "failed").exists():
        raise RuntimeError("a fault of this host alone")
    return source(index)


train = functools.partial(faulty, config.stages["grpo"].train, FLAGS)
config = config.with_stages(grpo=replace(config.stages["grpo"], train=train))
"""
AT_ONCE = ["--config.data.ahead=1", "--config.data.threads=1"]  # no rows are made ahead


def faulty(place):
    """(the place with such a config, the folder of its files)."""
    flags = place.directory / "flags"
    flags.mkdir(exist_ok=True)
    config = place.directory / "faulty.py"
    config.write_text(runs.CONFIG + FAULTY.replace("FLAGS", repr(str(flags))))
    return dataclasses.replace(place, config=config), flags


def test_a_process_that_fails(place, whole, shows):
    """On its way out it must not wait for the other, which waits for it in the middle of a step."""
    other, flags = faulty(place)
    workdir, processes = begin(other, whole, "failed", *AT_ONCE)
    (flags / "failed").touch()
    codes, took = ends(processes, 120)
    (flags / "failed").unlink()
    limit = HEARTBEAT + 10
    shows(
        "5 one of two fails: exit codes",
        codes,
        "not 0",
        0 not in codes and codes[1] == 1,
    )
    shows("5 one of two fails: seconds", f"{took:.1f}", limit, took <= limit)
    assert "a fault of this host alone" in runs.said(workdir, 1)


def test_a_stuck_host(place, whole, shows):
    """It sleeps where it makes a question, its heartbeat alive; both write their stacks and end."""
    other, flags = faulty(place)
    limit = 20
    workdir, processes = begin(
        other, whole, "stuck",
        "--config.health.stuck_after_s=12", "--config.health.stuck_after_medians=1",
        *AT_ONCE,
    )  # fmt: skip
    (flags / "stuck").touch()
    codes, took = ends(processes, 120)
    (flags / "stuck").unlink()
    shows("6 stuck host: exit codes", codes, "not 0", 0 not in codes)
    shows("6 stuck host: seconds", f"{took:.1f}", limit, took <= limit)
    stacks = [runs.said(workdir, i) for i in (0, 1)]
    format_counts = [
        "Timeout (" in text and "most recent call first" in text for text in stacks
    ]
    shows(
        "6 stuck host: both wrote their stacks",
        format_counts,
        [True, True],
        all(format_counts),
    )
    shows(
        "6 stuck host: the sleeping line is shown", True, True, "in faulty" in stacks[1]
    )
