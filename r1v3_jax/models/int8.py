"""Matrices in 8 bits, for decoding alone: a decoded token reads half the bytes of its weights.

Weight-only and symmetric, with a scale for each output. Samples drawn with them come from a
slightly different policy than the one that learns; `GRPO.correction` makes up for it.

    output weights  [1.0  -2.0]   largest 2.0, scale 2.0 / 127 = 0.0157
    values          [ 64  -127]   1.0 / 0.0157 = 63.5, rounded; multiplied out: [1.008  -2.0]
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A matrix values * scales."""

    values: jax.Array  # int8[...], the shape of the matrix
    # float[...], of the dtype of the computation; size 1 on the axes that a product sums over.
    scales: jax.Array


def is_matrix(axes: tuple[str | None, ...]) -> bool:
    """Returns whether a layer's weight with these logical axes is a matrix: no norm, no bias."""
    return "embed" in axes


def quantised(weight: jax.Array, axes: tuple[str | None, ...], dtype) -> Int8:
    """Rounds a stacked matrix float[L, ...] of the language model's layers to 8 bits.

    axes: its logical axes; dtype: in which it is multiplied.

    q, k, v, gate, up   [L, embed, outputs...]      a product sums over embed
    out, down           [L, inputs..., embed]       a product sums over all except embed
    """
    weight = weight.astype(jnp.float32)
    size = jnp.abs(weight)
    largest = jnp.max(size, axis=_summed(axes), keepdims=True)
    # Scales are rounded to the computation's dtype before the weights are divided by them. The
    # other way round all weights of an output would be off by the same share.
    scales = jnp.where(largest > 0, largest / 127, 1)
    scales = scales.astype(dtype)
    values = jnp.round(weight / scales.astype(jnp.float32))
    values = jnp.clip(values, -127, 127)
    return Int8(values.astype(jnp.int8), scales)


def scale_axes(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Returns the logical axes of the scales of a matrix with logical `axes`.

    ("layers", "embed", "mlp") of `up` gives ("layers", None, "mlp"): size 1 cannot be sharded.
    """
    summed = _summed(axes)
    return tuple(None if i in summed else axis for i, axis in enumerate(axes))


def _summed(axes: tuple[str | None, ...]) -> tuple[int, ...]:
    """Returns the axes that a product with the matrix sums over; axis 0 is the layer."""
    if axes[1] == "embed":
        return (1,)
    return tuple(range(1, len(axes) - 1))


def dequantised(tree):
    """Returns the tree with its matrices multiplied out."""

    def multiply(leaf):
        if not isinstance(leaf, Int8):
            return leaf
        return leaf.values.astype(leaf.scales.dtype) * leaf.scales

    def is_int8(leaf):
        return isinstance(leaf, Int8)

    return jax.tree.map(multiply, tree, is_leaf=is_int8)
