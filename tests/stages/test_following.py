"""A reference that follows the policy: its average, resumption, programs, refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_runs import cut_off, exported, half_right, lines_of, short

from r1v3_jax.config import Optimizer
from r1v3_jax.models import build
from r1v3_jax.pipeline import pipeline, preflight, start
from r1v3_jax.rewards import score
from r1v3_jax.rewards.helpers import Likely
from r1v3_jax.rewards.reward import Reward
from r1v3_jax.rewards.terms import correct, well_formed
from r1v3_jax.run import weights
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages import following, grpo, kinds


@pytest.fixture(scope="module")
def config():
    return short(
        steps=4,
        optimizer=Optimizer(lr=1e-2),
        reward=Reward(((0.8, correct), (0.2, well_formed), (0.5, Likely()))),
        kl_coef=0.01,
        reference_decay=0.75,
        reference_every=2,
    )


def test_the_average_written_out(config):
    model = build.init(config.model, config.compute, seed=1)
    reference = build.init(config.model, config.compute, seed=2)
    arrays = [np.asarray(x) for x in jax.tree.leaves(reference)]
    stage = dataclasses.replace(config.stages["grpo"], reference_every=3)
    for step in range(2):
        reference = following.followed(stage, step, reference, model)
    for before, after in zip(arrays, jax.tree.leaves(reference), strict=True):
        np.testing.assert_array_equal(before, np.asarray(after))
    reference = following.followed(stage, 2, reference, model)
    policy = [np.asarray(x) for x in jax.tree.leaves(model)]
    for old, new, after in zip(arrays, policy, jax.tree.leaves(reference), strict=True):
        # Two products and a sum in float32.
        np.testing.assert_allclose(
            np.asarray(after), 0.75 * old + 0.25 * new, rtol=0, atol=1e-6
        )


def test_decay_one_keeps_every_bit_of_any_dtype():
    values = np.array([1e-30, -3.3e38, 0.1, -0.0, 65280.0], np.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        old = jnp.asarray(values, dtype)
        mean = 1.0 * old.astype(jnp.float32) + (1 - 1.0) * jnp.ones(5)
        np.testing.assert_array_equal(mean.astype(dtype), old)


def test_a_run_whose_reference_follows_resumes_in_the_same_bits(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(score, "verify_all", half_right)
    followed = following.followed
    references = []
    ran = set()
    follow = following.follow
    follow.clear_cache()  # of other tests' runs: here it is compiled, and counted

    def lowered(*args):
        ran.add(follow.lower(*args).as_text())
        return follow(*args)

    monkeypatch.setattr(following, "follow", lowered)

    def watched(stage, step, reference, model):
        reference = followed(stage, step, reference, model)
        references.append([np.asarray(x).copy() for x in jax.tree.leaves(reference)])
        return reference

    # 1. A whole run: the reference moves behind the second step and the fourth.
    monkeypatch.setattr(grpo, "followed", watched)
    preflight.check(config)
    pipeline.run(config, tmp_path / "whole", quiet=True)
    summary = json.loads((tmp_path / "whole/summary.json").read_text())
    assert summary["compiles_after_warmup"] == 0
    assert summary["programs"]["follow"] == 1
    moves = [
        any(not np.array_equal(a, b) for a, b in zip(old, new, strict=True))
        for old, new in zip(references, references[1:], strict=False)
    ]
    assert moves == [True, False, True]
    whole = references.copy()
    lines = lines_of(tmp_path / "whole")
    assert all({"reward/likely", "reward/likelihood"} <= line.keys() for line in lines)
    assert len({line["reward/likelihood"] for line in lines}) > 1

    # 2. Cut off in the fourth step, and gone on with: the same reference, the same weights.
    cut_off(config, tmp_path / "cut", step=3)
    references.clear()
    pipeline.run(config, tmp_path / "cut", quiet=True)
    (last,) = references
    for a, b in zip(whole[3], last, strict=True):
        np.testing.assert_array_equal(a, b)
    assert exported(tmp_path / "cut") == exported(tmp_path / "whole")

    # 3. The dry run lists it, as it ran.
    monkeypatch.undo()
    tokenizer = start.make_processor(config, tmp_path / "whole/tokenizer").tokenizer
    mesh = make_mesh(config.mesh)
    table = kinds.stage_programs(config, "grpo", mesh, tokenizer.banned_token_ids)
    assert [p.lower().as_text() for p in table if p.name == "follow"] == [*ran]


def test_a_reference_of_another_size_cannot_follow(config, tmp_path):
    text = dataclasses.replace(config.model.text, layers=config.model.text.layers + 1)
    other = dataclasses.replace(config.model, text=text)
    weights.save_weights(tmp_path / "other", build.init(other, config.compute))
    stage = dataclasses.replace(
        config.stages["grpo"], reference=str(tmp_path / "other")
    )
    with pytest.raises(ValueError, match="layers or widths than the policy, which it"):
        preflight.check(config.with_stages(grpo=stage))


def test_small_steps_in_bfloat16_are_refused(config):
    compute = dataclasses.replace(config.compute, param_dtype="bfloat16")
    with pytest.raises(
        ValueError, match="which compute.param_dtype = 'bfloat16' rounds"
    ):
        dataclasses.replace(config, compute=compute)
