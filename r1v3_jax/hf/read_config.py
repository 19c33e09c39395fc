"""`config.json` of a Hugging Face checkpoint -> ModelConfig.

Reads `InternVLForConditionalGeneration` (transformers), `InternVLChatModel` and
`SkyworkR1VChatModel` (the original repositories), and the language models alone (Qwen2, Qwen3,
Llama). Refuses what the model cannot do, all of it at once, before any weight is read: another
activation, another pixel shuffle, sliding windows, ...
"""

import dataclasses
import math
import os
from pathlib import Path

from r1v3_jax.config import ModelConfig, TextConfig, VisionConfig
from r1v3_jax.files import read_json
from r1v3_jax.processing.tokenizer_files import added_tokens

LAYOUTS = ("hf", "original")
IMAGE_TOKEN = "<IMG_CONTEXT>"
END_TOKEN = "<|im_end|>"
IMAGE_MEAN = [0.485, 0.456, 0.406]
IMAGE_STD = [0.229, 0.224, 0.225]

# model_type -> the classes that are read. A config that names no class has the first of them.
ARCHITECTURES = {
    "internvl": ("InternVLForConditionalGeneration",),
    "internvl_chat": ("InternVLChatModel", "SkyworkR1VChatModel"),
    "skywork_chat": ("SkyworkR1VChatModel", "InternVLChatModel"),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
    "llama": ("LlamaForCausalLM",),
}
FAMILIES = ("qwen2", "qwen3", "llama")

# Ids of the published models, for a config.json that names none.
PUBLISHED_IMAGE_TOKEN_ID = 151667
PUBLISHED_END_TOKEN_ID = 151645

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)

# Whose key a message is about.
LM = "the language model's "
TOWER = "vision "


def read_config(directory) -> ModelConfig:
    """Reads the ModelConfig of a checkpoint directory. ValueError lists every problem in it."""
    problems: list[str] = []
    config = try_read_config(Path(directory), problems)
    raise_problems(directory, problems)
    return config


def try_read_config(directory: Path, problems: list[str]) -> ModelConfig | None:
    """Reads the ModelConfig of a checkpoint directory, or adds to `problems` and returns None.

    Each problem begins with the name of its file.
    """
    path = directory / "config.json"
    config = None
    config_problems: list[str] = []
    try:
        raw = read_json(path)
        config = _model_config(raw, directory, config_problems)
    except (ValueError, OSError) as error:
        config_problems.append(str(error).removeprefix(f"{path}: "))
    except (AttributeError, KeyError, TypeError) as error:
        config_problems.append(f"a value of a type that no config has ({error})")
    problems += [f"config.json: {problem}" for problem in config_problems]
    if config is not None and raw["model_type"] == "internvl":
        return _with_processor(config, raw, directory, problems)
    return config


SHOWN = 20  # problems listed one by one; a wrong config makes thousands


def raise_problems(directory, problems: list[str]) -> None:
    """Raises a ValueError that lists `problems`, if there are any."""
    if not problems:
        return
    listed = problems[:SHOWN]
    if len(problems) > SHOWN:
        listed.append(f"... and {len(problems) - SHOWN} more")
    lines = "\n  ".join(listed)
    raise ValueError(
        f"{directory} cannot be loaded, {len(problems)} problem(s):\n  {lines}"
    )


# -------------------------------------------------------------------------------------------------
# the parts of config.json


