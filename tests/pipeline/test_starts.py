"""A stage starts with the weights that its `start` names, in a whole run and alone."""

import dataclasses
import shutil

import numpy as np
import pytest
from flax import nnx

from r1v3_jax import hf
from r1v3_jax.config import Run, load
from r1v3_jax.hf.load import flatten_state
from r1v3_jax.pipeline import pipeline, preflight
from r1v3_jax.run.weights import load_weights


@pytest.fixture(scope="module")
def base() -> Run:
    """A run whose one stage is supervised and short; nothing is measured after it."""
    smoke = load.load_config("digits_smoke")
    evaluate = dataclasses.replace(
        smoke.evaluate, sets=(), pooled=(), answer_prior=(), probe=None
    )
    base = smoke.stages["base"]
    # Without warm-up: a first step at a rate of 0 would leave every start the same.
    optimizer = dataclasses.replace(base.optimizer, warmup_steps=0)
    stage = dataclasses.replace(base, steps=1, checkpoint_every=1, optimizer=optimizer)
    return dataclasses.replace(smoke, stages={"base": stage}, evaluate=evaluate)


@pytest.fixture(scope="module")
def branched(base) -> Run:
    """Two stages behind `base`: one begins anew, one goes on with `base`."""
    stage = base.stages["base"]
    return base.with_stages(
        anew=dataclasses.replace(stage, start="init", steps=2),
        behind_base=dataclasses.replace(stage, start="base", steps=2),
    )


@pytest.fixture(scope="module")
def finished(branched, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("branched")
    preflight.check(branched, workdir)
    pipeline.run(branched, workdir, quiet=True)
    return workdir


def arrays(directory, model=None) -> dict:
    model = model if model is not None else load_weights(directory)
    return flatten_state(nnx.state(model))


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_a_stage_begins_where_its_start_says(base, branched, finished, tmp_path):
    """The same two steps in runs of their own, in which no start is named, leave the same bits."""
    stage = dataclasses.replace(base.stages["base"], steps=2)
    pipeline.run(
        dataclasses.replace(base, stages={"anew": stage}),
        tmp_path / "first",
        quiet=True,
    )
    pipeline.run(base.with_stages(behind_base=stage), tmp_path / "second", quiet=True)
    anew = arrays(finished / "anew/done")
    behind_base = arrays(finished / "behind_base/done")
    assert_same(anew, arrays(tmp_path / "first/anew/done"))
    assert_same(behind_base, arrays(tmp_path / "second/behind_base/done"))
    # Both have learnt the same rows: what differs is where they began.
    assert any(np.any(anew[name] != behind_base[name]) for name in anew)


def test_the_last_stage_of_the_table_is_exported(finished):
    exported = arrays(None, hf.load(finished / "export", vocab_multiple=1))
    kept = arrays(finished / "behind_base/done")
    for name, array in exported.items():
        # The vocabulary's pad rows are not exported.
        np.testing.assert_array_equal(array, kept[name][: len(array)], err_msg=name)


@pytest.mark.parametrize("alone", ["", "behind_base"])
def test_a_stage_that_was_killed_goes_on_from_the_same_start(
    branched, finished, tmp_path, alone
):
    """With a state of its first step on disk and without any, in the whole run and alone."""
    workdir = tmp_path / "killed"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "behind_base/done")
    last = workdir / "behind_base/states/2"
    assert last.is_dir()
    shutil.rmtree(last)
    if alone:
        shutil.rmtree(workdir / "behind_base")
    run = dataclasses.replace(branched, stage=alone)
    preflight.check(run, workdir)
    pipeline.run(run, workdir, quiet=True)
    assert_same(
        arrays(workdir / "behind_base/done"), arrays(finished / "behind_base/done")
    )


def test_alone_it_needs_the_stage_that_it_names(branched, tmp_path):
    run = dataclasses.replace(branched, stage="behind_base")
    wanted = r"behind_base.start is 'base', and there is no .*base/done; run --config.stage=base"
    with pytest.raises(FileNotFoundError, match=wanted):
        preflight.check(run, tmp_path)
    # One that names none, or the initial weights, needs none.
    preflight.check(dataclasses.replace(branched, stage="anew"), tmp_path)
    preflight.check(branched, tmp_path)


def test_another_start_is_another_run(branched, finished, tmp_path):
    workdir = tmp_path / "changed"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "behind_base/done")
    moved = dataclasses.replace(branched.stages["behind_base"], start="anew")
    with pytest.raises(ValueError, match=r"behind_base.start"):
        preflight.check(branched.with_stages(behind_base=moved), workdir)
