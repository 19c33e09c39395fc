"""The engine's programs on the devices of one process, or of several that work in step.

Process 0 decides. Before it calls a program it tells the others which one and with what, and they
call it too (`Devices.follow`). Knows programs and arrays; nothing of requests and time.
"""

import dataclasses
import enum
import functools

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from r1v3_jax.engine import programs
from r1v3_jax.engine.programs import RUN_TOKENS, Sampled, Sizes, SlotChange, no_change
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.tokenizer import image_index
from r1v3_jax.run import tpu_flags


class Call(enum.IntEnum):
    """What process 0 tells the others to call."""

    NOTHING = 0  # so that they are heard of while nobody asks anything
    ENCODE = 1
    READ = 2
    ADMIT = 3
    RUN = 4
    WIPE = 5
    STOP = 6


class Devices:
    """Weights and state on the devices of the current mesh, or on one device."""

    def __init__(
        self,
        model: R1V3,
        sizes: Sizes,
        banned: tuple[int, ...],
        think_end: tuple[tuple[int, ...], ...],
    ):
        self.model = model
        self.sizes = sizes
        self.mesh = jax.sharding.get_mesh()
        self.groups = model.compute.rules.shards("batch")
        # On a TPU this program has options of its own.
        options = tpu_flags.own_options("run", jax.local_devices()[0])
        self._run = programs.run_with(tuple(options.items()))
        self._empty = jax.jit(
            functools.partial(
                programs.empty_state, sizes=sizes, banned=banned, think_end=think_end
            )
        )
        self.state = self._empty(model)

    # ---------------------------------------------------------------------------------------------
    # what process 0 calls

    def read(
        self, tokens: np.ndarray, tiles: np.ndarray | None, rows: np.ndarray
    ) -> None:
        """Reads the prompt int32[T] with float32[I, S, S, 3] tiles into row rows[d] of group d.

        A row of -1 keeps nothing.
        """
        # 1. The images, in calls of the tower: 13 tiles are 8 and 5 with calls of up to 8, and the
        #    second call has 3 tiles of zeros.
        done = 0
        while tiles is not None and done < len(tiles):
            bucket = bucket_of(len(tiles) - done, self.sizes.tile_buckets)
            part = tiles[done : done + bucket]
            padded = np.zeros((bucket, *tiles.shape[1:]), np.float32)
            padded[: len(part)] = part
            self._call(Call.ENCODE, bucket, done, arrays=(padded,))
            done += bucket

        # 2. The tokens.
        bucket = bucket_of(len(tokens), self.sizes.prompt_buckets)
        padded = np.full((1, bucket), self.model.config.pad_token_id, np.int32)
        padded[0, : len(tokens)] = tokens
        arrays = (padded, np.asarray(rows, np.int32))
        self._call(Call.READ, bucket, len(tokens), arrays=arrays)

    def admit(self, change: SlotChange) -> None:
        """Frees and fills slots."""
        self._call(Call.ADMIT, arrays=(change,))

    def run(self, steps: int, until_free: bool) -> Sampled:
        """Starts to sample up to `steps` tokens in every slot; does not wait for them."""
        return self._call(Call.RUN, steps, until_free)

    def wipe(self) -> None:
        """Removes what is not finite from the caches."""
        self._call(Call.WIPE)

    def nothing(self) -> None:
        """Lets the other processes know that this one is there."""
        if jax.process_count() > 1:
            self._call(Call.NOTHING)

    def stop(self) -> None:
        """Lets the other processes end."""
        if jax.process_count() > 1:
            self._call(Call.STOP)

    def warm_up(self) -> None:
        """Compiles every program, by calling it once; the slots are empty afterwards.

        Every process calls this.
        """
        rows = np.full(self.groups, 0, np.int32)
        for bucket in self.sizes.tile_buckets:
            self._call(Call.ENCODE, bucket, 0, arrays=self._shapes(Call.ENCODE, bucket))
        for bucket in self.sizes.prompt_buckets:
            tokens, _ = self._shapes(Call.READ, bucket)
            self._call(Call.READ, bucket, 1, arrays=(tokens, rows))
        change = no_change(self.sizes.slots)
        change.taken[:] = True
        change.limits[:] = RUN_TOKENS
        self.admit(change)
        jax.block_until_ready(self.run(RUN_TOKENS, False))
        self.wipe()
        self.nothing()
        # Another state of the same shapes: nothing of this one stays.
        self.state = None
        self.state = jax.block_until_ready(self._empty(self.model))

    # ---------------------------------------------------------------------------------------------
    # the other processes

    def follow(self) -> None:
        """Calls what process 0 calls, until it stops."""
        while True:
            header = multihost_utils.broadcast_one_to_all(np.zeros(3, np.int32))
            call, first, second = map(int, header)
            if call == Call.STOP:
                return
            arrays = self._shapes(Call(call), first)
            if arrays:
                arrays = multihost_utils.broadcast_one_to_all(arrays)
            self._do(Call(call), first, second, arrays)

    def _call(self, call: Call, first: int = 0, second: int = 0, arrays=()):
        """Calls a program in all processes; the result is the same everywhere."""
        if jax.process_count() > 1:
            header = np.array([call, first, second], np.int32)
            multihost_utils.broadcast_one_to_all(header)
            if call == Call.STOP:
                return None
            if arrays:
                arrays = multihost_utils.broadcast_one_to_all(arrays)
        return self._do(call, first, second, arrays)

    def _shapes(self, call: Call, first: int) -> tuple:
        """Returns zeros in the shapes of the arrays of a call."""
        if call == Call.ENCODE:
            size = self.model.config.vision.image_size
            return (np.zeros((first, size, size, 3), np.float32),)
        if call == Call.READ:
            return np.zeros((1, first), np.int32), np.zeros(self.groups, np.int32)
        if call == Call.ADMIT:
            return (no_change(self.sizes.slots),)
        return ()

    # ---------------------------------------------------------------------------------------------
    # the programs

    def _do(self, call: Call, first: int, second: int, arrays: tuple):
        """Calls a program on the devices of this process."""
        state = self.state
        if call == Call.ENCODE:
            (tiles,) = arrays
            tiles = self._place(tiles, "tiles", None, None, None)
            start = self._place(np.int32(second))
            self.state = programs.encode(self.model, state, tiles, start)
        elif call == Call.READ:
            tokens, rows = arrays
            index = None
            if self.model.vision is not None:
                index = image_index(tokens, self.model.config.image_token_id)
            placed = [self._place(x) for x in (tokens, np.int32(second), index, rows)]
            self.state = programs.read(self.model, state, *placed)
        elif call == Call.ADMIT:
            (change,) = arrays
            change = jax.tree.map(self._place, change)
            self.state = programs.admit(self.model, state, change)
        elif call == Call.RUN:
            steps = self._place(np.int32(first))
            until_free = self._place(np.bool_(second))
            self.state, sampled = self._run(self.model, state, steps, until_free)
            return sampled
        elif call == Call.WIPE:
            self.state = programs.wipe(self.model, state)
        return None

    def _place(self, array, *axes: str | None):
        """Puts what every process has onto the devices; without axes all of it on each."""
        if array is None or self.mesh.empty:
            return array
        array = np.asarray(array)
        spec = PartitionSpec()
        if axes:
            spec = self.model.compute.rules.placement(axes, self.mesh)
        sharding = NamedSharding(self.mesh, spec)
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: array[index]
        )


def bucket_of(size: int, buckets: tuple[int, ...]) -> int:
    """Returns the first of rising buckets that holds `size`, or the largest."""
    return next((bucket for bucket in buckets if size <= bucket), buckets[-1])


def to_host(sampled: Sampled) -> Sampled:
    """Waits for a run, and returns its arrays as numpy's."""
    return dataclasses.replace(sampled, **jax.device_get(vars(sampled)))
