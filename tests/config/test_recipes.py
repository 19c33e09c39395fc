"""Every recipe is short, names its paper, and has arms that differ in one field."""

import ast
import re
import time
from pathlib import Path

import pytest

from r1v3_jax.arms.plan import differing_fields
from r1v3_jax.config import Run, load_arms, load_config
from r1v3_jax.config.smoke import cut_down
from r1v3_jax.pipeline import pipeline, preflight

FOLDER = Path(__file__).parents[2] / "configs" / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.py"))
LINES = 60
CPU_S = 60


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
    assert len(differing_fields(arms)) == 1
    # The same questions for all, enough of them.
    assert {run.evaluate.questions for run in arms.values()} == {1000}
    for run in arms.values():
        assert cut_down(run).evaluate.questions == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name, tmp_path):
    """Its second arm, cut down, goes through every stage and compiles nothing twice."""
    config = cut_down(list(load_arms(f"recipes/{name}").values())[1])
    preflight.check(config, tmp_path)
    started = time.process_time()
    summary = pipeline.run(config, tmp_path, quiet=True)
    assert time.process_time() - started < CPU_S
    assert summary["compiles_after_warmup"] == 0
    assert all((tmp_path / stage / "done").exists() for stage in config.stages)
