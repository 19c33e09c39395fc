"""Makes a model from a config: abstract, with random weights, or laid out for decoding.

Knows the two layouts of weights (drawn in `sharding.py`), not where weights come from.
"""

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
    """Makes the model without its numbers: shapes, dtypes and, with a mesh, shardings.

    It takes no devices and no memory. ValueError for a mesh that does not divide the model's
    shapes.
    """
    # Traced outside any mesh, so that one that does not divide is refused by `shardings`, by name.
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        model = nnx.eval_shape(lambda: R1V3(config, compute, nnx.Rngs(0)))
    if mesh is None:
        return model
    return with_shardings(model, compute.rules, mesh)


def init(config: ModelConfig, compute: Compute, *, seed: int = 0) -> R1V3:
    """Makes a model with random weights, on the current mesh (`jax.set_mesh`) or on one device."""
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        # Before anything is compiled, this refuses a mesh that does not divide.
        shardings(abstract(config, compute), compute.rules, mesh)
    return jax.jit(lambda: R1V3(config, compute, nnx.Rngs(seed)))()


def with_config(model: R1V3, config: ModelConfig) -> R1V3:
    """Returns the same weights under another config, of the same shapes."""
    graph = nnx.graphdef(_described(config, model.compute))
    return nnx.merge(graph, nnx.state(model))


# -------------------------------------------------------------------------------------------------
# decoding


def for_decoding(model: R1V3, *, int8: bool = False) -> R1V3:
    """Returns the same weights in the computation's dtype, laid out by the DECODE table.

    With `int8` the language model's matrices have 8 bits, except its embedding and head. In TRAIN's
    layout every decoded token would gather the language model's weights. Arrays move between
    devices, never through the host; where nothing changes they are shared with `model`.
    """
    compute = decode_compute(model.compute)
    weights = nnx.state(model)
    is_on_mesh = not jax.sharding.get_mesh().empty
    is_cast = compute.param_dtype != model.compute.param_dtype
    if int8 or is_on_mesh or is_cast:
        weights = reshard(weights, compute, int8)
    graph = nnx.graphdef(_described(model.config, compute))
    return nnx.merge(graph, weights)


def decode_compute(compute: Compute) -> Compute:
    """Returns how a model decodes that is trained as `compute` says."""
    return dataclasses.replace(compute, rules=DECODE, param_dtype=compute.dtype)


@functools.partial(jax.jit, static_argnames=("compute", "int8"))
def reshard(weights: nnx.State, compute: Compute, int8: bool = False) -> nnx.State:
    """Returns the weights in the layout and dtype of `compute`; int8: see `for_decoding`."""

    def move(array, axes):
        # In two steps: in one, the compiler gathers everything (see BETWEEN).
        for rules in (BETWEEN, compute.rules):
            spec = rules.spec(*axes)
            array = array if spec is None else jax.reshard(array, spec)
        return array

    def convert(path, variable):
        weight = variable.get_value()
        axes = variable.axes
        is_layer = path[:2] == ("language", "blocks")
        if not (int8 and is_layer and is_matrix(axes)):
            return variable.replace(move(weight.astype(compute.param_dtype), axes))
        # Quantised before it moves: a quarter of the bytes of float32.
        weight = quantised(weight, axes, compute.dtype)
        values = move(weight.values, axes)
        scales = move(weight.scales, scale_axes(axes))
        return variable.replace(Int8(values, scales))

    return nnx.map_state(convert, weights)


@functools.cache
def _described(config: ModelConfig, compute: Compute) -> R1V3:
    return abstract(config, compute)
