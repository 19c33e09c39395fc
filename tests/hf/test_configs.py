"""`config.json`: what it says of a model is read back, whichever program wrote it."""

import dataclasses

import pytest
from checkpoints_for_tests import (
    cannot_be_loaded,
    original_config,
    refusal,
    vision_language,
)

from r1v3_jax.config import PRESETS, TINY, ModelConfig, TextConfig, VisionConfig
from r1v3_jax.files import write_json
from r1v3_jax.hf.read_config import LAYOUTS, read_config
from r1v3_jax.hf.write_config import config_json


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_config_json_says_everything(tmp_path, name, layout):
    """What is written for a model reads back as the same model, up to what only runs know."""
    config = PRESETS[name]
    write_json(tmp_path / "config.json", config_json(config, layout, "bfloat16"))
    if layout == "hf":  # transformers knows no Skywork
        config = dataclasses.replace(config, architecture="InternVLChatModel")
    assert read_config(tmp_path) == config


@pytest.mark.parametrize(
    "config, change, message",
    [
        (
            TINY.text,
            {"rope_theta": 0.0},
            "TextConfig.rope_theta is 0.0; it must be positive",
        ),
        (
            TINY.text,
            {"norm_eps": -1e-6},
            "TextConfig.norm_eps is -1e-06; it must be positive",
        ),
        (
            TINY.vision,
            {"norm_eps": 0},
            "VisionConfig.norm_eps is 0; it must be positive",
        ),
        (
            TINY.vision,
            {"qk_norm_eps": 0},
            "VisionConfig.qk_norm_eps is 0; it must be positive",
        ),
        (TINY, {"max_tiles": 0}, "ModelConfig.max_tiles is 0; it must be at least 1"),
    ],
)
def test_a_model_refuses_numbers_that_compute_nothing(config, change, message):
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(config, **change)
    assert str(raised.value) == message


def test_config_json_refuses_what_a_layout_cannot_say():
    vision = dataclasses.replace(TINY.vision, qk_norm_eps=1e-5)
    odd = dataclasses.replace(TINY, vision=vision)
    with pytest.raises(ValueError, match="transformers fixes the qk-norm eps at 1e-6"):
        config_json(odd, "hf", "float32")
    with pytest.raises(
        ValueError, match="one eps for all norms, this tower has 1e-06 and 1e-05"
    ):
        config_json(odd, "original", "float32")
    both = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, qk_norm=True))
    with pytest.raises(ValueError, match="both a qkv bias .* and a qk-norm"):
        config_json(both, "hf", "float32")


def test_the_defaults_of_a_tower_are_those_of_its_class(tmp_path):
    """InternVisionConfig's are the 6B tower's, InternVLVisionConfig's a LayerNorm tower's."""
    source = vision_language("rms-qwen2").config
    for layout in LAYOUTS:
        raw = source.to_dict() if layout == "hf" else original_config(source.to_dict())
        for (
            key
        ) in "norm_type use_qk_norm attention_bias qk_normalization qkv_bias".split():
            raw["vision_config"].pop(key, None)
        write_json(tmp_path / "config.json", raw)
        vision = read_config(tmp_path).vision
        wanted = ("rms_norm", True) if layout == "original" else ("layer_norm", False)
        assert (vision.norm, vision.qk_norm, vision.qkv_bias) == (*wanted, False)


def test_the_class_that_a_config_names_is_the_model(tmp_path):
    """A quantised copy of Skywork-R1V3 calls itself skywork_chat and InternVLChatModel."""
    raw = original_config(vision_language("rms-qwen2").config.to_dict())

    def read(**changes):
        write_json(tmp_path / "config.json", {**raw, **changes})
        return read_config(tmp_path)

    assert read().architecture == "SkyworkR1VChatModel"
    assert read(architectures=None).architecture == "SkyworkR1VChatModel"
    assert read(architectures=["InternVLChatModel"]).architecture == "InternVLChatModel"
    internvl = {"model_type": "internvl_chat"}
    assert read(**internvl).architecture == "SkyworkR1VChatModel"
    assert read(**internvl, architectures=None).architecture == "InternVLChatModel"


@pytest.mark.parametrize(
    "named, qkv_bias, qk_norm",
    [
        (None, True, False),
        ("Qwen2", True, False),
        ("Qwen3", False, True),
        ("Llama", False, False),
    ],
)
def test_a_language_model_without_a_type_is_known_by_its_class(
    tmp_path, named, qkv_bias, qk_norm
):
    raw = original_config(vision_language("rms-qwen2").config.to_dict())
    del raw["llm_config"]["model_type"]
    if named is not None:
        raw["llm_config"]["architectures"] = [f"{named}ForCausalLM"]
    write_json(tmp_path / "config.json", raw)
    text = read_config(tmp_path).text
    assert (text.qkv_bias, text.qk_norm) == (qkv_bias, qk_norm)


@pytest.mark.parametrize(
    "ids, known, end",
    [
        (7, {"<|im_end|>": 5}, 5),
        ([7, 5], {"<|im_end|>": 5}, 5),
        ([7, 5], {}, 7),
        (7, {}, 7),
    ],
)
def test_an_answer_ends_with_the_turn_whatever_the_config_says(
    tmp_path, ids, known, end
):
    raw = vision_language("rms-qwen2").config.to_dict()
    raw["text_config"]["eos_token_id"] = ids
    write_json(tmp_path / "config.json", raw)
    write_json(tmp_path / "added_tokens.json", known)
    assert read_config(tmp_path).end_token_id == end


