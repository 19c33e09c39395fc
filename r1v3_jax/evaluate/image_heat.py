"""What a token of an answer took from each part of an image, in nats of its log-probability.

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) of log p(token | prompt, images,
tokens before it) by the embeddings of the image tokens. They begin at an image of which every part
looks like the mean of all parts, and add up to what the images are worth to the token:

    sum of the heat = log p(token | the images) - log p(token | their mean everywhere)

A positive part made the token likelier. Letters: I tiles, M image tokens a tile, N tokens asked
about, T tokens of prompt and answer, D embedding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing import tiling

STEPS = 32  # of the integral


@functools.partial(jax.jit, static_argnames="steps")
def image_heat(
    model: R1V3, tokens, index, tiles, places, *, steps: int = STEPS
) -> tuple[jax.Array, jax.Array]:
    """Returns (heat in nats, float32[N, I, M]; log p with the images less without, float32[N]).

    tokens, index int32[1, T]: prompt and answer, see `R1V3.embed`; tiles float32[I, S, S, 3];
    places int32[N]: of tokens of the answer. The second is what the first adds up to, but for the
    error of the integral.
    """
    embeddings = model.encode_images(tiles)
    mean = embeddings.mean(axis=(0, 1), keepdims=True)
    positions = jnp.arange(tokens.shape[1])[None]
    segment_ids = jnp.ones_like(tokens)
    # The token behind each token.
    targets = jnp.roll(tokens, -1, axis=1)

    def logprob(images, place):
        hidden = model(tokens, positions, segment_ids, images, index)
        logprobs, _ = model.logprobs(hidden, targets)
        # A token is predicted where the one before it stands.
        return logprobs[0, place - 1]

    def heat_of(place):
        def add(total, k):
            # The middles of the steps from the mean to the images.
            part = (k + 0.5) / steps
            gradient = jax.grad(logprob)(mean + part * (embeddings - mean), place)
            return total + gradient, None

        zeros = jnp.zeros_like(embeddings)
        total, _ = jax.lax.scan(add, zeros, jnp.arange(steps))
        heat = (total / steps * (embeddings - mean)).sum(-1)
        grey = jnp.broadcast_to(mean, embeddings.shape)
        worth = logprob(embeddings, place) - logprob(grey, place)
        return heat.astype(jnp.float32), worth.astype(jnp.float32)

    return jax.lax.map(heat_of, places)


@jax.jit
def image_worth(model: R1V3, tokens, index, tiles) -> jax.Array:
    """Returns log p of each token with the images less log p with their mean, float32[T], in nats.

    Arguments as of `image_heat`, whose second result it is, for all tokens by two forward passes.
    The first token, which nothing precedes, has 0.
    """
    embeddings = model.encode_images(tiles)
    mean = embeddings.mean(axis=(0, 1), keepdims=True)
    positions = jnp.arange(tokens.shape[1])[None]
    segment_ids = jnp.ones_like(tokens)
    targets = jnp.roll(tokens, -1, axis=1)

    def logprobs(images):
        hidden = model(tokens, positions, segment_ids, images, index)
        return model.logprobs(hidden, targets)[0][0]

    worth = logprobs(embeddings) - logprobs(jnp.broadcast_to(mean, embeddings.shape))
    return jnp.roll(worth, 1).at[0].set(0.0).astype(jnp.float32)


def on_picture(heat: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Lays the heat of an image's tiles, float32[I, M], as they lie on it: float32[rows, columns].

    grid: (columns, rows) of tiles, see `tiling.tile_grid`. A thumbnail behind them shows the whole
    image: the heat of each of its tokens is spread over the cells that it covers, so that the sum
    stays.
    """
    columns, rows = grid
    side = round(heat.shape[1] ** 0.5)
    count = columns * rows
    # 2 tiles beside each other, 4 tokens each    ->    0 1 4 5
    #     0 1   4 5                                     2 3 6 7
    #     2 3   6 7
    tiles = heat[:count].reshape(rows, columns, side, side)
    laid = tiles.swapaxes(1, 2).reshape(rows * side, columns * side)
    if len(heat) > count:
        spread = np.kron(heat[count].reshape(side, side), np.ones((rows, columns)))
        laid = laid + spread / count
    return laid


def grid_of(
    image: Image.Image, count: int, max_tiles: int, size: int
) -> tuple[int, int]:
    """Returns (columns, rows) of the tiles that `tiling.tile` cut `image` into; count: of them."""
    if count == 1:
        return (1, 1)
    return tiling.tile_grid(*image.size, max_tiles, tile_size=size)
