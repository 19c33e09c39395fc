"""Checkpoints of every layout, written by a converter of the tests' own, and how a refusal reads.

`tensors_of` says what a checkpoint of each layout holds, independently of the table in
`r1v3_jax/hf/weights.py`.
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from safetensors.torch import load_file, save_file

from r1v3_jax.hf.checkpoint import INDEX

TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def vision_language(kind: str, *, tie: bool = False, seed: int = 0):
    """Makes a random InternVL of transformers: the 6B tower with Qwen2, or the 300M with Qwen3."""
    if kind == "rms-qwen2":
        return reference.internvl(
            reference.text_config(), reference.rms_vision(), seed=seed, tie=tie
        )
    text = reference.text_config(qwen3=True, head_dim=16, num_hidden_layers=3)
    return reference.internvl(text, reference.layer_norm_vision(), seed=seed, tie=tie)


def tensors_of(model, layout: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of a checkpoint of transformers' InternVL, head included."""
    memory = {
        name: tensor.detach().clone() for name, tensor in model.state_dict().items()
    }
    if layout == "memory":
        return memory
    disk = {"language_model.lm_head.weight": memory.pop("lm_head.weight")}
    for name, tensor in memory.items():
        name = name.removeprefix("model.")
        disk[re.sub(r"^language_model\.", "language_model.model.", name)] = tensor
    return disk if layout == "hf" else to_original(disk)


def to_original(disk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Does what transformers' convert_internvl_weights_to_hf.py does, backwards."""
    renames = {
        "multi_modal_projector.layer_norm": "mlp1.0",
        "multi_modal_projector.linear_1": "mlp1.1",
        "multi_modal_projector.linear_2": "mlp1.3",
        "vision_tower": "vision_model",
        "encoder.layer": "encoder.layers",
        "cls_token": "class_embedding",
        "position_embeddings": "position_embedding",
        "patch_embeddings.projection": "patch_embedding",
        "lambda_": "ls",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.projection_layer": "attn.proj",
        "attention.q_norm": "attn.q_norm",
        "attention.k_norm": "attn.k_norm",
    }
    original = {}
    for name, tensor in disk.items():
        if name.startswith("language_model."):
            original[name] = tensor
        elif re.search("[kv]_proj", name):
            continue
        elif "q_proj" in name:
            parts = [disk[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name = name.replace("attention.q_proj", "attn.qkv")
            name = name.replace("layer.", "layers.")
            name = name.replace("vision_tower", "vision_model")
            original[name] = torch.cat(parts)
        else:
            for hf_part, original_part in renames.items():
                name = name.replace(hf_part, original_part)
            original[name] = tensor
    return original


def write_checkpoint(
    directory: Path, model, layout: str, dtype: str, shards: int = 1
) -> Path:
    """Writes `model` as a checkpoint in a layout, without the code under test."""
    directory.mkdir()
    raw = model.config.to_dict()
    if layout == "original":
        raw = original_config(raw)
    (directory / "config.json").write_text(json.dumps(raw))
    tensors = {
        name: tensor.to(TORCH[dtype]).contiguous()
        for name, tensor in tensors_of(model, layout).items()
    }
    write_shards(directory, tensors, shards)
    return directory


def write_shards(
    directory: Path, tensors: dict[str, torch.Tensor], shards: int
) -> None:
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return
    names = sorted(tensors)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def original_config(raw: dict) -> dict:
    """Returns the original repositories' config.json for transformers' configuration `raw`."""
    vision = raw["vision_config"]
    text = raw["text_config"]
    rope = text.pop("rope_parameters")
    side = vision["image_size"][0]
    same_keys = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "norm_type",
        "layer_norm_eps",
        "num_channels",
    )
    return {
        "architectures": ["SkyworkR1VChatModel"],
        "model_type": "skywork_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": side,
        "hidden_size": text["hidden_size"],
        "image_token_id": raw["image_token_id"],
        "llm_config": {**text, "rope_theta": rope["rope_theta"], "rope_scaling": None},
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": raw["tie_word_embeddings"],
        "use_thumbnail": True,
        "vision_config": {
            "model_type": "intern_vit_6b",
            "image_size": side,
            "patch_size": vision["patch_size"][0],
            "qk_normalization": vision["use_qk_norm"],
            "qkv_bias": vision["attention_bias"],
            **{key: vision[key] for key in same_keys},
        },
    }


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in directory.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def assert_same_bits(got: dict, wanted: dict):
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        if isinstance(value, torch.Tensor):
            got_bytes = got[name].view(torch.uint8)
            assert torch.equal(got_bytes, value.view(torch.uint8)), name
        else:
            got_bytes = got[name].view(np.uint8)
            np.testing.assert_array_equal(got_bytes, value.view(np.uint8), name)


def our_logits(model, tokens, tiles=None) -> np.ndarray:
    index = None
    if tiles is not None:
        images = tokens == reference.IMAGE_TOKEN
        index = np.where(images, np.cumsum(images).reshape(tokens.shape) - 1, -1)
    logits = np.asarray(forward(model, tokens, tiles, index))
    return logits[..., : model.config.text.vocab_size]


@jax.jit
def forward(model, tokens, tiles, index):
    images = None if tiles is None else model.encode_images(tiles)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model.logits(model(tokens, positions, jnp.ones_like(tokens), images, index))


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def refusal(action) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        action()
    return str(raised.value)


def cannot_be_loaded(directory: Path, *problems: str) -> str:
    head = f"{directory} cannot be loaded, {len(problems)} problem(s):"
    return "\n  ".join([head, *problems])
