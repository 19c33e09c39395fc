"""Hugging Face safetensors in and out, against transformers and against a converter of its own.

What `config.json` says and refuses is in test_hf_config.py.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
import transformers
from checkpoints_for_tests import (
    TORCH,
    assert_same_bits,
    cannot_be_loaded,
    change_json,
    our_logits,
    read_tensors,
    refusal,
    tensors_of,
    vision_language,
    write_checkpoint,
)
from flax import nnx
from random_models import params, random_model
from safetensors.torch import load_file, save_file

from r1v3_jax import hf
from r1v3_jax.config import PRESETS, TINY, TINY_300M, Compute
from r1v3_jax.files import read_json, write_json
from r1v3_jax.hf import load, processor_files, read_config, weights, write_config
from r1v3_jax.hf.load import INDEX
from r1v3_jax.models.flops import num_params
from r1v3_jax.run.weights import load_weights
from r1v3_jax.sharding import make_mesh

ROOT = Path(__file__).parents[2]


IMAGE = reference.IMAGE_TOKEN
PROMPT = np.array([[5, 17, *[IMAGE] * 4, 40, 41, *[IMAGE] * 8, 42, 300, 330]])


# -------------------------------------------------------------------------------------------------
# round trips


@pytest.mark.parametrize("kind", ["rms-qwen2", "layernorm-qwen3"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layout_in_and_out_is_bitwise(tmp_path, kind, tie, dtype):
    """hf, memory and original, one file and many, give one model; what it writes in hf and
    original is bit for bit what a checkpoint of those layouts holds, and comes in again.
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
        text = transformers.LlamaConfig(**{
            key: value for key, value in text.to_dict().items()
            if key not in ("model_type", "layer_types", "use_sliding_window", "sliding_window")
        })  # fmt: skip
    source = transformers.AutoModelForCausalLM.from_config(text)
    reference.randomize(source, seed=3)
    reference.save_hf(source, tmp_path / "in")
    model = hf.load(tmp_path / "in")
    assert model.config.vision is None and model.config.text.tie_embeddings == tie
    for layout in read_config.LAYOUTS:  # the same without a tower
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
    )  # fmt: skip


def test_pad_rows_of_the_vocabulary_are_zero_and_stay_here(tmp_path):
    write_checkpoint(tmp_path / "in", vision_language("rms-qwen2"), "hf", "float32")
    model = hf.load(tmp_path / "in")
    for name in weights.VOCAB:
        weight = params(model)[name]
        assert (
            weight.shape == (1024, 32) and weight[:331].all() and not weight[331:].any()
        )


# -------------------------------------------------------------------------------------------------
# the published scheme, written out


def original_scheme(
    *, layers, rms, qkv_bias, qk_norm, text_layers, q_bias, head_norm
) -> set[str]:
    """Names of Skywork-R1V3's and InternVL3's files."""
    names = {
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.position_embedding",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.patch_embedding.bias",
        "mlp1.0.weight", "mlp1.0.bias", "mlp1.1.weight", "mlp1.1.bias",
        "mlp1.3.weight", "mlp1.3.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
    }  # fmt: skip
    for i in range(layers):
        block = f"vision_model.encoder.layers.{i}"
        names |= {
            f"{block}.attn.qkv.weight", f"{block}.attn.proj.weight", f"{block}.attn.proj.bias",
            f"{block}.mlp.fc1.weight", f"{block}.mlp.fc1.bias",
            f"{block}.mlp.fc2.weight", f"{block}.mlp.fc2.bias",
            f"{block}.norm1.weight", f"{block}.norm2.weight", f"{block}.ls1", f"{block}.ls2",
        }  # fmt: skip
        if not rms:
            names |= {f"{block}.norm1.bias", f"{block}.norm2.bias"}
        if qkv_bias:
            names |= {f"{block}.attn.qkv.bias"}
        if qk_norm:
            names |= {f"{block}.attn.q_norm.weight", f"{block}.attn.k_norm.weight"}
    for i in range(text_layers):
        block = f"language_model.model.layers.{i}"
        names |= {
            f"{block}.self_attn.q_proj.weight", f"{block}.self_attn.k_proj.weight",
            f"{block}.self_attn.v_proj.weight", f"{block}.self_attn.o_proj.weight",
            f"{block}.mlp.gate_proj.weight", f"{block}.mlp.up_proj.weight",
            f"{block}.mlp.down_proj.weight",
            f"{block}.input_layernorm.weight", f"{block}.post_attention_layernorm.weight",
        }  # fmt: skip
        if q_bias:
            names |= {f"{block}.self_attn.{p}_proj.bias" for p in "qkv"}
        if head_norm:
            names |= {f"{block}.self_attn.{p}_norm.weight" for p in "qk"}
    return names


