"""What arms differ in and share, and the flags that cut them down."""

import dataclasses

import pytest

from r1v3_jax.arms.plan import (
    baselines,
    differing_fields,
    shared_stages,
)
from r1v3_jax.config import After, load_arms, load_config
from r1v3_jax.fields import flatten_fields
from r1v3_jax.losses import ConstantLength, SequenceMean
from r1v3_jax.losses.schedules import DipAndRise

replace = dataclasses.replace


@pytest.fixture(scope="module")
def digits():
    return load_config("digits")


def changed(run, stage="grpo", **fields):
    return run.with_stages(**{stage: replace(run.stages[stage], **fields)})


def test_the_field_that_arms_differ_in(digits):
    """An object of an algorithm is one field, whatever its type and its own fields are."""

    def fields(other, than=digits):
        return differing_fields(than, other)

    falls = changed(digits, kl_coef=DipAndRise(0.0, 0.2))
    steeper = changed(digits, kl_coef=DipAndRise(0.1, 0.4, turn=0.5))
    assert fields(changed(digits, kl_coef=0.1)) == ["grpo.kl_coef"]
    assert fields(falls) == fields(steeper) == ["grpo.kl_coef"]
    assert fields(steeper, than=falls) == ["grpo.kl_coef"]
    other_mean = changed(digits, aggregation=SequenceMean())
    assert fields(other_mean) == ["grpo.aggregation"]
    constant = changed(digits, aggregation=ConstantLength())
    assert fields(other_mean, than=constant) == ["grpo.aggregation"]
    # Fields of a config inside a stage are told apart; a name is no difference.
    optimizer = replace(digits.stages["grpo"].optimizer, lr=1e-4, warmup_steps=7)
    assert fields(replace(changed(digits, optimizer=optimizer), name="other")) == [
        "grpo.optimizer.lr",
        "grpo.optimizer.warmup_steps",
    ]
    assert fields(replace(digits, system="Think.")) == ["system"]
    fewer = replace(digits, stages={"base": digits.stages["base"]})
    assert fields(fewer) == ["stages"]
    # Which stages are measured follows from which there are; how many questions does not.
    evaluate = replace(fewer.evaluate, after=("base",), questions=77)
    assert fields(replace(fewer, evaluate=evaluate)) == ["stages", "evaluate.questions"]
    assert fields(digits) == []


def test_one_change_in_several_stages_is_one_difference(digits):
    """The rounds of a config are stages of one kind; which follows which is one difference too."""
    trained = {
        name: replace(digits.stages[name], trainable="llm")
        for name in ("base", "cold_start")
    }
    other = digits.with_stages(**trained)
    assert differing_fields(digits, other) == ["base, cold_start: trainable"]
    # Other values in each are several things.
    half = other.with_stages(base=replace(trained["base"], trainable="connector"))
    assert differing_fields(digits, half) == ["base.trainable", "cold_start.trainable"]
    restarted = changed(changed(digits, start="base"), "connector", start="base")
    assert differing_fields(digits, restarted) == ["stages"]
    also = changed(restarted, kl_coef=0.1)
    assert differing_fields(digits, also) == ["stages", "grpo.kl_coef"]
    # A stage of another kind differs as a whole.
    other_kind = digits.with_stages(grpo=digits.stages["connector"])
    assert differing_fields(digits, other_kind) == ["grpo"]


def test_what_an_arm_is_compared_to(digits):
    """The first arm, or the one before it where it differs from that alone in one field."""
    held = changed(digits, kl_coef=0.1)
    longer = changed(digits, steps=91)
    both = changed(longer, kl_coef=0.1)
    arms = {"plain": digits, "held": held, "longer": longer, "both": both}
    assert baselines(arms) == {
        "held": ("plain", ["grpo.kl_coef"]),
        "longer": ("plain", ["grpo.steps"]),
        "both": ("longer", ["grpo.kl_coef"]),
    }
    two = ["grpo.steps", "grpo.kl_coef"]
    assert baselines({"held": held, "longer": longer}) == {"longer": ("held", two)}


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
    # What is asked after a stage decides its accuracy; base is not asked.
    fewer = replace(digits, evaluate=replace(digits.evaluate, questions=5))
    assert shared(fewer) == ["base"]
    after = (After("cold_start", digits.evaluate.sets[:1]), "grpo", "connector")
    fewer = replace(digits, evaluate=replace(digits.evaluate, after=after))
    assert shared(fewer) == ["base"]
    later = replace(digits, evaluate=replace(digits.evaluate, after=("cold_start",)))
    assert shared(later) == ["base", "cold_start"]


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
