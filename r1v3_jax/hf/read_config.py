"""`config.json` of a Hugging Face checkpoint, in and out.

Read: `InternVLForConditionalGeneration` (transformers), `InternVLChatModel` and
`SkyworkR1VChatModel` (the original repositories), and the language models alone (Qwen2, Qwen3,
Llama). What the model cannot do is refused here, all of it at once, before any weight is read:
another activation, another pixel shuffle, sliding windows, ...
"""

import dataclasses
import math
import os
from pathlib import Path

from r1v3_jax.config import ModelConfig, TextConfig, VisionConfig
from r1v3_jax.files import read_json
from r1v3_jax.processing.tokenizer_files import added_tokens

LAYOUTS = ("hf", "original")
IMAGE_TOKEN, END_TOKEN = "<IMG_CONTEXT>", "<|im_end|>"
IMAGE_MEAN, IMAGE_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
ARCHITECTURES = {  # model_type -> the classes that are read; the first where a config names none
    "internvl": ("InternVLForConditionalGeneration",),
    "internvl_chat": ("InternVLChatModel", "SkyworkR1VChatModel"),
    "skywork_chat": ("SkyworkR1VChatModel", "InternVLChatModel"),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
    "llama": ("LlamaForCausalLM",),
}
FAMILIES = ("qwen2", "qwen3", "llama")
LM, TOWER = "the language model's ", "vision "  # whose a key is, in messages


def read(directory) -> ModelConfig:
    """The ModelConfig of a checkpoint directory. Raises ValueError with every problem found."""
    problems: list[str] = []
    config = collect(Path(directory), problems)
    raise_problems(directory, problems)
    return config


def collect(directory: Path, problems: list[str]) -> ModelConfig | None:
    """The ModelConfig of a checkpoint directory; None where there are problems, which are added to
    `problems`, each with the name of its file.
    """
    path, found, config = directory / "config.json", [], None
    try:
        raw = read_json(path)
        config = _read(raw, directory, found)
    except (ValueError, OSError) as error:
        found.append(str(error).removeprefix(f"{path}: "))
    except (AttributeError, KeyError, TypeError) as error:
        found.append(f"a value of a type that no config has ({error})")
    problems += [f"config.json: {problem}" for problem in found]
    if config is not None and raw["model_type"] == "internvl":
        return _with_processor(config, raw, directory, problems)
    return config


SHOWN = 20  # problems listed one by one; a wrong config makes thousands


