"""From logits to one token of every sample: penalise, ban, cut, draw, close the thinking, measure.

Knows one step at a time; no cache and no slots. Letters: B samples, V vocabulary, C columns of the
completions.
"""

import functools
import math

import jax
import jax.numpy as jnp

from r1v3_jax.models.attention import LANES, NEVER
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import Completions
from r1v3_jax.sharding import merge_rows, split_last, split_rows

SUBLANES = 8  # rows of a tile of a TPU's memory; it has LANES columns


# -------------------------------------------------------------------------------------------------
# choosing


def choose(
    logits: jax.Array,
    keys: jax.Array,
    sampling: SamplingParams,
    tile: tuple[int, int],
    temperature: jax.Array | None = None,
) -> jax.Array:
    """Chooses one token a row of float32[B, V] logits: int32[B]; `tile`: see `draw`.

    The order is temperature, ban, top-k, top-p, so that the cuts see what is left by those before.
    temperature: float32[], above 0, in place of that of `sampling`.
    """
    is_greedy = temperature is None and sampling.temperature == 0
    if temperature is None:
        temperature = sampling.temperature
    allowed = logits if is_greedy else logits / temperature
    if sampling.banned:
        is_banned = jnp.zeros(logits.shape[-1], bool)
        is_banned = is_banned.at[jnp.asarray(sampling.banned)].set(True)
        allowed = jnp.where(is_banned, NEVER, allowed)
    if sampling.top_k:
        k = min(sampling.top_k, logits.shape[-1])
        largest, _ = jax.lax.top_k(allowed, k)
        floor = largest[:, -1:]
        allowed = jnp.where(allowed < floor, NEVER, allowed)
    if sampling.top_p < 1:
        floor = nucleus_floor(allowed, sampling.top_p)
        allowed = jnp.where(allowed < floor, NEVER, allowed)
    if is_greedy:
        return jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    return draw(allowed, keys, tile)


def penalised(
    logits: jax.Array, completions: Completions, sampling: SamplingParams
) -> jax.Array:
    """Returns float32[B, V] logits, smaller for tokens already in the completion.

    The penalty is that of CTRL (arXiv 1909.05858): positive logits are divided by it, negative ones
    multiplied.
    """
    if sampling.repetition_penalty == 1:
        return logits
    columns = jnp.arange(completions.tokens.shape[1])
    is_written = columns < completions.lengths[:, None]

    def tokens_of(row, is_written):  # int32[C], bool[C] -> bool[V]
        nothing = jnp.zeros(logits.shape[-1], bool)
        return nothing.at[row].max(is_written)

    is_repeated = jax.vmap(tokens_of)(completions.tokens, is_written)
    # Made whole on each device; the logits may be split along the vocabulary.
    if not jax.sharding.get_abstract_mesh().empty:
        is_repeated = jax.reshard(is_repeated, jax.typeof(logits).sharding.spec)
    penalty = sampling.repetition_penalty
    smaller = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(is_repeated, smaller, logits)


def without_sequences(
    logits: jax.Array, completions: Completions, sampling: SamplingParams
) -> jax.Array:
    """Returns float32[B, V] logits that do not complete a sequence of `banned_sequences`.

    Banned 5 6 and 5 7 8:   ... 5 | not 6     ... 5 7 | not 8     ... 7 | anything
    """
    if not sampling.banned_sequences:
        return logits
    longest = max(map(len, sampling.banned_sequences))
    # recent[i], int32[B]: the token i + 1 columns before; -1 before column 0.
    recent = [_column(completions, i + 1) for i in range(longest - 1)]
    ids = jnp.arange(logits.shape[-1])
    for *beginning, last in sampling.banned_sequences:
        matches = [
            token == wanted
            for token, wanted in zip(recent, beginning[::-1], strict=False)
        ]
        has_begun = functools.reduce(jnp.logical_and, matches)
        logits = jnp.where(has_begun[:, None] & (ids == last), NEVER, logits)
    return logits


def _column(completions: Completions, back: int) -> jax.Array:
    """Returns the tokens `back` columns before the next one, int32[B]; -1 before column 0."""
    columns = jnp.arange(completions.tokens.shape[1])
    place = completions.lengths - back
    selected = jnp.where(columns == place[:, None], completions.tokens, -1)
    return jnp.max(selected, axis=1)


def nucleus_floor(logits: jax.Array, top_p: float) -> jax.Array:
    """Returns the smallest logit of the nucleus, float32[B, 1].

    The nucleus is the fewest tokens whose probabilities reach top_p.

    p       [.5 .3 .1 .1]   top_p = .7
    before  [ 0 .5 .8 .9]   mass of the tokens before each; kept while below top_p: .5 and .3
    """
    ordered = -jnp.sort(-logits, axis=-1)
    p = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(p, axis=-1) - p
    kept = jnp.where(before < top_p, ordered, jnp.inf)
    return jnp.min(kept, axis=-1, keepdims=True)


