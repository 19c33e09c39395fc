"""The directory that a save writes: shards, index, checksums, the class that vLLM needs."""

import dataclasses
import hashlib
import importlib
import json
import subprocess
import sys

import pytest
from checkpoints_for_tests import (
    assert_same_bits,
    vision_language,
    write_checkpoint,
)
from random_models import params
from safetensors.torch import load_file

from r1v3_jax import hf
from r1v3_jax.config import TINY, TINY_300M
from r1v3_jax.files import read_json, write_json
from r1v3_jax.hf.checkpoint import INDEX
from r1v3_jax.hf.processor_files import write_processor_files
from r1v3_jax.hf.write_config import config_json

# The module: `hf.save` is the function.
SAVE = importlib.import_module("r1v3_jax.hf.save")


def test_shards_index_and_checksums(tmp_path):
    write_checkpoint(tmp_path / "in", vision_language("rms-qwen2"), "hf", "float32")
    out = tmp_path / "out"
    limit = 50_000
    hf.save(hf.load(tmp_path / "in"), out, max_shard_bytes=limit)
    files = sorted(path.name for path in out.iterdir())
    shards = [name for name in files if name.endswith(".safetensors")]
    n = len(shards)
    assert n > 3
    assert shards == [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    assert sorted(set(files) - set(shards)) == [
        "SHA256SUMS",
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "preprocessor_config.json",
        "processor_config.json",
    ]
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
    model = hf.load(tmp_path / "in")
    saved = []

    def save_then_stop(tensors, path, **options):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)
        write_shard(tensors, path, **options)

    write_shard = SAVE.save_file
    monkeypatch.setattr(SAVE, "save_file", save_then_stop)
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
    """The only test that runs code from a checkpoint. The code is our own: `write_config.py`."""
    config = dataclasses.replace(
        config, text=dataclasses.replace(config.text, rope_factor=2.0)
    )
    out = tmp_path / "out"
    out.mkdir()
    write_processor_files(out, config, "original", None, None)
    write_json(out / "config.json", config_json(config, "original", "float32"))
    # No installed package, no cache, no network: what the directory holds must do.
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin",
    }
    process = subprocess.run(
        [sys.executable, "-c", READ_ORIGINAL, out],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert process.returncode == 0, process.stderr
    got = json.loads(process.stdout)
    text = config.text
    vision = config.vision
    skywork = config.architecture == "SkyworkR1VChatModel"
    family = "Qwen2" if skywork else "Qwen3"
    assert got["text_class"] == f"{family}Config" and got["same_text"] and got["reread"]
    assert got["text"] == {
        "architectures": [f"{family}ForCausalLM"],
        "vocab_size": text.vocab_size,
        "hidden_size": text.embed,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "intermediate_size": text.mlp,
        "head_dim": text.head_dim,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "dynamic",
            "type": "dynamic",
            "factor": 2.0,
            "rope_theta": 10000.0,
        },
    }
    assert got["vision"] == {
        "hidden_size": vision.embed,
        "image_size": 28,
        "patch_size": 7,
        "num_attention_heads": vision.heads,
        "num_hidden_layers": vision.layers,
        "qkv_bias": vision.qkv_bias,
        "qk_normalization": vision.qk_norm,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "intermediate_size": vision.mlp,
        "norm_type": vision.norm,
        "initializer_factor": 0.1,
    }
    assert got["top"] == {
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "force_image_size": 28,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "architectures": ["SkyworkR1VChatModel" if skywork else "InternVLChatModel"],
        "model_type": "skywork_chat" if skywork else "internvl_chat",
    }