def _model_config(
    raw: dict, directory: Path, problems: list[str]
) -> ModelConfig | None:
    model_type = raw.get("model_type")
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"model_type {model_type!r} is not supported; this program loads internvl, "
            "internvl_chat and skywork_chat, and the language models qwen2, qwen3 and llama"
        )

    # 1. The language model: all of config.json, or one object in it beside the tower's.
    if model_type in FAMILIES:
        text_raw = raw
        text = _text(raw, problems)
        vision = None
        image_token_id = None
        architecture = "InternVLChatModel"  # of no meaning without a tower
    else:
        original = model_type != "internvl"
        architecture = _architecture(raw, ARCHITECTURES[model_type], problems)
        text_raw = _object(raw, "llm_config" if original else "text_config", problems)
        text = _text(text_raw, problems)
        vision_raw = _object(raw, "vision_config", problems)
        vision = vision_fields(vision_raw, original, problems)
        _check_top(raw, vision_raw, original, problems)
        # Where the key is missing, InternVLConfig ties the head to the embedding, and
        # InternVLChatConfig does what its language model does.
        default = text_raw.get("tie_word_embeddings", False) if original else True
        text["tie_embeddings"] = bool(raw.get("tie_word_embeddings", default))
        image_token_id = _image_token_id(raw, directory, original, problems)

    # 2. What concerns both.
    if raw.get("quantization_config") or text_raw.get("quantization_config"):
        problems.append(
            "quantised weights (quantization_config); wanted bfloat16 or float32 ones"
        )
    end = _token_id("eos_token_id", (text_raw, raw), PUBLISHED_END_TOKEN_ID, problems)
    pad = _token_id("pad_token_id", (text_raw, raw), end, problems)
    # The configs of models that grew out of a base model may still name the end of a document.
    end = added_tokens(directory).get(END_TOKEN, end)
    max_tiles = _count(raw, "max_dynamic_patch", problems, default=12)

    # 3. The config, unless something in it was refused.
    if problems:
        return None
    skywork = architecture == "SkyworkR1VChatModel"
    return ModelConfig(
        text=TextConfig(**text),
        vision=None if vision is None else VisionConfig(**vision),
        image_token_id=image_token_id,
        end_token_id=end,
        pad_token_id=pad,
        max_tiles=max_tiles,
        architecture="SkyworkR1VChatModel" if skywork else "InternVLChatModel",
    )


