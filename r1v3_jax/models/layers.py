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
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import PartitionSpec

from r1v3_jax.config import Compute, TextConfig

# Logits that must never be chosen. Finite, because 0 * -inf is nan in an entropy.
NEVER = -1e30


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
    "attention": jax.checkpoint_policies.save_only_these_names("q", "k", "v", "context"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def remat(layer, name: str):
    """`layer` with the rematerialisation policy `name` (see REMAT; "none" leaves it alone)."""
    return layer if name == "none" else jax.checkpoint(layer, policy=REMAT[name])


def keep(x: jax.Array, name: str) -> jax.Array:
    """Gives an intermediate the name by which a policy may keep it."""
    return checkpoint_name(x, name)


# -------------------------------------------------------------------------------------------------
# norms


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * weight over the last axis; statistics in float32, cast back before the weight,
    as torch does.
    """
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype) * weight


def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """(x - mean) / std * weight + bias over the last axis, in float32 throughout."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    return (centred * scale * weight.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


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


def rope_angles(positions: jax.Array, config: TextConfig) -> tuple[jax.Array, jax.Array]:
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
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


# -------------------------------------------------------------------------------------------------
# attention


def causal_mask(segment_ids: jax.Array) -> jax.Array:
    """bool[B, T, T]: query t may look at key s of the same segment, s <= t.

    segment_ids  [1 1 2 2 0]        t\\s  1 1 2 2 0
                                     1   x
                                     1   x x
    packed rows never see            2       x
    each other; padding (0)          2       x x
    sees only padding                0           x
    """
    length = segment_ids.shape[1]
    order = jnp.arange(length)
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same & (order[:, None] >= order[None, :])


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None) -> jax.Array:
    """softmax(q k / sqrt(H)) v, the reference: scores in float32, all of them in memory.

    q [B, T, K, Q, H]; k, v [B, S, K, H]; mask bool[B, T, S] or None -> [B, T, K, Q, H].
    """
    scores = jnp.einsum("btkqh,bskh->bkqts", q, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, NEVER)
    return jnp.einsum("bkqts,bskh->btkqh", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


LANES = 128  # the kernel works on blocks of a multiple of this many tokens


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    causal: bool,
    q_spec: PartitionSpec | None,
    block: int = 1024,
    interpret: bool = False,
) -> jax.Array:
    """The Pallas kernel for TPU: the same function as `attention`, with nothing of size T x T in
    memory.

    q [B, T, K, Q, H]; k, v [B, T, K, H]; segment_ids int32[B, T] -> [B, T, K, Q, H]. Each device
    works on its own rows and kv heads, as `q_spec` (the layout of q, None outside a mesh) deals
    them out. T is padded to a multiple of 128 with a segment of its own. `interpret` runs the
    kernel's program without a TPU, slowly.
    """
    length = q.shape[1]
    pad = -length % LANES
    q, k, v = (jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2)) for x in (q, k, v))
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, pad)), constant_values=-1)
    total = length + pad
    # The largest multiple of 128 up to `block` that divides the length.
    size = max(n for n in range(LANES, min(block, total) + 1, LANES) if total % n == 0)
    sizes = splash.BlockSizes(
        block_q=size, block_kv=size, block_kv_compute=size,
        block_q_dkv=size, block_kv_dkv=size, block_kv_dkv_compute=size,
        block_q_dq=size, block_kv_dq=size,
    )  # fmt: skip
    one_head = (
        splash_mask.CausalMask((total, total)) if causal else splash_mask.FullMask((total, total))
    )

    def local(q, k, v, segments):
        kernel = splash.make_splash_mqa(
            splash_mask.MultiHeadMask([one_head] * q.shape[3]),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=sizes,
            residual_checkpoint_name="context",
            interpret=interpret,
        )
        # A multi-query kernel mapped over the kv heads: keys are never repeated, and the backward
        # pass has a parallel axis for the second core of a chip, also at one row a device.
        heads = jax.vmap(
            lambda q, k, v, ids: kernel(q, k, v, segment_ids=ids), in_axes=(0, 0, 0, None)
        )
        out = jax.vmap(heads)(
            jnp.einsum("btkqh->bkqth", q * q.shape[-1] ** -0.5),
            jnp.einsum("btkh->bkth", k),
            jnp.einsum("btkh->bkth", v),
            splash.SegmentIds(q=segments, kv=segments),
        )
        return jnp.einsum("bkqth->btkqh", out)

    if q_spec is not None:
        kv_spec, row_spec = PartitionSpec(*q_spec[:3], None), PartitionSpec(q_spec[0], None)
        local = jax.shard_map(
            local, in_specs=(q_spec, kv_spec, kv_spec, row_spec), out_specs=q_spec, check_vma=False
        )
    return local(q, k, v, segment_ids)[:, :length]
