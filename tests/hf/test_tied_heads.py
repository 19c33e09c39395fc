"""The head and the embedding: one weight or two, whatever the config says."""

import shutil

import pytest
import torch
from checkpoints_for_tests import (
    assert_same_bits,
    read_tensors,
    tensors_of,
    vision_language,
    write_checkpoint,
)
from random_models import params
from safetensors.torch import save_file

from r1v3_jax import hf
from r1v3_jax.files import read_json, write_json
from r1v3_jax.hf.read_config import LAYOUTS, read_config


def test_a_head_of_its_own_is_kept_whatever_the_config_says(tmp_path, caplog):
    """The tie trap: InternVLConfig ties by default, also above a head that differs."""
    source = vision_language("rms-qwen2")
    write_checkpoint(tmp_path / "in", source, "hf", "float32")
    config = read_json(tmp_path / "in" / "config.json")
    del config["tie_word_embeddings"]
    write_json(tmp_path / "in" / "config.json", config)
    assert read_config(tmp_path / "in").text.tie_embeddings
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
    for layout in LAYOUTS:
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
