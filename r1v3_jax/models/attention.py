"""Attention: the reference, and splash for TPU."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as splash_mask,
)
from jax.sharding import PartitionSpec

from r1v3_jax.sharding import repeat_rows, split_rows

# Logits that must never be chosen. Finite, because 0 * -inf is nan in an entropy.
NEVER = -1e30


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


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """softmax(q k / sqrt(H)) v, the reference: scores in float32, all of them in memory.

    q [B, T, K, Q, H]; k, v [B, S, K, H]; mask bool[B, T, S] or None -> [B, T, K, Q, H].
    """
    q, k, v = (
        jnp.einsum("btkqh->bktqh", q),
        jnp.swapaxes(k, 1, 2),
        jnp.swapaxes(v, 1, 2),
    )
    # Heads lead, so that no array as large as the scores is ever transposed.
    scores = jnp.einsum("bktqh,bksh->bktqs", q, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, :, None], scores, NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bktqh->btkqh", jnp.einsum("bktqs,bksh->bktqh", weights, v))


def attention_after_prompt(q, k, v, prompt_k, prompt_v, segment_ids, used) -> jax.Array:
    """Attention of packed rows that stand behind prompts, the reference: see `behind_mask`.

    q [B, T, K, Q, H]; k, v [B, T, K, H]; prompt_k, prompt_v [J, K, S, H], each the prompt of B / J
    rows side by side; segment_ids int32[B, T]; used int32[J], slots of the prompts in use ->
    [B, T, K, Q, H].
    """
    shape, J, S = q.shape, len(used), prompt_k.shape[2]
    mask = split_rows(after_prompt_mask(segment_ids, repeat_rows(used, len(q)), S), J)
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


def after_prompt_mask(segment_ids: jax.Array, used: jax.Array, slots: int) -> jax.Array:
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
        splash_mask.CausalMask((total, total))
        if causal
        else splash_mask.FullMask((total, total))
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
            lambda q, k, v, ids: kernel(q, k, v, segment_ids=ids),
            in_axes=(0, 0, 0, None),
        )
        out = jax.vmap(heads)(
            jnp.einsum("btkqh->bkqth", q * q.shape[-1] ** -0.5),
            jnp.einsum("btkh->bkth", k),
            jnp.einsum("btkh->bkth", v),
            splash.SegmentIds(q=segments, kv=segments),
        )
        return jnp.einsum("bkqth->btkqh", out)

    if q_spec is not None:
        kv_spec, row_spec = (
            PartitionSpec(*q_spec[:3], None),
            PartitionSpec(q_spec[0], None),
        )
        local = jax.shard_map(
            local,
            in_specs=(q_spec, kv_spec, kv_spec, row_spec),
            out_specs=q_spec,
            check_vma=False,
        )
    return local(q, k, v, segment_ids)[:, :length]


def splash_after_prompt(
    q,
    k,
    v,
    prompt_k,
    prompt_v,
    segment_ids,
    used,
    *,
    block: int = 1024,
    interpret: bool = False,
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
    masks = after_prompt_mask(
        segment_ids, jnp.repeat(used, rows_each), prompt_k.shape[2]
    )

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
            jnp.concatenate(
                [prompt[i // rows_each], jnp.einsum("tkh->kth", own)], axis=1
            )
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
        return max(
            n for n in range(LANES, min(most, length) + 1, LANES) if length % n == 0
        )

    q, kv = largest(queries), largest(keys)
    return splash.BlockSizes(
        block_q=q, block_kv=kv, block_kv_compute=kv,
        block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=kv,
        block_q_dq=q, block_kv_dq=kv,
    )  # fmt: skip
