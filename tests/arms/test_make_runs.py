"""Which runs a comparison makes, in which order, and from where: by a stand-in for the launcher."""

import dataclasses

import pytest

from r1v3_jax.arms import runs
from r1v3_jax.arms.plan import Comparison
from r1v3_jax.config import load_config
from r1v3_jax.files import write_json
from r1v3_jax.pipeline.preflight import identity

replace = dataclasses.replace


def with_grpo(run, **fields):
    return run.with_stages(grpo=replace(run.stages["grpo"], **fields))


@pytest.fixture
def comparison(tmp_path):
    digits = load_config("digits")
    plain = replace(
        digits, stages={k: v for k, v in digits.stages.items() if k != "connector"}
    )
    arms = {"plain": plain, "held": with_grpo(plain, kl_coef=0.1)}
    shared = ("base", "cold_start")
    return Comparison("recipes/made_up", arms, shared, (0, 1), tmp_path, ("--smoke",))


@pytest.fixture
def launched(comparison, monkeypatch):
    """The label and the arguments of each job; each leaves what the launcher leaves."""
    done = {}

    def launch(jobs, processes, tell):
        for job in jobs:
            done[job.label] = job.arguments
            assert "--smoke" in job.arguments
            values = dict(
                word.lstrip("-").split("=") for word in job.arguments if "=" in word
            )
            arm = values["config"].rpartition(":")[2]
            run = replace(comparison.arms[arm], seed=int(values.get("config.seed", 0)))
            workdir = job.log.with_suffix("")
            stages = (
                [values["config.stage"]] if "config.stage" in values else run.stages
            )
            for stage in stages:
                (workdir / stage / "done").mkdir(parents=True, exist_ok=True)
            (workdir / "tokenizer").mkdir(exist_ok=True)
            write_json(workdir / "run.json", identity(run, workdir))
            if stages is run.stages:
                write_json(workdir / "summary.json", {})

    monkeypatch.setattr(runs, "run_jobs", launch)
    return done


def test_shared_stages_are_made_once_and_each_run_goes_on_from_them(
    comparison, launched
):
    runs.make_runs(comparison)
    assert list(launched) == [
        "the start, base",
        "the start, cold_start",
        "plain, seed 0",
        "held, seed 0",
        "plain, seed 1",
        "held, seed 1",
    ]
    workdir = comparison.workdir("held", 1)
    assert launched["held, seed 1"] == (
        "--config=recipes/made_up:held",
        f"--workdir={workdir}",
        "--smoke",
        "--config.seed=1",
    )
    for stage in comparison.shared:
        assert (workdir / stage).resolve() == (comparison.start / stage).resolve()
    assert not (workdir / "grpo").is_symlink()

    # What is there is not made again, wherever the directory is now.
    launched.clear()
    told = []
    moved = comparison.directory.rename(comparison.directory.with_name("moved"))
    comparison = replace(comparison, directory=moved)
    runs.make_runs(comparison, tell=told.append)
    assert not launched and told[0] == "plain, seed 0: done before"
    (comparison.workdir("plain", 1) / "summary.json").unlink()
    runs.make_runs(comparison, tell=told.append)
    assert list(launched) == ["plain, seed 1"]


def test_runs_of_another_config_are_not_taken(comparison, launched):
    """A recipe that was changed after its runs: old numbers must not get the new name."""
    runs.make_runs(comparison)
    arms = comparison.arms
    other = {**arms, "held": with_grpo(arms["held"], kl_coef=0.2)}
    with pytest.raises(ValueError) as error:
        runs.make_runs(replace(comparison, arms=other))
    path = comparison.workdir("held", 0) / "run.json"
    assert str(error.value) == (
        f"{path} is of another run: grpo.kl_coef is 0.1 there and 0.2 here. It is finished; "
        "choose another --workdir, or remove this one to make it anew"
    )
    base = replace(arms["plain"].stages["base"], steps=7)
    other = {name: run.with_stages(base=base) for name, run in arms.items()}
    with pytest.raises(
        ValueError, match="start/run.json .* base.steps is 600 there and 7"
    ):
        runs.make_runs(replace(comparison, arms=other))
