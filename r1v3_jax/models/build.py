"""A model from a config: abstract, random, laid out for decoding."""

import dataclasses
import functools

import jax
from flax import nnx
from jax.sharding import AbstractMesh

from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.models.int8 import Int8, is_matrix, quantised, scale_axes
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import BETWEEN, DECODE, shardings, with_shardings


def abstract(config: ModelConfig, compute: Compute, mesh=None) -> R1V3:
    """The model without its numbers: shapes, dtypes and, with a mesh, shardings. No devices, no
    memory.
    """
    # Traced outside any mesh, so that one that does not divide is refused by `shardings`, by name.
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        model = nnx.eval_shape(lambda: R1V3(config, compute, nnx.Rngs(0)))
    return model if mesh is None else with_shardings(model, compute.rules, mesh)


def for_decoding(model: R1V3, *, int8: bool = False) -> R1V3:
    """The same weights in the computation's dtype, laid out by the DECODE table; with `int8` the
    language model's matrices in 8 bits, its embedding and head not.

    In TRAIN's layout every decoded token would gather the language model's weights. Arrays move
    between devices, never through the host; where nothing changes they are shared with `model`.
    """
    compute = decode_compute(model.compute)
    weights = nnx.state(model)
    on_mesh = not jax.sharding.get_mesh().empty
    if int8 or on_mesh or compute.param_dtype != model.compute.param_dtype:
        weights = reshard(weights, compute, int8)
    return nnx.merge(nnx.graphdef(_described(model.config, compute)), weights)


def with_config(model: R1V3, config: ModelConfig) -> R1V3:
    """The same weights under another config, of the same shapes."""
    return nnx.merge(nnx.graphdef(_described(config, model.compute)), nnx.state(model))


def decode_compute(compute: Compute) -> Compute:
    """How the model decodes that is trained by `compute`."""
    return dataclasses.replace(compute, rules=DECODE, param_dtype=compute.dtype)


@functools.partial(jax.jit, static_argnames=("compute", "int8"))
def reshard(weights: nnx.State, compute: Compute, int8: bool = False) -> nnx.State:
    """The weights in the layout and the dtype that `compute` says; int8: see `for_decoding`."""

    def move(path, variable):
        weight, axes = variable.get_value(), variable.axes
        if not (int8 and path[:2] == ("language", "blocks") and is_matrix(axes)):
            return variable.replace(moved(weight.astype(compute.param_dtype), axes))
        weight = quantised(weight, axes, compute.dtype)
        values, scales = (
            moved(weight.values, axes),
            moved(weight.scales, scale_axes(axes)),
        )
        return variable.replace(Int8(values, scales))

    def moved(array, axes):
        for rules in (BETWEEN, compute.rules):
            spec = rules.spec(*axes)
            array = array if spec is None else jax.reshard(array, spec)
        return array

    return nnx.map_state(move, weights)


@functools.cache
def _described(config: ModelConfig, compute: Compute) -> R1V3:
    return abstract(config, compute)


def init(config: ModelConfig, compute: Compute, *, seed: int = 0) -> R1V3:
    """A model with random weights, on the current mesh (`jax.set_mesh`) or on one device."""
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        shardings(
            abstract(config, compute), compute.rules, mesh
        )  # refuses a mesh that does not divide
    return jax.jit(lambda: R1V3(config, compute, nnx.Rngs(seed)))()
