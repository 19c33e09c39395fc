"""Attention of one token of every sample: to its prompt, to the tokens before it, to itself.

Each of the three is a partial softmax over its own keys, and `merge_softmax` puts them together.
Functions that return `attend(q, layer)` -> partial softmax are called once a token; the returned
function is called once a layer, inside the scan over the layers.

A partial softmax is a triple, all float32, with s = q k / sqrt(H) over the keys it has seen:

    out    [B, K, Q, H]  sum exp(s - top) v
    top    [B, K, Q]     max s
    total  [B, K, Q]     sum exp(s - top)

and 0, NEVER and 0 if it has seen no keys. Letters as in `layers.py`.
"""

import functools
import math

import jax
import jax.numpy as jnp

from r1v3_jax.config import Compute
from r1v3_jax.models import decode_kernels
from r1v3_jax.models.attention import NEVER
from r1v3_jax.models.caches import Cache, layer_of
from r1v3_jax.models.joined_cache import JoinedCache, write_token
from r1v3_jax.sharding import each_shard, split_rows, take_rows


def prompt_attention(cache: Cache, compute: Compute):
    """Returns `attend(q, layer)` for q [B, K, Q, H] against the samples' prompts."""
    prompt = cache.prompt
    rows = cache.rows
    if rows is None:
        # The G samples of a prompt are adjacent: its keys are read once for all of them.
        return lambda q, layer: attend_slots(
            q,
            layer_of(prompt.k, layer),
            layer_of(prompt.v, layer),
            prompt.lengths,
        )
    lengths = take_rows(prompt.lengths, rows)
    if compute.attention == "splash":
        return kernel_attention(prompt.k, prompt.v, lengths, compute, rows)
    if cache.chunk:
        return chunk_attention(prompt.k, prompt.v, lengths, cache.chunk, rows)

    def attend(q, layer):
        # Every sample has a copy of its prompt's keys, of one layer, while that layer runs.
        k = take_rows(layer_of(prompt.k, layer), rows)
        v = take_rows(layer_of(prompt.v, layer), rows)
        return attend_slots(q, k, v, lengths)

    return attend


def sample_attention(cache: Cache, compute: Compute):
    """Returns `attend(q, layer)` for q [B, K, Q, H] against the samples' own slots in use."""
    if compute.attention == "splash":
        return kernel_attention(cache.k, cache.v, cache.lengths, compute)
    if cache.chunk:
        return chunk_attention(cache.k, cache.v, cache.lengths, cache.chunk)

    def attend_first(size, q, layer):
        k = layer_of(cache.k, layer, size)
        v = layer_of(cache.v, layer, size)
        return attend_slots(q, k, v, cache.lengths)

    if cache.end:
        return functools.partial(attend_first, cache.end)
    # XLA cannot read a number of slots that depends on data, so it chooses among four programs.
    sizes = quarters(cache.k.shape[3])
    choice = sum(jnp.max(cache.lengths) > size for size in sizes[:-1])
    branches = [functools.partial(attend_first, size) for size in sizes]
    return lambda q, layer: jax.lax.switch(choice, branches, q, layer)


def quarters(slots: int) -> list[int]:
    """Returns how many slots four programs read.

    With 100 they read 25, 50, 75 or 100, and a fullest row of 60 tokens takes the third.
    """
    return sorted({math.ceil(slots * n / 4) for n in (1, 2, 3, 4)})


def chunk_attention(
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    chunk: int,
    rows: jax.Array | None = None,
):
    """Returns `attend(q, layer)` that goes over `chunk` slots of k, v [L, P, K, S, H] at a time.

    It stops behind the longest sample. What a sample gets does not depend on where that is: a chunk
    of which it uses nothing adds 0 to what it has. `rows`: as in `kernel_attention`.
    """
    L, P, K, S, H = k.shape
    size = min(chunk, S)
    # With 200 slots in use and chunks of 128 there are two.
    count = (jnp.max(lengths) + size - 1) // size

    def attend(q, layer):
        def attend_chunk(i):
            start = (layer, 0, 0, i * size, 0)
            entries = []
            for stacked in (k, v):
                part = jax.lax.dynamic_slice(stacked, start, (1, P, K, size, H))[0]
                entries.append(part if rows is None else take_rows(part, rows))
            used = jnp.clip(lengths - i * size, 0, size)
            return attend_slots(q, *entries, used)

        def add_chunk(i, partial):
            return add_softmax((partial, attend_chunk(i)))

        return jax.lax.fori_loop(1, count, add_chunk, attend_chunk(0))

    return attend


def joined_attention(cache: JoinedCache):
    """Returns `attend(q, k, v, layer)` for one token a sample: q [B, K, Q, H], k, v [B, K, H].

    It writes the token's key and value, attends to all keys at once, and returns the context,
    float[B, K, Q, H], with the layer's keys and values.
    """
    used = cache.used()

    def attend_all(q, keys, values, used):
        exact = {"preferred_element_type": jnp.float32}
        scores = jnp.einsum("bkqh,bkhs->bkqs", q, keys, **exact)
        scores = jnp.where(used[:, None, None], scores * q.shape[-1] ** -0.5, NEVER)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        rounded = weights.astype(values.dtype)
        out = jnp.einsum("bkqs,bksh->bkqh", rounded, values, **exact)
        return (out / jnp.sum(weights, axis=-1, keepdims=True)).astype(q.dtype)

    def attend(q, k, v, layer: int):
        keys, values = write_token(cache, layer, k, v)
        return each_shard(attend_all, q, keys, values, used, like=q), keys, values

    return attend