def test_original_names_of_both_towers_are_the_published_ones():
    rms = {piece.name for piece in weights.pieces(TINY, "original")}
    assert rms == original_scheme(
        layers=2, rms=True, qkv_bias=False, qk_norm=True,
        text_layers=2, q_bias=True, head_norm=False,
    )  # fmt: skip
    layer_norm = {piece.name for piece in weights.pieces(TINY_300M, "original")}
    assert layer_norm == original_scheme(
        layers=3, rms=False, qkv_bias=True, qk_norm=False,
        text_layers=3, q_bias=False, head_norm=True,
    )  # fmt: skip


def test_r1v3_38b_has_the_published_shapes_and_size():
    """Shapes: Skywork-R1V3's files. 38,388,164,992 parameters."""
    shapes = {p.name: p.shape for p in weights.pieces(PRESETS["r1v3_38b"], "original")}
    vision, text = "vision_model.encoder.layers.44", "language_model.model.layers.63"
    wanted = {
        "vision_model.embeddings.class_embedding": (1, 1, 3200),
        "vision_model.embeddings.position_embedding": (1, 1025, 3200),
        "vision_model.embeddings.patch_embedding.weight": (3200, 3, 14, 14),
        f"{vision}.attn.qkv.weight": (9600, 3200),
        f"{vision}.attn.q_norm.weight": (3200,),
        f"{vision}.attn.k_norm.weight": (3200,),
        f"{vision}.attn.proj.weight": (3200, 3200),
        f"{vision}.mlp.fc1.weight": (12800, 3200),
        f"{vision}.mlp.fc2.weight": (3200, 12800),
        f"{vision}.ls1": (3200,),
        "mlp1.0.weight": (12800,),
        "mlp1.1.weight": (5120, 12800),
        "mlp1.3.weight": (5120, 5120),
        "language_model.model.embed_tokens.weight": (151674, 5120),
        "language_model.lm_head.weight": (151674, 5120),
        f"{text}.self_attn.q_proj.weight": (5120, 5120),
        f"{text}.self_attn.k_proj.weight": (1024, 5120),
        f"{text}.self_attn.q_proj.bias": (5120,),
        f"{text}.mlp.gate_proj.weight": (27648, 5120),
        f"{text}.mlp.down_proj.weight": (5120, 27648),
    }
    assert {name: shapes[name] for name in wanted} == wanted
    assert (
        sum(np.prod(shape, dtype=np.int64) for shape in shapes.values())
        == 38_388_164_992
    )
    assert num_params(PRESETS["r1v3_38b"]) == 38_388_164_992
    assert f"{vision.replace('44', '45')}.ls1" not in shapes


def test_the_fused_qkv_is_q_then_k_then_v(tmp_path):
    """The rows of transformers' three projections, one below the other; biases too."""
    source = vision_language("layernorm-qwen3", seed=5)
    write_checkpoint(tmp_path / "in", source, "hf", "float32")
    hf.save(hf.load(tmp_path / "in"), tmp_path / "out", "original")
    got = read_tensors(tmp_path / "out")
    for i, layer in enumerate(source.model.vision_tower.encoder.layer):
        q, k, v = layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj
        name = f"vision_model.encoder.layers.{i}.attn.qkv"
        assert torch.equal(
            got[f"{name}.weight"], torch.cat([q.weight, k.weight, v.weight])
        )
        assert torch.equal(got[f"{name}.bias"], torch.cat([q.bias, k.bias, v.bias]))


# -------------------------------------------------------------------------------------------------
# the head and the embedding


