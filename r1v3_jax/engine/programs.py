"""The programs of the engine: encode images, read one prompt, admit samples to slots, run tokens.

Knows arrays; nothing of requests, text or time. Every slot has its own settings, so that no
request needs another program. Letters: B slots, P prompt rows, D devices (or groups of them) over
which rows are split, S slots for a prompt's tokens, C for those of an answer, R tokens of a run.

    encode   tiles of one request              -> images[0], images[1], ...
    read     its tokens and images             -> one row of P: keys, values, logits after it
    admit    rows and settings                 -> some of the B slots begin with that row
    run      up to R tokens of all B slots     -> what was sampled

The work is that of training's sampler: `sampling.advance.advance` samples a token, and the key of
token t of sample i of a request is fold_in(fold_in(key(seed), i), t). So an answer depends on its
request alone, not on its slot, its neighbours or the time.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from r1v3_jax.models.caches import PromptCache, empty_cache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sampling.advance import Decoding, advance
from r1v3_jax.sampling.next_token import tile_of
from r1v3_jax.sampling.params import RowParams
from r1v3_jax.sampling.state import Completions, DecodeState
from r1v3_jax.sharding import each_shard, replicate, take_rows

CHUNK = 128  # slots of a cache that are attended to at a time, where there is no kernel
RUN_TOKENS = 64  # R, of one run at most
TOP = 20  # log-probabilities that a request may ask for
WORDS = 64  # sequences that a request may ban
WORD_TOKENS = 16  # of a banned sequence
NO_LIMIT = np.iinfo(np.int32).max  # of thinking


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is compiled: any request fits into these."""

    slots: int  # B
    rows: int  # P
    prompt_tokens: int  # that a prompt may have
    cache_tokens: int  # S, at least as many
    max_tokens: int  # C
    prompt_buckets: tuple[int, ...]  # lengths to which a prompt is padded, rising to S
    tile_buckets: tuple[
        int, ...
    ]  # tiles of one call of the tower, rising; () without images
    tiles: int  # that the images of one prompt can have


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlotChange:
    """What `admit` does to the slots: those that take a sample, and those that lose theirs.

    Other entries than those of `taken` are not looked at.
    """

    taken: np.ndarray  # bool[B]
    freed: np.ndarray  # bool[B]
    rows: np.ndarray  # int32[B], the prompt's row, counted from the first on its device
    seeds: np.ndarray  # uint32[B, 2], the high and the low half of a seed
    samples: np.ndarray  # int32[B], the number of the sample in its request
    limits: np.ndarray  # int32[B], tokens of the answer
    tops: np.ndarray  # int32[B], log-probabilities wanted
    temperature: np.ndarray  # float32[B], as all below in `RowParams`
    top_k: np.ndarray  # int32[B]
    top_p: np.ndarray  # float32[B]
    repetition_penalty: np.ndarray  # float32[B]
    thinking_tokens: np.ndarray  # int32[B]
    banned_sequences: np.ndarray  # int32[B, WORDS, WORD_TOKENS]


PARAMS = (
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "thinking_tokens",
    "banned_sequences",
)


