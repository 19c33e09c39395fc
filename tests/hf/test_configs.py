"""`config.json`, in and out: what it says of a model, and what is refused."""

import dataclasses
import json

import pytest
from checkpoints_for_tests import (
    cannot_be_loaded,
    change_json,
    original_config,
    refusal,
    vision_language,
)

from r1v3_jax import files
from r1v3_jax.config import PRESETS, TINY, ModelConfig, TextConfig, VisionConfig
from r1v3_jax.hf import read_config, write_config


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("layout", read_config.LAYOUTS)
def test_config_json_says_everything(tmp_path, name, layout):
    """What is written for a model reads back as the same model, up to what only runs know."""
    config = PRESETS[name]
    files.write_json(
        tmp_path / "config.json", write_config.write(config, layout, "bfloat16")
    )
    if layout == "hf":  # transformers knows no Skywork
        config = dataclasses.replace(config, architecture="InternVLChatModel")
    assert read_config.read(tmp_path) == config


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
        write_config.write(odd, "hf", "float32")
    with pytest.raises(
        ValueError, match="one eps for all norms, this tower has 1e-06 and 1e-05"
    ):
        write_config.write(odd, "original", "float32")
    both = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, qk_norm=True))
    with pytest.raises(ValueError, match="both a qkv bias .* and a qk-norm"):
        write_config.write(both, "hf", "float32")


def set_in(*path, value):
    """Changes one value of a config.json."""

    def change(raw):
        *outer, last = path
        for key in outer:
            raw = raw[key]
        raw[last] = value

    return change


LM = "the language model's "


LOADED = (
    "this program loads internvl, internvl_chat and skywork_chat, and the language models qwen2, "
    "qwen3 and llama"
)


ROPE = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}


NO_FACTOR = {"rope_type": "dynamic", "rope_theta": 1e6}


