"""The files of an exported checkpoint beside weights and `config.json`.

These are: the tokenizer's files and chat template, the processor's settings that transformers
reads, and the configuration class that vLLM reads in the original layout. Knows no weights.
"""

from pathlib import Path

from r1v3_jax.config import ModelConfig
from r1v3_jax.files import read_json, write_settings, write_text
from r1v3_jax.hf.read_config import END_TOKEN, IMAGE_MEAN, IMAGE_STD, IMAGE_TOKEN
from r1v3_jax.hf.write_config import ORIGINAL_MODULE, original_class
from r1v3_jax.processing.tokenizer_files import added_tokens, copy_tokenizer


def write_processor_files(
    directory: Path,
    config: ModelConfig,
    layout: str,
    tokenizer,
    chat_template: str | None,
) -> None:
    """Writes all of these files into `directory`.

    tokenizer: a directory to copy the tokenizer's files from, or None. chat_template: Jinja that
    takes the place of the tokenizer's own, or None.
    """
    for name, settings in _settings(config, layout).items():
        write_settings(directory / name, settings)
    if layout == "original" and config.vision is not None:
        write_text(directory / f"{ORIGINAL_MODULE}.py", original_class(config))
    if tokenizer is not None:
        copy_tokenizer(tokenizer, directory)
        if layout == "hf" and config.vision is not None:
            _name_image_tokens(directory)
    if chat_template is not None:
        replace_template(directory, chat_template)


def _settings(config: ModelConfig, layout: str) -> dict[str, dict]:
    """Returns {file name: content} of the settings for generation and for images."""
    generation = {
        "eos_token_id": config.end_token_id,
        "pad_token_id": config.pad_token_id,
    }
    # A language model alone has no images to process.
    if config.vision is None:
        return {"generation_config.json": generation}
    side = config.vision.image_size
    preprocessor = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": config.max_tiles,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "crop_size": None,
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
    }
    settings = {
        "generation_config.json": generation,
        "preprocessor_config.json": preprocessor,
    }
    # The original layout has no processor that transformers knows.
    if layout == "hf":
        processor = {"processor_class": "InternVLProcessor"}
        settings["preprocessor_config.json"] = {**processor, **preprocessor}
        settings["processor_config.json"] = {
            **processor,
            "image_seq_length": config.image_tokens_per_tile,
        }
    return settings


def _name_image_tokens(directory: Path) -> None:
    """Names the tokens that transformers' InternVLProcessor asks its tokenizer for.

    It asks for a video token too, though the template has no videos. A named token that the
    vocabulary lacks would be added to it, beyond the last row of the embedding. So the video token
    is one that the vocabulary has: Qwen's own, or the padding, which no prompt contains, or the end
    of a turn.
    """
    path = directory / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}

    # 1. The video token.
    pad = settings.get("pad_token")
    # In some files a token is an object with its flags.
    pad = pad.get("content") if isinstance(pad, dict) else pad
    known = added_tokens(directory)
    candidates = ("<video>", "<|video_pad|>", pad, END_TOKEN)
    video = next((token for token in candidates if token in known), None)
    if video is None:
        raise ValueError(
            f"none of the tokenizer's added tokens is <video>, <|video_pad|>, its pad_token or "
            f"{END_TOKEN}; transformers' processor wants a video token: add one of them"
        )

    # 2. All four under their names, together with those that have a name already.
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": IMAGE_TOKEN,
        "video_token": video,
    }
    # The key holds a dictionary of named tokens or, in transformers 5, a list of nameless ones. A
    # list makes room for the names: it moves to the key that older files have for it.
    extra = settings.pop("extra_special_tokens", None)
    if isinstance(extra, dict):
        names = {**extra, **names}
    elif extra:
        settings["additional_special_tokens"] = extra
    settings = {key: value for key, value in settings.items() if key not in names}
    write_settings(path, {**settings, "extra_special_tokens": names})


def replace_template(directory: Path, chat_template: str) -> None:
    """Puts `chat_template` in the place of every other one: there must not be two."""
    write_text(directory / "chat_template.jinja", chat_template)
    (directory / "chat_template.json").unlink(missing_ok=True)
    path = directory / "tokenizer_config.json"
    if path.exists():
        settings = read_json(path)
        settings.pop("chat_template", None)
        write_settings(path, settings)
