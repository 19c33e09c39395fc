"""A pod in small: two processes with two CPU devices each do what one process with four does.

The launcher, the coordinator and the collectives (gloo) are real. GRPO goes on from a short cold
start, so that rewards differ and there is a gradient.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from r1v3_jax.run import metrics

ROOT = Path(__file__).parents[2]
CONFIG = """
from dataclasses import replace
from r1v3_jax.config import Optimizer, load_config

smoke = load_config("digits_smoke")
config = replace(
    smoke,
    name="two",
    stages={
        "cold_start": replace(
            smoke.stages["cold_start"],
            steps=60,
            rows=6,
            tiles=30,
            validate_every=0,
            patience=0,
            optimizer=Optimizer(lr=4e-3, warmup_steps=5, schedule="cosine", weight_decay=0.05),
        ),
        "grpo": replace(
            smoke.stages["grpo"], steps=2, prompts=8, tiles=8, slots=12, evaluate_every=0
        ),
    },
    evaluate=replace(smoke.evaluate, sets=(), pooled=(), answer_prior=()),
)
"""


ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "",
    "VIRTUAL_ENV": sys.prefix,  # the script makes none
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/helpers/one_cache'}",
}


def run(command, devices=None):
    flags = f"--xla_force_host_platform_device_count={devices}" if devices else ""
    done = subprocess.run(
        command, cwd=ROOT, env={**ENVIRONMENT, "XLA_FLAGS": flags}, capture_output=True, text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The workdirs of both runs, and what the two processes printed."""
    tmp = tmp_path_factory.mktemp("two")
    config, one, two = tmp / "two.py", tmp / "one", tmp / "both"
    config.write_text(CONFIG)
    launcher = [sys.executable, "-m", "r1v3_jax.launch"]
    flags = [f"--config={config}"]
    run([*launcher, *flags, f"--workdir={one}", "--config.stage=cold_start"])
    shutil.copytree(one, two)
    flags += ["--config.stage=grpo", "--config.mesh=(2, 2, 1)"]
    run([*launcher, *flags, f"--workdir={one}"], devices=4)
    script = ["bash", "launch/local/two_process.sh"]
    return one, two, run([*script, *flags, f"--workdir={two}"])


def grpo(workdir):
    return [line for line in metrics.read(workdir) if line["stage"] == "grpo"]


def test_the_same_losses(runs):
    one, two = grpo(runs[0]), grpo(runs[1])
    assert [line["step"] for line in two] == [0, 1]
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
            np.testing.assert_allclose(
                ours[name], value, rtol=1e-5, atol=1e-5, err_msg=name
            )


def test_the_same_data_and_samples_in_the_same_order(runs):
    names = (
        "id",
        "sample",
        "prompt",
        "completion",
        "tokens",
        "reward",
        "accuracy",
        "verdict",
    )
    for step in range(2):
        ours, theirs = (
            [
                {name: row[name] for name in names}
                for row in map(
                    json.loads,
                    (workdir / "rollouts" / f"grpo_{step:06d}.jsonl")
                    .read_text()
                    .splitlines(),
                )
            ]
            for workdir in runs[:2]
        )
        assert len(ours) == 8 * 4 and ours == theirs
        assert len({row["reward"] for row in ours}) > 1


def test_one_process_prints_and_writes(runs):
    _, two, printed = runs
    assert printed.count("summary.json") == 1
    assert not list(two.rglob("*.partial"))
    summary = json.loads((two / "summary.json").read_text())
    assert summary["chosen_step"] == 2
    assert (two / "export/model.safetensors").stat().st_size == (
        runs[0] / "export/model.safetensors"
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
    done = subprocess.run(
        [sys.executable, "-m", "r1v3_jax.launch", "--config=digits_smoke",
         f"--workdir={tmp_path}", *flags],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 1 and message in done.stderr


def test_a_preempted_run_saves_what_it_has(tmp_path):
    """SIGTERM, as a machine that is taken away gets it: both save after the same step and leave."""
    flags = (
        "--config=digits_smoke --config.stage=cold_start --config.cold_start.steps=5000 "
        "--config.cold_start.checkpoint_every=5000 --config.cold_start.validate_every=0 "
        "--config.mesh=(2,2,1)"
    )
    script = subprocess.Popen(
        ["bash", "launch/local/two_process.sh", *flags.split(), f"--workdir={tmp_path}"],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
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
