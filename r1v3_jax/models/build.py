"""Makes a model from a config: abstract, with random weights, or laid out for decoding.

Knows the two layouts of weights (drawn in `sharding.py`), not where weights come from.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh

from r1v3_jax.config import Compute, ModelConfig, TextConfig
from r1v3_jax.models.draft_head import DraftHead
from r1v3_jax.models.int8 import Int8, is_matrix, quantised, scale_axes
from r1v3_jax.models.lora import Adapters, merged
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import BETWEEN, DECODE, shardings, with_shardings


def abstract(
    config: ModelConfig, compute: Compute, mesh=None, adapters: Adapters | None = None
) -> R1V3:
    """Makes the model without its numbers: shapes, dtypes and, with a mesh, shardings.

    It takes no devices and no memory. ValueError for a mesh that does not divide the model's
    shapes.
    """
    # Traced outside any mesh, so that one that does not divide is refused by `shardings`, by name.
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        model = nnx.eval_shape(lambda: R1V3(config, compute, nnx.Rngs(0), adapters))
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
    graph = nnx.graphdef(_described(config, model.compute, model.adapters))
    return nnx.merge(graph, nnx.state(model))


# -------------------------------------------------------------------------------------------------
# decoding


def for_decoding(model: R1V3, *, int8: bool = False) -> R1V3:
    """Returns the same weights in the computation's dtype, laid out by the DECODE table.

    With `int8` the language model's matrices have 8 bits, except its embedding and head. In TRAIN's
    layout every decoded token would gather the language model's weights. Arrays move between
    devices, never through the host; where nothing changes they are shared with `model`. Adapters
    are merged: a decoded token reads no more than it does without them.
    """
    compute = decode_compute(model.compute)
    weights = nnx.state(model)
    is_on_mesh = not jax.sharding.get_mesh().empty
    is_cast = compute.param_dtype != model.compute.param_dtype
    if int8 or is_on_mesh or is_cast or model.adapters:
        weights = reshard(weights, compute, int8, model.adapters)
    graph = nnx.graphdef(_described(model.config, compute))
    return nnx.merge(graph, weights)


def head_for_decoding(head: DraftHead) -> DraftHead:
    """Returns a draft head laid out as `for_decoding` lays out a model; never in 8 bits."""
    compute = decode_compute(head.compute)
    weights = nnx.state(head)
    is_on_mesh = not jax.sharding.get_mesh().empty
    if is_on_mesh or compute.param_dtype != head.compute.param_dtype:
        weights = reshard(weights, compute)
    return nnx.merge(_described_head(head.config, compute, head.tokens), weights)


def decode_compute(compute: Compute) -> Compute:
    """Returns how a model decodes that is trained as `compute` says."""
    return dataclasses.replace(compute, rules=DECODE, param_dtype=compute.dtype)


@functools.partial(jax.jit, static_argnames=("compute", "int8", "adapters"))
def reshard(
    weights: nnx.State,
    compute: Compute,
    int8: bool = False,
    adapters: Adapters | None = None,
) -> nnx.State:
    """Returns the weights in the layout and dtype of `compute`.

    int8: see `for_decoding`. adapters: those that the weights have; they are merged.
    """
    if adapters:
        weights = merged(weights, adapters, jnp.float32 if int8 else compute.dtype)

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
def _described(
    config: ModelConfig, compute: Compute, adapters: Adapters | None = None
) -> R1V3:
    return abstract(config, compute, adapters=adapters)


@functools.cache
def _described_head(config: TextConfig, compute: Compute, tokens: int) -> nnx.GraphDef:
    return nnx.graphdef(abstract_head(config, compute, tokens))


# -------------------------------------------------------------------------------------------------
# draft heads


def abstract_head(
    config: TextConfig, compute: Compute, tokens: int, mesh=None
) -> DraftHead:
    """Makes a draft head without its numbers, as `abstract` does a model.

    config: of the language model; tokens: of a pass.
    """
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        head = nnx.eval_shape(lambda: DraftHead(config, compute, nnx.Rngs(0), tokens))
    if mesh is None:
        return head
    return with_shardings(head, compute.rules, mesh)


def init_head(
    config: TextConfig, compute: Compute, tokens: int, *, seed: int
) -> DraftHead:
    """Makes a draft head with random weights, on the current mesh or on one device."""
    return jax.jit(lambda: DraftHead(config, compute, nnx.Rngs(seed), tokens))()


# -------------------------------------------------------------------------------------------------
# adapters


def with_adapters(
    model: R1V3, adapters: Adapters, *, seed: int, base_int8: bool = False
) -> R1V3:
    """Returns the same weights with fresh adapters, drawn from `seed`.

    With base_int8 the language model's matrices have 8 bits. The arrays of `model` belong to the
    result: those that were rounded are freed.
    """
    weights = nnx.state(model)
    if base_int8:
        rounded = in_int8(weights, model.compute)
        _free_replaced(weights, rounded)
        weights = rounded
    factors = fresh_factors(model.config, model.compute, adapters, seed)
    graph = nnx.graphdef(_described(model.config, model.compute, adapters))
    return nnx.merge(graph, weights, factors)


def without_adapters(model: R1V3) -> R1V3:
    """Returns the model with its adapters merged into its matrices, in the dtype of its weights.

    The arrays of `model` belong to the result.
    """
    if model.adapters is None:
        return model
    weights = nnx.state(model)
    whole = merge(weights, model.adapters, jnp.dtype(model.compute.param_dtype))
    _free_replaced(weights, whole)
    graph = nnx.graphdef(_described(model.config, model.compute))
    return nnx.merge(graph, whole)


@functools.partial(jax.jit, static_argnames=("config", "compute", "adapters", "seed"))
def fresh_factors(
    config: ModelConfig, compute: Compute, adapters: Adapters, seed: int
) -> nnx.State:
    """Returns the state of fresh adapters alone, on the current mesh."""
    whole = nnx.state(R1V3(config, compute, nnx.Rngs(seed), adapters))
    flat = nnx.to_flat_state(whole)
    return nnx.from_flat_state([(path, x) for path, x in flat if "adapters" in path])


@functools.partial(jax.jit, static_argnames="compute")
def in_int8(weights: nnx.State, compute: Compute) -> nnx.State:
    """Returns the weights with the language model's matrices in 8 bits, in the same layout."""

    def convert(path, variable):
        # Longer paths are of adapters: ("language", "blocks", "adapters", "q", "a").
        is_layer = path[:2] == ("language", "blocks") and len(path) == 3
        if not (is_layer and is_matrix(variable.axes)):
            return variable
        value = quantised(variable.get_value(), variable.axes, compute.dtype)
        return variable.replace(value)

    return nnx.map_state(convert, weights)


merge = jax.jit(merged, static_argnames=("adapters", "dtype"))


def _free_replaced(before: nnx.State, after: nnx.State) -> None:
    """Frees the arrays of `before` that `after` does not have."""
    kept = {id(array) for array in jax.tree.leaves(after)}
    for array in jax.tree.leaves(before):
        if id(array) not in kept:
            array.delete()
