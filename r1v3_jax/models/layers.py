"""What both towers are made of: parameters, rematerialisation, norms, RoPE.

Knows arrays and their logical axes. Does not know mesh axes (`sharding.py`), products with weights
(`products.py`), attention (`attention.py`) or caches (`caches.py`).

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

NEVER_SHARDED = (
    "layers",
    "head_dim",
    None,
)  # logical axes without a place in any table


def param(
    rngs: nnx.Rngs,
    compute: Compute,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    *,
    std: float = 0.0,
    constant: float = 0.0,
) -> nnx.Param:
    """Makes a parameter with its logical axes, one for each dimension.

    It starts as `constant` plus normal noise of standard deviation `std`. Models that matter are
    loaded; the numbers chosen here let a small one learn from nothing: activations of size 1
    everywhere, and residual branches that add up to that over the layers.
    """
    axes = tuple(None if axis in NEVER_SHARDED else axis for axis in axes)
    dtype = jnp.dtype(compute.param_dtype)
    spec = compute.rules.spec(*axes)
    value = jnp.full(shape, constant, dtype, out_sharding=spec)
    if std:
        key = rngs.params()
        noise = jax.random.normal(key, shape, dtype, out_sharding=spec)
        value += std * noise
    return nnx.Param(value, axes=axes)


# -------------------------------------------------------------------------------------------------
# rematerialisation

# What a layer keeps for its backward pass; everything else is computed again.
#   none       keeps everything: fastest, most memory
#   dots       keeps the operands of the backward matmuls: some 50 GiB a chip at 64 x 8,192 of 38B
#   attention  keeps what attention needs
#   full       keeps the layer's input only
_ATTENTION = ("q", "k", "v", "context")
_MATMULS = ("middle", "gate", "up")
REMAT = {
    "dots": jax.checkpoint_policies.save_only_these_names(*_ATTENTION, *_MATMULS),
    "attention": jax.checkpoint_policies.save_only_these_names(*_ATTENTION),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def remat(layer, name: str):
    """Returns `layer` with the rematerialisation policy `name` of REMAT; "none" changes nothing."""
    if name == "none":
        return layer
    return jax.checkpoint(layer, policy=REMAT[name])


def keep(x: jax.Array, name: str) -> jax.Array:
    """Names an intermediate, so that a rematerialisation policy can keep it."""
    return checkpoint_name(x, name)


def layout_of(x: jax.Array) -> PartitionSpec | None:
    """Returns the layout of `x` on the current mesh, None outside a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    return jax.typeof(x).sharding.spec


# -------------------------------------------------------------------------------------------------
# norms


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Returns x / rms(x) * weight, over the last axis.

    The statistics are float32. The result is cast back before it is multiplied by the weight, as
    torch does.
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(mean_square + eps)
    return (x32 * scale).astype(x.dtype) * weight


def layer_norm(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    eps: float,
) -> jax.Array:
    """Returns (x - mean) / std * weight + bias over the last axis, in float32 throughout."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(variance + eps)
    scaled = centred * scale * weight.astype(jnp.float32)
    shifted = scaled + bias.astype(jnp.float32)
    return shifted.astype(x.dtype)


# -------------------------------------------------------------------------------------------------
# rope


def rope_base(config: TextConfig) -> float:
    """Returns the base (theta) of the rotary embedding at every length up to `max_positions`.

    hf: dynamic NTK changes nothing up to `max_positions`, and longer contexts are refused.
    vllm_static: vLLM's DynamicNTKScalingRotaryEmbedding scales whatever the length, theta * (f*f -
    (f - 1))^(H / (H - 2)): 3,052,774 for f = 2, H = 128, theta = 1e6.
    """
    if config.rope_impl == "hf":
        return config.rope_theta
    f = config.rope_factor
    h = config.head_dim
    scale = (f * f - (f - 1)) ** (h / (h - 2))
    return config.rope_theta * scale


def rope_angles(
    positions: jax.Array, config: TextConfig
) -> tuple[jax.Array, jax.Array]:
    """Returns cos and sin, float32[B, T, H/2], for int32[B, T] positions.

    They are float32 whatever the model's dtype: bfloat16 cannot hold the integer 257.
    """
    # On the host: one unit in the last place of a frequency, as a TPU's `pow` may have it wrong,
    # is 2e-3 radians at position 32,767.
    head_dim = config.head_dim
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    frequencies = 1 / np.float32(rope_base(config)) ** exponents
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns each pair (x[i], x[i + H/2]) by its angle.

    x: [B, T, ..., H]; cos and sin: [B, T, H/2].
    """
    # For q [2, 7, 4, 5, 128], cos [2, 7, 64] becomes [2, 7, 1, 1, 64]: one angle for all heads.
    head_axes = (1,) * (x.ndim - 3)
    shape = (*cos.shape[:2], *head_axes, cos.shape[2])
    cos = cos.reshape(shape)
    sin = sin.reshape(shape)
    x32 = x.astype(jnp.float32)
    real, imaginary = jnp.split(x32, 2, axis=-1)
    turned_real = real * cos - imaginary * sin
    turned_imaginary = imaginary * cos + real * sin
    turned = jnp.concatenate([turned_real, turned_imaginary], axis=-1)
    return turned.astype(x.dtype)
