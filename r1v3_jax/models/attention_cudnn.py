"""Attention over whole rows by cuDNN, for NVIDIA GPUs: `jax.nn.dot_product_attention`.

No array of the size of all scores is in memory. Three kinds of rows:

    prompts, tiles             causal or not, with a number of keys in use a row: no mask at all
    packed rows                the mask of their segments, bool[B, 1, T, T]
    packed rows after prompts  one call over the keys of prompt and row, mask bool[B, 1, T, S + T]

The last could be two calls, one a piece, put together by their log-sum-exps. It is one, because the
log-sum-exp that jax returns has no gradient: the merged result would have a wrong one.

cuDNN wants 16 bits, heads of a multiple of 8 numbers and, of what has a mask, even lengths; rows
are padded here. What it refuses is refused by `config.model.check_attention`.

Every function takes `implementation`: "xla" is the same call without cuDNN, on any device and in
any dtype, and it is what the tests run. Letters as in `layers.py`.
"""

import jax
import jax.numpy as jnp

from r1v3_jax.models.attention import after_prompt_mask, causal_mask


def cudnn_prompts(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    *,
    implementation: str = "cudnn",
) -> jax.Array:
    """Computes causal attention of rows of one segment each, padded on the right.

    q [P, T, K, Q, H]; k, v [P, T, K, H]; lengths int32[P] -> [P, T, K, Q, H]. Padding sees the
    prompt, so that it holds numbers; the reference lets it see padding, and nobody reads either.
    """
    # A row of no tokens would be a softmax over nothing.
    used = jnp.maximum(lengths, 1)
    return _attend(q, k, v, used=used, is_causal=True, implementation=implementation)


def cudnn_tiles(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    implementation: str = "cudnn",
) -> jax.Array:
    """Computes attention of rows in which every token sees every token.

    q [I, T, K, Q, H]; k, v [I, T, K, H] -> [I, T, K, Q, H].
    """
    # 1 + 1,024 tokens are padded to 1,026, and no token sees the last.
    used = jnp.full(k.shape[0], k.shape[1], jnp.int32)
    return _attend(q, k, v, used=used, implementation=implementation)


def cudnn_packed(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    implementation: str = "cudnn",
) -> jax.Array:
    """Computes `attention` of packed rows: q [B, T, K, Q, H]; k, v [B, T, K, H]; int32[B, T]."""
    mask = causal_mask(segment_ids)
    # The mask says that too; told apart, cuDNN leaves out the half above the diagonal.
    return _attend(q, k, v, mask=mask, is_causal=True, implementation=implementation)


def cudnn_after_prompt(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    prompt_k: jax.Array,
    prompt_v: jax.Array,
    segment_ids: jax.Array,
    used: jax.Array,
    *,
    implementation: str = "cudnn",
) -> jax.Array:
    """Computes `attention_after_prompt`; the mask is the largest array, a byte an entry and row."""
    rows_a_prompt = len(q) // len(used)

    def with_prompt(prompt, row):  # [J, K, S, H], [B, T, K, H] -> [B, S + T, K, H]
        prompt = jnp.einsum("jksh->jskh", prompt)
        prompt = jnp.repeat(prompt, rows_a_prompt, axis=0)
        return jnp.concatenate([prompt, row], axis=1)

    slots = prompt_k.shape[2]
    mask = after_prompt_mask(segment_ids, jnp.repeat(used, rows_a_prompt), slots)
    k = with_prompt(prompt_k, k)
    v = with_prompt(prompt_v, v)
    return _attend(q, k, v, mask=mask, implementation=implementation)


def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    used: jax.Array | None = None,
    mask: jax.Array | None = None,
    is_causal: bool = False,
    implementation: str,
) -> jax.Array:
    """Calls jax: q [B, T, K, Q, H]; k, v [B, S, K, H]; used int32[B] keys; mask bool[B, T, S]."""
    B, T, K, Q, H = q.shape
    S = k.shape[1]
    if mask is not None:
        pad = ((0, 0), (0, T % 2), (0, S % 2))
        mask = jnp.pad(mask, pad)[:, None]
        # A padded query sees one key, or its softmax would be one over nothing.
        mask = mask.at[:, :, T:, 0].set(True)
    context = jax.nn.dot_product_attention(
        _to_even(q.reshape(B, T, K * Q, H)),
        _to_even(k),
        _to_even(v),
        mask=mask,
        is_causal=is_causal,
        key_value_seq_lengths=used,
        implementation=implementation,
    )
    return context[:, :T].reshape(q.shape)


def _to_even(x: jax.Array) -> jax.Array:
    """Pads rows [B, T, ...] to an even number of tokens."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, x.shape[1] % 2)
    return jnp.pad(x, pad)
