"""From logits to one token of every sample: penalise, ban, cut, draw, close the thinking, measure.

Knows one step at a time; no cache and no slots. Letters: B samples, V vocabulary, C columns of the
completions.

The settings are those of all samples, `SamplingParams`, and then they are constants of the program;
or each sample has its own, `RowParams`, and then they are arrays. Either way the code is the same:
`sampling.top_p < 1` is one bool, or one for each sample.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1v3_jax.models.attention import LANES, NEVER
from r1v3_jax.sampling.params import RowParams, SamplingParams
from r1v3_jax.sampling.state import Completions
from r1v3_jax.sharding import merge_rows, split_last, split_rows

SUBLANES = 8  # rows of a tile of a TPU's memory; it has LANES columns


# -------------------------------------------------------------------------------------------------
# choosing


def choose(
    logits: jax.Array,
    keys: jax.Array,
    sampling: SamplingParams | RowParams,
    tile: tuple[int, int],
    temperature: jax.Array | None = None,
) -> jax.Array:
    """Chooses one token a row of float32[B, V] logits: int32[B]; `tile`: see `draw`.

    The order is temperature, ban, top-k, top-p, so that the cuts see what is left by those before.
    temperature: float32[], above 0, in place of that of `sampling`.
    """
    if isinstance(sampling, RowParams):
        is_greedy = sampling.temperature == 0
        divisor = jnp.where(is_greedy, 1, sampling.temperature)
        allowed = logits / divisor[:, None]
    else:
        is_greedy = temperature is None and sampling.temperature == 0
        if temperature is None:
            temperature = sampling.temperature
        allowed = logits if is_greedy else logits / temperature
    if sampling.banned:
        is_banned = jnp.zeros(logits.shape[-1], bool)
        is_banned = is_banned.at[jnp.asarray(sampling.banned)].set(True)
        allowed = jnp.where(is_banned, NEVER, allowed)

    def cut_top_k(allowed):
        floor = top_k_floor(allowed, sampling.top_k)
        return jnp.where(allowed < floor, NEVER, allowed)

    def cut_top_p(allowed):
        floor = nucleus_floor(allowed, sampling.top_p)
        return jnp.where(allowed < floor, NEVER, allowed)

    allowed = where_used(sampling.top_k > 0, cut_top_k, allowed)
    allowed = where_used(sampling.top_p < 1, cut_top_p, allowed)
    if isinstance(sampling, RowParams):
        return jnp.where(
            is_greedy,
            jnp.argmax(allowed, axis=-1).astype(jnp.int32),
            draw(allowed, keys, tile),
        )
    if is_greedy:
        return jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    return draw(allowed, keys, tile)


def where_used(is_used, change, logits: jax.Array) -> jax.Array:
    """Returns change(logits), or `logits` where no sample wants it.

    is_used: a bool, and the choice is made while tracing; or bool[B], and it is made for every
    token. Then `change` runs if one sample wants it, and must leave the others' logits as they are.
    """
    if not isinstance(is_used, jax.Array):
        return change(logits) if is_used else logits
    sharding = jax.typeof(logits).sharding.spec
    on_mesh = not jax.sharding.get_abstract_mesh().empty

    def changed(logits):
        # Sorting needs the whole vocabulary on one device.
        if on_mesh:
            logits = jax.reshard(logits, PartitionSpec(sharding[0], None))
        logits = change(logits)
        return jax.reshard(logits, sharding) if on_mesh else logits

    return jax.lax.cond(jnp.any(is_used), changed, lambda logits: logits, logits)


def one_a_row(setting):
    """Returns a number as it is, and an array [B] as [B, 1]."""
    return setting[:, None] if isinstance(setting, jax.Array) else setting


def penalised(
    logits: jax.Array, completions: Completions, sampling: SamplingParams | RowParams
) -> jax.Array:
    """Returns float32[B, V] logits, smaller for tokens already in the completion.

    The penalty is that of CTRL (arXiv 1909.05858): positive logits are divided by it, negative ones
    multiplied.
    """
    penalty = one_a_row(sampling.repetition_penalty)

    def penalise(logits):
        columns = jnp.arange(completions.tokens.shape[1])
        is_written = columns < completions.lengths[:, None]

        def tokens_of(row, is_written):  # int32[C], bool[C] -> bool[V]
            nothing = jnp.zeros(logits.shape[-1], bool)
            return nothing.at[row].max(is_written)

        is_repeated = jax.vmap(tokens_of)(completions.tokens, is_written)
        # Made whole on each device; the logits may be split along the vocabulary.
        if not jax.sharding.get_abstract_mesh().empty:
            is_repeated = jax.reshard(is_repeated, jax.typeof(logits).sharding.spec)
        smaller = jnp.where(logits > 0, logits / penalty, logits * penalty)
        return jnp.where(is_repeated, smaller, logits)

    return where_used(sampling.repetition_penalty != 1, penalise, logits)


def without_sequences(
    logits: jax.Array, completions: Completions, sampling: SamplingParams | RowParams
) -> jax.Array:
    """Returns float32[B, V] logits that do not complete a sequence of `banned_sequences`.

    Banned 5 6 and 5 7 8:   ... 5 | not 6     ... 5 7 | not 8     ... 7 | anything
    """
    if isinstance(sampling, RowParams):
        return _without_own_sequences(logits, completions, sampling.banned_sequences)
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


def _without_own_sequences(
    logits: jax.Array, completions: Completions, sequences: jax.Array
) -> jax.Array:
    """Does `without_sequences` where each sample has its own, int32[B, W, L], see `RowParams`."""
    last = sequences[:, :, -1]

    def ban(logits):
        length = sequences.shape[-1]
        # int32[B, L - 1], the latest tokens in reading order; -1 before column 0.
        recent = [_column(completions, length - i) for i in range(1, length)]
        recent = jnp.stack(recent, axis=-1)
        beginning = sequences[:, :, :-1]
        # With L 4, the sequence 5 6 is [-1 -1 5 6]: behind 5, whatever is before that.
        matches = (beginning == recent[:, None]) | (beginning < 0)
        has_begun = jnp.all(matches, axis=-1)
        V = logits.shape[-1]

        def ids_of(
            last, has_begun
        ):  # int32[W], bool[W] -> bool[V]; row V does not exist
            nothing = jnp.zeros(V, bool)
            return nothing.at[jnp.where(has_begun, last, V)].set(True, mode="drop")

        is_banned = jax.vmap(ids_of)(last, has_begun & (last >= 0))
        return jnp.where(is_banned, NEVER, logits)

    return where_used(jnp.any(last >= 0, axis=-1), ban, logits)


def _column(completions: Completions, back: int) -> jax.Array:
    """Returns the tokens `back` columns before the next one, int32[B]; -1 before column 0."""
    columns = jnp.arange(completions.tokens.shape[1])
    place = completions.lengths - back
    selected = jnp.where(columns == place[:, None], completions.tokens, -1)
    return jnp.max(selected, axis=1)


def top_k_floor(logits: jax.Array, top_k: int | jax.Array) -> jax.Array:
    """Returns the logit of the k-th most probable token, float32[B, 1].

    top_k: of all samples, or int32[B]; then a sample with 0 has a floor below all logits.
    """
    V = logits.shape[-1]
    if isinstance(top_k, int):
        largest, _ = jax.lax.top_k(logits, min(top_k, V))
        return largest[:, -1:]
    ordered = -jnp.sort(-logits, axis=-1)
    is_last = jnp.arange(V) == jnp.clip(top_k, 1, V)[:, None] - 1
    floor = jnp.sum(jnp.where(is_last, ordered, 0), axis=-1, keepdims=True)
    return jnp.where(top_k[:, None] > 0, floor, -jnp.inf)


def nucleus_floor(logits: jax.Array, top_p: float | jax.Array) -> jax.Array:
    """Returns the smallest logit of the nucleus, float32[B, 1].

    The nucleus is the fewest tokens whose probabilities reach top_p, a number of all samples or
    float32[B]; a sample with 1 has a floor below all logits.

    p       [.5 .3 .1 .1]   top_p = .7
    before  [ 0 .5 .8 .9]   mass of the tokens before each; kept while below top_p: .5 and .3
    """
    ordered = -jnp.sort(-logits, axis=-1)
    p = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(p, axis=-1) - p
    top_p = one_a_row(top_p)
    kept = jnp.where(before < top_p, ordered, jnp.inf)
    floor = jnp.min(kept, axis=-1, keepdims=True)
    if not isinstance(top_p, jax.Array):
        return floor
    # The sum of all probabilities may be rounded up to more than 1.
    return jnp.where(top_p < 1, floor, -jnp.inf)


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


def close_thinking(
    token, lengths, tokens, closed, sampling: SamplingParams | RowParams
):
    """Replaces tokens by those of `think_end` in samples whose thinking budget is spent.

    int32[B] tokens for columns `lengths`, int32[B, C] tokens before them, bool[B] closed -> tokens,
    bool[B] chosen by the policy, closed.

    think_end 7 8 9, budget 3:   1 2 3 | 7 8 9     1 2 7 | 8 9     (continues what it has begun)
    """
    # Without a budget, or with a tokenizer that cannot close a thought.
    has_budget = isinstance(sampling, RowParams) or sampling.thinking_tokens
    if not (has_budget and sampling.think_end):
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
