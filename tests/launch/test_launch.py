"""The command line: what it takes, and how it refuses."""

import subprocess
import sys

import commands
import pytest

from r1v3_jax.launch import print_end


def launch(*arguments):
    return commands.run(*commands.LAUNCHER, *arguments)


def test_list_and_print():
    assert {"digits", "digits_smoke", "tpu_v5p_256"} <= set(
        launch("--list_configs").stdout.split()
    )
    printed = launch(
        "--config=digits", "--print_config", "--config.grpo.loss.high=0.3"
    ).stdout
    assert (
        "--config.grpo.loss.high=0.3\n" in printed
        and "--config.name='digits'\n" in printed
    )
    # Cut down, it has a name of its own, and so another directory than the run itself.
    smoke = launch("--config=digits", "--smoke", "--print_config").stdout
    assert "--config.name='smoke_digits'\n" in smoke
    assert "--config.grpo.steps=2\n" in smoke


def test_a_table_that_cannot_be_made_fails_no_finished_run(tmp_path, capsys, caplog):
    """Proves: it is logged, and the paths are printed all the same."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").touch()
    print_end({"accuracy": {"grpo": 3}}, tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"Look at it: {tmp_path}/report/index.html"
    assert printed[-2].startswith(f"{tmp_path}/summary.json")
    assert "no table of accuracies" in caplog.text


def test_configs_load_from_anywhere(tmp_path):
    command = [*commands.LAUNCHER, "--config=digits", "--print_config"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path, env=commands.environment(), capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The same from a fork, which other tests trust.
    assert done.stdout == launch("--config=digits", "--print_config").stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--config=digit"],
            "no config 'digit'; did you mean digit_types, digits, digits_smoke?",
        ),
        ([], "--config=NAME is missing; there are: canvases, digit_types, digits,"),
        (
            ["--config=digits", "--config.grpo.clip_hi=0.3"],
            "clip_high is now GRPO.loss=Clipped(high=0.28)",
        ),
        (["--config=digits", "--config.grpo.group_size=2.5"], "group_size"),
        (["--config=digits", "--config.grpo.group_size=1"], "at least 2"),
        (["--config=digits", "--smoke=true"], "cuts nothing down; write --smoke"),
        (
            ["--config=digits", "--config.stage=rl"],
            "choose from base, cold_start, grpo, connector",
        ),
        (
            ["--config=digits", "--config.grpo.stps=3"],
            "did you mean --config.grpo.steps?",
        ),
        (
            ["--config=digits", "--config.pipeline=grpo"],
            "pipeline is now the order of Run.stages, and --config.stage=NAME",
        ),
        (
            ["--config=digits", "--config.grpo.loss=Clipped"],
            "a Clipped is an object, chosen in a config file; flags set its fields: "
            "--config.grpo.loss.low, --config.grpo.loss.high",
        ),
        (
            ["--config=digits", "--config.evaluate.thinking=prefilled"]
            + ["--config.evaluate.thinking_tokens=9"],
            "thinking_tokens 9 limits a thinking that thinking 'prefilled' leaves out",
        ),
        (
            ["--config=digits", "--config.cold_start.chains=no.jsonl"],
            "no.jsonl: no such file",
        ),
        (
            ["--config=digits", "--config.evaluate.sets=(('mine', 'x.jsonl'),)"],
            "Evaluate.sets 'mine': 'x.jsonl' is no source of questions",
        ),
        (
            [
                "--config=tpu_v5e_8",
                r"--config.opening=<think>\n",
                "--nodry_run_data",
                "--dry_run",
            ],
            "has a backslash; a shell writes a new line as --config.opening=$'<think>\\n'",
        ),
        # Any flag of the dry run asks for one.
        (["--config=digits", "--dry_run_full"], "--dry_run compiles for a TPU slice"),
        (
            ["--config=digits", "--dry_run_out=x.json"],
            "--dry_run compiles for a TPU slice",
        ),
        (
            ["--config=digits", "--dry_run_only=grpo/decode"],
            "--dry_run compiles for a TPU slice",
        ),
        (
            ["--config=gpu_h200", "--config.compute.attention=splash"],
            "Compute.attention is 'splash', a kernel for a TPU, and this is a CPU; 'reference' "
            "would do",
        ),
        (
            ["--config=digits", "--config.compute.attention=cudnn"],
            "Compute.attention 'cudnn' takes numbers of 16 bits, and Compute.dtype is 'float32'; "
            "dtype 'bfloat16' would do, or attention 'reference'",
        ),
        (["--config=digits", "--workdirr=x"], "workdir"),
        (["--config=digits", "stray"], "stray"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message):
    done = launch(*arguments)
    assert done.returncode != 0
    said = done.stderr + done.stdout
    assert message in said, said
    assert "Traceback" not in said, said
