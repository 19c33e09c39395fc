"""Examples -> ids and tiles -> arrays of fixed shape.

Every process of a run plans the same batch from token counts and image sizes; the pixels of an
image are cut only where one of its tiles is wanted, by the process whose device it goes to
(`place`). What examples there are, and in which order, is for `feed` to say.
"""

import collections
import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from r1v3_jax.config import SFT
from r1v3_jax.processing import tokenizer
from r1v3_jax.processing.processor import Encoded, Encoder, Tiles
from r1v3_jax.processing.tokenizer import check_prompt_length
from r1v3_jax.sharding import Rules
from r1v3_jax.types import Batch, PromptBatch


class TileSlots:
    """float32[N, I, S, S, 3]: the tile slots of N micro-batches, filled from the front, then zeros.

    Indexed as an array; only the images whose tiles lie in the index are cut. ValueError if there
    are more tiles than slots.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, parts: list[list[Tiles]], slots: int, size: int):
        for part in parts:
            if (count := sum(map(len, part))) > slots:
                raise ValueError(f"{count} tiles for {slots} slots; raise tiles or lower max_tiles")
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
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow and numpy let threads work
            list(pool.map(lambda one: one[0].write(*one[1:]), wanted))
        return out

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        whole = self[slice(None), slice(None)]
        return whole if dtype is None else whole.astype(dtype)


def packed_batches(reader, encoder: Encoder, config: SFT) -> Iterator[tuple[Batch, object]]:
    """Batches of `config.rows` packed rows, and the `feed.Drawn` that each used up of a reader.

    Examples go, in order, into the first row with room whose micro-batch has tiles left; the first
    that fits nowhere begins the next batch. The whole batch has one loss: the mean over its
    supervised tokens.
    """
    slots, per_micro = config.tiles // config.accumulate, config.rows // config.accumulate
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
        yield _arrays(rows, encoder, config), reader.drawn(back=1)


def _arrays(rows: list[list[Encoded]], encoder: Encoder, config: SFT) -> Batch:
    shape = (config.rows, config.row_tokens)
    out = {name: np.zeros(shape, np.int32) for name in ("tokens", "positions", "segment_ids")}
    out["tokens"][:] = encoder.tokenizer.pad_token_id
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
            place_images(image_index[r, at:to], one, sum(map(len, mine)), encoder)
            mine.append(one.tiles)
            at = to
    weights = (mask / max(mask.sum(), 1)).astype(np.float32)
    with_images = encoder.config.vision is not None
    batch = Batch(
        loss_weights=weights,
        labels=labels,
        image_index=image_index if with_images else None,
        **out,
    )
    batch = split(batch, config.accumulate)
    if not with_images:
        return batch
    size = encoder.config.vision.image_size
    return dataclasses.replace(
        batch, tiles=TileSlots(tiles, config.tiles // config.accumulate, size)
    )


def place_images(index: np.ndarray, one: Encoded, first_tile: int, encoder: Encoder) -> None:
    """Writes into int32[T] `index` where the embeddings of the example's tiles lie, from tile
    `first_tile` on.
    """
    if len(one.tiles):
        row = tokenizer.image_index(one.tokens[None], encoder.config.image_token_id)[0]
        first = first_tile * encoder.config.image_tokens_per_tile
        index[:] = np.where(row >= 0, row + first, -1)


def split(batch, parts: int):
    """Arrays [B, ...] -> [N, B / N, ...], the micro-batches of a step."""
    cut = lambda x: None if x is None else x.reshape(parts, -1, *x.shape[1:])  # noqa: E731
    return dataclasses.replace(
        batch, **{f.name: cut(getattr(batch, f.name)) for f in dataclasses.fields(batch)}
    )


def prompt_batch(
    encoded: list[Encoded],
    encoder: Encoder,
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
    longest, count = max(len(one.tokens) for one in encoded), sum(len(one.tiles) for one in encoded)
    length, tiles = next(
        (size for size in buckets if longest <= size[0] and count <= size[1]),
        (max_prompt_tokens, tiles),
    )
    shape = (len(encoded), length)
    ids = np.full(shape, encoder.tokenizer.pad_token_id, np.int32)
    index, at = np.full(shape, -1, np.int32), 0
    for row, one in enumerate(encoded):
        ids[row, : len(one.tokens)] = one.tokens
        place_images(index[row, : len(one.tokens)], one, at, encoder)
        at += len(one.tiles)
    vision = encoder.config.vision
    return PromptBatch(
        tokens=ids,
        lengths=np.asarray([len(one.tokens) for one in encoded], np.int32),
        tiles=TileSlots([[one.tiles for one in encoded]], tiles, vision.image_size)
        if vision
        else None,
        image_index=index if vision else None,
    )


def specs(batch, rules: Rules):
    """The PartitionSpec of each array of a Batch, PolicyBatch or PromptBatch: rows over the batch
    axes, tile slots over theirs.

        [N, B, T]  [P, T]  [P]   tiles [N, I, S, S, 3]   owner [N, J]   used []
            ^       ^       ^             ^                        ^
    """

    def spec(path, x):
        name, rows, axes = path[-1].name, max(x.ndim - 2, 0), rules.batch
        if name == "tiles":
            rows, axes = 1, rules.tiles
        elif name == "owner":
            rows = 1
        elif not x.ndim:
            return PartitionSpec()
        return PartitionSpec(*[None] * rows, axes, *[None] * (x.ndim - rows - 1))

    return jax.tree_util.tree_map_with_path(spec, batch)


def place(batch, rules: Rules, mesh):
    """A batch that every process has planned, as arrays on the devices of `mesh`.

    Each process makes what lies on its own devices. Without a mesh: whole, on the host.
    """
    if mesh.empty:
        return jax.tree.map(np.asarray, batch)

    def put(x, spec):
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda at: x[at])

    return jax.tree.map(put, batch, specs(batch, rules))


def fetch(tree):
    """Arrays of the devices, whole, on the host of every process; what is there stays as it is."""

    def whole(x):
        if not isinstance(x, jax.Array):
            return x
        if x.is_fully_addressable or x.is_fully_replicated:
            return jax.device_get(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)


def prefetch(iterator: Iterator, depth: int = 2) -> Iterator:
    """The same items, made by a thread while the devices work. Close it."""
    pool = ThreadPoolExecutor(1)
    try:
        queue = collections.deque(pool.submit(next, iterator) for _ in range(depth))
        while True:
            item = queue.popleft().result()
            queue.append(pool.submit(next, iterator))
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