CONFIGS = {  # layout, change, message
    "architecture": (
        "hf",
        set_in("model_type", value="qwen2_vl"),
        f"model_type 'qwen2_vl' is not supported; {LOADED}",
    ),
    "no-type": (
        "hf",
        lambda raw: raw.pop("model_type"),
        f"model_type None is not supported; {LOADED}",
    ),
    "language": (
        "original",
        set_in("llm_config", "model_type", value="internlm2"),
        "language model_type 'internlm2'; supported are qwen2, qwen3 and llama",
    ),
    "activation": (
        "hf",
        set_in("text_config", "hidden_act", value="gelu"),
        f"{LM}hidden_act is 'gelu'; only 'silu' is supported",
    ),
    "vision-activation": (
        "original",
        set_in("vision_config", "hidden_act", value="quick_gelu"),
        "vision hidden_act is 'quick_gelu'; only 'gelu' is supported",
    ),
    "projector-activation": (
        "hf",
        set_in("projector_hidden_act", value="relu"),
        "projector_hidden_act is 'relu'; only 'gelu' is supported",
    ),
    "rope": (
        "hf",
        set_in("text_config", "rope_parameters", value=ROPE),
        "RoPE scaling 'yarn'; supported are none ('default') and 'dynamic'",
    ),
    "old-rope": (
        "original",
        set_in("llm_config", "rope_scaling", value={"type": "linear", "factor": 2.0}),
        "RoPE scaling 'linear'; supported are none ('default') and 'dynamic'",
    ),
    "no-rope": (
        "original",
        lambda raw: raw["llm_config"].pop("rope_theta"),
        f"{LM}config lacks rope_theta",
    ),
    "pixel-shuffle": (
        "original",
        set_in("ps_version", value="v1"),
        "ps_version is 'v1'; only 'v2' is supported",
    ),
    "no-pixel-shuffle": (
        "original",
        lambda raw: raw.pop("ps_version"),  # v1 is the default of the original class
        "ps_version is 'v1'; only 'v2' is supported",
    ),
    "sliding-window": (
        "hf",
        set_in("text_config", "use_sliding_window", value=True),
        f"{LM}use_sliding_window is True; only False is supported",
    ),
    "layer-types": (
        "hf",
        set_in(
            "text_config", "layer_types", value=["full_attention", "sliding_attention"]
        ),
        "layer_types ['full_attention', 'sliding_attention']; only full_attention is supported",
    ),
    "select-layer": (
        "original",
        set_in("select_layer", value=-2),
        "select_layer is -2; only -1 is supported",
    ),
    "feature-layer": (
        "hf",
        set_in("vision_feature_layer", value=-2),
        "vision_feature_layer is -2; only -1 is supported",
    ),
    "ratio": (
        "original",
        set_in("downsample_ratio", value=0.25),
        "downsample_ratio is 0.25; only 0.5 is supported",
    ),
    "thumbnail": (
        "original",
        set_in("use_thumbnail", value=False),
        "use_thumbnail is False; only True is supported",
    ),
    "norm": (
        "hf",
        set_in("vision_config", "norm_type", value="batch_norm"),
        "vision norm_type 'batch_norm'; supported are layer_norm and rms_norm",
    ),
    "final-norm": (
        "hf",
        set_in("vision_config", "use_mean_pooling", value=False),
        "vision use_mean_pooling is False; only True is supported",
    ),
    "oblong": (
        "hf",
        set_in("vision_config", "image_size", value=[28, 56]),
        "vision image_size [28, 56]; only squares are supported",
    ),
    "odd-patches": (
        "hf",
        set_in("vision_config", "image_size", value=[35, 35]),
        "image_size 35 must be an even number of patches of 7 pixels: the pixel shuffle merges "
        "2 x 2 patches",
    ),
    "image-size": (
        "original",
        set_in("force_image_size", value=56),
        "force_image_size 56 is not the tower's image_size 28",
    ),
    "quantised": (
        "original",
        set_in("llm_config", "quantization_config", value={"quant_method": "awq"}),
        "quantised weights (quantization_config); wanted bfloat16 or float32 ones",
    ),
    "no-sizes": (
        "hf",
        lambda raw: [
            raw["text_config"].pop(key) for key in ("hidden_size", "vocab_size")
        ],
        f"{LM}config lacks hidden_size, vocab_size",
    ),
    "no-tower": (
        "hf",
        lambda raw: raw.pop("vision_config"),
        "vision_config lacks hidden_size, num_hidden_layers, num_attention_heads, "
        "intermediate_size, image_size, patch_size",
    ),
    "heads": (
        "hf",
        set_in("text_config", "num_key_value_heads", value=3),
        "8 query heads do not divide over 3 kv heads",
    ),
    "image-token": (
        "hf",
        set_in("image_token_id", value=331),
        "image_token_id 331 is outside the vocabulary of 331 tokens",
    ),
    "text-for-a-number": (
        "hf",
        set_in("vision_config", "hidden_size", value="wide"),
        "vision hidden_size is 'wide'; it must be a positive whole number",
    ),
    "text-for-an-object": (
        "hf",
        set_in("vision_config", value="none"),
        "vision_config is 'none'; a JSON object was wanted",
        "vision_config lacks hidden_size, num_hidden_layers, num_attention_heads, "
        "intermediate_size, image_size, patch_size",
    ),
    "list-for-an-object": (
        "hf",
        set_in("text_config", value=[1]),
        "text_config is [1]; a JSON object was wanted",
        f"{LM}config lacks hidden_size, num_hidden_layers, num_attention_heads, "
        "intermediate_size, vocab_size",
        f"{LM}config lacks rope_theta",
    ),
    "text-for-rope": (
        "hf",
        set_in("text_config", "rope_parameters", value="yarn"),
        "rope_parameters is 'yarn'; a JSON object was wanted",
        f"{LM}config lacks rope_theta",
    ),
    "text-for-layer-types": (
        "hf",
        set_in("text_config", "layer_types", value=1),
        "a value of a type that no config has ('int' object is not iterable)",
    ),
    "class": (
        "hf",
        set_in("architectures", value=["InternVLForVideo"]),
        "architectures is ['InternVLForVideo']; wanted InternVLForConditionalGeneration",
    ),
    "original-class": (
        "original",
        set_in("architectures", value=["MiniCPMV"]),
        "architectures is ['MiniCPMV']; wanted SkyworkR1VChatModel or InternVLChatModel",
    ),
    "language-class": (
        "original",
        set_in("llm_config", "architectures", value=["Qwen2MoeForCausalLM"]),
        f"{LM}architectures is ['Qwen2MoeForCausalLM']; wanted Qwen2ForCausalLM",
    ),
    "language-class-without-type": (
        "original",
        lambda raw: raw["llm_config"].update(
            model_type=None, architectures=["InternLM2"]
        ),
        f"{LM}architectures is ['InternLM2']; "
        "wanted Qwen2ForCausalLM or Qwen3ForCausalLM or LlamaForCausalLM",
    ),
    "no-theta": (
        "original",
        set_in("llm_config", "rope_theta", value=0),
        f"{LM}rope_theta is 0; it must be a positive number",
    ),
    "negative-theta": (
        "hf",
        set_in("text_config", "rope_parameters", "rope_theta", value=-1e6),
        f"{LM}rope_theta is -1000000.0; it must be a positive number",
    ),
    "text-for-eps": (
        "hf",
        set_in("text_config", "rms_norm_eps", value="1e-6"),
        f"{LM}rms_norm_eps is '1e-6'; it must be a positive number",
    ),
    "vision-eps": (
        "original",
        set_in("vision_config", "layer_norm_eps", value=float("nan")),
        "vision layer_norm_eps is nan; it must be a positive number",
    ),
    "text-for-tiles": (
        "original",
        set_in("max_dynamic_patch", value="x"),
        "max_dynamic_patch is 'x'; it must be a positive whole number",
    ),
    "negative-tiles": (
        "hf",
        set_in("max_dynamic_patch", value=-3),
        "max_dynamic_patch is -3; it must be a positive whole number",
    ),
    "min-tiles": (
        "original",
        set_in("min_dynamic_patch", value=2),
        "min_dynamic_patch is 2; only 1 is supported",
    ),
    "one-tile": (
        "original",
        set_in("dynamic_image_size", value=False),
        "dynamic_image_size is False; only True is supported",
    ),
    "true-for-a-token": (
        "hf",
        set_in("image_token_id", value=True),
        "image_token_id is True; it must be a token id",
    ),
    "text-for-the-end": (
        "hf",
        set_in("text_config", "eos_token_id", value="<|im_end|>"),
        "eos_token_id is '<|im_end|>'; it must be a token id",
    ),
    "no-factor": (
        "hf",
        set_in("text_config", "rope_parameters", value=NO_FACTOR),
        "RoPE scaling 'dynamic' lacks its factor",
    ),
    "negative-factor": (
        "hf",
        set_in("text_config", "rope_parameters", value={**NO_FACTOR, "factor": -2}),
        "RoPE scaling: factor is -2; it must be a positive number",
    ),
}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_config_that_the_model_cannot_follow_is_refused(tmp_path, name):
    layout, change, *messages = CONFIGS[name]
    raw = vision_language("rms-qwen2").config.to_dict()
    raw = original_config(raw) if layout == "original" else raw
    (tmp_path / "config.json").write_text(json.dumps(raw))
    read_config.read(tmp_path)
    change_json(tmp_path / "config.json", change)
    assert refusal(lambda: read_config.read(tmp_path)) == cannot_be_loaded(
        tmp_path, *(f"config.json: {message}" for message in messages)
    )


