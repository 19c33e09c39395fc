"""Batches onto the devices of a mesh and back, and batches made ahead by a thread."""

import collections
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from r1v3_jax.sharding import Rules, present


def split(batch, parts: int):
    """Cuts the rows of a batch into micro-batches: arrays [B, ...] become [N, B / N, ...].

    12 rows in 3 parts: rows 0 to 3 are micro-batch 0, 4 to 7 are 1, 8 to 11 are 2.
    """

    def cut(array):
        return None if array is None else array.reshape(parts, -1, *array.shape[1:])

    names = [field.name for field in dataclasses.fields(batch)]
    arrays = {name: cut(getattr(batch, name)) for name in names}
    return dataclasses.replace(batch, **arrays)


def specs(batch, rules: Rules, mesh):
    """Returns the PartitionSpec on `mesh` of each array of a Batch, PolicyBatch or PromptBatch.

    Rows are sharded over the batch axes of the mesh, tile slots over the tile axes:

        [N, B, T]  [P, T]  [P]   tiles [N, I, S, S, 3]   prompt_of_row [N, J]   used []
            ^       ^       ^             ^                               ^
    """

    def spec(path, array):
        if not array.ndim:
            return PartitionSpec()
        name = path[-1].name
        # Tokens and the like: the last axis is positions, the one before it is rows. Lengths [P]
        # have rows only.
        axis = max(array.ndim - 2, 0)
        mesh_axes = rules.batch
        if name == "tiles":
            axis = 1
            mesh_axes = rules.tiles
        elif name == "prompt_of_row":
            axis = 1  # its last axis counts rows
        after = array.ndim - axis - 1
        mesh_axes = present(mesh_axes, mesh)
        return PartitionSpec(*[None] * axis, mesh_axes, *[None] * after)

    return jax.tree_util.tree_map_with_path(spec, batch)


def place(batch, rules: Rules, mesh):
    """Puts a batch that every process has planned onto the devices of `mesh`.

    Each process makes only the parts for its own devices. Without a mesh the whole batch stays on
    the host, as numpy arrays.
    """
    if mesh.empty:
        return jax.tree.map(np.asarray, batch)

    def on_devices(array, spec):
        # Called with the index of each device of this process: `TileSlots` cut only those tiles.
        return jax.make_array_from_callback(
            array.shape, NamedSharding(mesh, spec), lambda index: array[index]
        )

    return jax.tree.map(on_devices, batch, specs(batch, rules, mesh))


def fetch(tree):
    """Copies the device arrays of a tree, whole, to the host of every process.

    What is not a device array is returned as it is.
    """

    def whole(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        # Other processes hold the rest: all of them must call this at the same moment.
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def prefetch(iterator: Iterator, depth: int = 2) -> Iterator:
    """Yields the same items, made `depth` ahead by a thread while the devices work. Close it.

    The thread does not see the caller's `jax.set_mesh`: an iterator that places batches must have
    asked for the mesh before.
    """
    # One thread only: the items are wanted in order, and a generator runs in one thread at a time.
    pool = ThreadPoolExecutor(1)
    try:
        queue = collections.deque(pool.submit(next, iterator) for _ in range(depth))
        while True:
            # An exception of the iterator is raised here, when its item's turn comes.
            item = queue.popleft().result()
            queue.append(pool.submit(next, iterator))
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