def _text(raw: dict, problems: list[str]) -> dict:
    """Reads the fields of a TextConfig."""
    family = _family(raw, problems)
    if family is None:
        return {}

    # 1. The sizes.
    keys = (*SIZES, "vocab_size")
    missing = [key for key in keys if raw.get(key) is None]
    if missing:
        problems.append(f"{LM}config lacks {', '.join(missing)}")
    embed, layers, heads, mlp, vocab_size = (
        _count(raw, key, problems, LM) for key in keys
    )

    # 2. What the model here does in one way only.
    _require(raw, "hidden_act", "silu", problems, LM)
    _require(raw, "use_sliding_window", False, problems, LM)
    _require(raw, "mlp_bias", False, problems, LM)
    # Qwen2 has a bias of q, k and v, whatever its config says here.
    if family != "qwen2":
        _require(raw, "attention_bias", False, problems, LM)
    layer_types = set(raw.get("layer_types") or ())
    if layer_types - {"full_attention"}:
        problems.append(
            f"layer_types {sorted(layer_types)}; only full_attention is supported"
        )

    # 3. RoPE, and numbers with a default.
    rope = _rope(raw, problems)
    kv_heads = _count(raw, "num_key_value_heads", problems, LM, default=heads)
    equal_share = max(embed // heads, 1)
    head_dim = _count(raw, "head_dim", problems, LM, default=equal_share)
    norm_eps = _number(raw, "rms_norm_eps", problems, LM, default=1e-6)
    longest = "max_position_embeddings"
    max_positions = _count(raw, longest, problems, LM, default=32768)

    # 4. The fields.
    return dict(
        vocab_size=vocab_size,
        embed=embed,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp=mlp,
        norm_eps=norm_eps,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        **rope,
        max_positions=max_positions,
    )


def _family(raw: dict, problems: list[str]) -> str | None:
    """Returns the family of a language model, one of FAMILIES; None if it is not supported."""
    family = raw.get("model_type")
    if family is None:
        # The class says which it is. Without a class it is the first family, Qwen2.
        classes = tuple(ARCHITECTURES[name][0] for name in FAMILIES)
        architecture = _architecture(raw, classes, problems, LM)
        return FAMILIES[classes.index(architecture)]
    if family in FAMILIES:
        _architecture(raw, ARCHITECTURES[family], problems, LM)
        return family
    problems.append(
        f"language model_type {family!r}; supported are qwen2, qwen3 and llama"
    )
    return None


def _rope(raw: dict, problems: list[str]) -> dict:
    """Reads rope_theta and rope_factor: transformers 5 has an object for both, older files a key
    and an object for the scaling alone.
    """
    rope = _object(raw, "rope_parameters", problems)
    if not rope:
        rope = _object(raw, "rope_scaling", problems)
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind not in ("default", "dynamic"):
        problems.append(
            f"RoPE scaling {kind!r}; supported are none ('default') and 'dynamic'"
        )
    if kind == "dynamic" and rope.get("factor") is None:
        problems.append("RoPE scaling 'dynamic' lacks its factor")
    theta_owner = raw if rope.get("rope_theta") is None else rope
    if theta_owner.get("rope_theta") is None:
        problems.append(f"{LM}config lacks rope_theta")
    theta = _number(theta_owner, "rope_theta", problems, LM, default=1.0)
    # A factor without dynamic scaling has no effect.
    scaling = rope if kind == "dynamic" else {}
    factor = _number(scaling, "factor", problems, "RoPE scaling: ", default=1.0)
    return {"rope_theta": float(theta), "rope_factor": float(factor)}


def vision_fields(raw: dict, original: bool, problems: list[str]) -> dict:
    """Reads the fields of a VisionConfig."""
    # 1. The sizes.
    sides = ("image_size", "patch_size")
    missing = [key for key in (*SIZES, *sides) if raw.get(key) is None]
    if missing:
        problems.append(f"vision_config lacks {', '.join(missing)}")
    embed, layers, heads, mlp = (_count(raw, key, problems, TOWER) for key in SIZES)

    # 2. What the tower here does in one way only.
    _require(raw, "hidden_act", "gelu", problems, TOWER)
    _require(raw, "num_channels", 3, problems, TOWER)
    _require(raw, "use_mask_token", False, problems, TOWER)
    _require(raw, "use_mean_pooling", True, problems, TOWER)  # else: a final norm
    _require(raw, "use_absolute_position_embeddings", True, problems, TOWER)

    # 3. Keys whose names and defaults are those of InternVisionConfig (original, made for the 6B
    # tower) or of transformers' InternVLVisionConfig.
    norm = raw.get("norm_type") or ("rms_norm" if original else "layer_norm")
    if norm not in ("layer_norm", "rms_norm"):
        problems.append(
            f"vision norm_type {norm!r}; supported are layer_norm and rms_norm"
        )
    sizes = {key: _side(raw, key, problems) for key in sides}
    eps = _number(raw, "layer_norm_eps", problems, TOWER, default=1e-6)
    qkv_bias = raw.get("qkv_bias" if original else "attention_bias", False)
    qk_norm = raw.get("qk_normalization" if original else "use_qk_norm", original)
    return dict(
        **sizes,
        embed=embed,
        layers=layers,
        heads=heads,
        mlp=mlp,
        norm=norm,
        norm_eps=eps,
        qkv_bias=bool(qkv_bias),
        qk_norm=bool(qk_norm),
        # The original code uses the block norms' eps here; transformers its class default.
        qk_norm_eps=eps if original else 1e-6,
    )


def _side(raw: dict, key: str, problems: list[str]) -> int:
    """Reads the side of a square: 448 in the original layout, [448, 448] in transformers'."""
    side = raw.get(key)
    if isinstance(side, list):
        if len(set(side)) != 1:
            problems.append(f"vision {key} {side}; only squares are supported")
        side = side[0] if side else None
    return _count({key: side}, key, problems, TOWER)


def _check_top(
    raw: dict, vision_raw: dict, original: bool, problems: list[str]
) -> None:
    """Refuses keys beside the two models' that ask for another connector or other tiles."""
    _require(raw, "downsample_ratio", 0.5, problems)
    if not original:
        _require(raw, "projector_hidden_act", "gelu", problems)
        _require(raw, "vision_feature_layer", -1, problems)
        _require(raw, "vision_feature_select_strategy", "default", problems)
        return

    # InternVLChatConfig's own default is v1, whose tokens are transposed; all published models
    # say v2.
    shuffle = raw.get("ps_version", "v1")
    if shuffle != "v2":
        problems.append(f"ps_version is {shuffle!r}; only 'v2' is supported")
    _require(raw, "select_layer", -1, problems)
    _require(raw, "use_thumbnail", True, problems)
    _require(raw, "dynamic_image_size", True, problems)
    _require(raw, "min_dynamic_patch", 1, problems)
    size = vision_raw.get("image_size")
    forced = raw.get("force_image_size")
    if forced not in (None, size):
        problems.append(
            f"force_image_size {forced} is not the tower's image_size {size}"
        )


# -------------------------------------------------------------------------------------------------
# preprocessor_config.json


def _with_processor(
    config: ModelConfig, raw: dict, directory: Path, problems: list[str]
) -> ModelConfig:
    """Returns `config` with the number of tiles in `preprocessor_config.json`, if there is one."""
    path = directory / "preprocessor_config.json"
    # A dangling link is a file that was to be there: reading it makes the problem known.
    if not os.path.lexists(path):
        return config
    processor_problems: list[str] = []
    try:
        processor = read_json(path)
        size = config.vision.image_size
        square = {"height": size, "width": size}
        _require(processor, "image_mean", IMAGE_MEAN, processor_problems)
        _require(processor, "image_std", IMAGE_STD, processor_problems)
        _require(processor, "size", square, processor_problems)
        _require(processor, "min_patches", 1, processor_problems)
        # crop_to_patches is not read: the published files say false, and InternVLProcessor cuts
        # tiles all the same.
        default = config.max_tiles
        tiles = _count(processor, "max_patches", processor_problems, default=default)
        if raw.get("max_dynamic_patch") is None:
            config = dataclasses.replace(config, max_tiles=tiles)
    except (ValueError, OSError) as error:
        processor_problems.append(str(error).removeprefix(f"{path}: "))
    problems += [f"{path.name}: {problem}" for problem in processor_problems]
    return config


# -------------------------------------------------------------------------------------------------
# one key. A value that will not do becomes a problem, and is replaced by one that would, so that
# the other keys can be looked at.


def _architecture(
    raw: dict, known: tuple[str, ...], problems: list[str], owner: str = ""
) -> str:
    """Returns the class that a config names, one of `known`; the first if it names none."""
    named = raw.get("architectures") or []
    for name in known:
        if name in named:
            return name
    if named:
        problems.append(
            f"{owner}architectures is {named!r}; wanted {' or '.join(known)}"
        )
    return known[0]


def _object(raw: dict, key: str, problems: list[str]) -> dict:
    value = raw.get(key)
    if value is not None and not isinstance(value, dict):
        problems.append(f"{key} is {value!r}; a JSON object was wanted")
        return {}
    return value or {}


def _number(
    raw: dict,
    key: str,
    problems: list[str],
    owner: str = "",
    *,
    default: float,
    kinds=(int, float),
    wanted: str = "a positive number",
):
    """Returns raw[key], a positive number; `default` if there is none or it is no such number."""
    value = default if raw.get(key) is None else raw[key]
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        problems.append(f"{owner}{key} is {value!r}; it must be {wanted}")
        return default
    return value


def _count(
    raw: dict, key: str, problems: list[str], owner: str = "", *, default: int = 1
) -> int:
    """Returns raw[key], a positive whole number; `default` as in `_number`."""
    wanted = "a positive whole number"
    return _number(raw, key, problems, owner, default=default, kinds=int, wanted=wanted)


def _require(raw: dict, key: str, value, problems: list[str], owner: str = "") -> None:
    got = raw.get(key, value)
    if got != value and got is not None:
        problems.append(f"{owner}{key} is {got!r}; only {value!r} is supported")


def _token_id(
    key: str, raws: tuple[dict, ...], default: int, problems: list[str]
) -> int:
    """Returns the token id under `key` in the first of `raws` with one; the first of a list."""
    values = (raw[key] for raw in raws if raw.get(key) is not None)
    value = next(values, default)
    value = value[0] if isinstance(value, list) and value else value
    if isinstance(value, bool) or not isinstance(value, int):
        problems.append(f"{key} is {value!r}; it must be a token id")
        return default
    return value


def _image_token_id(
    raw: dict, directory: Path, original: bool, problems: list[str]
) -> int:
    # The second name is that of transformers' first release.
    for key in ("image_token_id", "image_token_index"):
        if raw.get(key) is not None:
            return _token_id(key, (raw,), PUBLISHED_IMAGE_TOKEN_ID, problems)
    # The original layout leaves it to the tokenizer.
    if original:
        return added_tokens(directory).get(IMAGE_TOKEN, PUBLISHED_IMAGE_TOKEN_ID)
    return PUBLISHED_IMAGE_TOKEN_ID
