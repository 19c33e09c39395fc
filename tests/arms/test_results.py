"""What is read from the runs of a comparison, on runs written out."""

import dataclasses
import json

import numpy as np
import pytest

from r1v3_jax.arms import results, tables
from r1v3_jax.arms.plan import Comparison
from r1v3_jax.config import load_config
from r1v3_jax.files import read_jsonl, write_jsonl

replace = dataclasses.replace


@pytest.fixture
def comparison(tmp_path):
    digits = load_config("digits")
    other = digits.with_stages(grpo=replace(digits.stages["grpo"], kl_coef=0.1))
    arms = {}
    for name, run in {"plain": digits, "held": other}.items():
        stages = {k: v for k, v in run.stages.items() if k != "connector"}
        sets = digits.evaluate.sets[:2]
        evaluate = replace(
            digits.evaluate,
            sets=sets,
            pooled=(("both", ("easy", "normal")),),
            after=("grpo",),
        )
        arms[name] = replace(run, stages=stages, evaluate=evaluate)
    return Comparison("recipes/made_up", arms, (), (0, 1), tmp_path)


def write_run(comparison, arm, seed, easy, normal, probes):
    """A finished run. easy, normal: a letter a question, + right, - wrong, ? not verified."""
    workdir = comparison.workdir(arm, seed)
    rights = {"+": [True], "-": [False], "?": [None]}
    rows = [
        {"set": name, "id": f"{name}/{i}", "right": rights[letter]}
        for name, letters in {"easy": easy, "normal": normal}.items()
        for i, letter in enumerate(letters)
    ]
    write_jsonl(workdir / "grpo" / "verdicts.jsonl", rows)
    steps = [{"stage": "grpo", "step": s, "reward": s / 10} for s in range(40)]
    for step, probe in probes.items():
        steps[step]["eval/accuracy"] = probe
    write_jsonl(workdir / "metrics.jsonl", steps)
    summary = {
        "wall_s": 12.3,
        "compiles_after_warmup": 0,
        "versions": {},
        "chosen_step": 40,
    }
    (workdir / "summary.json").write_text(json.dumps(summary))


def test_arms_are_compared_question_by_question(comparison):
    write_run(comparison, "plain", 0, "++--", "-?--", {9: 0.2, 19: 0.4, 39: 0.6})
    write_run(comparison, "held", 0, "++++", "+-+-", {9: 0.2, 19: 0.6, 39: 0.6})
    write_run(comparison, "plain", 1, "+---", "----", {9: 0.1, 19: 0.1, 39: 0.1})
    write_run(comparison, "held", 1, "-+++", "----", {9: 0.5, 19: 0.5, 39: 0.5})
    found = results.compare(comparison, ["reward", "grpo:reward"], first=30)

    assert found["differs"] == {"held": ["grpo.kl_coef"]}
    # Seed 0: of both sets 2 of 7 that are verified, and 6 of 8. Seed 1: 1 of 8 and 3 of 8.
    plain = found["accuracy"]["both"]["plain"]
    assert plain["all"][0] == pytest.approx((2 / 7 + 1 / 8) / 2)
    assert [plain["seeds"][seed][0] for seed in (0, 1)] == pytest.approx([2 / 7, 1 / 8])
    # Easy: 0 0 1 1 and -1 1 1 1. Normal: 1 1 0 of the three that both verified, and no change.
    gaps = {name: arms["held"] for name, arms in found["differences"].items()}
    assert gaps["easy"]["seeds"] == {0: 0.5, 1: 0.5}
    assert gaps["easy"]["mean"] == 0.5 and tuple(gaps["easy"]["t"]) == (0.5, 0.5)
    assert gaps["normal"]["seeds"] == pytest.approx({0: 2 / 3, 1: 0.0})
    assert gaps["both"]["seeds"] == pytest.approx({0: 4 / 7, 1: 2 / 8})
    # One question of one run was not verified: it has no partner, and is said.
    unverified = [gaps[name]["unverified"] for name in ("easy", "normal", "both")]
    assert unverified == [0, 1, 1]
    # Below step 30: .2 and .4, mean .3; .2 and .6, mean .4. Seed 1: .1 and .5 throughout.
    probe = found["metrics"]["eval/accuracy"]
    assert probe["plain"]["seeds"] == pytest.approx({0: 0.3, 1: 0.1})
    assert probe["held"]["mean"] == pytest.approx(0.45)
    mean, low, high = probe["held"]["difference"]
    # Gaps .1 and .4: mean .25, deviation .3 / sqrt(2), t(0.975, 1) = 12.706.
    assert (mean, high - mean) == pytest.approx((0.25, 12.7062 * 0.15), rel=1e-5)
    assert found["metrics"]["reward"]["held"]["seeds"][0] == pytest.approx(1.45)
    assert found["metrics"]["grpo:reward"] == found["metrics"]["reward"]
    with pytest.raises(ValueError, match="STAGE:NAME"):
        results.compare(comparison, ["sft:reward"], first=30)

    text = tables.tables(found)
    assert "| easy | held - plain: **+50.0** |" in text
    assert "** (1 unverified) |" in text
    assert "| +50.0, +50.0 | +50.0 to +50.0 |" in text
    assert "| plain, seed 1 | 12 | 0 | step 40 |" in text
    results.write(comparison.directory / "arms.json", found)
    assert json.loads((comparison.directory / "arms.json").read_text())["seeds"] == [
        0,
        1,
    ]


def test_partial_credit_is_compared_beside_what_is_right(comparison):
    """Where a verifier grades, and there alone."""
    for seed in comparison.seeds:
        for arm in comparison.arms:
            write_run(comparison, arm, seed, "+-", "+-", {})
    # Half of the second answer to an easy question, by one run. The rows of the others have no
    # credit, as before it was written.
    path = comparison.workdir("held", 1) / "grpo" / "verdicts.jsonl"
    rows = read_jsonl(path)
    for row in rows:
        row["credit"] = [float(right) for right in row["right"]]
    rows[1]["credit"] = [0.5]
    write_jsonl(path, rows)
    found = results.compare(comparison, [], 0)
    assert list(found["differences"]) == [
        "easy",
        "easy, credit",
        "normal",
        "both",
    ]
    assert found["differences"]["easy"]["held"]["mean"] == 0
    assert found["differences"]["easy, credit"]["held"]["seeds"] == {0: 0.0, 1: 0.25}
    assert found["accuracy"]["easy, credit"]["held"]["seeds"][1][0] == 0.75


def test_other_questions_are_refused(comparison):
    for seed in comparison.seeds:
        write_run(comparison, "plain", seed, "++", "++", {})
        write_run(comparison, "held", seed, "++", "+" * (2 + seed), {})
    with pytest.raises(ValueError) as error:
        results.compare(comparison, [], 0)
    assert (
        "held, seed 1 answered other questions of 'normal' than plain, seed 0"
        in str(error.value)
    )


def test_the_height_of_a_curve():
    steps = np.array([9, 19, 39])
    values = np.array([0.2, 0.4, 0.6])
    assert results.mean_height(steps, values, 0) == pytest.approx(
        (10 * 0.3 + 20 * 0.5) / 30
    )
    assert results.mean_height(steps, values, 20) == pytest.approx(0.3)
    assert results.mean_height(steps, values, 10) == 0.2
