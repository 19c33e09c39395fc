"""Batches onto devices and back."""

import collections
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from r1v3_jax.sharding import Rules


def split(batch, parts: int):
    """Arrays [B, ...] -> [N, B / N, ...], the micro-batches of a step."""
    cut = lambda x: None if x is None else x.reshape(parts, -1, *x.shape[1:])  # noqa: E731
    return dataclasses.replace(
        batch,
        **{f.name: cut(getattr(batch, f.name)) for f in dataclasses.fields(batch)},
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
        elif name == "prompt_of_row":
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
        return jax.make_array_from_callback(
            x.shape, NamedSharding(mesh, spec), lambda at: x[at]
        )

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
