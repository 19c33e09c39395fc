"""An entropy bonus that follows the measured entropy: its rule, and a stage that resumes."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from short_runs import cut_off

from r1v3_jax.config import GRPO, load_config
from r1v3_jax.fields import flatten_fields
from r1v3_jax.losses import AdaptiveEntropy
from r1v3_jax.pipeline import pipeline
from r1v3_jax.run import metrics, weights
from r1v3_jax.stages.entropy_bonus import EntropyBonus
from r1v3_jax.train.strengths import numbers_at, strengths


def source(index):
    return None


def samples(*entropies):
    """A group of one sample whose tokens have these entropies; behind its end there is nan."""
    row = [*entropies, np.nan]
    return SimpleNamespace(
        completions=SimpleNamespace(
            tokens=np.zeros((1, len(row)), np.int32),
            lengths=np.array([len(entropies)]),
            chosen=np.ones((1, len(row)), bool),
            entropies=np.array([row], np.float32),
        )
    )


def test_the_rule_written_out():
    """The steps of the docstring, then a bound on each side."""
    bonus = EntropyBonus(AdaptiveEntropy(target=0.2, step=0.005, high=0.012), None)
    counted = []
    following = []
    for mean in (0.1, 0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.3):
        # The mean over all seven tokens is `mean`: (7 mean - 0.06 + 6 x 0.01) / 7.
        bonus.measure([samples(7 * mean - 0.06), samples(*[0.01] * 6)])
        counted.append(bonus.applied)
        following.append(bonus.coefficient)
    np.testing.assert_allclose(
        counted, [0, 0.005, 0, 0.005, 0.01, 0.012, 0.012, 0, 0, 0, 0], atol=1e-12
    )
    np.testing.assert_allclose(
        following,
        [0.005, 0.01, 0.005, 0.01, 0.012, 0.012, 0.012, 0.007, 0.002, 0, 0],
        atol=1e-12,
    )


def test_samples_that_are_not_finite_change_nothing():
    bonus = EntropyBonus(AdaptiveEntropy(), 0.01)
    bonus.measure([samples(np.nan, 0.1)])
    assert (bonus.applied, bonus.coefficient) == (0.0, 0.01)


def test_the_coefficient_reaches_the_update_as_an_array():
    stage = GRPO(source, entropy_coef=AdaptiveEntropy(target=0.3))
    numbers = numbers_at(stage, 0.5, 0.015)
    assert numbers == {"entropy_coef": np.float32(0.015)}
    assert strengths(stage, numbers).entropy_coef == np.float32(0.015)
    fields = flatten_fields(stage, "grpo")
    assert fields["grpo.entropy_coef"] == "AdaptiveEntropy"
    assert fields["grpo.entropy_coef.target"] == "0.3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": 0.0}, "AdaptiveEntropy.target is 0.0; it must be positive"),
        ({"step": -0.1}, "AdaptiveEntropy.step is -0.1; it must be positive"),
        ({"start": 2.0}, "wanted 0 <= low <= start <= high, as 0.0, 0.0 and 1.0"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveEntropy(**changes)


def test_a_stage_goes_on_with_its_coefficient_bitwise(tmp_path, monkeypatch):
    """Stopped after 2 of 4 steps and started again: the same numbers, the same weights."""
    smoke = load_config("digits_smoke")
    # A model that knows nothing has an entropy below 10 nats: the coefficient rises.
    stage = dataclasses.replace(
        smoke.stages["grpo"],
        steps=4,
        checkpoint_every=2,
        evaluate_every=0,
        max_completion_tokens=8,
        entropy_coef=AdaptiveEntropy(target=10.0, step=0.01, start=0.02, high=0.045),
    )
    evaluate = dataclasses.replace(smoke.evaluate, sets=(), pooled=(), answer_prior=())
    config = dataclasses.replace(
        smoke, stages={"grpo": stage}, evaluate=evaluate, mesh=(1, 1, 1)
    )
    whole = tmp_path / "whole"
    torn = tmp_path / "torn"
    pipeline.run(config, whole, quiet=True)

    # The newest state is that after step 1: step 2 is made again.
    cut_off(config, torn, step=3)
    pipeline.run(config, torn, quiet=True)

    steps = [line for line in metrics.read(whole) if line["stage"] == "grpo"]
    counted = np.float32([line["number/entropy_coef"] for line in steps])
    np.testing.assert_array_equal(counted, np.float32([0.02, 0.03, 0.04, 0.045]))
    resumed = [line for line in metrics.read(torn) if line["stage"] == "grpo"]
    for name in ("loss", "policy_entropy", "number/entropy_coef", "entropy_coef/next"):
        assert [x[name] for x in steps] == [x[name] for x in resumed], name
    summary = json.loads((torn / "summary.json").read_text())
    assert summary["compiles_after_warmup"] == 0
    straight = jax.tree.leaves(weights.load_weights(whole / "grpo/done"))
    again = jax.tree.leaves(weights.load_weights(torn / "grpo/done"))
    for a, b in zip(straight, again, strict=True):
        np.testing.assert_array_equal(a, b)
