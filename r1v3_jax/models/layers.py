"""What both towers are made of: parameters, norms, RoPE, attention, rematerialisation.

Letters, in every docstring and (lower case) every einsum of `models/`:

    B sequences   T tokens      S keys        D embed      K kv heads   Q queries a kv head
    H head_dim    F mlp         V vocabulary  L layers     G samples a prompt, P prompts
    I tiles       M image tokens a tile       C vision embed            N vision heads

Weights keep their true rank: a query projection is [D, K, Q, H], never [D, K*Q*H]; einsum does the
reshaping.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from r1v3_jax.config import Compute, TextConfig


def param(
    rngs: nnx.Rngs,
    compute: Compute,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    *,
    std: float = 0.0,
    constant: float = 0.0,
) -> nnx.Param:
    """A parameter with its logical axes, one a dimension.

    It starts as `constant` plus normal noise of standard deviation `std`. Models that matter are
    loaded; the numbers chosen here let a small one learn from nothing: activations of size 1
    everywhere, and residual branches that add up to that over the layers.
    """
    axes = tuple(_axis(axis) for axis in axes)
    dtype, spec = jnp.dtype(compute.param_dtype), compute.rules.spec(*axes)
    value = jnp.full(shape, constant, dtype, out_sharding=spec)
    if std:
        value += std * jax.random.normal(rngs.params(), shape, dtype, out_sharding=spec)
    return nnx.Param(value, axes=axes)


def _axis(axis: str | None) -> str | None:
    return None if axis in ("layers", "head_dim", None) else axis  # never sharded


# -------------------------------------------------------------------------------------------------
# rematerialisation

# What a layer keeps for its backward pass; all else is computed again.
#   none       keeps everything: fastest, most memory
#   dots       keeps the operands of the backward matmuls: some 50 GiB a chip at 64 x 8,192 of 38B
#   attention  keeps what attention needs
#   full       keeps the layer's input only
REMAT = {
    "dots": jax.checkpoint_policies.save_only_these_names(
        "q", "k", "v", "context", "middle", "gate", "up"
    ),
    "attention": jax.checkpoint_policies.save_only_these_names(
        "q", "k", "v", "context"
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def remat(layer, name: str):
    """`layer` with the rematerialisation policy `name` (see REMAT; "none" leaves it alone)."""
    return layer if name == "none" else jax.checkpoint(layer, policy=REMAT[name])


def keep(x: jax.Array, name: str) -> jax.Array:
    """Gives an intermediate the name by which a policy may keep it."""
    return checkpoint_name(x, name)


# -------------------------------------------------------------------------------------------------
# products


@jax.custom_vjp
def project(x: jax.Array, w: jax.Array) -> jax.Array:
    """einsum("btd,df->btf"), for an F much larger than D.

    Its own gradient, because JAX writes that of w as (dy' x)': XLA on a CPU transposes dy on the
    way, together with all that is fused into it, and an MLP's backward pass takes twice as long.
    """
    return jnp.einsum("btd,df->btf", x, w)


def _project_forward(x, w):
    return project(x, w), (x, w)


def _project_backward(residuals, dy):
    x, w = residuals
    dx = jnp.einsum("btf,df->btd", dy, w, out_sharding=like(x))
    return dx, jnp.einsum("btd,btf->df", x, dy, out_sharding=like(w))


project.defvjp(_project_forward, _project_backward)


def like(x: jax.Array) -> PartitionSpec | None:
    """The layout of `x`; None outside a mesh."""
    return (
        None if jax.sharding.get_abstract_mesh().empty else jax.typeof(x).sharding.spec
    )


# -------------------------------------------------------------------------------------------------
# norms


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * weight over the last axis; statistics in float32, cast back before the weight,
    as torch does.
    """
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype) * weight


def layer_norm(
    x: jax.Array, weight: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    """(x - mean) / std * weight + bias over the last axis, in float32 throughout."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    return (
        centred * scale * weight.astype(jnp.float32) + bias.astype(jnp.float32)
    ).astype(x.dtype)


# -------------------------------------------------------------------------------------------------
# rope


def rope_base(config: TextConfig) -> float:
    """The base (theta) of the rotary embedding at every length up to `max_positions`.

    hf: dynamic NTK changes nothing up to `max_positions`, and longer contexts are refused.
    vllm_static: vLLM's DynamicNTKScalingRotaryEmbedding scales whatever the length, theta * (f*f -
    (f - 1))^(H / (H - 2)): 3,052,774 for f = 2, H = 128, theta = 1e6.
    """
    if config.rope_impl == "hf":
        return config.rope_theta
    f, h = config.rope_factor, config.head_dim
    return config.rope_theta * (f * f - (f - 1)) ** (h / (h - 2))


def rope_angles(
    positions: jax.Array, config: TextConfig
) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32[B, T, H/2], for int32[B, T] positions.

    Computed in float32 whatever the model's dtype: bfloat16 cannot hold the integer 257.
    """
    # On the host: one unit in the last place of a frequency, as a TPU's `pow` may have it wrong,
    # is 2e-3 radians at position 32,767.
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    frequencies = 1 / np.float32(rope_base(config)) ** exponents
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns each pair (x[i], x[i + H/2]) by its angle. x: [B, T, ..., H], cos and sin: [B, T,
    H/2].
    """
    shape = cos.shape[:2] + (1,) * (x.ndim - 3) + cos.shape[2:]
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return turned.astype(x.dtype)
