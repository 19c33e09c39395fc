"""A row with a film, through our reader and model and through transformers' processor and model.

transformers' own video processor needs torchvision. Its text is taken from InternVLProcessor, and
pixels from the processor of images, which scales with Pillow as InternVL's own code does.
"""

import json

import numpy as np
import tokenizers_for_tests
import torch
import transformers
from checkpoints_for_tests import forward
from film_rows import film
from random_models import random_model
from small_checkpoints import CONFIG
from torch_reference import ImageProcessorOnly

from r1v3_jax import hf
from r1v3_jax.config import Data, Video
from r1v3_jax.data import Rows
from r1v3_jax.data.reader import Reader
from r1v3_jax.processing import tokenizer
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.video import video_frames

FRAMES = 8
QUESTION = "Which way?"


def our_row(folder, processor):
    """Reads the one row of a file with a film, as a stage does."""
    (folder / "a.mkv").write_bytes(film(range(0, 240, 8)))
    row = {"question": f"<video>\n{QUESTION}", "answer": "3", "videos": ["a.mkv"]}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    reader = Reader(
        Rows(str(folder / "rows.jsonl")),
        processor.prompt,
        tokens=256,
        tiles=FRAMES,
        data=Data(video=Video(frames=FRAMES), threads=1, ahead=1),
        tile_size=processor.tile_size,
    )
    item = next(reader)
    reader.close()
    return item


def test_a_film_has_the_tokens_pixels_and_logits_of_transformers(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    tokenizers_for_tests.write_tiny_tokenizer(tmp_path / "tokenizer")
    model = random_model(CONFIG)
    hf.save(model, tmp_path / "hf", "hf", tokenizer=tmp_path / "tokenizer")
    processor = Processor(CONFIG, tokenizer.load(tmp_path / "hf"))
    ours = our_row(tmp_path, processor).encoded
    assert ours.tiles.counts == [1] * FRAMES

    # 1. Ids and pixels. Frames 2, 5, 9, ... of 30: InternVL's rule, see tests/processing.
    theirs = ImageProcessorOnly.from_pretrained(tmp_path / "hf")
    frames = video_frames(tmp_path / "a.mkv", FRAMES)
    inputs = theirs.image_processor(frames, crop_to_patches=False, return_tensors="pt")
    pixels = inputs["pixel_values"]
    shown = theirs.replace_video_token({"pixel_values_videos": [pixels]}, 0)
    # R1V3's chat, written out.
    begin, end = "<|im_start|>", "<|im_end|>"
    system = f"{begin}system\nYou are a helpful assistant.{end}\n"
    text = f"{system}{begin}user\n<here>\n{QUESTION}{end}\n{begin}assistant\n<think>\n"
    ids = theirs.tokenizer(text.replace("<here>", shown), return_tensors="pt")
    np.testing.assert_array_equal(ids["input_ids"][0], ours.tokens)
    tiles = ours.tiles.array
    np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1), tiles)

    # 2. Logits. float32, sums in other orders.
    reference = transformers.InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "hf"
    )
    with torch.no_grad():
        logits = reference(**ids, pixel_values=pixels).logits[0].numpy()
    row = ours.tokens[None]
    images = row == CONFIG.image_token_id
    index = np.where(images, np.cumsum(images).reshape(row.shape) - 1, -1)
    our_logits = np.asarray(forward(model, row, tiles, index))[0, :, : logits.shape[1]]
    np.testing.assert_allclose(our_logits, logits, atol=1e-4)
    # The frames count: with one of them black the logits are others.
    tiles = tiles.copy()
    tiles[3] = 0
    other = np.asarray(forward(model, row, tiles, index))[0, :, : logits.shape[1]]
    assert np.abs(other - logits).max() > 1e-3
