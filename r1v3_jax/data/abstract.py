"""The shapes of batches, and how they are laid out on a mesh: what the dry run compiles for.

Which arrays a batch has is written beside its maker, in `packing.empty_batch` and
`prompts.empty_prompts`. Nothing here holds numbers or touches a device.
"""

import jax
from jax.sharding import NamedSharding

from r1v3_jax.config import ModelConfig, Run
from r1v3_jax.data import placement
from r1v3_jax.data.packing import empty_batch
from r1v3_jax.data.prompts import TileSlots, empty_prompts, tile_slots_shape
from r1v3_jax.types import Batch, PromptBatch


def batch_of(
    config: ModelConfig, rows: int, length: int, tiles: int, parts: int
) -> Batch:
    """Returns the shapes of a Batch whose rows and tiles are cut into `parts` micro-batches.

    8 rows of 512 tokens with 32 tiles in 2 parts: tokens int32[2, 4, 512], tiles [2, 16, S, S, 3].
    """
    # Shapes come from the function that makes the arrays: they cannot drift apart.
    return empty_batch(
        config,
        (parts, rows // parts, length),
        _tile_shapes(config, parts, tiles // parts),
        new=jax.ShapeDtypeStruct,
    )


def prompt_batch_of(
    config: ModelConfig, prompts: int, length: int, tiles: int
) -> PromptBatch:
    """Returns the shapes of a PromptBatch of `prompts` prompts padded to `length` tokens."""
    return empty_prompts(
        config,
        (prompts, length),
        _tile_shapes(config, 1, tiles),
        new=jax.ShapeDtypeStruct,
    )


def _tile_shapes(config: ModelConfig, parts: int, slots: int):
    """Returns the shape of the `TileSlots` of a batch; None for a model without vision."""
    if config.vision is None:
        return None
    shape = tile_slots_shape(parts, slots, config.vision.image_size)
    return jax.ShapeDtypeStruct(shape, TileSlots.dtype)


def on_mesh(batch, config: Run, mesh):
    """Lays out a batch of shapes on `mesh` as `placement.place` lays out one of numbers."""
    specs = placement.specs(batch, config.compute.rules, mesh)
    return with_shardings(batch, specs, mesh)


def with_shardings(shapes, specs, mesh):
    """Adds the sharding on `mesh` to each ShapeDtypeStruct of a tree; specs: a tree like it."""

    def add_sharding(shape, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(add_sharding, shapes, specs)
