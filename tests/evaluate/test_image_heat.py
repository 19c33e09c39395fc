"""What a token took from an image: the parts add up to the whole, and lie where they belong."""

import jax.numpy as jnp
import numpy as np
from PIL import Image
from random_models import random_model

from r1v3_jax.config import TINY
from r1v3_jax.evaluate.image_heat import (
    grid_of,
    image_heat,
    image_worth,
    on_picture,
)
from r1v3_jax.processing.tokenizer import image_index


def test_heat_adds_up_to_what_the_image_is_worth():
    """Proves: of two tokens behind an image of two tiles the heat is log p with the image less log
    p with its mean everywhere, by two forward passes; a token in front of the image has none.
    """
    model = random_model(TINY)
    # Random embeddings of images are small beside those of text.
    model.connector.down[...] *= 8
    size, count = TINY.vision.image_size, TINY.image_tokens_per_tile
    rng = np.random.default_rng(0)
    tiles = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    image = [TINY.image_token_id] * (2 * count)
    row = np.asarray([[5, 6, *image, 7, 8, 9]], np.int32)
    index = image_index(row, TINY.image_token_id)
    places = np.asarray([1, row.size - 2, row.size - 1], np.int32)
    heat, worth = map(np.asarray, image_heat(model, row, index, tiles, places))
    assert heat.shape == (3, 2, count)
    assert not heat[0].any()
    assert worth[0] == 0
    # The integral in 32 steps is off by a part in a thousand.
    np.testing.assert_allclose(heat.sum((1, 2)), worth, atol=3e-4)
    assert np.abs(worth[1:]).min() > 0.01

    # For all tokens at once: the same numbers, and 0 in front of the image.
    of_all = np.asarray(image_worth(model, row, index, tiles))
    np.testing.assert_allclose(of_all[places], worth, atol=1e-5)
    assert of_all.shape == (row.size,)
    assert not of_all[:2].any()

    # What it is worth, without the functions under test.
    embeddings = model.encode_images(tiles)
    mean = jnp.broadcast_to(embeddings.mean((0, 1)), embeddings.shape)
    positions = np.arange(row.size)[None]
    found = []
    for images in (embeddings, mean):
        hidden = model(row, positions, np.ones_like(row), images, index)
        logits = np.asarray(model.logits(hidden), np.float64)[0]
        shifted = logits - logits.max(-1, keepdims=True)
        logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        found.append([logprobs[place - 1, row[0, place]] for place in places[1:]])
    np.testing.assert_allclose(worth[1:], np.subtract(*found), atol=1e-4)


def test_tiles_lie_as_they_were_cut():
    """Proves: an example written out, and a thumbnail's heat over all of the picture."""
    heat = np.arange(8.0).reshape(2, 4)
    assert on_picture(heat, (2, 1)).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert on_picture(heat, (1, 2)).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    thumbnail = np.concatenate([np.zeros((2, 4)), [[2.0, 4.0, 6.0, 8.0]]])
    laid = on_picture(thumbnail, (2, 1))
    assert laid.tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert grid_of(Image.new("RGB", (112, 84)), 13, 12, 28) == (4, 3)
    assert grid_of(Image.new("RGB", (30, 31)), 1, 12, 28) == (1, 1)
