"""What each stage of an arm adds, on runs written out."""

import dataclasses
import json

import pytest

from r1v3_jax.arms import stage_results, tables
from r1v3_jax.arms.plan import Comparison, baselines
from r1v3_jax.config import Collect, load_config
from r1v3_jax.distill.keeps import Rates
from r1v3_jax.files import write_jsonl

replace = dataclasses.replace


@pytest.fixture
def comparison(tmp_path):
    """Two arms behind a shared base: `plain` of one stage, `rounds` of a collection and two."""
    digits = load_config("digits")
    base, grpo = digits.stages["base"], digits.stages["grpo"]
    asked = Collect(
        grpo.train, Rates(), samples=5, prompts=10, tiles=10, max_completion_tokens=52
    )
    asked = replace(asked, max_prompt_tokens=26)
    evaluate = replace(
        digits.evaluate,
        sets=digits.evaluate.sets[:2],
        pooled=(("home", ("easy", "normal")),),
        after=("one",),
    )
    plain = replace(digits, stages={"base": base, "one": grpo}, evaluate=evaluate)
    stages = {"base": base, "asked": asked, "one": grpo, "two": grpo}
    both = replace(evaluate, after=("one", "two"))
    arms = {
        "plain": plain,
        "rounds": replace(digits, stages=stages, evaluate=both),
    }
    return Comparison("recipes/made_up", arms, ("base",), (0, 1), tmp_path)


def write_stage(comparison, arm, seed, stage, easy, normal):
    """A measured stage. easy, normal: a letter a question, + right, - wrong."""
    directory = comparison.workdir(arm, seed) / stage
    rows = [
        {"set": name, "id": f"{name}/{i}", "right": [letter == "+"]}
        for name, letters in {"easy": easy, "normal": normal}.items()
        for i, letter in enumerate(letters)
    ]
    write_jsonl(directory / "verdicts.jsonl", rows)
    share = sum(row["right"] == [True] for row in rows) / len(rows)
    account = {"accuracy": {"home": {"mean": share}}}
    (directory / "account.json").write_text(json.dumps(account))


def test_what_each_stage_adds(comparison):
    for seed in (0, 1):
        write_stage(comparison, "plain", seed, "one", "+---", "----")
        write_stage(comparison, "rounds", seed, "one", "++--", "----")
        write_stage(comparison, "rounds", seed, "two", "++++", "+---")
    rows = stage_results.by_stage(comparison, baselines(comparison.arms))
    found = {
        (row["arm"], row["stage"]): (
            row["accuracy"][0],
            row["since"] and row["since"][0],
            row["gap"] and row["gap"][0],
        )
        for row in rows
    }
    # Pooled: 8 questions. `two` is compared to the only stage of the other arm.
    assert found == {
        ("plain", "one"): (1 / 8, None, None),
        ("rounds", "one"): (2 / 8, None, 1 / 8),
        ("rounds", "two"): (5 / 8, 3 / 8, 4 / 8),
    }
    assert {row["set"] for row in rows} == {"home"}
    # Each difference says to what: the other arm and its stage.
    assert [row["to_arm"] for row in rows] == ["", "plain, one", "plain, one"]
    text = tables.stage_table({"stages": rows})
    assert "| rounds | two | home | 62.5 (" in text
    assert ", one | +50.0 (" in text
