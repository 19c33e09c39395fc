"""Examples -> ids and tiles -> arrays of fixed shape.

Every process of a run plans the same batch from token counts and image sizes; the pixels of an
image are cut only where one of its tiles is wanted, by the process whose device it goes to
(`place`). What examples there are, and in which order, is for `feed` to say.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from r1v3_jax.config import SFT
from r1v3_jax.data.placement import split
from r1v3_jax.data.prompts import TileSlots, place_images
from r1v3_jax.processing.processor import Encoded, Processor, Tiles
from r1v3_jax.types import Batch


def packed_batches(
    reader, processor: Processor, config: SFT
) -> Iterator[tuple[Batch, object]]:
    """Batches of `config.rows` packed rows, and the `feed.Consumed` that each used up of a reader.

    Examples go, in order, into the first row with room whose micro-batch has tiles left; the first
    that fits nowhere begins the next batch. The whole batch has one loss: the mean over its
    supervised tokens.
    """
    slots, per_micro = (
        config.tiles // config.accumulate,
        config.rows // config.accumulate,
    )
    pending = next(reader).encoded
    while True:
        rows: list[list[Encoded]] = [[] for _ in range(config.rows)]
        room, left = [config.row_tokens] * config.rows, [slots] * config.accumulate
        while True:
            size, images_in = len(pending.tokens), len(pending.tiles)
            fits = (
                r
                for r in range(config.rows)
                if room[r] >= size and left[r // per_micro] >= images_in
            )
            if (row := next(fits, None)) is None:
                break
            rows[row].append(pending)
            room[row] -= size
            left[row // per_micro] -= images_in
            pending = next(reader).encoded
        yield _arrays(rows, processor, config), reader.consumed(back=1)


def _arrays(rows: list[list[Encoded]], processor: Processor, config: SFT) -> Batch:
    shape = (config.rows, config.row_tokens)
    out = {
        name: np.zeros(shape, np.int32)
        for name in ("tokens", "positions", "segment_ids")
    }
    out["tokens"][:] = processor.tokenizer.pad_token_id
    labels = out["tokens"].copy()
    mask, image_index = np.zeros(shape, bool), np.full(shape, -1, np.int32)
    per_micro = config.rows // config.accumulate
    tiles: list[list[Tiles]] = [[] for _ in range(config.accumulate)]
    for r, row in enumerate(rows):
        at = 0
        for segment, one in enumerate(row, start=1):
            to = at + len(one.tokens)
            out["tokens"][r, at:to] = one.tokens
            labels[r, at:to] = one.labels
            out["positions"][r, at:to] = np.arange(to - at)
            out["segment_ids"][r, at:to] = segment
            mask[r, at:to] = one.loss_mask
            mine = tiles[r // per_micro]
            place_images(image_index[r, at:to], one, sum(map(len, mine)), processor)
            mine.append(one.tiles)
            at = to
    weights = (mask / max(mask.sum(), 1)).astype(np.float32)
    with_images = processor.config.vision is not None
    batch = Batch(
        loss_weights=weights,
        labels=labels,
        image_index=image_index if with_images else None,
        **out,
    )
    batch = split(batch, config.accumulate)
    if not with_images:
        return batch
    size = processor.config.vision.image_size
    return dataclasses.replace(
        batch, tiles=TileSlots(tiles, config.tiles // config.accumulate, size)
    )
