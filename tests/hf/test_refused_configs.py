"""`config.json`: what the model here cannot follow is refused by name."""

import json

import pytest
from checkpoints_for_tests import (
    cannot_be_loaded,
    change_json,
    original_config,
    refusal,
    vision_language,
)

from r1v3_jax.hf.read_config import read_config


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
    read_config(tmp_path)
    change_json(tmp_path / "config.json", change)
    assert refusal(lambda: read_config(tmp_path)) == cannot_be_loaded(
        tmp_path, *(f"config.json: {message}" for message in messages)
    )


def test_all_problems_of_a_config_come_in_one_error(tmp_path):
    raw = original_config(vision_language("rms-qwen2").config.to_dict())
    raw["ps_version"], raw["llm_config"]["hidden_act"] = "v1", "relu"
    raw["vision_config"]["norm_type"] = "none"
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert refusal(lambda: read_config(tmp_path)) == cannot_be_loaded(
        tmp_path,
        "config.json: the language model's hidden_act is 'relu'; only 'silu' is supported",
        "config.json: vision norm_type 'none'; supported are layer_norm and rms_norm",
        "config.json: ps_version is 'v1'; only 'v2' is supported",
    )
