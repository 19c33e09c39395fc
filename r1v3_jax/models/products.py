"""Products with weights, made as `Compute.products` says.

XLA on a CPU multiplies bfloat16 in the CPU's bfloat16 units (AMX) only where the result is float32.
Else it casts both sides to float32, and bfloat16 is no faster than that. So there are two ways:

    narrow   einsum, whose result is bfloat16. A TPU adds up in float32 and rounds by itself
    wide     float32, then rounded; in the backward pass too, where JAX would multiply float32

Letters as in `layers.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1v3_jax.config import Compute
from r1v3_jax.models.layers import layout_of


def product(
    equation: str,
    x: jax.Array,
    w: jax.Array,
    compute: Compute,
    *,
    dtype=None,
    out_sharding: PartitionSpec | None = None,
) -> jax.Array:
    """Returns einsum(equation, x, w) of activations `x` and weights `w`, in `dtype`.

    dtype: None is that of `x`; float32 for what may not be rounded, as logits.
    """
    if compute.products == "wide" and x.dtype == jnp.bfloat16:
        return _wide(equation, x, jnp.asarray(w), dtype or x.dtype, out_sharding)
    return jnp.einsum(
        equation, x, w, preferred_element_type=dtype, out_sharding=out_sharding
    )


def project(x: jax.Array, w: jax.Array, compute: Compute) -> jax.Array:
    """Returns einsum("btd,df->btf"), for an F much larger than D."""
    if compute.products == "wide":
        return product("btd,df->btf", x, w, compute)
    return _project(x, w)


# 1. Wide


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def _wide(equation, x, w, dtype, out_sharding):
    return _wide_einsum(equation, x, w, out_sharding).astype(dtype)


def _wide_forward(equation, x, w, dtype, out_sharding):
    return _wide(equation, x, w, dtype, out_sharding), (x, w)


def _wide_backward(equation, dtype, out_sharding, residuals, dy):
    x, w = residuals
    inputs, out = equation.split("->")
    left, right = inputs.split(",")
    # Both sides have to be bfloat16, and the gradient of logits is float32.
    dy = dy.astype(x.dtype)
    dx = _wide_einsum(f"{out},{right}->{left}", dy, w, layout_of(x))
    dw = _wide_einsum(f"{left},{out}->{right}", x, dy, layout_of(w))
    return dx.astype(x.dtype), dw.astype(w.dtype)


_wide.defvjp(_wide_forward, _wide_backward)


def _wide_einsum(equation, x, w, out_sharding):
    exact = {"preferred_element_type": jnp.float32}
    return jnp.einsum(equation, x, w, out_sharding=out_sharding, **exact)


# 2. Narrow


@jax.custom_vjp
def _project(x: jax.Array, w: jax.Array) -> jax.Array:
    """Returns einsum("btd,df->btf").

    It has its own gradient, because JAX writes the gradient of w as (dy' x)': XLA on a CPU
    transposes dy on the way, together with everything that is fused into it, and an MLP's backward
    pass takes twice as long.
    """
    return jnp.einsum("btd,df->btf", x, w)


def _project_forward(x, w):
    return _project(x, w), (x, w)


def _project_backward(residuals, dy):
    x, w = residuals
    dx = jnp.einsum("btf,df->btd", dy, w, out_sharding=layout_of(x))
    dw = jnp.einsum("btd,btf->df", x, dy, out_sharding=layout_of(w))
    return dx, dw


_project.defvjp(_project_forward, _project_backward)
