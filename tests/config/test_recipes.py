"""Every recipe is short, names its paper, and has arms that differ in one thing."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from judge_for_tests import judge

from r1v3_jax.arms.plan import baselines
from r1v3_jax.config import Run, load_arms, load_config
from r1v3_jax.config.smoke import cut_down
from r1v3_jax.pipeline import pipeline, preflight

FOLDER = Path(__file__).parents[2] / "configs" / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.py"))
LINES = 100


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    docstring = ast.get_docstring(ast.parse(text))
    assert re.search(r"arXiv \d{4}\.\d{5}", docstring)
    assert f"python -m tools.arms --config=recipes/{name} " in docstring
    config = load_config(f"recipes/{name}")
    assert config.name == name
    arms = load_arms(f"recipes/{name}")
    assert all(isinstance(run, Run) for run in arms.values())
    differences = [len(fields) for _, fields in baselines(arms).values()]
    assert differences == [1] * (len(arms) - 1)
    # The same questions for all, enough of them.
    assert {run.evaluate.questions for run in arms.values()} == {1000}
    for run in arms.values():
        assert cut_down(run).evaluate.questions == 8


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name, tmp_path):
    """Its second arm, cut down, goes through every stage and compiles nothing twice."""
    arms = load_arms(f"recipes/{name}")
    # M-STAR's last arm does all that its second does, and chooses a temperature.
    arm = "temperature" if name == "mstar" else list(arms)[1]
    config = cut_down(arms[arm])
    with judge() as url:
        if config.verify.model_url:
            verify = dataclasses.replace(config.verify, model_url=url)
            config = dataclasses.replace(config, verify=verify)
        preflight.check(config, tmp_path)
        summary = pipeline.run(config, tmp_path, quiet=True)
    assert summary["compiles_after_warmup"] == 0
    assert all((tmp_path / stage / "done").exists() for stage in config.stages)
    if name == "mstar":
        asked = summary["stages"]["asked1"]["collected"]
        measured = asked["reward_pass"]
        assert list(measured) == ["0.4", "0.7", "1", "1.3"]
        assert measured[f"{asked['temperature']:g}"] == max(measured.values())
