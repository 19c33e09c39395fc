"""Safetensors in and out, against transformers and against a converter of the tests' own."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import torch_reference as reference
import transformers
from checkpoints_for_tests import (
    TORCH,
    assert_same_bits,
    our_logits,
    read_tensors,
    tensors_of,
    vision_language,
    write_checkpoint,
)
from flax import nnx
from random_models import params, random_model
from safetensors.torch import save_file

from r1v3_jax import hf
from r1v3_jax.config import TINY, Compute
from r1v3_jax.files import read_json
from r1v3_jax.hf.read_config import LAYOUTS
from r1v3_jax.hf.weights import VOCAB
from r1v3_jax.run.weights import load_weights
from r1v3_jax.sharding import make_mesh

ROOT = Path(__file__).parents[2]
IMAGE = reference.IMAGE_TOKEN
PROMPT = np.array([[5, 17, *[IMAGE] * 4, 40, 41, *[IMAGE] * 8, 42, 300, 330]])


@pytest.mark.parametrize("kind", ["rms-qwen2", "layernorm-qwen3"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layout_in_and_out_is_bitwise(tmp_path, kind, tie, dtype):
    """hf, memory and original, one file and many, give the same model. What it writes in hf and
    original is bit for bit what a checkpoint of those layouts holds, and is loaded again.
    """
    source = vision_language(kind, tie=tie)
    models = {}
    for layout, shards in [("hf", 1), ("memory", 3), ("original", 5), ("original", 1)]:
        directory = tmp_path / f"{layout}-{shards}"
        write_checkpoint(directory, source, layout, dtype, shards)
        models[directory.name] = hf.load(directory)
    first = models["hf-1"]
    assert first.config.text.tie_embeddings == tie
    assert first.compute == Compute(dtype=dtype, param_dtype=dtype)
    for model in models.values():
        # skywork_chat says which architecture it is, internvl does not.
        architecture = dict(architecture=first.config.architecture)
        assert dataclasses.replace(model.config, **architecture) == first.config
        assert_same_bits(params(model), params(first))
    for layout, limit in [("hf", 10**9), ("original", 30_000)]:
        out = tmp_path / f"out-{layout}"
        hf.save(first, out, layout, max_shard_bytes=limit)
        wanted = {
            name: t.to(TORCH[dtype]) for name, t in tensors_of(source, layout).items()
        }
        assert_same_bits(read_tensors(out), wanted)
        assert len(list(out.glob("*.safetensors"))) > 2 or limit == 10**9
        again = hf.load(out)
        assert again.config == first.config
        assert_same_bits(params(again), params(first))


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_language_models_alone_come_in_and_go_out(tmp_path, family, tie):
    text = reference.text_config(qwen3=family == "qwen3", tie_word_embeddings=tie)
    if family == "llama":
        settings = text.to_dict()
        for key in (
            "model_type",
            "layer_types",
            "use_sliding_window",
            "sliding_window",
        ):
            settings.pop(key, None)
        text = transformers.LlamaConfig(**settings)
    source = transformers.AutoModelForCausalLM.from_config(text)
    reference.randomize(source, seed=3)
    reference.save_hf(source, tmp_path / "in")
    model = hf.load(tmp_path / "in")
    assert model.config.vision is None and model.config.text.tie_embeddings == tie
    for layout in LAYOUTS:  # the same without a tower
        hf.save(model, tmp_path / layout, layout)
        assert_same_bits(read_tensors(tmp_path / layout), dict(source.state_dict()))
        again, info = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / layout, output_loading_info=True
        )
        assert type(again) is type(source)
        assert not any(
            info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        )
        with torch.no_grad():
            wanted = again(torch.from_numpy(PROMPT)).logits.numpy()
        # Two implementations in float32, logits of size 1.
        np.testing.assert_allclose(our_logits(model, PROMPT), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["rms-qwen2", "layernorm-qwen3"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_transformers_loads_the_hf_layout_and_computes_the_same(tmp_path, kind, tie):
    source = vision_language(kind, tie=tie, seed=1)
    write_checkpoint(tmp_path / "in", source, "original", "float32", shards=2)
    model = hf.load(tmp_path / "in")
    hf.save(model, tmp_path / "out", "hf", max_shard_bytes=40_000)
    again, info = transformers.InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(
        info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
    )
    assert again.config.tie_word_embeddings == tie
    tiles = reference.rng_tiles(3)
    with torch.no_grad():
        inputs = dict(
            input_ids=torch.from_numpy(PROMPT),
            pixel_values=reference.to_pixel_values(tiles),
        )
        wanted, got = source(**inputs).logits.numpy(), again(**inputs).logits.numpy()
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_allclose(our_logits(model, PROMPT, tiles), wanted, atol=1e-4)


def test_the_dtype_asked_for_is_the_dtype_given(tmp_path):
    source = vision_language("rms-qwen2")
    write_checkpoint(tmp_path / "f32", source, "hf", "float32")
    write_checkpoint(tmp_path / "bf16", source, "hf", "bfloat16")
    hf.save(hf.load(tmp_path / "f32", dtype="bfloat16"), tmp_path / "rounded")
    hf.save(hf.load(tmp_path / "bf16", dtype="float32"), tmp_path / "widened")
    rounded = read_tensors(tmp_path / "bf16")  # by torch, to the nearest even
    assert_same_bits(read_tensors(tmp_path / "rounded"), rounded)
    widened = {name: tensor.to(torch.float32) for name, tensor in rounded.items()}
    assert_same_bits(read_tensors(tmp_path / "widened"), widened)
    assert read_json(tmp_path / "rounded" / "config.json")["torch_dtype"] == "bfloat16"


def test_half_precision_files_want_a_dtype(tmp_path):
    source = vision_language("rms-qwen2")
    write_checkpoint(tmp_path / "in", source, "hf", "float32")
    tensors = {n: t.to(torch.float16) for n, t in read_tensors(tmp_path / "in").items()}
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    with pytest.raises(
        ValueError, match="its tensors are F16; say which dtype you want"
    ):
        hf.load(tmp_path / "in")
    hf.save(hf.load(tmp_path / "in", dtype="float32"), tmp_path / "out")
    widened = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    assert_same_bits(read_tensors(tmp_path / "out"), widened)
    with pytest.raises(ValueError, match="pass dtype or compute, not both"):
        hf.load(tmp_path / "in", dtype="float32", compute=Compute())


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (8, 1, 1), (1, 4, 2)])
def test_a_mesh_holds_the_same_bits(tmp_path, shape):
    """One device or eight, in and out; also where the program has set the mesh."""
    source = vision_language("rms-qwen2")
    write_checkpoint(tmp_path / "in", source, "original", "bfloat16", shards=2)
    wanted = params(hf.load(tmp_path / "in"))
    mesh = make_mesh(shape)
    model = hf.load(tmp_path / "in", mesh=mesh)
    assert_same_bits(params(model), wanted)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        assert variable.get_value().sharding.mesh == mesh, path
    hf.save(model, tmp_path / "out", "hf")
    with jax.set_mesh(mesh):
        assert_same_bits(params(hf.load(tmp_path / "out", mesh=mesh)), wanted)
        hf.save(model, tmp_path / "out2", "hf")
    assert_same_bits(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "out2"))
    embedding = nnx.state(model).language.embedding.get_value()
    rows = {shard.data.shape[0] for shard in embedding.addressable_shards}
    assert rows == {1024 // shape[2]}  # 331 rows and padding, in shards


def test_the_current_mesh_is_the_default(tmp_path):
    write_checkpoint(tmp_path / "in", vision_language("rms-qwen2"), "hf", "float32")
    wanted = params(hf.load(tmp_path / "in"))
    mesh = make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        model = hf.load(tmp_path / "in")
    assert_same_bits(params(model), wanted)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        assert variable.get_value().sharding.mesh == mesh, path


def test_rope_impl_is_the_caller_s(tmp_path):
    config = dataclasses.replace(
        TINY, text=dataclasses.replace(TINY.text, rope_factor=2.0)
    )
    hf.save(random_model(config), tmp_path / "out", "original")
    assert hf.load(tmp_path / "out").config == config
    static = hf.load(tmp_path / "out", rope_impl="vllm_static")
    text = dataclasses.replace(config.text, rope_impl="vllm_static")
    assert static.config == dataclasses.replace(config, text=text)
    with pytest.raises(ValueError) as raised:
        hf.load(tmp_path / "out", rope_impl="yarn")
    assert str(raised.value) == (
        "TextConfig.rope_impl is 'yarn'; choose from hf, vllm_static"
    )


def test_pad_rows_of_the_vocabulary_are_zero_and_stay_here(tmp_path):
    write_checkpoint(tmp_path / "in", vision_language("rms-qwen2"), "hf", "float32")
    model = hf.load(tmp_path / "in")
    for name in VOCAB:
        weight = params(model)[name]
        assert (
            weight.shape == (1024, 32) and weight[:331].all() and not weight[331:].any()
        )


TWO_PROCESSES = """
import sys
import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
from r1v3_jax import hf, sharding
from r1v3_jax.run import weights

work, mesh = sys.argv[3], sharding.make_mesh((1, 4, 2))
with jax.set_mesh(mesh):
    model = hf.load(f"{work}/in", mesh=mesh)
    weights.save_weights(f"{work}/checkpoint", model)
    again = weights.load_weights(f"{work}/checkpoint", mesh=mesh)
    hf.save(again, f"{work}/out", "original", max_shard_bytes=50_000)
assert len(jax.local_devices()) == 4 and not model.language.head.get_value().is_fully_addressable
"""


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    """Four devices each, as two hosts of a pod: in, to a checkpoint, from it, and out again."""
    source = vision_language("rms-qwen2", seed=2)
    write_checkpoint(tmp_path / "in", source, "hf", "bfloat16", shards=2)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, port, str(i), tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    wanted = {
        n: t.to(torch.bfloat16) for n, t in tensors_of(source, "original").items()
    }
    assert_same_bits(read_tensors(tmp_path / "out"), wanted)
    restored = load_weights(tmp_path / "checkpoint")
    assert_same_bits(params(restored), params(hf.load(tmp_path / "in")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "in", "out"]
