"""The model that a stage trains: as it came, or with the adapters that its config wants."""

import hashlib
import zlib

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Run
from r1v3_jax.config.lora import adapted_parts
from r1v3_jax.models import build
from r1v3_jax.models.lora import Adapters
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.run.checkpoints import Base, named_leaves
from r1v3_jax.run.program import concrete
from r1v3_jax.train.optimizer import PARTS, what_learns


def adapters_of(stage) -> Adapters | None:
    """Returns the adapters that a stage's model has; None if it trains whole matrices."""
    lora = getattr(stage, "lora", None)
    if lora is None:
        return None
    parts = tuple(PARTS[part] for part in adapted_parts(stage.trainable))
    return Adapters(rank=lora.rank, scale=lora.alpha / lora.rank, parts=parts)


def adapted(run: Run, name: str, model: R1V3) -> R1V3:
    """Returns the model as stage `name` trains it; the arrays of `model` belong to it."""
    stage = run.stages[name]
    # Two stages of a run do not begin in the same directions.
    seed = zlib.crc32(f"{run.seed} {name}".encode())
    return build.with_adapters(
        model, adapters_of(stage), seed=seed, base_int8=stage.lora.base_int8
    )


def abstract_model(run: Run, stage, mesh) -> R1V3:
    """Returns the shapes of the model as the stage trains it, on the devices of `mesh`."""
    adapters = adapters_of(stage)
    model = build.abstract(run.model, run.compute, mesh, adapters)
    if adapters is None or not stage.lora.base_int8:
        return model
    with jax.set_mesh(mesh):
        rounded = jax.eval_shape(
            lambda weights: build.in_int8(weights, run.compute), nnx.state(model)
        )
    return nnx.merge(nnx.graphdef(model), concrete(rounded, mesh))


def base_of(stage, model: R1V3, origin: str) -> Base:
    """Returns what stays as it is of `model` while the stage trains adapters.

    model: as the stage begins with it, before it has adapters. origin: where it comes from.
    """
    learns = what_learns(stage)

    def holds(name: str) -> bool:
        # ".language.blocks.q.value" of a model alone, ".model.language..." of a training state, and
        # ".state.model.language..." of one with a draft head beside it.
        name = name.strip(".").removeprefix("state.").removeprefix("model.")
        path = tuple(name.split("."))
        return path[0] in PARTS.values() and not learns(path, None)

    return Base(origin, checksum(nnx.state(model)), holds)


def checksum(weights: nnx.State) -> str:
    """Returns 16 hexadecimal digits that change with the weights, on any mesh the same."""
    sums = jax.device_get(_sums_of_bits(weights))
    words = [f"{name} {number}" for name, number in named_leaves(sums).items()]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


@jax.jit
def _sums_of_bits(weights: nnx.State) -> nnx.State:
    """Returns the sum modulo 2^32 of each array's numbers, read as unsigned integers."""

    def add_up(array):
        bits = jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}")
        return jnp.sum(bits, dtype=jnp.uint32)

    return jax.tree.map(add_up, weights)