def attend_slots(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
):
    """Returns a partial softmax of one query a sample over the first `lengths` slots.

    q [B, K, Q, H]; k, v [P, K, S, H], B = P * G: G adjacent samples share a row of slots; lengths
    int32[P].
    """
    by_prompt = split_rows(q, len(k))  # [P, G, K, Q, H]
    grouped = jnp.swapaxes(by_prompt, 1, 2)  # [P, K, G, Q, H]
    exact = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("pkgqh,pksh->pkgqs", grouped, k, **exact)
    slots = jnp.arange(k.shape[2])
    is_used = slots < lengths[:, None]
    is_used = is_used[:, None, None, None]
    scores = jnp.where(is_used, scores * q.shape[-1] ** -0.5, NEVER)
    top = jnp.max(scores, axis=-1)
    # Selected once more: with no slot in use top is NEVER too, and exp(NEVER - NEVER) is 1.
    weights = jnp.where(is_used, jnp.exp(scores - top[..., None]), 0)
    rounded = weights.astype(v.dtype)
    out = jnp.einsum("pkgqs,pksh->pkgqh", rounded, v, **exact)

    def by_sample(x):  # [P, K, G, ...] -> [B, K, ...]
        x = jnp.swapaxes(x, 1, 2)
        return x.reshape(len(q), *x.shape[2:])

    out = by_sample(out)
    top = by_sample(top)
    total = by_sample(jnp.sum(weights, axis=-1))
    return out, top, total


def attend_new_tokens(q: jax.Array, k: jax.Array, v: jax.Array):
    """Returns a partial softmax of T new tokens a sample over each other, none over a later one.

    q [B, T, K, Q, H]; k, v [B, T, K, H]. The result is that of T * Q queries, token by token.
    """
    T = q.shape[1]
    exact = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("btkqh,bskh->bktqs", q, k, **exact)
    token = jnp.arange(T)
    is_seen = token[:, None, None] >= token  # [T, 1, T]
    scores = jnp.where(is_seen, scores * q.shape[-1] ** -0.5, NEVER)
    top = jnp.max(scores, axis=-1)
    weights = jnp.exp(scores - top[..., None])
    rounded = weights.astype(v.dtype)
    out = jnp.einsum("bktqs,bskh->bktqh", rounded, v, **exact)

    def flat(x):  # [B, K, T, Q, ...] -> [B, K, T * Q, ...]
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])

    return flat(out), flat(top), flat(jnp.sum(weights, axis=-1))


def queries_of_tokens(q: jax.Array) -> jax.Array:
    """Puts the queries of T tokens side by side: [B, T, K, Q, H] -> [B, K, T * Q, H]."""
    q = jnp.swapaxes(q, 1, 2)
    return q.reshape(*q.shape[:2], -1, q.shape[-1])


def tokens_of_queries(context: jax.Array, tokens: int) -> jax.Array:
    """Undoes `queries_of_tokens`: [B, K, T * Q, H] -> [B, T, K, Q, H]."""
    B, K, queries, H = context.shape
    context = context.reshape(B, K, tokens, queries // tokens, H)
    return jnp.swapaxes(context, 1, 2)


def kernel_attention(
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    compute: Compute,
    rows: jax.Array | None = None,
):
    """Returns `attend(q, layer)` by `decode_kernels.attend` for k, v [L, P, K, S, H].

    Every device works on its own rows and heads. `rows`, int32[B]: the row of k, v of each query;
    without it, query b has row b.
    """
    rules = compute.rules
    attend = decode_kernels.attend
    lookup = ()
    if rows is not None:
        # Samples of one prompt are computed one after the other, and all slots are one block if
        # they fit: then a prompt is fetched once for all of its samples.
        lookup = (rows, each_shard(jnp.argsort, rows, like=rows))
        attend = functools.partial(attend, block=k.shape[3])
    cache_spec = rules.spec(None, "batch", "kv_heads", None, None)
    if cache_spec is not None:
        query = rules.spec("batch", "kv_heads", None, None)
        scalar = rules.spec()
        row = rules.spec("batch")
        row_and_head = rules.spec("batch", "kv_heads", None)
        lookup_specs = [row] * len(lookup)
        attend = jax.shard_map(
            attend,
            in_specs=(query, cache_spec, cache_spec, scalar, row, *lookup_specs),
            out_specs=(query, row_and_head, row_and_head),
            check_vma=False,
        )
    return lambda q, layer: attend(q, k, v, layer, lengths, *lookup)


def merge_softmax(partials) -> jax.Array:
    """Returns attention over several sets of keys, float32[B, K, Q, H], from its partial softmaxes.

    With maxima 3 and 5, what was summed relative to 3 is shrunk by exp(3 - 5) before it is added.
    """
    out, _, total = add_softmax(partials)
    return out / total[..., None]


def add_softmax(partials):
    """Returns the partial softmax over all keys of several partial softmaxes."""
    # All sums are made relative to the same maximum, and then they add up.
    outs, tops, totals = zip(*partials, strict=True)
    top = functools.reduce(jnp.maximum, tops)
    shrink = [jnp.exp(partial_top - top) for partial_top in tops]
    total = 0
    for partial_total, factor in zip(totals, shrink, strict=True):
        total = total + partial_total * factor
    out = 0
    for partial_out, factor in zip(outs, shrink, strict=True):
        out = out + partial_out * factor[..., None]
    return out, top, total
