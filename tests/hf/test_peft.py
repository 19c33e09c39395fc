"""Adapters in PEFT's format, loaded by peft on the exported base: the same logits as ours."""

import json

import jax
import numpy as np
import pytest
import torch
import torch_reference as reference
import transformers
from lora_cases import copied, with_random_factors
from peft import PeftModel
from random_models import random_model
from safetensors.numpy import load_file

from r1v3_jax import hf
from r1v3_jax.config import TINY_300M
from r1v3_jax.hf.peft import pattern_of, save_adapters
from r1v3_jax.models import build
from r1v3_jax.models.lora import Adapters
from r1v3_jax.models.r1v3 import R1V3

ADAPTERS = Adapters(rank=3, scale=2.0, parts=("language", "vision"))
# One tile of four image tokens.
IDS = np.asarray([[11, 9, 9, 9, 9, 40, 7, 300, 12, 25]], np.int32)
TILES = reference.rng_tiles(1)


def our_logits(model: R1V3) -> np.ndarray:
    @jax.jit
    def forward(model):
        image = model.encode_images(TILES)
        index = np.where(IDS == 9, np.cumsum(IDS == 9, axis=1) - 1, -1)
        positions = np.arange(IDS.shape[1], dtype=np.int32)[None]
        segments = np.ones_like(IDS)
        return model.logits(model(IDS, positions, segments, image, index))

    return np.asarray(forward(model))[..., : model.config.text.vocab_size]


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(
            input_ids=torch.from_numpy(IDS).long(),
            pixel_values=reference.to_pixel_values(TILES),
        ).logits.numpy()


def test_peft_computes_what_we_compute(tmp_path):
    base = random_model(TINY_300M)
    adapted = with_random_factors(base, ADAPTERS)
    hf.save(base, tmp_path / "base", "hf")
    save_adapters(adapted, tmp_path / "adapters", base="base")

    theirs = transformers.InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "base"
    )
    without = their_logits(theirs)
    loaded = PeftModel.from_pretrained(theirs, tmp_path / "adapters")
    wanted = their_logits(loaded)
    # The adapters do something, and every one of them was loaded.
    assert np.abs(wanted - without).max() > 0.1
    saved = load_file(tmp_path / "adapters/adapter_model.safetensors")
    modules = [name for name, _ in loaded.named_parameters() if "lora_" in name]
    assert len(modules) == len(saved)
    # Two implementations in float32, logits of size 1.
    np.testing.assert_allclose(our_logits(adapted), wanted, atol=1e-4)

    # Merged by us and exported, it is the same model again.
    merged = build.without_adapters(copied(adapted))
    hf.save(merged, tmp_path / "merged", "hf")
    whole = transformers.InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "merged"
    )
    np.testing.assert_allclose(their_logits(whole), wanted, atol=1e-4)
    np.testing.assert_allclose(our_logits(merged), our_logits(adapted), atol=1e-5)


def test_a_connector_that_learnt_too_is_saved_whole(tmp_path):
    base = random_model(TINY_300M)
    hf.save(base, tmp_path / "base", "hf")
    language = Adapters(rank=2, scale=1.0, parts=("language",))
    adapted = with_random_factors(random_model(TINY_300M), language)
    connector = adapted.connector
    connector.down_bias[...] = connector.down_bias[...] + 1.0
    save_adapters(adapted, tmp_path / "adapters", base="base", with_connector=True)
    theirs = transformers.InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "base"
    )
    loaded = PeftModel.from_pretrained(theirs, tmp_path / "adapters")
    np.testing.assert_allclose(our_logits(adapted), their_logits(loaded), atol=1e-4)


@pytest.mark.parametrize("qwen3", [False, True], ids=["qwen2", "qwen3"])
def test_a_language_model_alone(tmp_path, qwen3):
    source = reference.language_model(qwen3=qwen3, seed=1)
    reference.save_hf(source, tmp_path / "base")
    language = Adapters(rank=4, scale=0.5, parts=("language",))
    adapted = with_random_factors(hf.load(tmp_path / "base"), language)
    save_adapters(adapted, tmp_path / "adapters", base=str(tmp_path / "base"))
    loaded = PeftModel.from_pretrained(source, tmp_path / "adapters")
    ids = np.asarray([[11, 40, 7, 300, 12, 25]], np.int32)
    with torch.no_grad():
        wanted = loaded(input_ids=torch.from_numpy(ids).long()).logits.numpy()
    positions = np.arange(6, dtype=np.int32)[None]
    hidden = adapted(ids, positions, np.ones_like(ids))
    ours = adapted.logits(hidden)[..., : adapted.config.text.vocab_size]
    np.testing.assert_allclose(np.asarray(ours), wanted, atol=1e-4)
    settings = json.loads((tmp_path / "adapters/adapter_config.json").read_text())
    assert settings["r"] == 4 and settings["lora_alpha"] == 2.0
    assert settings["base_model_name_or_path"] == str(tmp_path / "base")


def test_the_pattern_of_modules():
    modules = ["model.layers.0.q_proj", "model.layers.0.up", "model.layers.1.q_proj"]
    wanted = r"model\.layers\.\d+\.q_proj|model\.layers\.\d+\.up"
    assert pattern_of(modules) == wanted
