"""The same batches without numbers, beside their makers."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from r1v3_jax.config import ModelConfig, Run
from r1v3_jax.data import placement
from r1v3_jax.types import Batch, PromptBatch


def batch_of(
    config: ModelConfig, rows: int, length: int, tiles: int, parts: int
) -> Batch:
    """The shapes of a Batch of `parts` micro-batches."""
    shape = (parts, rows // parts, length)
    ints, floats = (
        jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.float32)
    )
    return Batch(
        tokens=ints,
        positions=ints,
        segment_ids=ints,
        loss_weights=floats,
        tiles=_tiles(config, parts, tiles // parts),
        image_index=None if config.vision is None else ints,
        labels=ints,
    )


def prompt_batch_of(
    config: ModelConfig, prompts: int, length: int, tiles: int
) -> PromptBatch:
    """The shapes of a PromptBatch."""
    rows = jax.ShapeDtypeStruct((prompts, length), jnp.int32)
    return PromptBatch(
        tokens=rows,
        lengths=jax.ShapeDtypeStruct((prompts,), jnp.int32),
        tiles=_tiles(config, 1, tiles),
        image_index=None if config.vision is None else rows,
    )


def _tiles(config: ModelConfig, parts: int, slots: int):
    if config.vision is None:
        return None
    size = config.vision.image_size
    return jax.ShapeDtypeStruct((parts, slots, size, size, 3), np.float32)


def on_mesh(batch, config: Run, mesh):
    """A batch of shapes as `data.place` lays it out."""
    return with_shardings(batch, placement.specs(batch, config.compute.rules), mesh)


def with_shardings(shapes, specs, mesh):
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
        ),
        shapes,
        specs,
    )
