"""What watches a run, written out."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest

from r1v3_jax.config import Health
from r1v3_jax.run import alarms as run_alarms
from r1v3_jax.run import watchdog
from r1v3_jax.run.alarms import Alarms, not_finite
from r1v3_jax.stages.loop import Loop, Resume


@pytest.mark.parametrize(
    "metrics, expected",
    [
        ({"entropy": 0.01}, ["entropy_collapse"]),
        ({"entropy": 5.5}, ["entropy_explosion"]),
        ({"frac_reward_zero_std": 0.95}, ["zero_signal"]),
        ({"sampler_gap": 0.2}, ["sampler_gap"]),
        ({"ess": 0.4}, ["ess"]),
        ({"completions/clipped_ratio": 0.6}, ["clipped_length"]),
        ({"reward_errors/says_why": 3}, ["failed_term"]),
        ({"entropy": 1.0, "frac_reward_zero_std": 0.5, "sampler_gap": 1e-4}, []),
        ({"loss": 1.0, "entropy": float("nan")}, []),
    ],
)
def test_alarms_written_out(metrics, expected):
    assert list(run_alarms.alarms(metrics, Health())) == expected


def test_a_threshold_of_0_never_rings():
    names = "entropy_below entropy_above zero_signal_above sampler_gap_above clipped_above".split()
    names.append("ess_below")
    silent = Health(**dict.fromkeys(names, 0.0))
    every = {
        "entropy": 9.0,
        "frac_reward_zero_std": 1.0,
        "sampler_gap": 9.0,
        "ess": 0.0,
        "completions/clipped_ratio": 1.0,
    }
    assert (
        run_alarms.alarms(every, silent) == {}
        and run_alarms.alarms({"entropy": 0.0}, silent) == {}
    )


def test_an_alarm_is_said_when_it_begins(caplog):
    import logging

    logging.getLogger("absl").propagate = True
    alarms = Alarms("grpo", Health())
    ringing = [
        alarms.step(i, {"sampler_gap": x})
        for i, x in enumerate((0.0, 1.0, 1.0, 0.0, 1.0))
    ]
    assert ringing == [{}, {"alarm/sampler_gap": 1}, {"alarm/sampler_gap": 1}, {}] + [
        {"alarm/sampler_gap": 1}
    ]
    assert caplog.text.count("sampler and trainer disagree") == 2


def test_the_limit_of_a_step_written_out():
    dog = watchdog.Watchdog(
        Health(stuck_after_medians=3, stuck_after_s=5, stuck_first_step_s=100)
    )
    assert dog.limit() == 100
    dog.seconds = [80.0]  # it compiled
    assert dog.limit() == 100
    dog.seconds = [80.0, 1.0, 1.0]
    assert dog.limit() == 5
    dog.seconds = [80.0, 2.0, 4.0, 3.0]
    assert dog.limit() == 9


def test_a_step_that_may_compile_has_the_time_of_the_first(monkeypatch):
    """Of a bucket that comes up late, all programs are compiled in one step."""
    given = []
    monkeypatch.setattr(watchdog.faulthandler, "dump_traceback_later", given.append)
    monkeypatch.setattr(watchdog.signal, "alarm", lambda seconds: None)
    limits = Health(stuck_after_medians=3, stuck_after_s=5, stuck_first_step_s=100)
    with watchdog.Watchdog(limits) as dog:
        for _ in range(3):
            dog.step()
        dog.may_compile()
        dog.step()
    assert given == [100, 100, 5, 5, 100, 5]


STUCK = """
import time
from r1v3_jax.run import watchdog
from r1v3_jax.config import Health

def a_step_that_hangs():
    time.sleep(60)

limits = Health(stuck_after_medians=2, stuck_after_s=0.5, stuck_first_step_s=30)
with watchdog.Watchdog(limits) as dog:
    for _ in range(3):
        dog.step()
    a_step_that_hangs()
"""


def test_a_stuck_step_ends_the_process_and_shows_where():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == -signal.SIGALRM and time.monotonic() - began < 40
    assert "in a_step_that_hangs" in done.stderr


def test_a_pause_of_this_host_is_measured():
    """A stopped process cannot measure while it is stopped: it sees the time that is missing."""
    code = """
    import os, sys, time
    from r1v3_jax.run import watchdog
    from r1v3_jax.config import Health
    with watchdog.HostClock() as clock:
        time.sleep(0.5)
        print("ready", flush=True)
        sys.stdin.readline()
        time.sleep(0.5)
        print(clock.step(Health()))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate("go on\n", timeout=60)
    seconds = float(said.split(":")[1].strip(" }\n"))
    assert seconds > 1.2


def test_what_is_not_finite_is_written_whole(tmp_path):
    batch = {
        "tokens": np.arange(6).reshape(2, 3),
        "weights": np.full(3, np.nan, np.float32),
    }
    path = tmp_path / "not_finite" / "grpo_000007.npz"
    with pytest.raises(
        FloatingPointError, match="grpo_000007: a loss is not finite; the update"
    ):
        not_finite(Health(), "a loss is", batch, path, skipped=1)
    with np.load(path, allow_pickle=False) as found:
        for name, array in batch.items():
            np.testing.assert_array_equal(found[f"['{name}']"], array)
    skip = Health(not_finite="skip", max_skipped=2)
    not_finite(skip, "a loss is", batch, path, skipped=2)
    with pytest.raises(FloatingPointError, match="3 such steps"):
        not_finite(skip, "a loss is", batch, path, skipped=3)


def test_a_step_of_several_updates_is_skipped_once(tmp_path):
    run = SimpleNamespace(health=Health(not_finite="skip", max_skipped=2))
    context = SimpleNamespace(run=run, workdir=tmp_path, quiet=True, trackers=())
    config = SimpleNamespace(steps=9, checkpoint_every=9)
    loop = Loop(context, "grpo", config, None, Resume())
    batch = {"tokens": np.zeros(3)}
    for step in (3, 3, 5):
        loop.skip(step, "a loss is", batch)
    assert loop.skipped == 2
    with pytest.raises(FloatingPointError, match="3 such steps"):
        loop.skip(6, "a loss is", batch)


def test_the_first_sigterm_is_told_the_second_ends_the_process():
    code = """
    import os, signal, time
    from r1v3_jax.run import preemption
    preemption.catch_sigterm()
    assert not preemption.preempted()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    assert preemption.preempted() and preemption.preempted()
    print("saved", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGTERM and done.stdout == "saved\n", done.stderr


def test_a_sigterm_between_stages_is_heard_of_in_the_next_one():
    """JAX hears of it by the number of a call; steps are counted anew in each stage, calls not."""
    code = """
    import os, signal, socket, time
    import jax
    from r1v3_jax.run import preemption
    with socket.socket() as s:
        s.bind(("", 0))
        port = s.getsockname()[1]
    jax.distributed.initialize(f"localhost:{port}", 1, 0)
    preemption.catch_sigterm()
    assert not any(preemption.preempted() for step in range(150))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2)
    heard = [preemption.preempted() for step in range(5)]
    assert any(heard) and heard[-1], heard
    print("heard", flush=True)
    os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout == "heard\n", done.stderr[-2000:]
