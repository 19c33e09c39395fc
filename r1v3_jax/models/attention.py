"""Attention over whole rows: the reference in plain JAX, and JAX's splash kernel for TPU.

Each comes twice: for packed rows, and for packed rows that continue prompts whose keys are kept.
Attention of a single token against a cache is in `decode_attention.py`.
"""

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

LANES = 128  # the kernels work on blocks of a multiple of this many tokens


# -------------------------------------------------------------------------------------------------
# the reference


def causal_mask(segment_ids: jax.Array) -> jax.Array:
    """Returns bool[B, T, T]: query t may look at key s of the same segment, s <= t.

    segment_ids  [1 1 2 2 0]        t\\s  1 1 2 2 0
                                     1   x
                                     1   x x
    packed rows never see            2       x
    each other; padding (0)          2       x x
    sees only padding                0           x
    """
    length = segment_ids.shape[1]
    order = jnp.arange(length)
    queries = segment_ids[:, :, None]
    keys = segment_ids[:, None, :]
    is_same = queries == keys
    is_before = order[:, None] >= order[None, :]
    return is_same & is_before


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
) -> jax.Array:
    """Returns softmax(q k / sqrt(H)) v, the reference: float32 scores, all of them in memory.

    q [B, T, K, Q, H]; k, v [B, S, K, H]; mask bool[B, T, S] or None -> [B, T, K, Q, H].
    """
    # Heads lead, so that no array as large as the scores is ever transposed.
    q = jnp.einsum("btkqh->bktqh", q)
    k = jnp.swapaxes(k, 1, 2)
    v = jnp.swapaxes(v, 1, 2)
    scores = jnp.einsum("bktqh,bksh->bktqs", q, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        by_head = mask[:, None, :, None]
        scores = jnp.where(by_head, scores, NEVER)
    weights = jax.nn.softmax(scores, axis=-1)
    weights = weights.astype(v.dtype)
    context = jnp.einsum("bktqs,bksh->bktqh", weights, v)
    return jnp.einsum("bktqh->btkqh", context)


def attention_after_prompt(q, k, v, prompt_k, prompt_v, segment_ids, used) -> jax.Array:
    """Computes attention of packed rows that continue prompts, the reference.

    q [B, T, K, Q, H]; k, v [B, T, K, H]; prompt_k, prompt_v [J, K, S, H], each the prompt of B / J
    adjacent rows; segment_ids int32[B, T]; used int32[J], slots of the prompts in use ->
    [B, T, K, Q, H]. What a token sees: `after_prompt_mask`.
    """
    shape = q.shape
    J = len(used)
    S = prompt_k.shape[2]
    mask = after_prompt_mask(segment_ids, repeat_rows(used, len(q)), S)
    mask = split_rows(mask, J)
    # Prompts and heads lead, for the same reason as in `attention`.
    q = jnp.einsum("jbtkqh->jkbtqh", split_rows(q, J))
    k = jnp.einsum("jbskh->jkbsh", split_rows(k, J))
    v = jnp.einsum("jbskh->jkbsh", split_rows(v, J))

    # One softmax over both: the S slots of the prompt, then the T tokens of the row itself.
    exact = {"preferred_element_type": jnp.float32}
    prompt_scores = jnp.einsum("jkbtqh,jksh->jkbtqs", q, prompt_k, **exact)
    row_scores = jnp.einsum("jkbtqh,jkbsh->jkbtqs", q, k, **exact)
    scores = jnp.concatenate([prompt_scores, row_scores], axis=-1)
    scores = scores * q.shape[-1] ** -0.5
    by_head = mask[:, None, :, :, None]
    scores = jnp.where(by_head, scores, NEVER)
    weights = jax.nn.softmax(scores, axis=-1)
    weights = weights.astype(v.dtype)
    prompt_weights = weights[..., :S]
    context = jnp.einsum("jkbtqs,jksh->jkbtqh", prompt_weights, prompt_v)
    row_weights = weights[..., S:]
    context += jnp.einsum("jkbtqs,jkbsh->jkbtqh", row_weights, v)
    return jnp.einsum("jkbtqh->jbtkqh", context).reshape(shape)


def after_prompt_mask(segment_ids: jax.Array, used: jax.Array, slots: int) -> jax.Array:
    """Returns bool[B, T, S + T]: query t looks at its prompt and at its own segment, s <= t.

    slots 3, used 2, segment_ids  [1 1 2]     t\\s  p p - 1 1 2
    two samples of one prompt packed into     1     x x   x
    a row: both see the prompt's two slots    1     x x   x x
    in use, and neither sees the other        2     x x       x
    """
    shape = (*segment_ids.shape, slots)
    is_used = jnp.arange(slots) < used[:, None]
    prompt_mask = jnp.broadcast_to(is_used[:, None], shape)
    row_mask = causal_mask(segment_ids)
    return jnp.concatenate([prompt_mask, row_mask], axis=-1)


# -------------------------------------------------------------------------------------------------
# splash, for TPU


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
    """Computes `attention` by the Pallas kernel for TPU, with nothing of size T x T in memory.

    q [B, T, K, Q, H]; k, v [B, T, K, H]; segment_ids int32[B, T] -> [B, T, K, Q, H]. Each device
    works on its own rows and kv heads, as `q_spec` (the layout of q, None outside a mesh) splits
    them. T is padded to a multiple of 128 with a segment of its own. `interpret` runs the kernel's
    program without a TPU, slowly.
    """
    length = q.shape[1]
    q = to_lanes(q, 1)
    k = to_lanes(k, 1)
    v = to_lanes(v, 1)
    # Padding has a segment of its own, -1: no token sees it.
    segment_ids = to_lanes(segment_ids, 1, value=-1)
    total = q.shape[1]
    mask_kind = splash_mask.CausalMask if causal else splash_mask.FullMask
    head_mask = mask_kind((total, total))

    def attend_shard(q, k, v, segments):
        queries = q.shape[3]
        mask = splash_mask.MultiHeadMask([head_mask] * queries)
        sizes = block_sizes(total, total, block)
        kernel = multi_query_kernel(mask, sizes, interpret)
        # A multi-query kernel mapped over the kv heads: keys are never repeated, and the backward
        # pass has a parallel axis for the second core of a chip, also at one row a device.
        heads = jax.vmap(
            lambda q, k, v, ids: kernel(q, k, v, segment_ids=ids),
            in_axes=(0, 0, 0, None),
        )
        scaled = q * q.shape[-1] ** -0.5
        context = jax.vmap(heads)(
            jnp.einsum("btkqh->bkqth", scaled),
            jnp.einsum("btkh->bkth", k),
            jnp.einsum("btkh->bkth", v),
            splash.SegmentIds(q=segments, kv=segments),
        )
        return jnp.einsum("bkqth->btkqh", context)

    if q_spec is not None:
        # q is [B, T, K, Q, H]: keys and values have the same layout without Q.
        kv_spec = PartitionSpec(*q_spec[:3], None)
        row_spec = PartitionSpec(q_spec[0], None)
        attend_shard = jax.shard_map(
            attend_shard,
            in_specs=(q_spec, kv_spec, kv_spec, row_spec),
            out_specs=q_spec,
            check_vma=False,
        )
    return attend_shard(q, k, v, segment_ids)[:, :length]


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
    """Computes `attention_after_prompt` by the Pallas kernel, on one device's rows and kv heads.

    The mask, which depends on how samples were packed, is an array of four bytes an entry for one
    row at a time; blocks in which nothing is visible are left out.
    """
    B, T = segment_ids.shape
    rows_a_prompt = len(q) // len(used)
    q = to_lanes(q, 1)
    k = to_lanes(k, 1)
    v = to_lanes(v, 1)
    prompt_k = to_lanes(prompt_k, 2)
    prompt_v = to_lanes(prompt_v, 2)
    segment_ids = to_lanes(segment_ids, 1, value=-1)
    slots = prompt_k.shape[2]
    length = q.shape[1]
    sizes = block_sizes(length, slots + length, block)
    masks = after_prompt_mask(segment_ids, jnp.repeat(used, rows_a_prompt), slots)

    def attend_row(xs):
        i, q, k, v, mask = xs
        kernel = multi_query_kernel(mask[None], sizes, interpret)
        # Made under jit, this flag, which only names a scope, has become an array.
        kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=True)

        def after_prompt(prompt, row):  # [K, S, H], [T, K, H] -> [K, S + T, H]
            # Row i of 8 rows and 2 prompts continues prompt i // 4.
            own_prompt = prompt[i // rows_a_prompt]
            return jnp.concatenate([own_prompt, jnp.einsum("tkh->kth", row)], axis=1)

        k = after_prompt(prompt_k, k)
        v = after_prompt(prompt_v, v)
        # Mapped over the kv heads, as in `splash_attention`.
        scaled = q * q.shape[-1] ** -0.5
        return jax.vmap(kernel)(jnp.einsum("tkqh->kqth", scaled), k, v)

    rows = (jnp.arange(B), q, k, v, masks)
    context = jax.lax.map(attend_row, rows)
    return jnp.einsum("bkqth->btkqh", context)[:, :T]


def multi_query_kernel(mask, sizes: splash.BlockSizes, interpret: bool):
    """Returns the kernel for the queries [Q, T, H] of one kv head."""
    return splash.make_splash_mqa(
        mask,
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        residual_checkpoint_name="context",
        interpret=interpret,
    )


def to_lanes(x: jax.Array, axis: int, value=0) -> jax.Array:
    """Pads `x` with `value` to a multiple of 128 along `axis`."""
    pad = [(0, 0)] * x.ndim
    length = x.shape[axis]
    pad[axis] = (0, -length % LANES)  # -200 % 128 = 56, and 200 + 56 = 256
    return jnp.pad(x, pad, constant_values=value)


def block_sizes(queries: int, keys: int, limit: int) -> splash.BlockSizes:
    """Returns blocks of the largest multiple of 128, up to `limit`, that divides the length.

    A length of 1,152 = 9 x 128 has blocks of 384 under a limit of 1,024.
    """

    def largest(length):
        end = min(limit, length) + 1
        candidates = range(LANES, end, LANES)
        return max(n for n in candidates if length % n == 0)

    q = largest(queries)
    kv = largest(keys)
    return splash.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )
