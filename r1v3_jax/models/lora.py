"""Low-rank adapters (LoRA, arXiv 2106.09685): a matrix learns as W + s A B, with W as it was.

    W [inputs, outputs]    A float32[inputs, rank]    B float32[rank, outputs]    s = alpha / rank

A model has them beside its matrices: `blocks.q` and `blocks.adapters.q.a`, `blocks.adapters.q.b`.
They are multiplied out where a layer's weights are gathered, as matrices in 8 bits are
(`multiplied_out`), so attention, sampling, scoring and losses know nothing of them. On a mesh each
device adds the product to the shard of W that it stores, before the gather: forwards nothing new
travels, backwards the sums of A's gradient over `tensor` and of B's over `data` and `fsdp`.

The product costs 2 rank FLOPs a weight, where a token costs 2: with rank 16 and 4,096 tokens a
micro-batch 0.4%. What is not saved is the gradient of W itself, of which those of A and B are made,
layer by layer; adapters save moments, gradients, checkpoints, and the dtype of W.

Knows arrays and logical axes; not what else of a model learns (`train/optimizer.py`).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute
from r1v3_jax.models import int8
from r1v3_jax.models.layers import layout_of, param

EMBED = ("embed", "vision_embed")


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Which adapters a model has."""

    rank: int
    scale: float  # s, of A B
    parts: tuple[str, ...]  # of the model, which have them: "language", "vision"


class Factors(nnx.Module):
    """A and B of one stacked matrix, in float32 whatever the dtype of W.

    A begins with the variance of a fresh linear layer of torch, 1 / (3 inputs), as PEFT's does; B
    at 0, so that an adapted model begins as its base.
    """

    def __init__(self, matrix: nnx.Param, rank: int, compute: Compute, rngs: nnx.Rngs):
        # (L, embed, kv_heads, queries, head_dim) of q: A is [L, embed, rank], B the rest.
        inputs, outputs = split_axes(matrix.axes)
        layers, *sizes = matrix.shape
        _, *names = matrix.axes
        fan_in = math.prod(sizes[i] for i in inputs)
        compute = dataclasses.replace(compute, param_dtype="float32")
        self.a = param(
            rngs,
            compute,
            (layers, *(sizes[i] for i in inputs), rank),
            (None, *(names[i] for i in inputs), None),
            std=(3 * fan_in) ** -0.5,
        )
        self.b = param(
            rngs,
            compute,
            (layers, rank, *(sizes[i] for i in outputs)),
            (None, None, *(names[i] for i in outputs)),
        )


class Stack(nnx.Module):
    """The factors of each matrix of a stack of layers, under the matrix's name."""

    def __init__(
        self, blocks: nnx.Module, adapters: Adapters, compute: Compute, rngs: nnx.Rngs
    ):
        self.scale = adapters.scale
        for name in matrices(blocks):
            factors = Factors(getattr(blocks, name), adapters.rank, compute, rngs)
            setattr(self, name, factors)


def stack(
    blocks: nnx.Module, adapters: Adapters | None, compute: Compute, rngs: nnx.Rngs
) -> Stack | None:
    """Returns the adapters of a stack of layers; None if it has none."""
    if adapters is None:
        return None
    return Stack(blocks, adapters, compute, rngs)


def matrices(blocks: nnx.Module) -> list[str]:
    """Returns the names of a stack's matrices: no norms, biases or scales."""
    return [
        name
        for name, value in vars(blocks).items()
        if isinstance(value, nnx.Param) and is_matrix(value.axes)
    ]


def is_matrix(axes: tuple[str | None, ...]) -> bool:
    """Returns whether a layer's weight with these logical axes is a matrix."""
    return any(axis in EMBED for axis in axes)


def split_axes(
    axes: tuple[str | None, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns which axes of a layer's matrix are inputs and which outputs, counted behind `layers`.

    axes: of the stacked matrix. One that ends in the model's width writes to it, others read it:

        q           layers  embed  kv_heads  queries  head_dim       inputs 0        outputs 1 2 3
        out         layers  kv_heads  queries  head_dim  embed       inputs 0 1 2    outputs 3
        vision qkv  layers  three  vision_embed  heads  head_dim     inputs 1        outputs 0 2 3
    """
    names = axes[1:]
    (width,) = (i for i, axis in enumerate(names) if axis in EMBED)
    rest = tuple(i for i in range(len(names)) if i != width)
    if width == len(names) - 1:
        return rest, (width,)
    return (width,), rest


def add_product(
    weight: jax.Array,
    axes: tuple[str | None, ...],
    a: jax.Array,
    b: jax.Array,
    scale: float,
) -> jax.Array:
    """Returns W + s A B, float32 in the layout of W.

    On a TPU A B has the precision of its other products: A and B are rounded to bfloat16.

    weight: of one layer, or of all layers, as a and b are. axes: of the stacked matrix.
    """
    inputs, outputs = split_axes(axes)
    letters = "abcdefgh"
    layer = "l" * (a.ndim - len(inputs) - 1)
    of_a = "".join(letters[i] for i in inputs)
    of_b = "".join(letters[i] for i in outputs)
    of_w = letters[: len(axes) - 1]
    # q of one layer: "ar,rbcd->abcd".
    product = jnp.einsum(
        f"{layer}{of_a}r,{layer}r{of_b}->{layer}{of_w}",
        a,
        b,
        out_sharding=layout_of(weight),
    )
    return weight.astype(jnp.float32) + scale * product


def multiplied_out(weights):
    """Returns a layer's weights with its adapters added to its matrices; others as they are.

    weights: a layer, in which matrices in 8 bits have been multiplied out, or any array.
    """
    adapters = getattr(weights, "adapters", None)
    if adapters is None:
        return weights
    # A copy of the module, not of its arrays.
    layer = jax.tree.map(lambda x: x, weights)
    for name in matrices(weights):
        matrix = getattr(weights, name)
        factors = getattr(adapters, name)
        whole = add_product(
            matrix[...], matrix.axes, factors.a[...], factors.b[...], adapters.scale
        )
        setattr(layer, name, matrix.replace(whole))
    layer.adapters = None
    return layer


def merged(weights: nnx.State, adapters: Adapters, dtype) -> nnx.State:
    """Returns the state of a model without adapters: every W + s A B in `dtype`.

    weights: the state of the adapted model; a W in 8 bits is multiplied out.
    """
    flat = dict(nnx.to_flat_state(weights))
    out = {}
    for path, variable in flat.items():
        if "adapters" in path:
            continue
        value = int8.dequantised(variable.get_value())
        # ("language", "blocks", "q") has ("language", "blocks", "adapters", "q", "a") and "b".
        factors = (*path[:-1], "adapters", path[-1])
        if (*factors, "a") in flat:
            a = flat[*factors, "a"].get_value()
            b = flat[*factors, "b"].get_value()
            value = add_product(value, variable.axes, a, b, adapters.scale)
        out[path] = variable.replace(value.astype(dtype))
    return nnx.from_flat_state(out)
