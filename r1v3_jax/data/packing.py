"""Encoded examples -> supervised batches of fixed shape, several examples in a row.

Every process of a run plans the same batch from token counts and image sizes alone. The pixels of
an image are cut later (`prompts.TileSlots`), and only by the processes whose devices get one of its
tiles. Which examples come, and in which order, is decided by `reader`; nothing here knows it.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial

import numpy as np

from r1v3_jax.config import SFT, ModelConfig
from r1v3_jax.data.placement import split
from r1v3_jax.data.prompts import TileSlots, place_images
from r1v3_jax.data.reader import Consumed, Reader
from r1v3_jax.processing.processor import Encoded, Processor, Tiles
from r1v3_jax.types import Batch

Row = list[Encoded]  # the examples of one row, in order


def empty_batch(
    config: ModelConfig, shape: tuple[int, ...], tiles=None, new=np.zeros
) -> Batch:
    """Makes a Batch of zeros; with new=jax.ShapeDtypeStruct, its shapes alone.

    shape: of every array except the tiles, [B, T] or [N, B, T]. tiles: stored as they are, because
    they are planned and not allocated: `TileSlots`, or their shape; None without images.
    """
    ints = partial(new, shape, np.int32)
    floats = partial(new, shape, np.float32)
    return Batch(
        tokens=ints(),
        positions=ints(),
        segment_ids=ints(),
        loss_weights=floats(),
        tiles=tiles,
        image_index=None if config.vision is None else ints(),
        labels=ints(),
    )


def packed_batches(
    reader: Reader, processor: Processor, config: SFT
) -> Iterator[tuple[Batch, Consumed]]:
    """Yields batches of `config.rows` packed rows, each with what it consumed of the reader.

    Examples go, in order, into the first row with room whose micro-batch has tile slots left; the
    first example that fits nowhere begins the next batch. The whole batch has one loss: the mean
    over its supervised tokens. Endless; an error of the reader is raised when its turn comes.
    """
    example = next(reader).encoded
    while True:
        rows, example = _fill_rows(example, reader, config)
        # `example` has been read, but it belongs to the next batch: a run that stops here and is
        # resumed must read it again.
        yield _arrays(rows, processor, config), reader.consumed(unused=1)


def _fill_rows(
    example: Encoded, reader: Reader, config: SFT
) -> tuple[list[Row], Encoded]:
    """Fills the rows of one batch, beginning with `example`.

    Returns them and the example that fits nowhere: the first of the next batch.
    """
    # Two rows of 10 tokens, each a micro-batch with 2 tile slots. Examples, as (tokens, tiles):
    #   (6, 1) -> row 0   4 tokens and 1 slot are left there
    #   (3, 2) -> row 1   row 0 has room for its tokens, but not for its tiles
    #   (4, 1) -> row 0   which is full now
    #   (5, 0) -> row 1   2 tokens and no slot are left there
    #   (3, 0) fits nowhere and begins the next batch
    rows_per_micro = config.rows // config.accumulate
    slots_per_micro = config.tiles // config.accumulate
    rows: list[Row] = [[] for _ in range(config.rows)]
    free_tokens = [config.row_tokens] * config.rows
    free_slots = [slots_per_micro] * config.accumulate

    def has_room(row: int) -> bool:
        tokens = len(example.tokens)
        tiles = len(example.tiles)
        micro = row // rows_per_micro
        return free_tokens[row] >= tokens and free_slots[micro] >= tiles

    while True:
        row = next(filter(has_room, range(config.rows)), None)
        if row is None:
            return rows, example
        rows[row].append(example)
        free_tokens[row] -= len(example.tokens)
        free_slots[row // rows_per_micro] -= len(example.tiles)
        example = next(reader).encoded


def _arrays(rows: list[Row], processor: Processor, config: SFT) -> Batch:
    """Writes the examples of each row one behind the other into the arrays of a Batch."""
    shape = (config.rows, config.row_tokens)
    batch = empty_batch(processor.config, shape)
    batch.tokens[:] = processor.tokenizer.pad_token_id
    batch.labels[:] = processor.tokenizer.pad_token_id
    mask = np.zeros(shape, bool)  # the tokens that are learnt
    with_images = batch.image_index is not None
    if with_images:
        batch.image_index[:] = -1
    rows_per_micro = config.rows // config.accumulate
    tiles: list[list[Tiles]] = [[] for _ in range(config.accumulate)]
    for r, row in enumerate(rows):
        # Image indices count the tiles of the row's micro-batch, over all its rows: with 2 rows a
        # micro-batch, the first image of row 3 comes after those of row 2.
        tiles_of_micro = tiles[r // rows_per_micro]
        start = 0
        for segment, example in enumerate(row, start=1):  # segment 0 is padding
            end = start + len(example.tokens)
            batch.tokens[r, start:end] = example.tokens
            batch.labels[r, start:end] = example.labels
            batch.positions[r, start:end] = np.arange(end - start)
            batch.segment_ids[r, start:end] = segment
            mask[r, start:end] = example.loss_mask
            if with_images:
                first_tile = sum(map(len, tiles_of_micro))
                index = batch.image_index[r, start:end]
                place_images(index, example, first_tile, processor)
            tiles_of_micro.append(example.tiles)
            start = end
    # A mean over the supervised tokens of the whole batch: 400 of them weigh 1/400 each, in
    # whichever micro-batch they are. A batch without any has the weight 0 everywhere, not 0/0.
    count = max(mask.sum(), 1)
    batch.loss_weights[:] = mask / count
    batch = split(batch, config.accumulate)
    if not with_images:
        return batch
    slots = config.tiles // config.accumulate
    size = processor.config.vision.image_size
    return dataclasses.replace(batch, tiles=TileSlots(tiles, slots, size))
