"""ModelConfig -> config.json, in two layouts."""

from r1v3_jax.config import ModelConfig, VisionConfig
from r1v3_jax.hf.read_config import ARCHITECTURES

# -------------------------------------------------------------------------------------------------
# out


def write(config: ModelConfig, layout: str, dtype: str) -> dict:
    """`config.json` for one of LAYOUTS; of a text-only model, that of its language model."""
    text = _text_json(config)
    if config.vision is None:
        return {"architectures": [_causal_lm(config)], "torch_dtype": dtype, **text}
    return (_hf_json if layout == "hf" else _original_json)(config, text, dtype)


def _causal_lm(config: ModelConfig) -> str:
    return ARCHITECTURES[_family(config)][0]


def _family(config: ModelConfig) -> str:
    text = config.text
    if text.qkv_bias and text.qk_norm:
        raise ValueError(
            "no published language model has both a qkv bias (Qwen2) and a qk-norm (Qwen3)"
        )
    return "qwen2" if text.qkv_bias else "qwen3" if text.qk_norm else "llama"


def _text_json(config: ModelConfig) -> dict:
    t, family = config.text, _family(config)
    dynamic = {"type": "dynamic", "rope_type": "dynamic", "factor": t.rope_factor}
    return {
        "model_type": family,
        "hidden_size": t.embed,
        "num_hidden_layers": t.layers,
        "num_attention_heads": t.heads,
        "num_key_value_heads": t.kv_heads,
        "head_dim": t.head_dim,
        "intermediate_size": t.mlp,
        "hidden_act": "silu",
        "vocab_size": t.vocab_size,
        "rms_norm_eps": t.norm_eps,
        "rope_theta": t.rope_theta,
        "rope_scaling": None if t.rope_factor == 1 else dynamic,
        "max_position_embeddings": t.max_positions,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        **({} if family == "qwen2" else {"attention_bias": False}),
        "tie_word_embeddings": t.tie_embeddings,
        "eos_token_id": config.end_token_id,
        "pad_token_id": config.pad_token_id,
    }


def _hf_json(config: ModelConfig, text: dict, dtype: str) -> dict:
    v = config.vision
    if v.qk_norm and v.qk_norm_eps != 1e-6:
        raise ValueError(
            f"transformers fixes the qk-norm eps at 1e-6, this tower has "
            f"{v.qk_norm_eps}; use layout original"
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
            **_vision_dims(v),
            "image_size": [v.image_size, v.image_size],
            "patch_size": [v.patch_size, v.patch_size],
            "attention_bias": v.qkv_bias,
            "use_qk_norm": v.qk_norm,
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
        },
    }


def _original_json(config: ModelConfig, text: dict, dtype: str) -> dict:
    v, skywork = config.vision, config.architecture == "SkyworkR1VChatModel"
    if v.qk_norm and v.qk_norm_eps != v.norm_eps:
        raise ValueError(
            f"the original code uses one eps for all norms, this tower has "
            f"{v.norm_eps} and {v.qk_norm_eps}; use layout hf"
        )
    return {
        "architectures": [config.architecture],
        "model_type": "skywork_chat" if skywork else "internvl_chat",
        "auto_map": {"AutoConfig": f"{ORIGINAL_MODULE}.ChatConfig"},
        "torch_dtype": dtype,
        "tie_word_embeddings": config.text.tie_embeddings,
        "hidden_size": config.text.embed,
        "image_token_id": config.image_token_id,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": v.image_size,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": config.max_tiles,
        "template": "internvl2_5",
        "llm_config": {"architectures": [_causal_lm(config)], **text},
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",  # of every InternViT, whatever its size
            **_vision_dims(v),
            "image_size": v.image_size,
            "patch_size": v.patch_size,
            "qkv_bias": v.qkv_bias,
            "qk_normalization": v.qk_norm,
            "initializer_factor": 0.1,  # of the layer scale; vLLM reads it before the weights
            "use_flash_attn": False,
        },
    }


def _vision_dims(v: VisionConfig) -> dict:
    return {
        "hidden_size": v.embed,
        "num_hidden_layers": v.layers,
        "num_attention_heads": v.heads,
        "intermediate_size": v.mlp,
        "hidden_act": "gelu",
        "norm_type": v.norm,
        "layer_norm_eps": v.norm_eps,
        "num_channels": 3,
    }


ORIGINAL_MODULE = "configuration_chat"


# vLLM reads the original layout through a configuration class that lies beside the weights: it
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
    skywork = config.architecture == "SkyworkR1VChatModel"
    return ORIGINAL_CLASS.format(
        model_type="skywork_chat" if skywork else "internvl_chat"
    )
