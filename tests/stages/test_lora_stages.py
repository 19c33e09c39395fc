"""Runs that train low-rank adapters: what is saved, resumption, another base, the dry run."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from short_runs import cut_off, exported, half_right, short

from r1v3_jax import checksums
from r1v3_jax.config import LoRA, Optimizer
from r1v3_jax.pipeline import pipeline, preflight, start
from r1v3_jax.rewards import score
from r1v3_jax.run import weights
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages import grpo, kinds


@pytest.fixture(scope="module")
def config():
    run = short(
        steps=3,
        evaluate_every=2,
        trainable="llm+connector",
        lora=LoRA(rank=4, alpha=8.0),
        optimizer=Optimizer(lr=1e-2),
    )
    first = dataclasses.replace(
        run.stages["cold_start"], trainable="llm", lora=LoRA(rank=2)
    )
    second = dataclasses.replace(first, steps=2, validate_every=1, patience=1)
    stages = {"first": first, "cold_start": second, "grpo": run.stages["grpo"]}
    return dataclasses.replace(run, stages=stages)


def test_a_run_with_adapters(config, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "verify_all", half_right)
    preflight.check(config)

    # 1. A whole run.
    pipeline.run(config, tmp_path / "whole", quiet=True)
    summary = json.loads((tmp_path / "whole/summary.json").read_text())
    assert summary["compiles_after_warmup"] == 0
    before = weights.load_weights(tmp_path / "whole/cold_start/done")
    after = weights.load_weights(tmp_path / "whole/grpo/done")
    # What it hands on has whole matrices, and only matrices and the connector are others.
    changed = {
        path
        for (path, old), (_, new) in zip(
            nnx.to_flat_state(nnx.state(before)),
            nnx.to_flat_state(nnx.state(after)),
            strict=True,
        )
        if not np.array_equal(old.get_value(), new.get_value())
    }
    matrices = {
        ("language", "blocks", name)
        for name in ("q", "k", "v", "out", "gate", "up", "down")
    }
    assert changed & matrices == matrices
    assert {path[0] for path in changed - matrices} == {"connector"}

    # The adapters of the stage before are in its weights, and the base of both is named.
    settings = json.loads(
        (tmp_path / "whole/cold_start/adapters/adapter_config.json").read_text()
    )
    first = tmp_path / "whole/first/done"
    assert settings["base_model_name_or_path"] == str(first)

    # 2. Its states hold adapters, the connector, their moments, and the name of the base.
    saved = tmp_path / "whole/grpo/states/3"
    body = checksums.read_manifest(saved)
    arrays = {name for name in body["arrays"] if name.startswith(".model")}
    assert arrays
    assert all(".adapters." in name or ".connector." in name for name in arrays)
    assert body["base"]["origin"] == str(tmp_path / "whole/cold_start/done")
    adapters = load_file(tmp_path / "whole/grpo/adapters/adapter_model.safetensors")
    layers = config.model.text.layers
    assert len([n for n in adapters if ".lora_A." in n]) == 7 * layers
    assert len([n for n in adapters if "multi_modal_projector" in n]) == 6

    # 3. Cut off in the last step, and gone on with: the same bits.
    cut_off(config, tmp_path / "cut", step=2)
    shutil.copytree(tmp_path / "cut", tmp_path / "other")
    pipeline.run(config, tmp_path / "cut", quiet=True)
    assert exported(tmp_path / "cut") == exported(tmp_path / "whole")

    # 4. Adapters of another base are refused.
    model = weights.load_weights(tmp_path / "other/cold_start/done")
    embedding = model.language.embedding
    embedding[...] = embedding[...].at[0, 0].add(1.0)
    done = tmp_path / "other/cold_start/done"
    shutil.rmtree(done)
    weights.save_weights(done, model, tokenizer=tmp_path / "other/tokenizer")
    for accept_changes in (False, True):
        with pytest.raises(
            ValueError, match="holds adapters for the weights of .*done, chec"
        ):
            pipeline.run(
                config, tmp_path / "other", quiet=True, accept_changes=accept_changes
            )


@pytest.mark.parametrize("base_int8", [False, True])
def test_the_dry_run_lists_what_runs(config, tmp_path, monkeypatch, base_int8):
    monkeypatch.setattr(score, "verify_all", half_right)
    lora = LoRA(rank=4, base_int8=base_int8)
    stage = dataclasses.replace(
        config.stages["grpo"], lora=lora, steps=1, evaluate_every=0, kl_coef=0.01
    )
    config = config.with_stages(grpo=stage)
    ran = {}
    make_update = grpo.make_update

    def recorded(stage):
        optimizer, update = make_update(stage)

        def called(state, batch):
            ran["update"] = update.lower(state, batch).as_text()
            return update(state, batch)

        return optimizer, called

    monkeypatch.setattr(grpo, "make_update", recorded)
    pipeline.run(config, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    tokenizer = start.make_processor(config, tmp_path / "run/tokenizer").tokenizer
    mesh = make_mesh(config.mesh)
    table = kinds.stage_programs(config, "grpo", mesh, tokenizer.banned_token_ids)
    texts = {program.name: program.lower().as_text() for program in table}
    assert texts["update"] == ran["update"]
    # What the run compiled by name is in the table.
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {"reshard", "score", "update"} <= texts.keys()
    assert summary["programs"]["reshard"] == 1


def test_more_prices_of_adapters(config):
    """Adapters have moments where whole matrices had them."""
    mesh = make_mesh(config.mesh)

    def bytes_of_moments(stage) -> int:
        table = kinds.stage_programs(config.with_stages(grpo=stage), "grpo", mesh, ())
        (update,) = (program for program in table if program.name == "update")
        shapes = jax.tree.leaves(update.lower().in_avals)
        return sum(x.size * x.dtype.itemsize for x in shapes)

    with_lora = config.stages["grpo"]
    whole = dataclasses.replace(with_lora, lora=None)
    assert bytes_of_moments(with_lora) < 0.6 * bytes_of_moments(whole)
