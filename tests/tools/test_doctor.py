"""The doctor finds the problems of a run's directory, and reports no others."""

import jax.numpy as jnp
import pytest
from tools_for_tests import run_tool

from r1v3_jax.run import checkpoints
from r1v3_jax.run.metrics import Logger


@pytest.fixture
def workdir(tmp_path):
    states = checkpoints.States(tmp_path / "grpo" / "states")
    for step in (2, 4):
        states.save(step, {"weights": jnp.arange(1000.0) + step}, {"cursor": step})
    states.wait()
    with Logger(tmp_path, total_steps=4, stage="grpo", quiet=True) as logger:
        for step in range(4):
            logger.log(step, {"loss": 1.0})
    return tmp_path


def doctor(workdir, *flags):
    process = run_tool("doctor", workdir, *flags)
    assert "Traceback" not in process.stderr
    return process.returncode, process.stdout + process.stderr


def test_a_run_that_is_well(workdir):
    code, report = doctor(workdir)
    assert code == 0
    assert "BAD" not in report
    for text in (
        "grpo/states/2 verifies",
        "grpo/states: the stage would go on from step 4",
        "grpo: steps 0 to 3, each once",
        "the run can go on",
    ):
        assert text in report, report


def test_a_run_that_is_not(workdir):
    files = [p for p in (workdir / "grpo/states/4/state").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 4
    largest.write_bytes(data)
    path = workdir / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2] * 2))
    (workdir / "connector.partial").mkdir()
    name = largest.relative_to(workdir / "grpo/states/4")
    code, report = doctor(workdir, "--config=digits_smoke")
    assert code == 1
    for text in (
        f"BAD  grpo/states/4 is damaged: {name} has changed",
        "the stage would go on from step 2",
        "BAD  grpo: line 3 of the stage is of step 0, not 2",
        "connector.partial is of a write that was cut short",
        "ok   digits_smoke goes on here",
        "2 things to mend",
    ):
        assert text in report, report


def test_no_directory(tmp_path):
    code, report = doctor(tmp_path / "nowhere")
    assert code == 1
    assert "wanted one argument, the directory of a run" in report