def test_a_head_of_its_own_is_kept_whatever_the_config_says(tmp_path, caplog):
    """The tie trap: InternVLConfig ties by default, also above a head that differs."""
    source = vision_language("rms-qwen2")
    write_checkpoint(tmp_path / "in", source, "hf", "float32")
    config = read_json(tmp_path / "in" / "config.json")
    del config["tie_word_embeddings"]
    write_json(tmp_path / "in" / "config.json", config)
    assert read_config.read(tmp_path / "in").text.tie_embeddings
    model = hf.load(tmp_path / "in")
    assert "keeping both" in caplog.text
    assert not model.config.text.tie_embeddings
    hf.save(model, tmp_path / "out")
    assert read_json(tmp_path / "out" / "config.json")["tie_word_embeddings"] is False
    assert_same_bits(read_tensors(tmp_path / "out"), tensors_of(source, "hf"))


def test_a_tied_head_need_not_be_in_the_file_but_is_written(tmp_path):
    source = vision_language("rms-qwen2", tie=True)
    write_checkpoint(tmp_path / "with", source, "hf", "float32")
    shutil.copytree(tmp_path / "with", tmp_path / "without")
    tensors = read_tensors(tmp_path / "with")
    head = tensors.pop("language_model.lm_head.weight")
    save_file(tensors, tmp_path / "without" / "model.safetensors")
    model = hf.load(tmp_path / "without")
    assert model.config.text.tie_embeddings and model.language.head is None
    assert_same_bits(params(model), params(hf.load(tmp_path / "with")))
    for layout in read_config.LAYOUTS:
        out = tmp_path / layout
        hf.save(model, out, layout)
        assert torch.equal(read_tensors(out)["language_model.lm_head.weight"], head)
        assert read_json(out / "config.json")["tie_word_embeddings"] is True


def test_an_untied_model_without_a_head_is_refused(tmp_path):
    write_checkpoint(tmp_path / "in", vision_language("rms-qwen2"), "hf", "float32")
    tensors = read_tensors(tmp_path / "in")
    del tensors["language_model.lm_head.weight"]
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"language_model.lm_head.weight \[331, 32\] is missing"
    ):
        hf.load(tmp_path / "in")


# -------------------------------------------------------------------------------------------------
# the directory written


