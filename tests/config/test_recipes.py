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


# The others, whose stages have tests of their own, are run with --slow.
RUN_ALWAYS = {
    "compabench",  # two skills learnt apart
    "embodied",  # films read aloud, a helper that says whether thoughts and answer agree
    "merf",  # questions that say how they are scored
    "miromind",  # a penalty on loops, and a length that grows
    "mstar",  # a collection at a temperature that it chooses
    "openvlthinker",  # rounds of collections, supervised steps and GRPO
    "revisual",  # a stage of text alone
    "vtriune",  # a verifier a row, and a threshold that rises
    "wethink",  # a judge
}


def second_arm(name: str) -> Run:
    """Returns the second arm of a recipe, cut down."""
    arms = load_arms(f"recipes/{name}")
    # M-STAR's last arm does all that its second does, and chooses a temperature.
    arm = "temperature" if name == "mstar" else list(arms)[1]
    return cut_down(arms[arm])


def judged_by(config: Run, url: str) -> Run:
    """Returns a run that asks the judge at `url`, if it asks one at all."""
    if not config.verify.model_url:
        return config
    verify = dataclasses.replace(config.verify, model_url=url)
    return dataclasses.replace(config, verify=verify)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_not_refused(name, tmp_path):
    with judge() as url:
        preflight.check(judged_by(second_arm(name), url), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        name if name in RUN_ALWAYS else pytest.param(name, marks=pytest.mark.slow)
        for name in RECIPES
    ],
)
def test_a_recipe_runs(name, tmp_path):
    """Its second arm goes through every stage and compiles nothing twice."""
    with judge() as url:
        config = judged_by(second_arm(name), url)
        summary = pipeline.run(config, tmp_path, quiet=True)
    assert summary["compiles_after_warmup"] == 0
    assert all((tmp_path / stage / "done").exists() for stage in config.stages)
    if name == "mstar":
        asked = summary["stages"]["asked1"]["collected"]
        measured = asked["reward_pass"]
        assert list(measured) == ["0.4", "0.7", "1", "1.3"]
        assert measured[f"{asked['temperature']:g}"] == max(measured.values())
