"""Checkpoints of our own: bitwise, onto any mesh, whole or not there, damage refused."""

import dataclasses
import logging
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tokenizers_for_tests
from flax import nnx
from random_models import params, random_model

from r1v3_jax.config import TINY, TINY_300M, Compute
from r1v3_jax.files import write_json
from r1v3_jax.run import checkpoints
from r1v3_jax.run.weights import load_weights, read_config, save_weights
from r1v3_jax.sharding import make_mesh

TIED = dataclasses.replace(
    TINY, text=dataclasses.replace(TINY.text, tie_embeddings=True)
)
ALONE = dataclasses.replace(TINY_300M, vision=None, image_token_id=None)
MODELS = {"6b-qwen2": TINY, "300m-qwen3": TINY_300M, "tied": TIED, "language": ALONE}
BF16 = Compute(dtype="bfloat16", param_dtype="bfloat16")


def assert_same_bits(got: dict, wanted: dict):
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype, name
        np.testing.assert_array_equal(
            got[name].view(np.uint8), value.view(np.uint8), name
        )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of the tiny model with a tokenizer, and the model."""
    directory = tmp_path_factory.mktemp("saved")
    (directory / "tokenizer").mkdir()
    tokenizers_for_tests.write_tiny_tokenizer(directory / "tokenizer")
    model = random_model(TINY)
    save_weights(
        directory / "checkpoint", model, tokenizer=directory / "tokenizer"
    )  # fmt: skip
    return directory / "checkpoint", model


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("compute", [Compute(), BF16], ids=["float32", "bfloat16"])
def test_a_model_comes_back_bitwise(tmp_path, name, compute):
    model = random_model(MODELS[name], compute)
    save_weights(tmp_path / "out", model)
    again = load_weights(tmp_path / "out")
    assert again.config == MODELS[name]
    assert again.compute == compute
    assert_same_bits(params(again), params(model))
    assert read_config(tmp_path / "out") == (MODELS[name], compute.param_dtype)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_it_comes_back_onto_any_mesh(tmp_path, saved, shape):
    """From one device to a mesh, and from there to one device; each array where the rules say."""
    directory, model = saved
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        spread = load_weights(directory, mesh=mesh)
        save_weights(tmp_path / "out", spread)
        up = nnx.state(spread).language.blocks.up.get_value()
        assert up.sharding == jax.sharding.NamedSharding(
            mesh, jax.sharding.PartitionSpec(None, ("data", "fsdp"), "tensor")
        )
    assert_same_bits(params(spread), params(model))
    assert_same_bits(params(load_weights(tmp_path / "out")), params(model))


def test_the_current_mesh_is_the_default(saved):
    directory, model = saved
    mesh = make_mesh((1, 2, 2))
    with jax.set_mesh(mesh):
        spread = load_weights(directory)
    assert spread.language.blocks.up.get_value().sharding.mesh == mesh
    assert_same_bits(params(spread), params(model))


def test_rope_impl_travels_with_the_weights(tmp_path):
    text = dataclasses.replace(TINY.text, rope_factor=2.0, rope_impl="vllm_static")
    config = dataclasses.replace(TINY, text=text)
    save_weights(tmp_path / "out", random_model(config))
    assert load_weights(tmp_path / "out").config == config


def test_a_dtype_that_is_none_is_refused_by_name(tmp_path):
    path = tmp_path / "model.json"
    write_json(path, {"dtype": "int4", "config": dataclasses.asdict(TINY)})
    with pytest.raises(ValueError) as raised:
        read_config(tmp_path)
    assert str(raised.value) == (
        f"{path}: not a model description of this version (Compute.param_dtype is 'int4'; choose "
        "from float32, bfloat16); import the model again"
    )


def test_a_directory_that_is_no_checkpoint_is_refused_by_name(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError) as raised:
            load_weights(directory)
        assert str(raised.value) == (
            f"{directory}/model.json: no such file; give a checkpoint of this program, as "
            "tools/import_hf.py makes"
        )


def test_the_dtype_asked_for_is_the_dtype_given(tmp_path, saved):
    directory, model = saved
    rounded = load_weights(directory, compute=BF16)
    wanted = {
        name: np.asarray(x.astype(jnp.bfloat16)) for name, x in params(model).items()
    }
    assert_same_bits(params(rounded), wanted)
    save_weights(tmp_path / "out", rounded)
    widened = load_weights(tmp_path / "out", compute=Compute())
    wanted = {name: x.astype(np.float32) for name, x in wanted.items()}
    assert_same_bits(params(widened), wanted)


def test_the_tokenizer_comes_along_as_it_was(saved):
    directory, _ = saved
    source = directory.parent / "tokenizer"
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    assert {
        p.name: p.read_bytes() for p in (directory / "tokenizer").iterdir()
    } == files


def test_nothing_is_overwritten(tmp_path, saved):
    directory, model = saved
    before = {
        path: path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    with pytest.raises(
        FileExistsError, match="checkpoint exists and is not an empty directory"
    ):
        save_weights(directory, model)
    assert {
        path: path.read_bytes() for path in directory.rglob("*") if path.is_file()
    } == before
    with pytest.raises(FileNotFoundError, match="no tokenizer files"):
        save_weights(tmp_path / "new", model, tokenizer=tmp_path)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("moment", ["in Orbax", "before the name"])
def test_an_interrupted_save_leaves_no_checkpoint(tmp_path, saved, monkeypatch, moment):
    _, model = saved

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "in Orbax":
            patch.setattr(ocp.StandardCheckpointer, "save", stop)
        else:
            patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            save_weights(tmp_path / "out", model)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="out/model.json: no such file"):
        load_weights(tmp_path / "out")
    if moment == "in Orbax":
        with pytest.raises(FileNotFoundError, match="model.json: no such file"):
            load_weights(tmp_path / "out.partial")
    save_weights(tmp_path / "out", model)
    assert_same_bits(params(load_weights(tmp_path / "out")), params(model))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def largest(directory: Path) -> Path:
    files = [path for path in (directory / "weights").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGED = {
    "bit": (
        lambda d: flip_a_bit(largest(d)),
        r"copy/weights is damaged: \S+ has changed; copy it again",
    ),
    "cut": (
        lambda d: largest(d).write_bytes(largest(d).read_bytes()[:99]),
        r"copy/weights is damaged: \S+ has changed",
    ),
    "lost": (lambda d: largest(d).unlink(), r"copy/weights is damaged: \S+ is missing"),
    "no-weights": (
        lambda d: shutil.rmtree(d / "weights"),
        "weights/SHA256SUMS: no such file",
    ),
    "no-sums": (
        lambda d: (d / "weights" / "SHA256SUMS").unlink(),
        "SHA256SUMS: no such file",
    ),
    "no-model": (lambda d: (d / "model.json").unlink(), "model.json: no such file"),
    "no-json": (lambda d: (d / "model.json").write_text("{"), "model.json: not JSON"),
    "other-model": (
        lambda d: write_json(
            d / "model.json",
            {"dtype": "float32", "config": dataclasses.asdict(TIED)},
        ),
        "copy: weights and model.json disagree: ",
    ),
    "old-model": (
        lambda d: write_json(
            d / "model.json", {"dtype": "float32", "config": {"d": 1}}
        ),
        "model.json: not a model description of this version",
    ),
}


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damage_is_refused_by_name(tmp_path, saved, name):
    """A flipped bit too: Orbax restores it as a number."""
    directory = tmp_path / "copy"
    shutil.copytree(saved[0], directory)
    load_weights(directory)
    damage, message = DAMAGED[name]
    damage(directory)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        load_weights(directory)
    assert str(directory) in str(raised.value)


def test_training_states_come_back_bitwise_and_the_newest_are_kept(tmp_path):
    """Whatever the tree: weights in two dtypes, a step, on a mesh."""
    mesh = make_mesh((1, 2, 2))
    spread = jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec("fsdp", "tensor")
    )
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 6)).astype(np.float32)
    states = checkpoints.States(tmp_path / "states", keep=2)
    assert states.steps() == []

    def state(step):
        return {
            "weights": jax.device_put(weights + step, spread),
            "moments": [jax.device_put((weights * step).astype(jnp.bfloat16), spread)],
            "step": jnp.int32(step),
        }

    for step in (2, 10, 30):
        states.save(step, state(step), {"cursor": step * 7})
    states.wait()
    assert states.steps() == [10, 30]
    (tmp_path / "states" / "40" / "state").mkdir(
        parents=True
    )  # what an interrupted save leaves
    assert states.steps() == [10, 30]
    like = jax.tree.map(jnp.zeros_like, state(0))
    step, restored, extra = states.newest(like)
    assert step == 30 and extra == {"cursor": 210}
    for got, wanted, given in zip(
        *map(jax.tree.leaves, (restored, state(30), like)), strict=True
    ):
        assert got.sharding == given.sharding and got.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


def tiny_state(step):
    return {"weights": jnp.arange(6.0) + step, "step": jnp.int32(step)}


def test_steps_that_are_kept_whatever_their_age(tmp_path):
    states = checkpoints.States(tmp_path / "states", keep=1, keep_every=20)
    for step in (10, 20, 30, 40, 50):
        states.chosen = {10}
        states.save(step, tiny_state(step), {})
    states.wait()
    assert states.steps() == [10, 20, 40, 50]


def test_an_array_given_away_after_the_save_began_is_saved_as_it_was(tmp_path):
    """The next update donates the state while Orbax writes it."""
    states = checkpoints.States(tmp_path / "states", keep=100)
    change = jax.jit(lambda x: jax.tree.map(lambda a: a * 2 + 1, x), donate_argnums=0)
    state = {"weights": jnp.linspace(0, 1, 200_000)}
    wanted = []
    for step in range(6):
        wanted.append(np.array(state["weights"]))
        states.save(step, state, {})
        state = change(state)
    states.wait()
    for step, weights in enumerate(wanted):
        restored, _ = states.restore(step, state)
        np.testing.assert_array_equal(np.asarray(restored["weights"]), weights)


def test_a_state_of_another_run_is_refused_by_its_fields(tmp_path):
    states = checkpoints.States(
        tmp_path / "states", about={"model.layers": "2", "stage": "grpo"}
    )
    states.save(10, tiny_state(10), {})
    states.wait()
    other = checkpoints.States(
        tmp_path / "states", about={"model.layers": "3", "stage": "grpo"}
    )
    with pytest.raises(ValueError, match="model.layers is 2 there and 3 here. "):
        other.newest(tiny_state(0))
    accepting = checkpoints.States(
        tmp_path / "states", about={"a": "b"}, accept_changes=True
    )
    assert accepting.newest(tiny_state(0))[0] == 10
    for like, message in (
        (
            tiny_state(0) | {"weights": jnp.zeros(7)},
            r"\['weights'\] is \[\[6\], 'float32'\] there",
        ),
        (tiny_state(0) | {"weights": jnp.zeros(6, jnp.bfloat16)}, "'bfloat16'] here"),
        (tiny_state(0) | {"bias": jnp.zeros(6)}, r"\['bias'\] is missing there"),
    ):
        with pytest.raises(ValueError, match=message):
            states.newest(like)


def test_damaged_steps_do_not_count_among_those_that_are_kept(tmp_path, caplog):
    """Passed over, a damaged step with a higher number must not push out the good one."""
    logging.getLogger("absl").propagate = True
    directory = tmp_path / "states"
    states = checkpoints.States(directory, keep=2, keep_every=10)
    for step in (10, 18, 19):
        states.save(step, tiny_state(step), {})
    states.wait()
    for step in (18, 19):
        flip_a_bit(
            max(p for p in (directory / f"{step}/state").rglob("*") if p.is_file())
        )
    (directory / "20" / "state").mkdir(parents=True)
    assert states.newest(tiny_state(0))[0] == 10
    assert caplog.text.count("is damaged") == 2
    assert "20: its save was not finished; passed over" in caplog.text
    states.save(14, tiny_state(14), {})
    states.wait()
    assert states.steps() == [10, 14] and sorted(os.listdir(directory)) == ["10", "14"]
    (directory / "14" / "state" / "more").write_text("x")
    assert states.newest(tiny_state(0))[0] == 10
    assert "more is in no manifest" in caplog.text


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("rows are gone")])
def test_every_process_ends_when_the_work_of_the_first_fails(monkeypatch, error):
    """Two processes, one after the other: what the first tells is what the second hears."""

    def fails():
        raise error

    told = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        checkpoints.multihost_utils,
        "process_allgather",
        lambda failed: told.append(failed) or np.asarray(told),
    )
    with pytest.raises(type(error), match=str(error)):
        checkpoints.first_process_does(fails)
    monkeypatch.setattr(checkpoints, "first_process", lambda: False)
    with pytest.raises(OSError, match="process 0 .* its own error says why"):
        checkpoints.first_process_does(fails)
    assert told == [1, 0]
