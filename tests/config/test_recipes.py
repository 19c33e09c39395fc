"""Every recipe is short, names its paper, and has arms that differ in one field."""

import ast
import re
from pathlib import Path

import pytest

from r1v3_jax.arms.plan import differing_fields
from r1v3_jax.config import Run, load_arms, load_config
from r1v3_jax.config.smoke import cut_down

FOLDER = Path(__file__).parents[2] / "configs" / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.py"))
LINES = 60


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
