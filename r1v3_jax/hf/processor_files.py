"""Directories that appear whole, and what lies in an exported one beside weights and `config.json`.

That is: the tokenizer's files and chat template, the processor's settings that transformers reads,
the configuration class that vLLM reads in the original layout.
"""

from pathlib import Path

from r1v3_jax.config import ModelConfig
from r1v3_jax.files import read_json, write_json
from r1v3_jax.hf import read_config, write_config
from r1v3_jax.processing import tokenizer_files


def write(
    directory: Path,
    config: ModelConfig,
    layout: str,
    tokenizer,
    chat_template: str | None,
) -> None:
    """Writes them all but the checksums. `tokenizer` is a directory or None."""
    for name, value in _settings(config, layout).items():
        write_json(directory / name, value)
    if layout == "original" and config.vision is not None:
        module = directory / f"{write_config.ORIGINAL_MODULE}.py"
        module.write_text(write_config.original_class(config), encoding="utf-8")
    if tokenizer is not None:
        tokenizer_files.copy_tokenizer(tokenizer, directory)
        if layout == "hf" and config.vision is not None:
            _name_image_tokens(directory)
    if chat_template is not None:
        replace_template(directory, chat_template)


def _settings(config: ModelConfig, layout: str) -> dict[str, dict]:
    generation = {
        "eos_token_id": config.end_token_id,
        "pad_token_id": config.pad_token_id,
    }
    if config.vision is None:
        return {"generation_config.json": generation}
    size = {"height": config.vision.image_size, "width": config.vision.image_size}
    preprocessor = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": config.max_tiles,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "crop_size": None,
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": read_config.IMAGE_MEAN,
        "image_std": read_config.IMAGE_STD,
    }
    files = {
        "generation_config.json": generation,
        "preprocessor_config.json": preprocessor,
    }
    if layout == "hf":  # the original layout has no processor that transformers knows
        named = {"processor_class": "InternVLProcessor"}
        files["preprocessor_config.json"] = {**named, **preprocessor}
        files["processor_config.json"] = {
            **named,
            "image_seq_length": config.image_tokens_per_tile,
        }
    return files


def _name_image_tokens(directory: Path) -> None:
    """Names the tokens that transformers' InternVLProcessor asks its tokenizer for.

    It asks for a video token too, though the template has no videos. A named token that the
    vocabulary lacks is added to it, beyond the last row of the embedding; so the video token is one
    that is there: Qwen's own, or the padding, which no prompt contains, or the end of a turn.
    """
    path = directory / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    pad = settings.get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    known = tokenizer_files.added_tokens(directory)
    candidates = ("<video>", "<|video_pad|>", pad, read_config.END_TOKEN)
    video = next((token for token in candidates if token in known), None)
    if video is None:
        raise ValueError(
            f"none of the tokenizer's added tokens is <video>, <|video_pad|>, its pad_token or "
            f"{read_config.END_TOKEN}; transformers' processor wants a video token: add one of them"
        )
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": read_config.IMAGE_TOKEN,
        "video_token": video,
    }
    listed = settings.pop(
        "extra_special_tokens", None
    )  # a list in transformers 5, or named ones
    if isinstance(listed, dict):
        named = {**listed, **named}
    elif listed:
        settings["additional_special_tokens"] = listed
    settings = {key: value for key, value in settings.items() if key not in named}
    write_json(path, {**settings, "extra_special_tokens": named})


def replace_template(directory: Path, chat_template: str) -> None:
    """Puts `chat_template` in the place of any other: there must not be two."""
    (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    (directory / "chat_template.json").unlink(missing_ok=True)
    path = directory / "tokenizer_config.json"
    if path.exists():
        settings = read_json(path)
        settings.pop("chat_template", None)
        write_json(path, settings)
