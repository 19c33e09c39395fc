"""A frozen helper in a run: its programs and bytes in the dry run, resumption, refusals."""

import dataclasses
import functools
import json

import pytest
from short_runs import cut_off, exported, half_right, lines_of, short

from r1v3_jax.models import build
from r1v3_jax.pipeline import pipeline, preflight, start
from r1v3_jax.rewards import score
from r1v3_jax.rewards.helpers import Consistent, Frozen, StepScores
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct, well_formed
from r1v3_jax.rollout import texts as rollout_texts
from r1v3_jax.sampling import loop
from r1v3_jax.sharding import make_mesh, shard_bytes
from r1v3_jax.stages import kinds, step_scores

TERM = Consistent(Frozen(stage="cold_start"), max_tokens=4)


def with_helper(config, helper, **changes):
    term = Consistent(helper, max_tokens=4)
    scores = StepScores(helper, between=";")
    reward = Reward(((0.7, correct), (0.1, well_formed), (0.2, term), (0.1, scores)))
    grpo = dataclasses.replace(config.stages["grpo"], reward=reward, **changes)
    return config.with_stages(grpo=grpo)


@pytest.fixture(scope="module")
def config():
    return with_helper(short(steps=3), Frozen(stage="cold_start"))


@pytest.fixture
def run_of(config, monkeypatch):
    monkeypatch.setattr(score, "verify_all", half_right)

    def run(workdir, run=config):
        preflight.check(run, workdir)
        pipeline.run(run, workdir, quiet=True)
        return workdir

    return run


def rollouts(workdir):
    paths = sorted((workdir / "rollouts").glob("grpo_*.jsonl"))
    return [line for path in paths for line in path.read_text().splitlines()]


def test_a_run_with_a_helper_resumes_in_the_same_bits(
    config, run_of, tmp_path, monkeypatch
):
    """What it compiles is what the dry run lists; it stops at step 2 and goes on."""
    # 1. A whole run, whose programs are looked at.
    ran = set()
    watched_ones = (
        (rollout_texts, "prefill"),
        (loop, "decode"),
        (step_scores, "step_scores"),
    )
    for module, name in watched_ones:
        function = getattr(module, name)

        @functools.wraps(function)
        def watched(*args, function=function, **kwargs):
            ran.add(function.lower(*args, **kwargs).as_text())
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)
    whole = run_of(tmp_path / "whole")
    monkeypatch.undo()
    monkeypatch.setattr(score, "verify_all", half_right)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["compiles_after_warmup"] == 0
    assert all("reward/consistent" in line for line in lines_of(whole))
    rows = [json.loads(line) for line in rollouts(whole)]
    for row in rows:
        assert ("consistent" in row["terms"]) == (row["verdict"] == "right")
        # Where nothing was thought there is no step.
        thoughts = row["completion"].rpartition("</think>")[0]
        has_steps = row["verdict"] == "right" and bool(thoughts.strip())
        assert ("step_scores" in row["terms"]) == has_steps
        parts = [row["weights"][name] * x for name, x in row["terms"].items()]
        assert row["reward"] == pytest.approx(sum(parts))

    # 2. The programs, and the bytes that stay on a chip.
    tokenizer = start.make_processor(config, whole / "tokenizer").tokenizer
    mesh = make_mesh(config.mesh)
    table = kinds.stage_programs(config, "grpo", mesh, tokenizer.banned_token_ids)
    of_helper = {p.label: p for p in table if p.use == "helper"}
    labels = ["helper_reshard@consistent", "helper_prefill@consistent"]
    labels += ["helper_decode@consistent", "helper_step_scores@step_scores"]
    assert [*of_helper] == labels
    wanted = {"prefill", "decode", "step_scores"}
    assert {p.lower().as_text() for p in table if p.name in wanted} == ran
    plain = config.with_stages(
        grpo=dataclasses.replace(config.stages["grpo"], reward=Reward())
    )
    without = kinds.stage_programs(plain, "grpo", mesh, tokenizer.banned_token_ids)
    compute = build.decode_compute(config.compute)
    weights = shard_bytes(build.abstract(config.model, compute, mesh))
    scorer = shard_bytes(build.abstract(config.model, config.compute, mesh))
    for before, after in zip(
        without, [p for p in table if p.use != "helper"], strict=True
    ):
        assert after.resident - before.resident == weights + scorer, before.label

    # 3. Two steps, and the third from the state behind them.
    cut = tmp_path / "cut"
    cut_off(config, cut, step=2)
    run_of(cut)
    assert rollouts(cut) == rollouts(whole)
    assert exported(cut) == exported(whole)


def test_a_helper_that_cannot_answer_is_refused_on_the_host(config, tmp_path):
    nowhere = with_helper(config, Frozen(str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="term consistent: .*no such directory"):
        preflight.check(nowhere, tmp_path / "run")
    later = with_helper(config, Frozen(stage="grpo"))
    with pytest.raises(ValueError, match="no stage with weights before grpo; choose"):
        preflight.check(later, tmp_path / "run")
    alone = dataclasses.replace(config, stage="grpo")
    with pytest.raises(FileNotFoundError, match="run the stage that makes it first"):
        preflight.check(alone, tmp_path / "run")


def test_what_a_helper_holds_is_part_of_the_run(config, tmp_path):
    """The same directory with other weights is another run."""
    helper = tmp_path / "helper"
    helper.mkdir()
    (helper / "SHA256SUMS").write_text("1  weights\n")
    run = with_helper(config, Frozen(str(helper)))
    first = run.identity("grpo")
    (helper / "SHA256SUMS").write_text("2  weights\n")
    second = run.identity("grpo")
    differing = [name for name in first if first[name] != second[name]]
    assert differing == ["grpo.helper.consistent", "grpo.helper.step_scores"]
    assert "max_tokens=4" in first["grpo.reward.terms"]
