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
from r1v3_jax.sharding import repeat_rows, split_rows

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
    return None if jax.sharding.get_abstract_mesh().empty else jax.typeof(x).sharding.spec


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
    q, k, v = jnp.einsum("btkqh->bktqh", q), jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    # Heads lead, so that no array as large as the scores is ever transposed.
    scores = jnp.einsum("bktqh,bksh->bktqs", q, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, :, None], scores, NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bktqh->btkqh", jnp.einsum("bktqs,bksh->bktqh", weights, v))


def attention_behind(q, k, v, prompt_k, prompt_v, segment_ids, used) -> jax.Array:
    """Attention of packed rows that stand behind prompts, the reference: see `behind_mask`.

    q [B, T, K, Q, H]; k, v [B, T, K, H]; prompt_k, prompt_v [J, K, S, H], each the prompt of B / J
    rows side by side; segment_ids int32[B, T]; used int32[J], slots of the prompts in use ->
    [B, T, K, Q, H].
    """
    shape, J, S = q.shape, len(used), prompt_k.shape[2]
    mask = split_rows(behind_mask(segment_ids, repeat_rows(used, len(q)), S), J)
    q = jnp.einsum("jbtkqh->jkbtqh", split_rows(q, J))
    k, v = (jnp.einsum("jbskh->jkbsh", split_rows(x, J)) for x in (k, v))
    # Prompts and heads lead, as in `attention`.
    exact = {"preferred_element_type": jnp.float32}
    prompt = jnp.einsum("jkbtqh,jksh->jkbtqs", q, prompt_k, **exact)
    own = jnp.einsum("jkbtqh,jkbsh->jkbtqs", q, k, **exact)
    scores = jnp.concatenate([prompt, own], axis=-1) * q.shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, :, :, None], scores, NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("jkbtqs,jksh->jkbtqh", weights[..., :S], prompt_v)
    out += jnp.einsum("jkbtqs,jkbsh->jkbtqh", weights[..., S:], v)
    return jnp.einsum("jkbtqh->jbtkqh", out).reshape(shape)


def behind_mask(segment_ids: jax.Array, used: jax.Array, slots: int) -> jax.Array:
    """bool[B, T, S + T]: query t looks at its prompt, and at the keys of its own segment, s <= t.

    slots 3, used 2, segment_ids  [1 1 2]     t\\s  p p - 1 1 2
    two samples of one prompt packed into     1     x x   x
    a row: both see the prompt's two slots    1     x x   x x
    in use, and neither the other             2     x x       x
    """
    shape = (*segment_ids.shape, slots)
    prompt = jnp.broadcast_to((jnp.arange(slots) < used[:, None])[:, None], shape)
    return jnp.concatenate([prompt, causal_mask(segment_ids)], axis=-1)


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
    q, k, v = (to_lanes(x, 1) for x in (q, k, v))
    segment_ids, total = to_lanes(segment_ids, 1, value=-1), q.shape[1]
    one_head = (
        splash_mask.CausalMask((total, total)) if causal else splash_mask.FullMask((total, total))
    )

    def local(q, k, v, segments):
        kernel = splash.make_splash_mqa(
            splash_mask.MultiHeadMask([one_head] * q.shape[3]),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=block_sizes(total, total, block),
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


def splash_behind(
    q, k, v, prompt_k, prompt_v, segment_ids, used, *, block: int = 1024, interpret: bool = False
) -> jax.Array:
    """`attention_behind` by the Pallas kernel for TPU, for the rows and kv heads of one device.

    The mask, which depends on how samples were packed, is an array of four bytes an entry for one
    row at a time; blocks in which nothing is to be seen are left out.
    """
    (B, T), rows_each = segment_ids.shape, len(q) // len(used)
    q, k, v = (to_lanes(x, 1) for x in (q, k, v))
    prompt_k, prompt_v = (to_lanes(x, 2) for x in (prompt_k, prompt_v))
    segment_ids = to_lanes(segment_ids, 1, value=-1)
    sizes = block_sizes(q.shape[1], prompt_k.shape[2] + q.shape[1], block)
    masks = behind_mask(segment_ids, jnp.repeat(used, rows_each), prompt_k.shape[2])

    def row(xs):
        i, q, k, v, mask = xs
        kernel = splash.make_splash_mqa(
            mask[None],
            head_shards=1,
            q_seq_shards=1,
            block_sizes=sizes,
            residual_checkpoint_name="context",
            interpret=interpret,
        )
        # Made under jit, this flag, which only names a scope, has become an array.
        kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=True)
        k, v = (
            jnp.concatenate([prompt[i // rows_each], jnp.einsum("tkh->kth", own)], axis=1)
            for prompt, own in ((prompt_k, k), (prompt_v, v))
        )
        # Over the kv heads, as in `splash_attention`.
        return jax.vmap(kernel)(jnp.einsum("tkqh->kqth", q * q.shape[-1] ** -0.5), k, v)

    out = jax.lax.map(row, (jnp.arange(B), q, k, v, masks))
    return jnp.einsum("bkqth->btkqh", out)[:, :T]


def to_lanes(x: jax.Array, axis: int, value=0) -> jax.Array:
    """`x` padded with `value` to a multiple of 128 along `axis`."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, -x.shape[axis] % LANES)
    return jnp.pad(x, pad, constant_values=value)


def block_sizes(queries: int, keys: int, most: int) -> splash.BlockSizes:
    """Blocks of the largest multiple of 128, up to `most`, that divides the length."""

    def largest(length):
        return max(n for n in range(LANES, min(most, length) + 1, LANES) if length % n == 0)

    q, kv = largest(queries), largest(keys)
    return splash.BlockSizes(
        block_q=q, block_kv=kv, block_kv_compute=kv,
        block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=kv,
        block_q_dq=q, block_kv_dq=kv,
    )  # fmt: skip
