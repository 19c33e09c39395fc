"""Prompts padded to a bucket, and tiles that are cut where a device wants them."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from r1v3_jax.config import ModelConfig
from r1v3_jax.processing import tokenizer
from r1v3_jax.processing.processor import Encoded, Processor, Tiles
from r1v3_jax.processing.tokenizer import check_prompt_length
from r1v3_jax.types import PromptBatch


def tile_slots_shape(parts: int, slots: int, size: int) -> tuple[int, ...]:
    """Returns [N, I, S, S, 3]: `parts` micro-batches of `slots` tiles of `size` pixels a side."""
    return (parts, slots, size, size, 3)


class TileSlots:
    """The tile slots of N micro-batches, float32[N, I, S, S, 3], whose pixels are cut on demand.

    The tiles of a micro-batch fill its slots from the front; the slots after them are zeros. It is
    indexed like an array, and only the images with tiles in the index are cut. ValueError if a
    micro-batch has more tiles than slots.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, parts: list[list[Tiles]], slots: int, size: int):
        for part in parts:
            count = sum(map(len, part))
            if count > slots:
                raise ValueError(
                    f"{count} tiles for {slots} slots; raise tiles or lower max_tiles"
                )
        # Of each micro-batch: its images, in the order of their slots.
        self.parts = parts
        self.shape = tile_slots_shape(len(parts), slots, size)
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Cuts the tiles of some micro-batches, index[0], in some slots, index[1]."""
        parts = self.parts[index[0]]
        low, high, _ = index[1].indices(self.shape[1])
        tile_shape = self.shape[2:]
        result = np.zeros((len(parts), high - low, *tile_shape), np.float32)
        # Example: a device wants slots 4 to 7 (low = 4, high = 8). An image of 5 tiles begins in
        # slot 2, start = 2: its tiles [2:5] go to slots 4 to 6, which are result[0:3].
        cuts = []
        for part, filled in zip(parts, result, strict=True):
            start = 0
            for tiles in part:
                begin = max(start, low)
                end = min(start + len(tiles), high)
                if begin < end:
                    tile_range = slice(begin - start, end - start)
                    pixels = filled[begin - low : end - low]
                    cuts.append((tiles, tile_range, pixels))
                start += len(tiles)
        # Threads help: Pillow and numpy release Python's lock while they work.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_cut, cuts))
        return result

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        whole = self[slice(None), slice(None)]
        return whole if dtype is None else whole.astype(dtype)


def _cut(job: tuple[Tiles, slice, np.ndarray]) -> None:
    tiles, tile_range, pixels = job
    tiles.write(tile_range, pixels)


def place_images(
    index: np.ndarray, example: Encoded, first_tile: int, processor: Processor
) -> None:
    """Writes into int32[T] `index` which image embedding each token of an example stands for.

    first_tile: the slot of the example's first tile. Other tokens get -1. An example without tiles
    leaves `index` as it is.
    """
    if not len(example.tiles):
        return
    # Example: 4 image tokens a tile, one tile, first_tile = 3: the example's image tokens count
    # 0 1 2 3 and become 12 13 14 15, the rows of slot 3 among all embeddings of the micro-batch.
    image_token = processor.config.image_token_id
    one_row = example.tokens[None]
    own_index = tokenizer.image_index(one_row, image_token)[0]
    offset = first_tile * processor.config.image_tokens_per_tile
    index[:] = np.where(own_index >= 0, own_index + offset, -1)


def empty_prompts(
    config: ModelConfig, shape: tuple[int, int], tiles, new=np.zeros
) -> PromptBatch:
    """Makes a PromptBatch of zeros; with new=jax.ShapeDtypeStruct, its shapes alone.

    shape: [P, T]. tiles: stored as they are, because they are planned and not allocated:
    `TileSlots`, or their shape; None for a model without vision.
    """
    ints = partial(new, shape, np.int32)
    return PromptBatch(
        tokens=ints(),
        lengths=new(shape[:1], np.int32),
        tiles=tiles,
        image_index=None if config.vision is None else ints(),
    )


def prompt_batch(
    encoded: list[Encoded],
    processor: Processor,
    *,
    max_prompt_tokens: int,
    tiles: int,
    buckets: tuple[tuple[int, int], ...] = (),
) -> PromptBatch:
    """Pads prompts on the right to one length, the shortest bucket that holds all of them.

    buckets: sizes smaller than (max_prompt_tokens, tiles), rising; each is compiled as a program of
    its own. ValueError for a prompt that is too long, or for more than `tiles` tiles.
    """
    # 1. The size: the first bucket with room for the longest prompt and for the tiles of all.
    # With buckets ((128, 8), (256, 16)), prompts of up to 100 tokens with 9 tiles go to (256, 16).
    lengths = [len(prompt.tokens) for prompt in encoded]
    for prompt_length in lengths:
        check_prompt_length(prompt_length, max_prompt_tokens)
    longest = max(lengths)
    tile_count = sum(len(prompt.tiles) for prompt in encoded)
    large_enough = (
        (length, slots)
        for length, slots in buckets
        if longest <= length and tile_count <= slots
    )
    length, slots = next(large_enough, (max_prompt_tokens, tiles))

    # 2. The arrays. All prompts are one micro-batch, so their images share one list of slots.
    tile_slots = None
    vision = processor.config.vision
    if vision:
        images = [prompt.tiles for prompt in encoded]
        tile_slots = TileSlots([images], slots, vision.image_size)
    shape = (len(encoded), length)
    batch = empty_prompts(processor.config, shape, tile_slots)

    # 3. Tokens, and where the embeddings of images go.
    batch.tokens[:] = processor.tokenizer.pad_token_id
    batch.lengths[:] = lengths
    for row, prompt in enumerate(encoded):
        batch.tokens[row, : lengths[row]] = prompt.tokens
    if vision:
        batch.image_index[:] = -1
        first_tile = 0
        for row, prompt in enumerate(encoded):
            index = batch.image_index[row, : lengths[row]]
            place_images(index, prompt, first_tile, processor)
            first_tile += len(prompt.tiles)
    return batch
