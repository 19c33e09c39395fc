"""From logits to one token: ban, penalise, cut, draw, measure."""

import functools
import math

import jax
import jax.numpy as jnp

from r1v3_jax.models.attention import LANES, NEVER
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import Completions
from r1v3_jax.sharding import merge_rows, split_last, split_rows


def tile_of(shape: tuple[int, int], batch: int, vocab: int) -> tuple[int, int]:
    """The tile for `draw` of logits [B, V], dealt out in so many shards: that of a TPU's memory, 8
    x 128, as far as it divides a shard. Its columns are the same on any of up to 8 devices.
    """
    B, V = shape
    return math.gcd(B // batch, 8), math.gcd(
        V // math.gcd(V, math.lcm(8, vocab)), LANES
    )


def choose(
    logits: jax.Array, keys: jax.Array, sampling: SamplingParams, tile: tuple[int, int]
) -> jax.Array:
    """One token a row of float32[B, V] logits: int32[B]; `tile`: see `draw`."""
    allowed = logits / sampling.temperature if sampling.temperature > 0 else logits
    if sampling.banned:
        forbidden = (
            jnp.zeros(logits.shape[-1], bool).at[jnp.asarray(sampling.banned)].set(True)
        )
        allowed = jnp.where(forbidden, NEVER, allowed)
    if sampling.top_k:
        kth = jax.lax.top_k(allowed, min(sampling.top_k, logits.shape[-1]))[0][:, -1:]
        allowed = jnp.where(allowed < kth, NEVER, allowed)
    if sampling.top_p < 1:
        allowed = jnp.where(
            allowed < nucleus_floor(allowed, sampling.top_p), NEVER, allowed
        )
    if sampling.temperature > 0:
        return draw(allowed, keys, tile)
    return jnp.argmax(allowed, axis=-1).astype(jnp.int32)


def draw(logits: jax.Array, keys: jax.Array, tile: tuple[int, int]) -> jax.Array:
    """A token a row from softmax(logits), float32[B, V] -> int32[B]: first a column of the
    vocabulary by its share of the probability, then one of its tokens.

    The same distribution as one draw from all, with V / columns + columns random numbers in place
    of V: making those takes longer than the logits of a small model.

    tile: rows and columns, which divide B and V. That of a TPU's memory: there the numbers lie as
    the tables of columns want them, and none is moved.

    V 8, 4 columns     0 1 2 3
                       4 5 6 7     column 2, and of its tokens the second: token 6
    """
    rows, columns = tile
    # [B / rows, rows, V / columns, columns]
    table = split_last(split_rows(logits, len(logits) // rows), columns)
    keys = jax.vmap(jax.random.split)(keys)
    shares = merge_rows(jax.nn.logsumexp(table, axis=2))
    column = jax.vmap(jax.random.categorical)(keys[:, 0], shares)
    here = split_rows(column, len(table))[:, :, None, None] == jnp.arange(columns)
    inside = merge_rows(jnp.max(jnp.where(here, table, -jnp.inf), axis=3))
    place = jax.vmap(jax.random.categorical)(keys[:, 1], inside)
    return (place * columns + column).astype(jnp.int32)


def nucleus_floor(logits: jax.Array, top_p: float) -> jax.Array:
    """The smallest logit of the nucleus, float32[B, 1]: the fewest tokens whose probabilities reach
    top_p.

    p       [.5 .3 .1 .1]   top_p = .7
    before  [ 0 .5 .8 .9]   mass of the tokens before each; kept while below top_p: .5 and .3
    """
    ordered = -jnp.sort(-logits, axis=-1)
    p = jax.nn.softmax(ordered, axis=-1)
    kept = jnp.cumsum(p, axis=-1) - p < top_p
    return jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)


def penalised(
    logits: jax.Array, completions: Completions, sampling: SamplingParams
) -> jax.Array:
    """Logits with those of tokens already in the completion made smaller (CTRL, arXiv
    1909.05858).
    """
    if sampling.repetition_penalty == 1:
        return logits
    columns = jnp.arange(completions.tokens.shape[1]) < completions.lengths[:, None]
    seen = jax.vmap(
        lambda row, used: jnp.zeros(logits.shape[-1], bool).at[row].max(used)
    )(completions.tokens, columns)
    factor = sampling.repetition_penalty
    return jnp.where(
        seen, jnp.where(logits > 0, logits / factor, logits * factor), logits
    )


def close_thinking(token, lengths, tokens, closed, sampling: SamplingParams):
    """Replaces tokens by those of `think_end` in samples whose thinking budget is spent.

    int32[B] tokens for columns `lengths`, int32[B, C] tokens before them, bool[B] closed -> tokens,
    bool[B] chosen by the policy, closed.

    think_end 7 8 9, budget 3:   1 2 3 | 7 8 9     1 2 7 | 8 9     (goes on with what has begun)
    """
    if not sampling.thinking_tokens:
        return token, jnp.ones_like(token, bool), closed
    ends = sampling.think_end

    def column(back):  # int32[B], the tokens `back` columns before; -1 before the first
        here = jnp.arange(tokens.shape[1]) == (lengths - back)[:, None]
        return jnp.max(jnp.where(here, tokens, -1), axis=1)

    def among(token, ids):
        return jnp.any(token[:, None] == jnp.asarray(ids, jnp.int32), axis=-1)

    def begun(
        count,
    ):  # bool[B]: the last `count` tokens are the first `count` of think_end
        parts = [among(column(count - i), ids) for i, ids in enumerate(ends[:count])]
        return functools.reduce(jnp.logical_and, parts, jnp.ones_like(closed))

    wanted = jnp.full_like(token, ends[0][0])
    for count in range(1, len(ends)):  # the longest beginning wins
        wanted = jnp.where(begun(count), ends[count][0], wanted)
    force = ~closed & (lengths >= sampling.thinking_tokens)
    token = jnp.where(force, wanted, token)
    return token, ~force, closed | (begun(len(ends) - 1) & among(token, ends[-1]))


def measure(
    logits: jax.Array, token: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """log p(token) and the entropy of softmax(logits / temperature), float32[B] each."""
    logits = logits / temperature
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    hit = jnp.arange(logits.shape[-1]) == token[:, None]
    chosen = jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
    mean = jnp.sum(jnp.exp(logits - normaliser[:, None]) * logits, axis=-1)
    return chosen - normaliser, normaliser - mean
