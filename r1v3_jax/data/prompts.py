"""Prompts padded to a bucket; tiles cut where a device wants them."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from r1v3_jax.processing import tokenizer
from r1v3_jax.processing.processor import Encoded, Processor, Tiles
from r1v3_jax.processing.tokenizer import check_prompt_length
from r1v3_jax.types import PromptBatch


class TileSlots:
    """float32[N, I, S, S, 3]: the tile slots of N micro-batches, filled from the front, then zeros.

    Indexed as an array; only the images whose tiles lie in the index are cut. ValueError if there
    are more tiles than slots.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, parts: list[list[Tiles]], slots: int, size: int):
        for part in parts:
            if (count := sum(map(len, part))) > slots:
                raise ValueError(
                    f"{count} tiles for {slots} slots; raise tiles or lower max_tiles"
                )
        self.parts, self.shape = parts, (len(parts), slots, size, size, 3)
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        parts, (low, high, _) = self.parts[index[0]], index[1].indices(self.shape[1])
        out = np.zeros((len(parts), high - low, *self.shape[2:]), np.float32)
        wanted = []
        for part, filled in zip(parts, out, strict=True):
            at = 0
            for tiles in part:
                first, last = max(at, low), min(at + len(tiles), high)
                if first < last:
                    mine = slice(first - at, last - at)
                    wanted.append((tiles, mine, filled[first - low : last - low]))
                at += len(tiles)
        with ThreadPoolExecutor(
            os.cpu_count()
        ) as pool:  # Pillow and numpy let threads work
            list(pool.map(lambda one: one[0].write(*one[1:]), wanted))
        return out

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        whole = self[slice(None), slice(None)]
        return whole if dtype is None else whole.astype(dtype)


def place_images(
    index: np.ndarray, one: Encoded, first_tile: int, processor: Processor
) -> None:
    """Writes into int32[T] `index` where the embeddings of the example's tiles lie, from tile
    `first_tile` on.
    """
    if len(one.tiles):
        row = tokenizer.image_index(one.tokens[None], processor.config.image_token_id)[
            0
        ]
        first = first_tile * processor.config.image_tokens_per_tile
        index[:] = np.where(row >= 0, row + first, -1)


def prompt_batch(
    encoded: list[Encoded],
    processor: Processor,
    *,
    max_prompt_tokens: int,
    tiles: int,
    buckets: tuple[tuple[int, int], ...] = (),
) -> PromptBatch:
    """Prompts as arrays of one padded length, the shortest that will do; ValueError for one that is
    too long.

    buckets: smaller sizes than (max_prompt_tokens, tiles), rising. Each is a program of its own.
    """
    for one in encoded:
        check_prompt_length(len(one.tokens), max_prompt_tokens)
    longest, count = (
        max(len(one.tokens) for one in encoded),
        sum(len(one.tiles) for one in encoded),
    )
    length, tiles = next(
        (size for size in buckets if longest <= size[0] and count <= size[1]),
        (max_prompt_tokens, tiles),
    )
    shape = (len(encoded), length)
    ids = np.full(shape, processor.tokenizer.pad_token_id, np.int32)
    index, at = np.full(shape, -1, np.int32), 0
    for row, one in enumerate(encoded):
        ids[row, : len(one.tokens)] = one.tokens
        place_images(index[row, : len(one.tokens)], one, at, processor)
        at += len(one.tiles)
    vision = processor.config.vision
    return PromptBatch(
        tokens=ids,
        lengths=np.asarray([len(one.tokens) for one in encoded], np.int32),
        tiles=TileSlots([[one.tiles for one in encoded]], tiles, vision.image_size)
        if vision
        else None,
        image_index=index if vision else None,
    )
