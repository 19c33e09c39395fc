"""A small model as it is published, for the tests of the tools that read and write checkpoints."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import tokenizers_for_tests
from PIL import Image
from random_models import random_model
from safetensors.torch import load_file, save_file

from r1v3_jax import hf
from r1v3_jax.config import TINY
from r1v3_jax.files import read_json, write_json

# As many rows as the tokenizer has tokens: nothing may be added to it.
CONFIG = dataclasses.replace(
    TINY,
    text=dataclasses.replace(TINY.text, vocab_size=277),
    image_token_id=270,
    end_token_id=267,
    pad_token_id=265,
)


def write_published(work: Path) -> None:
    """Writes work/published, in the original layout and without a template, and its tokenizer."""
    (work / "tokenizer").mkdir()
    tokenizers_for_tests.write_tiny_tokenizer(work / "tokenizer")
    model = random_model(CONFIG)
    hf.save(model, work / "published", "original", tokenizer=work / "tokenizer")


def write_images(directory: Path) -> list[Path]:
    """Two pictures of noise: one of 12 tiles and a thumbnail, and a square one."""
    rng = np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate([(112, 84), (30, 31)]):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        paths.append(directory / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def write_language_model(source: Path, directory: Path) -> Path:
    """The language model of a checkpoint in the hf layout, alone."""
    shutil.copytree(source, directory)
    settings = read_json(directory / "config.json")["text_config"]
    write_json(directory / "config.json", settings)
    prefix = "language_model."
    tensors = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        if name.startswith(prefix):
            tensors[name.removeprefix(prefix)] = tensor
    save_file(tensors, directory / "model.safetensors")
    return directory
