"""A pod in small: two processes with two CPU devices each do what one process with four does.

The launcher, the coordinator and the collectives (gloo) are real. GRPO goes on from a short cold
start, so that rewards differ and there is a gradient. The same two processes as two slices: each
samples and adds up gradients by itself, and they exchange the sums.

What every host decides by itself (advantages, how often a sample counts, which tokens are pushed)
must come out alike on all of them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import numpy as np
import pytest
import runs
from xla_flags import xla_flags

from r1v3_jax.run import metrics

FLAGS = ["--config.stage=grpo", "--config.mesh=(2, 2, 1)", "--config.grpo.steps=2"]
FLAGS += ["--config.grpo.slots=12", "--config.grpo.evaluate_every=0"]
CHOICES = """
import re

from r1v3_jax.config import Draft
from r1v3_jax.losses import AdaptiveEntropy, Clipped, HighEntropy, LeaveOneOut, Prioritized
from r1v3_jax.losses.schedules import Line
from r1v3_jax.rewards.helpers import Consistent, Frozen, Likely, StepScores
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import Repeated, Short, correct, well_formed
from r1v3_jax.rewards.settings import Verify

# The model has learnt next to nothing, and only right answers are shown to a helper. So right is
# here what has a 1 as the first digit of a box.
questions = config.stages["grpo"].train


def begins_with_one(index):
    return replace(questions(index), answer="1", verifier="string")


def first_digit(text):
    return re.findall(r"boxed{(\\d)", text)[-1:], False