def no_change(slots: int) -> SlotChange:
    """Returns a change of nothing, to be filled in."""
    words = np.full((slots, WORDS, WORD_TOKENS), -1, np.int32)
    return SlotChange(
        taken=np.zeros(slots, bool),
        freed=np.zeros(slots, bool),
        rows=np.zeros(slots, np.int32),
        seeds=np.zeros((slots, 2), np.uint32),
        samples=np.zeros(slots, np.int32),
        limits=np.ones(slots, np.int32),
        tops=np.zeros(slots, np.int32),
        temperature=np.zeros(slots, np.float32),
        top_k=np.zeros(slots, np.int32),
        top_p=np.ones(slots, np.float32),
        repetition_penalty=np.ones(slots, np.float32),
        thinking_tokens=np.full(slots, NO_LIMIT, np.int32),
        banned_sequences=words,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EngineState:
    """All that is on the devices between two calls, beside the weights."""

    decode: DecodeState  # without a queue
    prompt_logits: jax.Array  # float32[P, V], after each prompt that was read
    params: RowParams
    keys: jax.Array  # key[B], of each sample
    limits: jax.Array  # int32[B]
    tops: jax.Array  # int32[B]
    images: jax.Array | None  # float[I, M, D], of the prompt that is read next


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampled:
    """What one run sampled, the same on every device; rows are padded behind their counts."""

    tokens: jax.Array  # int32[B, R]
    logprobs: jax.Array  # float32[B, R], at temperature 1
    counts: jax.Array  # int32[B], tokens of this run
    idle: jax.Array  # bool[B], True where nothing will be added
    ended: jax.Array  # bool[B], True where the end token came
    top_ids: jax.Array  # int32[B, R, TOP], where a request wants them
    top_logprobs: jax.Array  # float32[B, R, TOP]
    steps: jax.Array  # int32[]


def empty_state(
    model: R1V3,
    sizes: Sizes,
    banned: tuple[int, ...],
    think_end: tuple[tuple[int, ...], ...],
) -> EngineState:
    """Makes the state in which all slots are empty; to be traced."""
    text = model.config.text
    rules = model.compute.rules
    dtype = jnp.dtype(model.compute.dtype)
    row = rules.spec("batch")
    B = sizes.slots
    P = sizes.rows

    # 1. The prompts.
    shape = (text.layers, P, text.kv_heads, sizes.cache_tokens, text.head_dim)
    spec = rules.spec(None, "batch", "kv_heads", None, None)
    keys_and_values = [jnp.zeros(shape, dtype, out_sharding=spec) for _ in range(2)]
    lengths = jnp.zeros(P, jnp.int32, out_sharding=row)
    prompt = PromptCache(*keys_and_values, lengths=lengths)
    vocab = rules.spec("batch", "vocab")
    prompt_logits = jnp.zeros((P, text.padded_vocab), jnp.float32, out_sharding=vocab)

    # 2. The slots.
    def full(value, dtype, shape=(B,)):
        spec = rules.spec("batch", *[None] * (len(shape) - 1))
        return jnp.full(shape, value, dtype, out_sharding=spec)

    rows = full(0, jnp.int32)
    cache = empty_cache(
        prompt, model.compute, max_tokens=sizes.max_tokens, rows=rows, chunk=CHUNK
    )
    table = (B, sizes.max_tokens)
    record = Completions(
        tokens=full(model.config.pad_token_id, jnp.int32, table),
        logprobs=full(0, jnp.float32, table),
        entropies=full(0, jnp.float32, table),
        chosen=full(False, bool, table),
        lengths=full(0, jnp.int32),
        ended=full(False, bool),
    )
    decode = DecodeState(
        step=jnp.int32(0),
        logits=jnp.zeros((B, text.padded_vocab), jnp.float32, out_sharding=vocab),
        closed=full(False, bool),
        idle=full(True, bool),
        cache=cache,
        record=record,
        queue=None,
    )

    # 3. Their settings.
    empty = no_change(B)
    arrays = {name: _by_slot(getattr(empty, name), row) for name in PARAMS}
    images = None
    if model.vision is not None:
        shape = (sizes.tiles, model.config.image_tokens_per_tile, text.embed)
        images = jnp.zeros(shape, dtype, out_sharding=rules.spec(None, None, None))
    return EngineState(
        decode=decode,
        prompt_logits=prompt_logits,
        params=RowParams(**arrays, banned=banned, think_end=think_end),
        keys=_keys(_by_slot(empty.seeds, row), rows),
        limits=full(1, jnp.int32),
        tops=full(0, jnp.int32),
        images=images,
    )


def _by_slot(array, row: PartitionSpec | None) -> jax.Array:
    """Returns [B, ...] with the slots split over the devices."""
    array = jnp.asarray(array)
    if row is None:
        return array
    return jax.reshard(array, PartitionSpec(*row, *[None] * (array.ndim - 1)))


def _keys(seeds: jax.Array, samples: jax.Array) -> jax.Array:
    """Returns the random key of sample samples[b] of the request with seeds[b], key[B]."""
    keys = jax.random.wrap_key_data(seeds)
    return jax.vmap(jax.random.fold_in)(keys, samples)


# -------------------------------------------------------------------------------------------------
# prompts


@functools.partial(jax.jit, donate_argnames="state")
def encode(
    model: R1V3, state: EngineState, tiles: jax.Array, start: jax.Array
) -> EngineState:
    """Writes the embeddings of tiles float32[I, S, S, 3] to state.images from `start` on."""
    spec = model.compute.rules.spec("tiles", None, None, None)
    tiles = tiles if spec is None else jax.reshard(tiles, spec)
    embeddings = model.encode_images(tiles)
    count, tokens, width = embeddings.shape
    whole = replicate(embeddings.reshape(count * tokens, width))
    whole = whole.reshape(embeddings.shape).astype(state.images.dtype)
    images = jax.lax.dynamic_update_slice(state.images, whole, (start, 0, 0))
    return dataclasses.replace(state, images=images)


@functools.partial(jax.jit, donate_argnames="state")
def read(
    model: R1V3,
    state: EngineState,
    tokens: jax.Array,
    length: jax.Array,
    image_index: jax.Array | None,
    rows: jax.Array,
) -> EngineState:
    """Reads one prompt, int32[1, T] tokens and image_index, into row rows[d] of each device d.

    Every device reads the whole prompt. A row of -1 keeps nothing there.
    """
    rules = model.compute.rules
    shards = rules.shards("batch")

    def on_each_device(x):  # [1, ...] -> [D, ...]
        spec = rules.spec("batch", *[None] * (x.ndim - 1))
        copies = jnp.broadcast_to(x, (shards, *x.shape[1:]))
        return copies if spec is None else jax.reshard(copies, spec)

    tokens = on_each_device(tokens)
    lengths = on_each_device(length[None])
    if image_index is not None:
        image_index = on_each_device(image_index)
    logits, prompt = model.prefill(tokens, lengths, state.images, image_index)
    rows = _by_slot(rows, rules.spec("batch"))

    # What a device keeps: [L, P, K, S, H] takes [L, 1, K, T, H] at row rows[0] of its own.
    def keep(axis, table, entry, row):
        start = [0] * table.ndim
        start[axis] = jnp.maximum(row[0], 0)
        old = jax.lax.dynamic_slice(table, start, entry.shape)
        entry = jnp.where(row[0] >= 0, entry.astype(table.dtype), old)
        return jax.lax.dynamic_update_slice(table, entry, start)

    def keep_all(k, v, used, after, new_k, new_v, length, logits, row):
        return (
            keep(1, k, new_k, row),
            keep(1, v, new_v, row),
            keep(0, used, length, row),
            keep(0, after, logits, row),
        )

    old = state.decode.cache.prompt
    tables = (old.k, old.v, old.lengths, state.prompt_logits)
    entries = (prompt.k, prompt.v, prompt.lengths, logits)
    kept = each_shard(keep_all, *tables, *entries, rows, like=tables)
    *cached, prompt_logits = kept
    cache = dataclasses.replace(state.decode.cache, prompt=PromptCache(*cached))
    decode = dataclasses.replace(state.decode, cache=cache)
    return dataclasses.replace(state, decode=decode, prompt_logits=prompt_logits)


# -------------------------------------------------------------------------------------------------
# slots


@functools.partial(jax.jit, donate_argnames="state")
def admit(model: R1V3, state: EngineState, change: SlotChange) -> EngineState:
    """Frees slots, and lets others begin with samples of prompts that were read."""
    rules = model.compute.rules
    change = jax.tree.map(lambda x: _by_slot(x, rules.spec("batch")), change)
    taken = change.taken
    emptied = taken | change.freed

    def put(new, old):
        mask = taken.reshape(-1, *[1] * (old.ndim - 1))
        return jnp.where(mask, new, old)

    decode = state.decode
    rows = put(change.rows, decode.cache.rows)
    logits = put(take_rows(state.prompt_logits, rows), decode.logits)
    # Tokens of an earlier sample stay where they are, behind the length.
    record = dataclasses.replace(
        decode.record,
        lengths=jnp.where(emptied, 0, decode.record.lengths),
        ended=decode.record.ended & ~emptied,
    )
    lengths = jnp.where(emptied, 0, decode.cache.lengths)
    decode = dataclasses.replace(
        decode,
        logits=logits,
        closed=decode.closed & ~emptied,
        idle=(decode.idle | change.freed) & ~taken,
        cache=dataclasses.replace(decode.cache, lengths=lengths, rows=rows),
        record=record,
    )
    arrays = {
        name: put(getattr(change, name), getattr(state.params, name)) for name in PARAMS
    }
    return dataclasses.replace(
        state,
        decode=decode,
        params=dataclasses.replace(state.params, **arrays),
        keys=put(_keys(change.seeds, change.samples), state.keys),
        limits=put(change.limits, state.limits),
        tops=put(change.tops, state.tops),
    )


@functools.partial(jax.jit, donate_argnames="state")
def wipe(model: R1V3, state: EngineState) -> EngineState:
    """Replaces what is not finite in all caches by 0.

    A slot that is not in use is multiplied by 0, and 0 times nan is nan: what one request has left
    there would reach the next.
    """

    def finite(x):
        return jnp.where(jnp.isfinite(x), x, 0)

    cache = state.decode.cache
    prompt = cache.prompt
    prompt = dataclasses.replace(prompt, k=finite(prompt.k), v=finite(prompt.v))
    cache = dataclasses.replace(
        cache, prompt=prompt, k=finite(cache.k), v=finite(cache.v)
    )
    decode = dataclasses.replace(state.decode, cache=cache)
    return dataclasses.replace(state, decode=decode)


jit_run = functools.partial(jax.jit, donate_argnames="state")


@jit_run
def run(
    model: R1V3, state: EngineState, steps: jax.Array, until_free: jax.Array
) -> tuple[EngineState, Sampled]:
    """Samples up to `steps` tokens, int32[] and at most RUN_TOKENS, in every slot with a sample.

    until_free: bool[], ends the run as soon as one more slot is free.
    """
    rules = model.compute.rules
    start = state.decode.record.lengths
    was_idle = jnp.sum(state.decode.idle)
    B, V = state.decode.logits.shape
    decoding = Decoding(
        model=model,
        sampling=state.params,
        key=None,
        limit=state.limits,
        until=None,
        samples=None,
        tile=tile_of((B, V), rules.shards("batch"), rules.shards("vocab")),
        temperature=None,
    )
    table = rules.spec("batch", None, None)
    shape = (B, RUN_TOKENS, TOP)
    tops = (
        jnp.zeros(shape, jnp.int32, out_sharding=table),
        jnp.zeros(shape, jnp.float32, out_sharding=table),
    )
    wants_top = jnp.any(state.tops > 0)

    def is_running(carry):
        step, decode, _ = carry
        idle = jnp.sum(decode.idle)
        return (step < steps) & (idle < B) & ~(until_free & (idle > was_idle))

    def one_token(carry):
        step, decode, tops = carry
        write = functools.partial(_write_top, decode.logits, step)
        tops = jax.lax.cond(wants_top, write, lambda tops: tops, tops)
        return step + 1, advance(decoding, state.keys, decode), tops

    carry = (jnp.int32(0), state.decode, tops)
    step, decode, tops = jax.lax.while_loop(is_running, one_token, carry)

    def columns(table):  # [B, C] -> [B, R], from each slot's own column on
        wanted = start[:, None] + jnp.arange(RUN_TOKENS)
        wanted = jnp.minimum(wanted, table.shape[1] - 1)
        return each_shard(
            lambda table, wanted: jnp.take_along_axis(table, wanted, axis=1),
            table,
            wanted,
            like=wanted,
        )

    record = decode.record
    sampled = Sampled(
        tokens=columns(record.tokens),
        logprobs=columns(record.logprobs),
        counts=record.lengths - start,
        idle=decode.idle,
        ended=record.ended,
        top_ids=tops[0],
        top_logprobs=tops[1],
        steps=step,
    )
    if not jax.sharding.get_abstract_mesh().empty:
        sampled = jax.tree.map(lambda x: jax.reshard(x, PartitionSpec()), sampled)
    return dataclasses.replace(state, decode=decode), sampled


@functools.cache
def run_with(options: tuple[tuple[str, str], ...]):
    """Returns `run`, compiled with options of the compiler, as (("xla_x", "true"),)."""
    if not options:
        return run
    return jit_run(run.__wrapped__, compiler_options=dict(options))


def _write_top(logits: jax.Array, step: jax.Array, tops):
    """Writes the most probable tokens of float32[B, V] into column `step` of `tops`."""
    if not jax.sharding.get_abstract_mesh().empty:
        spec = jax.typeof(logits).sharding.spec
        logits = jax.reshard(logits, PartitionSpec(spec[0], None))
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    values, ids = jax.lax.top_k(logits, TOP)
    ids_table, logprobs_table = tops

    def write(table, entries):
        is_column = (jnp.arange(RUN_TOKENS) == step)[:, None]
        return jnp.where(is_column, entries[:, None].astype(table.dtype), table)

    return write(ids_table, ids), write(logprobs_table, values - normaliser)