def test_all_problems_of_a_config_come_in_one_error(tmp_path):
    raw = original_config(vision_language("rms-qwen2").config.to_dict())
    raw["ps_version"], raw["llm_config"]["hidden_act"] = "v1", "relu"
    raw["vision_config"]["norm_type"] = "none"
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert refusal(lambda: read_config.read(tmp_path)) == cannot_be_loaded(
        tmp_path,
        "config.json: the language model's hidden_act is 'relu'; only 'silu' is supported",
        "config.json: vision norm_type 'none'; supported are layer_norm and rms_norm",
        "config.json: ps_version is 'v1'; only 'v2' is supported",
    )


def test_the_defaults_of_a_tower_are_those_of_its_class(tmp_path):
    """InternVisionConfig's are the 6B tower's, InternVLVisionConfig's a LayerNorm tower's."""
    source = vision_language("rms-qwen2").config
    for layout in read_config.LAYOUTS:
        raw = source.to_dict() if layout == "hf" else original_config(source.to_dict())
        for (
            key
        ) in "norm_type use_qk_norm attention_bias qk_normalization qkv_bias".split():
            raw["vision_config"].pop(key, None)
        files.write_json(tmp_path / "config.json", raw)
        vision = read_config.read(tmp_path).vision
        wanted = ("rms_norm", True) if layout == "original" else ("layer_norm", False)
        assert (vision.norm, vision.qk_norm, vision.qkv_bias) == (*wanted, False)


def test_the_class_that_a_config_names_is_the_model(tmp_path):
    """A quantised copy of Skywork-R1V3 calls itself skywork_chat and InternVLChatModel."""
    raw = original_config(vision_language("rms-qwen2").config.to_dict())

    def read(**changes):
        files.write_json(tmp_path / "config.json", {**raw, **changes})
        return read_config.read(tmp_path)

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
    files.write_json(tmp_path / "config.json", raw)
    text = read_config.read(tmp_path).text
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
    files.write_json(tmp_path / "config.json", raw)
    files.write_json(tmp_path / "added_tokens.json", known)
    assert read_config.read(tmp_path).end_token_id == end