def raise_problems(directory, problems: list[str]) -> None:
    """ValueError that lists `problems`, if there are any."""
    if problems:
        more = (
            [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        )
        listed = "\n  ".join(problems[:SHOWN] + more)
        raise ValueError(
            f"{directory} cannot be loaded, {len(problems)} problem(s):\n  {listed}"
        )


def _read(raw: dict, directory: Path, problems: list[str]) -> ModelConfig | None:
    model_type = raw.get("model_type")
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"model_type {model_type!r} is not supported; this program loads internvl, "
            "internvl_chat and skywork_chat, and the language models qwen2, qwen3 and llama"
        )
    if model_type in FAMILIES:
        text_raw, text, vision, image_token_id = raw, _text(raw, problems), None, None
        architecture = "InternVLChatModel"  # of no meaning without a tower
    else:
        original = model_type != "internvl"
        architecture = _architecture(raw, ARCHITECTURES[model_type], problems)
        text_raw = _object(raw, "llm_config" if original else "text_config", problems)
        text = _text(text_raw, problems)
        vision_raw = _object(raw, "vision_config", problems)
        vision = _vision(vision_raw, original, problems)
        _check_top(raw, vision_raw, original, problems)
        # Without a word of its own InternVLConfig ties, InternVLChatConfig does what its language
        # model does.
        default = text_raw.get("tie_word_embeddings", False) if original else True
        text["tie_embeddings"] = bool(raw.get("tie_word_embeddings", default))
        image_token_id = _image_token_id(raw, directory, original, problems)
    if raw.get("quantization_config") or text_raw.get("quantization_config"):
        problems.append(
            "quantised weights (quantization_config); wanted bfloat16 or float32 ones"
        )
    end = _token_id("eos_token_id", (text_raw, raw), 151645, problems)
    pad = _token_id("pad_token_id", (text_raw, raw), end, problems)
    # The configs of models that grew out of a base model may still name the end of a document.
    end = added_tokens(directory).get(END_TOKEN, end)
    max_tiles = _number(raw, "max_dynamic_patch", problems, default=12, whole=True)
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
    family = raw.get("model_type")
    if family is None:
        known = tuple(ARCHITECTURES[family][0] for family in FAMILIES)
        family = FAMILIES[known.index(_architecture(raw, known, problems, LM))]
    elif family in FAMILIES:
        _architecture(raw, ARCHITECTURES[family], problems, LM)
    else:
        problems.append(
            f"language model_type {family!r}; supported are qwen2, qwen3 and llama"
        )
        return {}
    wanted = "hidden_size num_hidden_layers num_attention_heads intermediate_size vocab_size".split()
    missing = [key for key in wanted if raw.get(key) is None]
    if missing:
        problems.append(f"{LM}config lacks {', '.join(missing)}")
    embed, layers, heads, mlp, vocab_size = (
        _number(raw, key, problems, LM, default=1, whole=True) for key in wanted
    )
    _want(raw, "hidden_act", "silu", problems, LM)
    for key in (
        "use_sliding_window",
        "mlp_bias",
        *(() if family == "qwen2" else ("attention_bias",)),
    ):
        _want(raw, key, False, problems, LM)
    if set(raw.get("layer_types") or ()) - {"full_attention"}:
        problems.append(
            f"layer_types {sorted(set(raw['layer_types']))}; only full_attention is supported"
        )
    rope = _object(raw, "rope_parameters", problems) or _object(
        raw, "rope_scaling", problems
    )
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind not in ("default", "dynamic"):
        problems.append(
            f"RoPE scaling {kind!r}; supported are none ('default') and 'dynamic'"
        )
    if kind == "dynamic" and rope.get("factor") is None:
        problems.append("RoPE scaling 'dynamic' lacks its factor")
    theta = raw if rope.get("rope_theta") is None else rope
    if theta.get("rope_theta") is None:
        problems.append(f"{LM}config lacks rope_theta")
    scaled = rope if kind == "dynamic" else {}
    return dict(
        vocab_size=vocab_size,
        embed=embed,
        layers=layers,
        heads=heads,
        kv_heads=_number(
            raw, "num_key_value_heads", problems, LM, default=heads, whole=True
        ),
        head_dim=_number(
            raw, "head_dim", problems, LM, default=max(embed // heads, 1), whole=True
        ),
        mlp=mlp,
        norm_eps=_number(raw, "rms_norm_eps", problems, LM, default=1e-6),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        rope_theta=float(_number(theta, "rope_theta", problems, LM, default=1.0)),
        rope_factor=float(
            _number(scaled, "factor", problems, "RoPE scaling: ", default=1.0)
        ),
        max_positions=_number(
            raw, "max_position_embeddings", problems, LM, default=32768, whole=True
        ),
    )


def _vision(raw: dict, original: bool, problems: list[str]) -> dict:
    wanted = (
        "hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
    )
    missing = [
        key for key in (*wanted, "image_size", "patch_size") if raw.get(key) is None
    ]
    if missing:
        problems.append(f"vision_config lacks {', '.join(missing)}")
    embed, layers, heads, mlp = (
        _number(raw, key, problems, TOWER, default=1, whole=True) for key in wanted
    )
    _want(raw, "hidden_act", "gelu", problems, TOWER)
    _want(raw, "num_channels", 3, problems, TOWER)
    _want(raw, "use_mask_token", False, problems, TOWER)
    _want(raw, "use_mean_pooling", True, problems, TOWER)  # else there is a final norm
    _want(raw, "use_absolute_position_embeddings", True, problems, TOWER)
    # The defaults are those of InternVisionConfig, made for the 6B tower, and InternVLVisionConfig.
    norm = raw.get("norm_type") or ("rms_norm" if original else "layer_norm")
    if norm not in ("layer_norm", "rms_norm"):
        problems.append(
            f"vision norm_type {norm!r}; supported are layer_norm and rms_norm"
        )
    sizes = {}
    for key in ("image_size", "patch_size"):
        side = raw.get(key)
        if isinstance(side, list):
            if len(set(side)) != 1:
                problems.append(f"vision {key} {side}; only squares are supported")
            side = side[0] if side else None
        sizes[key] = _number({key: side}, key, problems, TOWER, default=1, whole=True)
    eps = _number(raw, "layer_norm_eps", problems, TOWER, default=1e-6)
    return dict(
        **sizes,
        embed=embed,
        layers=layers,
        heads=heads,
        mlp=mlp,
        norm=norm,
        norm_eps=eps,
        qkv_bias=bool(raw.get("qkv_bias" if original else "attention_bias", False)),
        qk_norm=bool(
            raw.get("qk_normalization" if original else "use_qk_norm", original)
        ),
        # The original code uses the block norms' eps here; transformers its class default.
        qk_norm_eps=eps if original else 1e-6,
    )


def _check_top(
    raw: dict, vision_raw: dict, original: bool, problems: list[str]
) -> None:
    _want(raw, "downsample_ratio", 0.5, problems)
    if original:
        # InternVLChatConfig's own default is v1, whose tokens are transposed; all published models
        # say v2.
        if raw.get("ps_version", "v1") != "v2":
            problems.append(
                f"ps_version is {raw.get('ps_version', 'v1')!r}; only 'v2' is supported"
            )
        _want(raw, "select_layer", -1, problems)
        _want(raw, "use_thumbnail", True, problems)
        _want(raw, "dynamic_image_size", True, problems)
        _want(raw, "min_dynamic_patch", 1, problems)
        size = vision_raw.get("image_size")
        if raw.get("force_image_size") not in (None, size):
            problems.append(
                f"force_image_size {raw['force_image_size']} is not the tower's image_size {size}"
            )
    else:
        _want(raw, "projector_hidden_act", "gelu", problems)
        _want(raw, "vision_feature_layer", -1, problems)
        _want(raw, "vision_feature_select_strategy", "default", problems)


def _with_processor(
    config: ModelConfig, raw: dict, directory: Path, problems: list[str]
) -> ModelConfig:
    """`config` with what `preprocessor_config.json`, where there is one, says about tiles."""
    path = directory / "preprocessor_config.json"
    if not os.path.lexists(path):
        return config
    found: list[str] = []
    try:
        processor = read_json(path)
        size = config.vision.image_size
        _want(processor, "image_mean", IMAGE_MEAN, found)
        _want(processor, "image_std", IMAGE_STD, found)
        _want(processor, "size", {"height": size, "width": size}, found)
        _want(processor, "min_patches", 1, found)
        # Not crop_to_patches: the published files say false, and InternVLProcessor cuts all the
        # same.
        tiles = _number(
            processor, "max_patches", found, default=config.max_tiles, whole=True
        )
        if raw.get("max_dynamic_patch") is None:
            config = dataclasses.replace(config, max_tiles=tiles)
    except (ValueError, OSError) as error:
        found.append(str(error).removeprefix(f"{path}: "))
    problems += [f"{path.name}: {problem}" for problem in found]
    return config


def _architecture(
    raw: dict, known: tuple[str, ...], problems: list[str], of: str = ""
) -> str:
    """The class that a config names, one of `known`; the first of them if it names none."""
    named = raw.get("architectures") or []
    for name in known:
        if name in named:
            return name
    if named:
        problems.append(f"{of}architectures is {named!r}; wanted {' or '.join(known)}")
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
    of: str = "",
    *,
    default,
    whole: bool = False,
):
    """raw[key], a positive number; `default` where there is none, and in the place of anything else
    so that the rest can be looked at.
    """
    value = default if raw.get(key) is None else raw[key]
    kinds = int if whole else (int, float)
    if (
        isinstance(value, bool)
        or not isinstance(value, kinds)
        or not 0 < value < math.inf
    ):
        wanted = "a positive whole number" if whole else "a positive number"
        problems.append(f"{of}{key} is {value!r}; it must be {wanted}")
        return default
    return value


def _want(raw: dict, key: str, value, problems: list[str], of: str = "") -> None:
    got = raw.get(key, value)
    if got != value and got is not None:
        problems.append(f"{of}{key} is {got!r}; only {value!r} is supported")


def _token_id(
    key: str, raws: tuple[dict, ...], default: int, problems: list[str]
) -> int:
    """The token under `key` in the first of `raws` that has one; of several the first."""
    value = next((raw[key] for raw in raws if raw.get(key) is not None), default)
    value = value[0] if isinstance(value, list) and value else value
    if isinstance(value, bool) or not isinstance(value, int):
        problems.append(f"{key} is {value!r}; it must be a token id")
        return default
    return value


def _image_token_id(
    raw: dict, directory: Path, original: bool, problems: list[str]
) -> int:
    for key in (
        "image_token_id",
        "image_token_index",
    ):  # the second in transformers' first release
        if raw.get(key) is not None:
            return _token_id(key, (raw,), 151667, problems)
    if original:  # there it is the tokenizer's business
        known = added_tokens(directory)
        if IMAGE_TOKEN in known:
            return known[IMAGE_TOKEN]
    return 151667
