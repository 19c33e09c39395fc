"""ModelConfig -> `config.json` of a Hugging Face checkpoint, in two layouts.

What it says is read back by `read_config.py` as the same ModelConfig. Knows no files.
"""

from r1v3_jax.config import ModelConfig, VisionConfig
from r1v3_jax.hf.read_config import ARCHITECTURES


def config_json(config: ModelConfig, layout: str, dtype: str) -> dict:
    """Returns `config.json` for one of LAYOUTS.

    dtype: that of the weights in the files. Of a model without a tower it is the language model's
    own `config.json`, the same in both layouts. ValueError if the layout cannot say what `config`
    does.
    """
    text = _text_json(config)
    if config.vision is None:
        architectures = [_causal_lm(config)]
        return {"architectures": architectures, "torch_dtype": dtype, **text}
    if layout == "hf":
        return _hf_json(config, text, dtype)
    return _original_json(config, text, dtype)


def _causal_lm(config: ModelConfig) -> str:
    return ARCHITECTURES[_family(config)][0]


def _family(config: ModelConfig) -> str:
    text = config.text
    if text.qkv_bias and text.qk_norm:
        raise ValueError(
            "no published language model has both a qkv bias (Qwen2) and a qk-norm (Qwen3)"
        )
    if text.qkv_bias:
        return "qwen2"
    return "qwen3" if text.qk_norm else "llama"


def _text_json(config: ModelConfig) -> dict:
    text = config.text
    family = _family(config)
    # Older readers ask for "type", newer ones for "rope_type".
    dynamic = {"type": "dynamic", "rope_type": "dynamic", "factor": text.rope_factor}
    # Qwen2Config has no such key: its bias is part of the model.
    bias = {} if family == "qwen2" else {"attention_bias": False}
    return {
        "model_type": family,
        "hidden_size": text.embed,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "intermediate_size": text.mlp,
        "hidden_act": "silu",
        "vocab_size": text.vocab_size,
        "rms_norm_eps": text.norm_eps,
        "rope_theta": text.rope_theta,
        "rope_scaling": None if text.rope_factor == 1 else dynamic,
        "max_position_embeddings": text.max_positions,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        **bias,
        "tie_word_embeddings": text.tie_embeddings,
        "eos_token_id": config.end_token_id,
        "pad_token_id": config.pad_token_id,
    }


def _hf_json(config: ModelConfig, text: dict, dtype: str) -> dict:
    vision = config.vision
    if vision.qk_norm and vision.qk_norm_eps != 1e-6:
        raise ValueError(
            f"transformers fixes the qk-norm eps at 1e-6, this tower has "
            f"{vision.qk_norm_eps}; use layout original"
        )
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "torch_dtype": dtype,
        "tie_word_embeddings": config.text.tie_embeddings,
        "image_token_id": config.image_token_id,
        "image_seq_length": config.image_tokens_per_tile,
        "downsample_ratio": 0.5,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "max_dynamic_patch": config.max_tiles,
        "text_config": text,
        "vision_config": {
            "model_type": "internvl_vision",
            **_vision_dims(vision),
            "image_size": [vision.image_size, vision.image_size],
            "patch_size": [vision.patch_size, vision.patch_size],
            "attention_bias": vision.qkv_bias,
            "use_qk_norm": vision.qk_norm,
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
        },
    }


def _original_json(config: ModelConfig, text: dict, dtype: str) -> dict:
    vision = config.vision
    if vision.qk_norm and vision.qk_norm_eps != vision.norm_eps:
        raise ValueError(
            f"the original code uses one eps for all norms, this tower has "
            f"{vision.norm_eps} and {vision.qk_norm_eps}; use layout hf"
        )
    return {
        "architectures": [config.architecture],
        "model_type": _original_model_type(config),
        "auto_map": {"AutoConfig": f"{ORIGINAL_MODULE}.ChatConfig"},
        "torch_dtype": dtype,
        "tie_word_embeddings": config.text.tie_embeddings,
        "hidden_size": config.text.embed,
        "image_token_id": config.image_token_id,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": vision.image_size,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": config.max_tiles,
        "template": "internvl2_5",
        "llm_config": {"architectures": [_causal_lm(config)], **text},
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",  # of every InternViT, whatever its size
            **_vision_dims(vision),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "qkv_bias": vision.qkv_bias,
            "qk_normalization": vision.qk_norm,
            # Of the layer scale. vLLM reads it before the weights.
            "initializer_factor": 0.1,
            "use_flash_attn": False,
        },
    }


def _original_model_type(config: ModelConfig) -> str:
    skywork = config.architecture == "SkyworkR1VChatModel"
    return "skywork_chat" if skywork else "internvl_chat"


def _vision_dims(vision: VisionConfig) -> dict:
    return {
        "hidden_size": vision.embed,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "intermediate_size": vision.mlp,
        "hidden_act": "gelu",
        "norm_type": vision.norm,
        "layer_norm_eps": vision.norm_eps,
        "num_channels": 3,
    }


# -------------------------------------------------------------------------------------------------
# the configuration class of the original layout

ORIGINAL_MODULE = "configuration_chat"

# vLLM reads the original layout through a configuration class in a file beside the weights: it
# wants `llm_config` as a real text config. This program itself never runs such code.
ORIGINAL_CLASS = '''"""Configuration of an InternVL or Skywork-R1V checkpoint, original layout."""

from transformers import AutoConfig, PretrainedConfig


class ChatConfig(PretrainedConfig):
    model_type = "{model_type}"
    is_composition = True

    def __init__(self, vision_config=None, llm_config=None, text_config=None, **kwargs):
        text = dict(llm_config or text_config or {{}})
        # Before super().__init__, which asks for the text configuration.
        self.text_config = AutoConfig.for_model(text.pop("model_type", "qwen2"), **text)
        self.llm_config = self.text_config
        self.vision_config = PretrainedConfig(**(vision_config or {{}}))
        super().__init__(**kwargs)

    def get_text_config(self, *args, **kwargs):
        return self.text_config
'''


def original_class(config: ModelConfig) -> str:
    """Returns the source of `configuration_chat.py`, which `auto_map` in `config.json` names."""
    return ORIGINAL_CLASS.format(model_type=_original_model_type(config))