grpo = replace(
    config.stages["grpo"],
    train=begins_with_one,
    reward=Reward(
        (
            (0.7, correct),
            (Line(0.3, 0.1), well_formed),
            (0.1, Short(budget=20, slope=0.05)),
            (-0.1, Repeated(2)),
            # A helper answers on the devices of all processes, and each verifies its share.
            (0.1, Consistent(Frozen(stage="cold_start"), max_tokens=4)),
            (0.1, StepScores(Frozen(stage="cold_start"), between=";")),
            (0.1, Likely()),
        )
    ),
    advantage=LeaveOneOut(),
    sample_weight=Prioritized(high=10.0),
    tokens=HighEntropy(0.5),
    entropy_coef=AdaptiveEntropy(target=10.0, step=0.01),
    kl_coef=Line(0.1, 0.2),
    kl_in="reward",
    reference_decay=0.5,
    reference_every=1,
    # Far enough that the distance from the reference shows after one step.
    optimizer=Optimizer(lr=2e-3),
    loss=Clipped(high=Line(0.2, 0.3)),
    # Used in each step, whatever a pass yields: the head too is divided among the processes.
    draft=Draft(tokens=2, pays_from=1.0, optimizer=Optimizer(lr=1e-2)),
)
config = replace(config.with_stages(grpo=grpo), verify=Verify(answer=first_digit))
"""
SCRIPT = ["bash", "launch/local/two_process.sh"]
SLICES = [sys.executable, "tests/helpers/two_slices.py"]


def script_environment() -> dict[str, str]:
    return commands.environment(
        VIRTUAL_ENV=sys.prefix,  # the script makes none
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        XLA_FLAGS=xla_flags(2),
    )


@pytest.fixture(scope="module")
def chosen(place):
    """Runs whose GRPO makes other choices than the default."""
    config = place.directory / "choices.py"
    config.write_text(runs.CONFIG + CHOICES)
    return runs.Place(place.directory, config)


@pytest.fixture(scope="module")
def alone(chosen, whole):
    """The workdir of one process with four devices."""
    workdir = runs.copy_cold_start(whole, chosen.directory / "one")
    chosen.run(workdir, *FLAGS, devices=4)
    return workdir


@pytest.fixture(scope="module", params=["one slice", "two slices"])
def both(request, chosen, whole, alone):
    """The workdirs of one process and of two, and what the two processes printed."""
    name = request.param.replace(" ", "_")
    workdir = runs.copy_cold_start(whole, chosen.directory / name)
    arguments = [f"--config={chosen.config}", *FLAGS, f"--workdir={workdir}"]
    script = SCRIPT if request.param == "one slice" else SLICES
    done = subprocess.run(
        [*script, *arguments],
        cwd=commands.ROOT, env=script_environment(), capture_output=True, text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return alone, workdir, done.stdout


def grpo(workdir):
    return [line for line in metrics.read(workdir) if line["stage"] == "grpo"]


def test_the_same_losses(both):
    one, two = grpo(both[0]), grpo(both[1])
    assert [line["step"] for line in two] == [0, 1]
    assert all(line["drafts/used"] == 1 for line in one)
    assert one[0]["reward/kl"] == 0 and one[1]["reward/kl"] > 1e-3
    assert [line["entropy_coef/next"] for line in two] == [0.01, 0.02]
    assert max(abs(line["loss"]) for line in one) > 1e-3 and one[0]["grad_norm"] > 1e-3
    for ours, theirs in zip(two, one, strict=True):
        ours, theirs = (
            {name: x for name, x in line.items() if not name.endswith(("_s", "_per_s"))}
            for line in (ours, theirs)
        )
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, str) or value is None:
                continue
            # Two slices wait for each other whenever finished samples are taken off the devices.
            if name == "slots/busy":
                assert 0 < ours[name] <= value + 1e-5
                continue
            np.testing.assert_allclose(
                ours[name], value, rtol=1e-5, atol=1e-5, err_msg=name
            )


def rollouts(workdir, step):
    path = workdir / "rollouts" / f"grpo_{step:06d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_data_and_samples_in_the_same_order(both):
    names = (
        "id",
        "sample",
        "prompt",
        "completion",
        "tokens",
        "terms",
        "accuracy",
        "verdict",
    )
    rights = 0
    scored = 0
    for step in range(2):
        ours, theirs = (rollouts(workdir, step) for workdir in both[:2])
        assert len(ours) == 8 * 4
        assert len({row["reward"] for row in ours}) > 1
        consistent = [row["terms"].get("consistent") for row in ours]
        right = [row["verdict"] == "right" for row in ours]
        assert right == [said is not None for said in consistent]
        rights += sum(right)
        for one, other in zip(ours, theirs, strict=True):
            # Log-probabilities are sums in another order: the KL in a reward agrees to rounding.
            for name in ("kl", "likelihood", "step_scores"):
                numbers = [row["terms"].pop(name, None) for row in (one, other)]
                # Wrong answers, and thoughts without a step, have no scores of steps.
                if name == "step_scores" and numbers == [None, None]:
                    continue
                scored += name == "step_scores"
                assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-5)
            assert one["reward"] == pytest.approx(other["reward"], rel=1e-5, abs=1e-5)
            assert {name: one[name] for name in names} == {
                name: other[name] for name in names
            }
    # Without right answers the helpers would have had nothing to say.
    assert rights > 4 and scored > 4


def test_one_process_prints_and_writes(both):
    one, two, printed = both
    assert printed.count("summary.json") == 1
    assert not list(two.rglob("*.partial"))
    summary = json.loads((two / "summary.json").read_text())
    assert summary["chosen_step"] == 2
    assert (two / "export/model.safetensors").stat().st_size == (
        one / "export/model.safetensors"
    ).stat().st_size


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--num_processes=2"],
            "--coordinator, --num_processes and --process_id go together",
        ),
        (
            ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 of --num_processes=2; they count from 0",
        ),
    ],
)
def test_flags_that_do_not_go_together(flags, message, tmp_path):
    run = ["--config=digits_smoke", f"--workdir={tmp_path}"]
    done = commands.run(*commands.LAUNCHER, *run, *flags)
    assert done.returncode == 1 and message in done.stderr


def test_a_preempted_run_saves_what_it_has(tmp_path):
    """SIGTERM, as a machine that is taken away gets it: both save after the same step and leave."""
    flags = (
        "--config=digits_smoke --config.stage=cold_start --config.cold_start.steps=5000 "
        "--config.cold_start.checkpoint_every=5000 --config.cold_start.validate_every=0 "
        "--config.mesh=(2,2,1)"
    )
    script = subprocess.Popen(
        [*SCRIPT, *flags.split(), f"--workdir={tmp_path}"],
        cwd=commands.ROOT, env=script_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        lines = tmp_path / "metrics.jsonl"
        deadline = time.time() + 600
        while not (lines.exists() and lines.read_text().count("\n")):
            assert script.poll() is None and time.time() < deadline
            time.sleep(0.5)
        children = (
            Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()
        )
        assert len(children) == 2
        for child in children:
            os.kill(int(child), signal.SIGTERM)
        printed, _ = script.communicate(timeout=300)
    finally:
        script.kill()
    assert script.returncode != 0
    saved = [int(path.name) for path in (tmp_path / "cold_start/states").iterdir()]
    assert len(saved) == 1 and 1 <= saved[0] < 5000
    assert printed.count(f"preempted; cold_start, step {saved[0]} is saved") == 2
    assert lines.read_text().count("\n") == saved[0]