def test_the_processor_of_the_hf_layout_says_how_many_tiles(tmp_path):
    raw = write_config.write(dataclasses.replace(TINY, max_tiles=5), "hf", "float32")
    files.write_json(tmp_path / "config.json", raw)
    settings = {
        "crop_to_patches": False,  # as in the published files, and without effect
        "max_patches": 7,
        "min_patches": 1,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size": {"height": 28, "width": 28},
    }
    files.write_json(tmp_path / "preprocessor_config.json", settings)
    assert read_config.read(tmp_path).max_tiles == 5
    del raw["max_dynamic_patch"]
    files.write_json(tmp_path / "config.json", raw)
    assert read_config.read(tmp_path).max_tiles == 7
    changes = {
        "max_patches": "x",
        "min_patches": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [1, 1, 1],
        "size": {"height": 56, "width": 56},
    }
    files.write_json(tmp_path / "preprocessor_config.json", changes)
    only = "preprocessor_config.json: "
    assert refusal(lambda: read_config.read(tmp_path)) == cannot_be_loaded(
        tmp_path,
        f"{only}image_mean is [0.5, 0.5, 0.5]; only [0.485, 0.456, 0.406] is supported",
        f"{only}image_std is [1, 1, 1]; only [0.229, 0.224, 0.225] is supported",
        f"{only}size is {{'height': 56, 'width': 56}}; "
        "only {'height': 28, 'width': 28} is supported",
        f"{only}min_patches is 2; only 1 is supported",
        f"{only}max_patches is 'x'; it must be a positive whole number",
    )
    (tmp_path / "preprocessor_config.json").unlink()
    assert read_config.read(tmp_path).max_tiles == 12


# Every field that config.json holds, away from its default.
FAR_TEXT = TextConfig(
    vocab_size=401, embed=24, layers=5, heads=6, kv_heads=3, head_dim=10, mlp=36, norm_eps=1e-5,
    qkv_bias=False, qk_norm=True, tie_embeddings=True, rope_theta=5e5, rope_factor=3.0,
    max_positions=777,
)  # fmt: skip


FAR_VISION = VisionConfig(
    image_size=60, patch_size=15, embed=33, layers=3, heads=11, mlp=44, norm="rms_norm",
    norm_eps=1e-4, qkv_bias=False, qk_norm=True, qk_norm_eps=1e-4,
)  # fmt: skip


FAR = ModelConfig(
    text=FAR_TEXT, vision=FAR_VISION, image_token_id=17, end_token_id=18, pad_token_id=19,
    max_tiles=7, architecture="SkyworkR1VChatModel",
)  # fmt: skip


NOT_IN_CONFIG_JSON = {"rope_impl", "vocab_multiple"}


@pytest.mark.parametrize("layout", read_config.LAYOUTS)
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
    files.write_json(
        tmp_path / "config.json", write_config.write(config, layout, "float32")
    )
    assert read_config.read(tmp_path) == config


def test_the_image_token_is_found_where_each_generation_of_files_keeps_it(tmp_path):
    source = vision_language("rms-qwen2").config.to_dict()
    files.write_json(tmp_path / "config.json", source)
    assert read_config.read(tmp_path).image_token_id == 9
    old = {key: value for key, value in source.items() if key != "image_token_id"}
    files.write_json(tmp_path / "config.json", {**old, "image_token_index": 11})
    assert read_config.read(tmp_path).image_token_id == 11
    original = original_config(vision_language("rms-qwen2").config.to_dict())
    del original["image_token_id"]  # the published files of this layout have none
    files.write_json(tmp_path / "config.json", original)
    with pytest.raises(
        ValueError, match="image_token_id 151667 is outside the vocabulary of 331"
    ):
        read_config.read(tmp_path)
    files.write_json(tmp_path / "added_tokens.json", {"<IMG_CONTEXT>": 13})
    assert read_config.read(tmp_path).image_token_id == 13
    listed = {
        "added_tokens_decoder": {"17": {"content": "<IMG_CONTEXT>", "special": True}}
    }
    files.write_json(tmp_path / "tokenizer_config.json", listed)
    assert read_config.read(tmp_path).image_token_id == 17
    listed = {"added_tokens": [{"content": "<IMG_CONTEXT>", "id": 19}]}
    files.write_json(tmp_path / "tokenizer.json", listed)
    assert read_config.read(tmp_path).image_token_id == 19
