"""What arms differ in and share, and the flags that cut them down."""

import dataclasses

import pytest

from r1v3_jax import launch
from r1v3_jax.arms.plan import (
    differing_by_arm,
    differing_fields,
    flags_between,
    shared_stages,
)
from r1v3_jax.config import load_arms, load_config
from r1v3_jax.config.smoke import cut_down
from r1v3_jax.fields import flatten_fields
from r1v3_jax.losses import ConstantLength, SequenceMean
from r1v3_jax.losses.schedules import DipAndRise, Line

replace = dataclasses.replace


@pytest.fixture(scope="module")
def digits():
    return load_config("digits")


def changed(run, stage="grpo", **fields):
    return run.with_stages(**{stage: replace(run.stages[stage], **fields)})


def test_the_field_that_arms_differ_in(digits):
    """An object of an algorithm is one field, whatever its type and its own fields are."""

    def fields(*others):
        return differing_fields(
            {str(i): run for i, run in enumerate([digits, *others])}
        )

    falls = changed(digits, kl_coef=DipAndRise(0.0, 0.2))
    steeper = changed(digits, kl_coef=DipAndRise(0.1, 0.4, turn=0.5))
    assert fields(changed(digits, kl_coef=0.1), falls, steeper) == ["grpo.kl_coef"]
    assert differing_fields({"a": falls, "b": steeper}) == ["grpo.kl_coef"]
    other_mean = changed(digits, aggregation=SequenceMean())
    assert fields(other_mean) == ["grpo.aggregation"]
    constant = [changed(digits, aggregation=ConstantLength()), other_mean]
    assert differing_fields(dict(zip("ab", constant, strict=True))) == [
        "grpo.aggregation"
    ]
    # Fields of a config inside a stage are told apart; a name is no difference.
    optimizer = replace(digits.stages["grpo"].optimizer, lr=1e-4, warmup_steps=7)
    assert fields(replace(changed(digits, optimizer=optimizer), name="other")) == [
        "grpo.optimizer.lr",
        "grpo.optimizer.warmup_steps",
    ]
    assert fields(replace(digits, system="Think."), digits) == ["system"]
    fewer = replace(digits, stages={"base": digits.stages["base"]})
    assert fields(fewer) == ["stages"]
    assert fields(digits) == []


def test_each_arm_is_compared_to_the_first_one_alone(digits):
    """Proves: arms may differ from the first in a field each, and so from one another in both."""
    held = changed(digits, kl_coef=0.1)
    longer = changed(digits, steps=91)
    arms = {"plain": digits, "held": held, "longer": longer}
    assert differing_by_arm(arms) == {
        "held": ["grpo.kl_coef"],
        "longer": ["grpo.steps"],
    }
    arms = {"held": held, "longer": longer}
    assert differing_by_arm(arms) == {"longer": ["grpo.steps", "grpo.kl_coef"]}


def test_the_stages_that_arms_share(digits):
    def shared(*others):
        return shared_stages({str(i): run for i, run in enumerate([digits, *others])})

    assert shared(changed(digits, kl_coef=0.1)) == ["base", "cold_start"]
    assert shared(changed(digits, kl_coef=0.1), changed(digits, "base", steps=9)) == []
    assert shared(changed(digits, "connector", steps=9)) == [
        "base",
        "cold_start",
        "grpo",
    ]
    # Where and how often is no difference: the same numbers come out.
    assert shared(changed(digits, "base", checkpoint_every=7)) == [*digits.stages]
    without = {k: v for k, v in digits.stages.items() if k != "cold_start"}
    assert shared(replace(digits, stages=without)) == ["base"]
    # What is asked after a stage decides its accuracy.
    fewer = replace(digits, evaluate=replace(digits.evaluate, questions=5))
    assert shared(fewer) == []


def test_flags_make_the_run_that_was_cut_down(digits):
    """The launcher, given the flags, has the config that `cut_down` made."""
    moving = changed(digits, kl_coef=Line(0.0, 0.1))
    small = cut_down(moving)
    flags = flags_between(moving, small)
    assert "--config.grpo.prompts=4" in flags and "--config.base.steps=2" in flags
    assert not [flag for flag in flags if "kl_coef" in flag or "'" in flag]
    values = launch.thaw(moving)
    for flag in flags:
        name, _, text = flag.removeprefix("--config.").partition("=")
        *path, field = name.split(".")
        node = values
        for part in path:
            node = node[part]
        node[field] = type(node[field])(text)
    assert launch.freeze(moving, values) == small


def test_an_arm_is_found_by_its_name(tmp_path):
    arms = load_arms("recipes/othink")
    found = load_config("recipes/othink:constant")
    assert flatten_fields(found) == flatten_fields(arms["constant"])
    with pytest.raises(ValueError) as error:
        load_config("recipes/othink:constnat")
    assert str(error.value) == (
        "recipes/othink has no arm 'constnat'; it has constant, dip_and_rise, none, as "
        "recipes/othink:constant"
    )
    with pytest.raises(
        ValueError, match="does not define `arms`, two or more runs by name"
    ):
        load_arms("digits")
    with pytest.raises(ValueError, match="did you mean recipes/othink[?]"):
        load_config("recipes/othinc")
    # A path may have a colon in it.
    path = tmp_path / "a:b.py"
    path.write_text(
        "from r1v3_jax.config import load_config\nconfig = load_config('digits')\n"
        "arms = {'a b': config, 'b': config}\n"
    )
    assert load_config(str(path)).name == "digits"
    with pytest.raises(ValueError, match="letters, digits and _ alone"):
        load_arms(str(path))
