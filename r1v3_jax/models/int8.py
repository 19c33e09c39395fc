"""Matrices in 8 bits, for decoding alone: a decoded token reads half the bytes of its weights.

Weight-only and symmetric, with a scale for each output. What is sampled with them is sampled from a
slightly other policy than the one that learns; `GRPO.importance_cap` corrects for it.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """values int8[...] times scales float[...], of the dtype of the computation, which have size 1
    along the axes that a product with the matrix sums over.
    """

    values: jax.Array
    scales: jax.Array


def is_matrix(axes: tuple[str | None, ...]) -> bool:
    """Whether a weight of the layers with these logical axes is one; norms and biases are none."""
    return "embed" in axes


def quantised(weight: jax.Array, axes: tuple[str | None, ...], dtype) -> Int8:
    """A stacked matrix of the language model's layers, float[L, ...] with its logical axes, to be
    multiplied in `dtype`.

    q, k, v, gate, up   [L, embed, outputs...]      a product sums over embed
    out, down           [L, inputs..., embed]       over all but embed
    """
    weight = weight.astype(jnp.float32)
    largest = jnp.max(jnp.abs(weight), axis=_summed(axes), keepdims=True)
    # Rounded to what they are multiplied as before the weights are divided by them: or all weights
    # of an output would be off by the same share.
    scales = jnp.where(largest > 0, largest / 127, 1).astype(dtype)
    values = jnp.round(weight / scales.astype(jnp.float32))
    return Int8(jnp.clip(values, -127, 127).astype(jnp.int8), scales)


def scale_axes(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """The logical axes of the scales of such a matrix."""
    return tuple(None if i in _summed(axes) else axis for i, axis in enumerate(axes))


def _summed(axes: tuple[str | None, ...]) -> tuple[int, ...]:
    return (1,) if axes[1] == "embed" else tuple(range(1, len(axes) - 1))


def whole(tree):
    """The tree with its matrices multiplied out."""

    def one(leaf):
        if not isinstance(leaf, Int8):
            return leaf
        return leaf.values.astype(leaf.scales.dtype) * leaf.scales

    return jax.tree.map(one, tree, is_leaf=lambda leaf: isinstance(leaf, Int8))