# -------------------------------------------------------------------------------------------------
# drawing


def draw(logits: jax.Array, keys: jax.Array, tile: tuple[int, int]) -> jax.Array:
    """Draws a token a row from softmax(logits), float32[B, V] -> int32[B].

    First it draws a column of the vocabulary by its share of the probability, then one of the
    column's tokens. That is the same distribution as one draw from all, with V / columns + columns
    random numbers in place of V: making those takes longer than the logits of a small model.

    tile: rows and columns, which divide B and V. With that of a TPU's memory (`tile_of`) the
    logits are stored in the order that the tables of columns need, and none is moved.

    V 8, 4 columns     0 1 2 3
                       4 5 6 7     column 2, and of its tokens the second: 1 * 4 + 2 = token 6
    """
    rows, columns = tile
    # [B / rows, rows, V / columns, columns]
    table = split_rows(logits, len(logits) // rows)
    table = split_last(table, columns)
    keys = jax.vmap(jax.random.split)(keys)
    shares = merge_rows(jax.nn.logsumexp(table, axis=2))
    column = jax.vmap(jax.random.categorical)(keys[:, 0], shares)

    # The logits of the drawn column alone, [B, V / columns].
    drawn = split_rows(column, len(table))
    drawn = drawn[:, :, None, None]
    is_drawn = drawn == jnp.arange(columns)
    inside = jnp.where(is_drawn, table, -jnp.inf)
    inside = merge_rows(jnp.max(inside, axis=3))
    place = jax.vmap(jax.random.categorical)(keys[:, 1], inside)
    return (place * columns + column).astype(jnp.int32)


def tile_of(shape: tuple[int, int], batch: int, vocab: int) -> tuple[int, int]:
    """Returns the tile for `draw` of logits [B, V] that are split into `batch` x `vocab` shards.

    It is the tile of a TPU's memory, 8 x 128, as far as it divides a shard. Its columns are the
    same on any of up to 8 devices: V 384 has 384 / 8 = 48 in a shard of 8, and gcd(48, 128) = 16
    columns, also on one device.
    """
    B, V = shape
    shard_rows = B // batch
    shards = math.gcd(V, math.lcm(8, vocab))
    shard_columns = V // shards
    rows = math.gcd(shard_rows, SUBLANES)
    columns = math.gcd(shard_columns, LANES)
    return rows, columns


# -------------------------------------------------------------------------------------------------
# after the choice


def close_thinking(token, lengths, tokens, closed, sampling: SamplingParams):
    """Replaces tokens by those of `think_end` in samples whose thinking budget is spent.

    int32[B] tokens for columns `lengths`, int32[B, C] tokens before them, bool[B] closed -> tokens,
    bool[B] chosen by the policy, closed.

    think_end 7 8 9, budget 3:   1 2 3 | 7 8 9     1 2 7 | 8 9     (continues what it has begun)
    """
    if not sampling.thinking_tokens:
        return token, jnp.ones_like(token, bool), closed
    ends = sampling.think_end

    def column(back):  # int32[B], the tokens `back` columns before; -1 before column 0
        columns = jnp.arange(tokens.shape[1])
        place = lengths - back
        is_column = columns == place[:, None]
        selected = jnp.where(is_column, tokens, -1)
        return jnp.max(selected, axis=1)

    def is_among(token, ids):
        is_id = token[:, None] == jnp.asarray(ids, jnp.int32)
        return jnp.any(is_id, axis=-1)

    # bool[B]: the sample's latest `count` tokens are the beginning of think_end.
    def has_begun(count):
        matches = []
        for i, ids in enumerate(ends[:count]):
            matches.append(is_among(column(count - i), ids))
        return functools.reduce(jnp.logical_and, matches, jnp.ones_like(closed))

    # What continues the longest beginning; without any, the first token of think_end.
    forced = jnp.full_like(token, ends[0][0])
    for count in range(1, len(ends)):
        continuation = ends[count][0]
        forced = jnp.where(has_begun(count), continuation, forced)
    is_forced = ~closed & (lengths >= sampling.thinking_tokens)
    token = jnp.where(is_forced, forced, token)
    chosen = ~is_forced
    is_almost_closed = has_begun(len(ends) - 1)
    closes = is_almost_closed & is_among(token, ends[-1])
    return token, chosen, closed | closes


def measure(
    logits: jax.Array, token: jax.Array, temperature: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns log p(token) and the entropy of softmax(logits / temperature), float32[B] each."""
    logits = logits / temperature
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    # Compares instead of gathering, as `Qwen2.logprobs` does: the vocabulary may be sharded.
    ids = jnp.arange(logits.shape[-1])
    is_token = ids == token[:, None]
    selected = jnp.where(is_token, logits, 0.0)
    token_logit = jnp.sum(selected, axis=-1)
    probabilities = jnp.exp(logits - normaliser[:, None])
    mean_logit = jnp.sum(probabilities * logits, axis=-1)
    return token_logit - normaliser, normaliser - mean_logit