def test_shards_index_and_checksums(tmp_path):
    write_checkpoint(tmp_path / "in", vision_language("rms-qwen2"), "hf", "float32")
    out, limit = tmp_path / "out", 50_000
    hf.save(hf.load(tmp_path / "in"), out, max_shard_bytes=limit)
    files = sorted(path.name for path in out.iterdir())
    shards = [name for name in files if name.endswith(".safetensors")]
    n = len(shards)
    assert n > 3
    assert shards == [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    assert sorted(set(files) - set(shards)) == [
        "SHA256SUMS", "config.json", "generation_config.json", "model.safetensors.index.json",
        "preprocessor_config.json", "processor_config.json",
    ]  # fmt: skip
    total = 0
    index = read_json(out / INDEX)
    for name in shards:
        tensors = load_file(out / name)
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= limit or len(tensors) == 1
        assert all(index["weight_map"][tensor] == name for tensor in tensors)
        total += size
    assert index["metadata"]["total_size"] == total
    sums = dict(
        reversed(line.split("  "))
        for line in (out / "SHA256SUMS").read_text().splitlines()
    )
    assert sums == {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in files
        if name != "SHA256SUMS"
    }


def test_nothing_is_overwritten(tmp_path):
    write_checkpoint(tmp_path / "in", vision_language("rms-qwen2"), "hf", "float32")
    model = hf.load(tmp_path / "in")
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "in").iterdir())
    with pytest.raises(
        FileExistsError, match="in exists and is not an empty directory"
    ):
        hf.save(model, tmp_path / "in")
    assert (
        sorted((p.name, p.read_bytes()) for p in (tmp_path / "in").iterdir()) == before
    )
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        FileExistsError, match="file exists and is not an empty directory"
    ):
        hf.save(model, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    hf.save(model, tmp_path / "empty")
    hf.load(tmp_path / "empty")
    with pytest.raises(ValueError, match="layout 'gguf'; choose from hf, original"):
        hf.save(model, tmp_path / "new", "gguf")
    with pytest.raises(
        FileNotFoundError, match="no tokenizer files; wanted some of tokenizer.json"
    ):
        hf.save(model, tmp_path / "new", tokenizer=tmp_path / "in")
    assert not (tmp_path / "new").exists()


def test_an_interrupted_save_leaves_nothing_that_loads(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "in", vision_language("rms-qwen2"), "hf", "float32")
    model, saved = hf.load(tmp_path / "in"), []

    def save_then_stop(tensors, path, **options):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)
        write_shard(tensors, path, **options)

    write_shard = save_file  # safetensors' own
    monkeypatch.setattr(load, "save_file", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        hf.save(model, tmp_path / "out", max_shard_bytes=50_000)
    assert len(saved) == 2 and not (tmp_path / "out").exists()
    for directory in {path.parent for path in saved}:
        with pytest.raises(ValueError, match="config.json: no such file"):
            hf.load(directory)
    monkeypatch.undo()
    hf.save(model, tmp_path / "out")
    assert_same_bits(params(hf.load(tmp_path / "out")), params(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


# Read by a process of its own: transformers keeps the class that it has imported.
READ_ORIGINAL = """
import json, sys
from transformers import AutoConfig, PreTrainedConfig

config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True, local_files_only=True)
text, vision = config.get_text_config(), config.vision_config
type(config)()  # transformers builds one without arguments to compare with
reread = type(config).from_dict(config.to_dict())
# Everything that vLLM 0.32's skyworkr1v.py, internvl.py and intern_vit.py read.
top = "select_layer downsample_ratio ps_version force_image_size min_dynamic_patch " \
    "max_dynamic_patch dynamic_image_size use_thumbnail architectures model_type"
tower = "hidden_size image_size patch_size num_attention_heads num_hidden_layers qkv_bias " \
    "qk_normalization layer_norm_eps hidden_act intermediate_size norm_type initializer_factor"
print(json.dumps({
    "text_class": type(text).__name__,
    "same_text": text is config.text_config,
    "text": {key: getattr(text, key) for key in (
        "architectures vocab_size hidden_size num_hidden_layers num_attention_heads "
        "num_key_value_heads intermediate_size max_position_embeddings rms_norm_eps "
        "tie_word_embeddings rope_parameters head_dim").split()},
    "vision": {key: getattr(vision, key) for key in tower.split()},
    "top": {key: getattr(config, key) for key in top.split()},
    "reread": reread.get_text_config().to_dict() == text.to_dict(),
}))
"""


@pytest.mark.parametrize("config", [TINY, TINY_300M], ids=["skywork", "internvl"])
def test_the_original_layout_brings_the_configuration_class_that_vllm_needs(
    tmp_path, config
):
    """The only place where code from a checkpoint runs, and it is our own: see `hf_files.py`."""
    config = dataclasses.replace(
        config, text=dataclasses.replace(config.text, rope_factor=2.0)
    )
    out = tmp_path / "out"
    out.mkdir()
    processor_files.write(out, config, "original", None, None)
    write_json(out / "config.json", write_config.write(config, "original", "float32"))
    # No installed package, no cache, no network: what lies in the directory must do.
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", READ_ORIGINAL, out],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    t, v = config.text, config.vision
    skywork = config.architecture == "SkyworkR1VChatModel"
    family = "Qwen2" if skywork else "Qwen3"
    assert got["text_class"] == f"{family}Config" and got["same_text"] and got["reread"]
    assert got["text"] == {
        "architectures": [f"{family}ForCausalLM"], "vocab_size": t.vocab_size,
        "hidden_size": t.embed, "num_hidden_layers": t.layers, "num_attention_heads": t.heads,
        "num_key_value_heads": t.kv_heads, "intermediate_size": t.mlp, "head_dim": t.head_dim,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "dynamic", "type": "dynamic", "factor": 2.0, "rope_theta": 10000.0,
        },
    }  # fmt: skip
    assert got["vision"] == {
        "hidden_size": v.embed, "image_size": 28, "patch_size": 7, "num_attention_heads": v.heads,
        "num_hidden_layers": v.layers, "qkv_bias": v.qkv_bias, "qk_normalization": v.qk_norm,
        "layer_norm_eps": 1e-6, "hidden_act": "gelu", "intermediate_size": v.mlp,
        "norm_type": v.norm, "initializer_factor": 0.1,
    }  # fmt: skip
    assert got["top"] == {
        "select_layer": -1, "downsample_ratio": 0.5, "ps_version": "v2", "force_image_size": 28,
        "min_dynamic_patch": 1, "max_dynamic_patch": 12, "dynamic_image_size": True,
        "use_thumbnail": True,
        "architectures": ["SkyworkR1VChatModel" if skywork else "InternVLChatModel"],
        "model_type": "skywork_chat" if skywork else "internvl_chat",
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------
# what is refused


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint of two shards in the hf layout, to be copied and broken."""
    directory = tmp_path_factory.mktemp("good") / "checkpoint"
    return write_checkpoint(
        directory, vision_language("rms-qwen2"), "hf", "float32", shards=2
    )


SHARD = "model-00001-of-00002.safetensors"
LOST = "model-00002-of-00002.safetensors"


def change_tensors(directory: Path, change) -> None:
    """Rewrites the first shard after `change(tensors)`."""
    tensors = load_file(directory / SHARD)
    change(tensors)
    save_file(tensors, directory / SHARD)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove_shards(directory: Path) -> None:
    for path in directory.glob("model*"):
        path.unlink()


def only_a_pickle(directory: Path) -> None:
    remove_shards(directory)
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04")


def twice(directory: Path) -> None:
    (directory / INDEX).unlink()
    shutil.copyfile(directory / SHARD, directory / "copy.safetensors")


def point_outside(directory: Path, where: str) -> None:
    shutil.copyfile(directory / LOST, directory.parent / "stolen.safetensors")
    change_json(
        directory / INDEX,
        lambda index: index["weight_map"].update({"mlp1.weight": where}),
    )


def in_place_of(path: Path, make) -> None:
    path.unlink()
    make(path)


def directory_alone(directory: Path) -> None:
    remove_shards(directory)
    (directory / "model.safetensors").mkdir()


NORM = "language_model.model.layers.0.input_layernorm.weight"  # lies in the first shard
K = "language_model.model.layers.0.self_attn.k_proj.weight"


BROKEN = {
    "no-directory": (
        shutil.rmtree,
        "no-directory: no such directory; give a Hugging Face",
    ),
    "lost-shard": (
        lambda d: (d / LOST).unlink(),
        f"{LOST} is missing; the index places 33 tensors in it",
    ),
    "cut-shard": (lambda d: truncate(d / SHARD), f"{SHARD} is cut short or damaged"),
    "no-shard": (lambda d: (d / SHARD).write_bytes(b""), f"{SHARD} is empty (0 bytes)"),
    "noise": (
        lambda d: (d / SHARD).write_bytes(b"x" * 999),
        f"{SHARD} is cut short or damaged",
    ),
    "shape": (
        lambda d: change_tensors(d, lambda t: t.update({NORM: torch.ones(31)})),
        f"{SHARD}: {NORM} has shape [31]; config.json makes it [32]",
    ),
    "transposed": (
        lambda d: change_tensors(d, lambda t: t.update({K: torch.ones(4, 256)})),
        f"{SHARD}: {K} has shape [4, 256]; config.json makes it [32, 32]",
    ),
    "integers": (
        lambda d: change_tensors(
            d, lambda t: t.update({NORM: torch.ones(32, dtype=torch.int8)})
        ),
        f"{SHARD}: {NORM} is I8; wanted F32, BF16, F16",
    ),
    "float8": (
        lambda d: change_tensors(
            d, lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)})
        ),
        f"{SHARD}: {NORM} is F8_E4M3; wanted F32, BF16, F16",
    ),
    "lost-tensor": (
        lambda d: change_tensors(d, lambda t: t.pop(NORM)),
        f"{NORM} [32] is missing",
    ),
    "unknown-tensor": (
        lambda d: change_tensors(d, lambda t: t.update({"lora.weight": torch.ones(2)})),
        f"{SHARD}: lora.weight is not a weight of this model",
    ),
    "twice": (twice, f"{NORM} is in both copy.safetensors and {SHARD}"),
    "outside": (
        lambda d: point_outside(d, "../stolen.safetensors"),
        f"{INDEX}: '../stolen.safetensors' lies outside the directory",
    ),
    "absolute": (
        lambda d: point_outside(d, "/etc/passwd"),
        f"{INDEX}: '/etc/passwd' lies outside the directory",
    ),
    "empty-index": (lambda d: (d / INDEX).write_text("{}"), f"{INDEX}: no weight_map"),
    "bad-index": (lambda d: (d / INDEX).write_text("{"), f"{INDEX}: not JSON"),
    "no-weights": (remove_shards, "no *.safetensors file"),
    "pickle": (only_a_pickle, "pytorch_model.bin is a pickle, which is never read"),
    "no-config": (
        lambda d: (d / "config.json").unlink(),
        "config.json: no such file",
    ),
    "bad-config": (
        lambda d: (d / "config.json").write_text("{'a': 1}"),
        "config.json: not JSON",
    ),
    "empty-config": (
        lambda d: (d / "config.json").write_text(""),
        "config.json: not JSON",
    ),
    "binary-config": (
        lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"),
        "config.json: not JSON",
    ),
    "list-config": (
        lambda d: (d / "config.json").write_text("[]"),
        "config.json: a JSON object was wanted, got list",
    ),
    "directory-for-a-config": (
        lambda d: in_place_of(d / "config.json", Path.mkdir),
        "config.json: not a file",
    ),
    "directory-for-a-shard": (
        lambda d: in_place_of(d / SHARD, Path.mkdir),
        f"{SHARD}: not a file; download it again",
    ),
    "dangling-link": (
        lambda d: in_place_of(d / SHARD, lambda path: path.symlink_to("blobs/1")),
        f"{SHARD}: a link to blobs/1, which does not exist; download it again",
    ),
    "directory-alone": (
        directory_alone,
        "model.safetensors: not a file; download it again",
    ),
    "dangling-index": (
        lambda d: in_place_of(d / INDEX, lambda path: path.symlink_to("blobs/2")),
        f"{INDEX}: a link to blobs/2, which does not exist",
    ),
    "index-of-a-pickle": (
        lambda d: point_outside(d, "pytorch_model.bin"),
        f"{INDEX}: 'pytorch_model.bin' is not a *.safetensors file; convert it",
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_checkpoint_is_refused_by_name(tmp_path, good, name):
    damage, message = BROKEN[name]
    directory = tmp_path / name
    shutil.copytree(good, directory)
    damage(directory)
    with pytest.raises(
        (ValueError, FileNotFoundError), match=re.escape(message)
    ) as raised:
        hf.load(directory)
    assert str(directory) in str(raised.value)


def test_refusals_need_no_device(tmp_path, good):
    """Found before JAX has so much as looked for a device."""
    for name, (damage, _) in BROKEN.items():
        shutil.copytree(good, tmp_path / name)
        damage(tmp_path / name)
    program = (
        "import sys; from pathlib import Path\n"
        "from jax._src.xla_bridge import backends_are_initialized\n"
        "from r1v3_jax import hf\n"
        "for name in sys.argv[2:]:\n"
        "    try: hf.load(Path(sys.argv[1]) / name)\n"
        "    except (ValueError, FileNotFoundError): pass\n"
        "    else: sys.exit(f'{name} was loaded')\n"
        "assert not backends_are_initialized()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, *BROKEN],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_all_problems_come_in_one_error(tmp_path, good):
    directory = tmp_path / "bad"
    shutil.copytree(good, directory)

    def spoil(tensors):
        tensors[NORM] = torch.ones(31)
        tensors["extra"] = torch.ones(1)
        del tensors[K]

    change_tensors(directory, spoil)
    assert refusal(lambda: hf.load(directory)) == cannot_be_loaded(
        directory,
        f"{K} [32, 32] is missing",
        f"{SHARD}: {NORM} has shape [31]; config.json makes it [32]",
        f"{SHARD}: extra is not a weight of this model",
    )
    change_json(
        directory / "config.json", lambda raw: raw["text_config"].update(hidden_size=48)
    )
    with pytest.raises(
        ValueError, match=r"problem\(s\):\n(  .+\n){20}  \.\.\. and \d+ more$"
    ):
        hf.load(directory)


def test_a_bad_config_does_not_hide_bad_files(tmp_path, good):
    directory = tmp_path / "bad"
    shutil.copytree(good, directory)
    change_json(
        directory / "config.json", lambda raw: raw.update(downsample_ratio=0.25)
    )
    change_json(
        directory / INDEX, lambda index: index["weight_map"].update({"a": "b.bin"})
    )
    (directory / SHARD).write_bytes(b"")
    (directory / LOST).unlink()
    assert refusal(lambda: hf.load(directory)) == cannot_be_loaded(
        directory,
        "config.json: downsample_ratio is 0.25; only 0.5 is supported",
        f"{INDEX}: 'b.bin' is not a *.safetensors file; convert it",
        f"{LOST} is missing; the index places 33 tensors in it",
        f"{SHARD} is empty (0 bytes); download it again",
    )
    (directory / "config.json").unlink()
    assert (
        refusal(lambda: hf.load(directory)).splitlines()[1]
        == "  config.json: no such file"
    )


@pytest.mark.parametrize("layout", ["hf", "original", "memory"])
def test_a_missing_shard_does_not_hide_what_is_wrong_in_the_others(tmp_path, layout):
    """Nor are its tensors missing one by one; those that no file should hold are."""
    directory = tmp_path / "in"
    write_checkpoint(
        directory, vision_language("rms-qwen2"), layout, "float32", shards=2
    )
    index = read_json(directory / INDEX)["weight_map"]
    norm = weights.renamed(NORM, layout)
    shard = index[norm]
    (lost,) = set(index.values()) - {shard}
    gone = next(
        n for n in sorted(index) if index[n] == shard and n.endswith("_proj.weight")
    )
    tensors = load_file(directory / shard)
    tensors[norm] = torch.ones(31)
    shape = list(tensors.pop(gone).shape)
    save_file(tensors, directory / shard)
    (directory / lost).unlink()
    placed = sum(file == lost for file in index.values())
    said = refusal(lambda: hf.load(directory)).splitlines()
    assert said[0].endswith("3 problem(s):") and sorted(said[1:]) == sorted([
        f"  {lost} is missing; the index places {placed} tensors in it",
        f"  {shard}: {norm} has shape [31]; config.json makes it [32]",
        f"  {gone} {shape} is missing",
    ])  # fmt: skip
    # Without an index nobody knows what the other file held.
    (directory / INDEX).unlink()
    (directory / "other.safetensors").write_bytes(b"")
    assert refusal(lambda: hf.load(directory)) == cannot_be_loaded(
        directory,
        "other.safetensors is empty (0 bytes); download it again",
        f"{shard}: {norm} has shape [31]; config.json makes it [32]",
    )


def test_above_a_tied_embedding_only_the_head_may_be_left_over(tmp_path):
    directory = tmp_path / "in"
    write_checkpoint(directory, vision_language("rms-qwen2", tie=True), "hf", "float32")
    tensors = load_file(directory / "model.safetensors")
    save_file(
        {**tensors, "draft.lm_head.weight": torch.ones(1)},
        directory / "model.safetensors",
    )
    assert refusal(lambda: hf.load(directory)) == cannot_be_loaded(
        directory,
        "model.safetensors: draft.lm_head.weight is not a weight of this model",
    )


# -------------------------------------------------------------------------------------------------
# memory and time

# 3.2 GB in bfloat16; the embedding and the head are the largest tensors, 400 MB each.
LARGE = dataclasses.replace(
    TINY,
    text=dataclasses.replace(
        TINY.text,
        vocab_size=100_001,
        embed=2048,
        layers=15,
        heads=16,
        head_dim=128,
        mlp=11008,
    ),
    vision=dataclasses.replace(TINY.vision, embed=640, layers=4, heads=5, mlp=2560),
)
MEASURE = """
import sys
import jax
from r1v3_jax import hf, sharding

def peak_and_now():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS")]

mesh = sharding.make_mesh((2, 2, 2)) if sys.argv[2] == "mesh" else None
jax.block_until_ready(jax.numpy.zeros(1))
before = peak_and_now()
model = hf.load(sys.argv[1], mesh=mesh, dtype=sys.argv[3])
after = peak_and_now()
arrays = jax.tree.leaves(model)
held = sum(shard.data.nbytes for array in arrays for shard in array.addressable_shards)
print(before[1], after[0], after[1], held)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A checkpoint of LARGE in the original layout, several shards, written one at a time."""
    directory = tmp_path_factory.mktemp("large") / "checkpoint"
    directory.mkdir()
    write_json(
        directory / "config.json", write_config.write(LARGE, "original", "bfloat16")
    )  # fmt: skip
    noise = torch.randn(1 << 20).to(torch.bfloat16)
    weight_map, shard, size = {}, {}, 0
    plan = list(weights.pieces(LARGE, "original"))
    for piece in plan:
        count = int(np.prod(piece.shape))
        tensor = (
            noise.repeat(-(-count // len(noise)))[:count].reshape(piece.shape).clone()
        )
        shard[piece.name], size = tensor, size + tensor.nbytes
        if size > 900e6 or piece is plan[-1]:
            file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
            save_file(shard, directory / file)
            weight_map |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    write_json(directory / INDEX, {"weight_map": weight_map})
    yield directory
    shutil.rmtree(directory)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("devices", ["one", "mesh"])
def test_loading_needs_memory_for_the_model_and_two_tensors(large, devices, dtype):
    """The devices' arrays lie in the same memory here, so the bar is: them, plus twice the largest
    tensor, plus 2 GiB. Measured: twice the tensor and 0.2 GiB of programs, which the second line
    holds on to.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
    }  # eight devices, as in conftest.py
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, large, devices, dtype],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, peak, after, held = map(int, done.stdout.split())
    largest = 100_001 * 2048 * jnp.dtype(dtype).itemsize
    assert sum(path.stat().st_size for path in large.glob("*.safetensors")) > 3e9
    print(
        f"\n{devices}, {dtype}: {before / 2**30:.2f} GiB before, peak {peak / 2**30:.2f}, after "
        f"{after / 2**30:.2f}; model {held / 2**30:.2f}, largest tensor {largest / 2**30:.2f}; "
        f"over the model: {(peak - held) / 2**30:.2f}, over the programs too: "
        f"{(peak - held - before) / largest:.2f} largest tensors"
    )
    assert peak <= held + 2 * largest + 2 * 2**30
    assert peak <= held + 3 * largest + before


@pytest.mark.slow
def test_1700_small_tensors_come_and_go_in_seconds(tmp_path):
    """What a tensor costs beside its bytes: the 38B model comes in 1,500."""
    config = dataclasses.replace(
        TINY,
        text=dataclasses.replace(TINY.text, layers=85),
        vision=dataclasses.replace(TINY.vision, layers=45),
    )
    model = random_model(config)
    start = time.perf_counter()
    hf.save(model, tmp_path / "out", "hf")
    written = time.perf_counter()
    again = hf.load(tmp_path / "out")
    read = time.perf_counter()
    count = len(read_tensors(tmp_path / "out"))
    print(
        f"\n{count} tensors: save {written - start:.1f} s, load {read - written:.1f} s"
    )
    assert count > 1700
    assert written - start < 30 and read - written < 30
    assert_same_bits(params(again), params(model))


TWO_PROCESSES = """
import sys
import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
from r1v3_jax import checkpoint, hf, sharding

work, mesh = sys.argv[3], sharding.make_mesh((1, 4, 2))
with jax.set_mesh(mesh):
    model = hf.load(f"{work}/in", mesh=mesh)
    checkpoint.save_weights(f"{work}/checkpoint", model)
    again = checkpoint.load_weights(f"{work}/checkpoint", mesh=mesh)
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
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for i in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    wanted = {
        n: t.to(torch.bfloat16) for n, t in tensors_of(source, "original").items()
    }
    assert_same_bits(read_tensors(tmp_path / "out"), wanted)
    restored = load_weights(tmp_path / "checkpoint")
    assert_same_bits(params(restored), params(hf.load(tmp_path / "in")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "in", "out"]