def test_the_processor_of_the_hf_layout_says_how_many_tiles(tmp_path):
    raw = config_json(dataclasses.replace(TINY, max_tiles=5), "hf", "float32")
    write_json(tmp_path / "config.json", raw)
    settings = {
        "crop_to_patches": False,  # as in the published files, and without effect
        "max_patches": 7,
        "min_patches": 1,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size": {"height": 28, "width": 28},
    }
    write_json(tmp_path / "preprocessor_config.json", settings)
    assert read_config(tmp_path).max_tiles == 5
    del raw["max_dynamic_patch"]
    write_json(tmp_path / "config.json", raw)
    assert read_config(tmp_path).max_tiles == 7
    changes = {
        "max_patches": "x",
        "min_patches": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [1, 1, 1],
        "size": {"height": 56, "width": 56},
    }
    write_json(tmp_path / "preprocessor_config.json", changes)
    only = "preprocessor_config.json: "
    assert refusal(lambda: read_config(tmp_path)) == cannot_be_loaded(
        tmp_path,
        f"{only}image_mean is [0.5, 0.5, 0.5]; only [0.485, 0.456, 0.406] is supported",
        f"{only}image_std is [1, 1, 1]; only [0.229, 0.224, 0.225] is supported",
        f"{only}size is {{'height': 56, 'width': 56}}; "
        "only {'height': 28, 'width': 28} is supported",
        f"{only}min_patches is 2; only 1 is supported",
        f"{only}max_patches is 'x'; it must be a positive whole number",
    )
    (tmp_path / "preprocessor_config.json").unlink()
    assert read_config(tmp_path).max_tiles == 12


# Every field that config.json holds, away from its default.
FAR_TEXT = TextConfig(
    vocab_size=401,
    embed=24,
    layers=5,
    heads=6,
    kv_heads=3,
    head_dim=10,
    mlp=36,
    norm_eps=1e-5,
    qkv_bias=False,
    qk_norm=True,
    tie_embeddings=True,
    rope_theta=5e5,
    rope_factor=3.0,
    max_positions=777,
)


FAR_VISION = VisionConfig(
    image_size=60,
    patch_size=15,
    embed=33,
    layers=3,
    heads=11,
    mlp=44,
    norm="rms_norm",
    norm_eps=1e-4,
    qkv_bias=False,
    qk_norm=True,
    qk_norm_eps=1e-4,
)


FAR = ModelConfig(
    text=FAR_TEXT,
    vision=FAR_VISION,
    image_token_id=17,
    end_token_id=18,
    pad_token_id=19,
    max_tiles=7,
    architecture="SkyworkR1VChatModel",
)


NOT_IN_CONFIG_JSON = {"rope_impl", "vocab_multiple"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_field_of_a_model_survives_config_json(
    tmp_path, layout, norm, qkv_bias, qk_norm
):
    for far in (FAR, FAR_TEXT, FAR_VISION):
        same = {
            field.name
            for field in dataclasses.fields(far)
            if getattr(far, field.name) == field.default
        }
        assert same <= NOT_IN_CONFIG_JSON
    vision = dataclasses.replace(
        FAR_VISION, norm=norm, qkv_bias=qkv_bias, qk_norm=qk_norm
    )
    config = dataclasses.replace(FAR, vision=vision)
    if layout == "hf":  # transformers has no Skywork, and one eps for every qk-norm
        vision = dataclasses.replace(vision, qk_norm_eps=1e-6)
        config = dataclasses.replace(
            config, vision=vision, architecture="InternVLChatModel"
        )
    write_json(tmp_path / "config.json", config_json(config, layout, "float32"))
    assert read_config(tmp_path) == config


def test_the_image_token_is_found_where_each_generation_of_files_keeps_it(tmp_path):
    source = vision_language("rms-qwen2").config.to_dict()
    write_json(tmp_path / "config.json", source)
    assert read_config(tmp_path).image_token_id == 9
    old = {key: value for key, value in source.items() if key != "image_token_id"}
    write_json(tmp_path / "config.json", {**old, "image_token_index": 11})
    assert read_config(tmp_path).image_token_id == 11
    original = original_config(vision_language("rms-qwen2").config.to_dict())
    del original["image_token_id"]  # the published files of this layout have none
    write_json(tmp_path / "config.json", original)
    with pytest.raises(
        ValueError, match="image_token_id 151667 is outside the vocabulary of 331"
    ):
        read_config(tmp_path)
    write_json(tmp_path / "added_tokens.json", {"<IMG_CONTEXT>": 13})
    assert read_config(tmp_path).image_token_id == 13
    listed = {
        "added_tokens_decoder": {"17": {"content": "<IMG_CONTEXT>", "special": True}}
    }
    write_json(tmp_path / "tokenizer_config.json", listed)
    assert read_config(tmp_path).image_token_id == 17
    listed = {"added_tokens": [{"content": "<IMG_CONTEXT>", "id": 19}]}
    write_json(tmp_path / "tokenizer.json", listed)
    assert read_config(tmp_path).image_token_id == 19
