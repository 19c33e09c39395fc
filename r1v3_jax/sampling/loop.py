"""Sampling: prompts in, groups of completions out, by two programs: `prefill`, and `decode`, a loop
on the device.

Knows token ids only: no text, no images (their embeddings come in), no rewards. A prompt is
prefilled once and its keys are shared by its `group_size` samples. The random key of a token is
`fold_in(fold_in(key, sample), t)`: a sample is the same whatever its neighbours are, and whenever
it is sampled (but for the rounding of sums).

There may be more samples than the slots they are decoded in (continuous batching). They wait in
order, and the slot of a finished sample takes the next:

    samples 0 1 2 of prompt a, 3 4 5 of prompt b; 3 slots
                     step  0 . . . . . . . .
                   slot 0  0 0 0 0 0 0 0 0 0
                   slot 1  1 1 1 4 4 4 4 - -
                   slot 2  2 2 3 3 3 5 5 5 5
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from r1v3_jax.models.caches import PromptCache
from r1v3_jax.models.decode_attention import quarters
from r1v3_jax.models.draft_head import DraftHead
from r1v3_jax.models.joined_cache import JoinedCache, refilled
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sampling.advance import Decoding, advance
from r1v3_jax.sampling.drafts import advance_several
from r1v3_jax.sampling.next_token import tile_of
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import Completions, DecodeState, Queue, no_completions
from r1v3_jax.sharding import each_shard, split_rows, take_rows
from r1v3_jax.slices import each_slice, max_over_slices, number_rows, share_of_slice

# On a GPU, tokens between two questions whether to go on.
BLOCK = 16


def generate(
    model: R1V3,
    tokens: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    image_embeddings: jax.Array | None = None,
    image_index: jax.Array | None = None,
    limit: jax.Array | None = None,
    drafter: DraftHead | None = None,
    *,
    group_size: int = 1,
    slots: int = 0,
    sampling: SamplingParams,
) -> Completions:
    """Samples `group_size` completions of each prompt.

    int32[P, T] tokens padded on the right, int32[P] lengths from 1 to T (not checked: they are on
    the device). `slots` samples are decoded at a time; 0: all. Stops when every sample has ended or
    has `limit` tokens (int32[], at least 1, at most and by default `max_tokens`). ValueError for
    settings that do not fit this model.
    """
    sampling.check(model.config, tokens.shape[1])
    state = prefill(
        model,
        tokens,
        lengths,
        image_embeddings,
        image_index,
        group_size=group_size,
        slots=slots,
        sampling=sampling,
        drafts=drafter is not None,
    )
    limit = jnp.int32(sampling.max_tokens if limit is None else limit)
    until = jnp.int32(len(tokens) * group_size)
    bounds = (key, limit, until, None)
    return decode(model, state, *bounds, drafter, sampling=sampling).completions


# -------------------------------------------------------------------------------------------------
# prefill


@functools.partial(
    jax.jit, static_argnames=("group_size", "slots", "sampling", "drafts")
)
def prefill(
    model: R1V3,
    tokens: jax.Array,
    lengths: jax.Array,
    image_embeddings: jax.Array | None = None,
    image_index: jax.Array | None = None,
    *,
    group_size: int,
    slots: int = 0,
    sampling: SamplingParams,
    drafts: bool = False,
) -> DecodeState:
    """Returns the state in which these prompts' samples have no token; see `generate`.

    drafts: whether they will be decoded with a draft head.
    """
    arrays = (tokens, lengths, image_embeddings, image_index)
    last, prompt = model.encode_prompts(*arrays)
    logits = model.logits(last[:, None])[:, 0]
    hidden = last if drafts else None
    rules = model.compute.rules
    count = len(tokens) * group_size
    queue = None
    rows = None
    # With a slot for every sample nothing waits, and each sample keeps its slot.
    if slots and slots != count:
        queue, rows, prompt = make_queue(model, logits, prompt, count, slots, sampling)
        queue = dataclasses.replace(queue, hidden=hidden)
    cache = model.new_cache(
        prompt,
        group_size=group_size,
        rows=rows,
        max_tokens=sampling.max_tokens,
        several=drafts,
    )

    def of_samples(table, *axes):
        """Returns what each sample starts from, [count, N], of the one row its prompt has."""
        if queue is not None:
            return take_rows(table, rows)
        by_prompt = (len(table), group_size, table.shape[-1])
        table = jnp.broadcast_to(table[:, None], by_prompt)
        # With one prompt JAX does not infer the sharding.
        return jnp.reshape(table, (count, -1), out_sharding=rules.spec(*axes))

    logits = of_samples(logits, "batch", "vocab")
    none = jnp.zeros(slots or count, bool, out_sharding=rules.spec("batch"))
    passes = None
    if drafts:
        hidden = of_samples(hidden, "batch", None)
        passes = none.astype(jnp.int32)
    return DecodeState(
        step=jnp.int32(0),
        logits=logits,
        closed=none,
        idle=none,
        cache=cache,
        record=no_completions(model, slots or count, sampling),
        queue=queue,
        hidden=hidden,
        passes=passes,
    )


def make_queue(
    model: R1V3,
    logits: jax.Array,
    prompt: PromptCache,
    count: int,
    slots: int,
    sampling: SamplingParams,
) -> tuple[Queue, jax.Array, PromptCache]:
    """Returns the queue with its first samples in the slots.

    logits [P, V]: after each prompt; count: of samples. Also returns the prompt of each slot,
    int32[slots], and the prompts with lengths that are split like the slots.
    """
    rules = model.compute.rules
    shards = rules.shards("batch")
    spec = rules.spec("batch")
    check_slots(len(logits), count, slots, shards)
    # 16 samples of 8 prompts in 6 slots on 2 devices: samples 0 1 2 | 0 1 2 of each device's own
    # eight, prompts 0 0 1 | 0 0 1 of its own four, and 3 is the first that waits.
    local_slots = slots // shards
    slot = jax.lax.broadcasted_iota(jnp.int32, (slots,), 0, out_sharding=spec)
    sample = slot % local_slots
    lengths = prompt.lengths if spec is None else jax.reshard(prompt.lengths, spec)
    queue = Queue(
        sample=sample,
        upcoming=jnp.full(shards, local_slots, jnp.int32, out_sharding=spec),
        logits=logits,
        completions=no_completions(model, count, sampling),
        finished=jnp.zeros(count, bool, out_sharding=spec),
    )
    rows = sample // (count // len(logits))
    return queue, rows, dataclasses.replace(prompt, lengths=lengths)


def check_slots(
    prompts: int,
    samples: int,
    slots: int,
    shards: int,
) -> None:
    """Raises ValueError unless there are 1 to `samples` slots and they divide among devices."""
    if not 0 < slots <= samples:
        raise ValueError(f"{slots} slots for {samples} samples; at most one for each")
    for name, count in (("prompts", prompts), ("slots", slots)):
        if count % shards:
            raise ValueError(f"{count} {name} cannot be split over {shards} devices")


# -------------------------------------------------------------------------------------------------
# decode


jit_decode = functools.partial(
    jax.jit, static_argnames="sampling", donate_argnames="state"
)


@jit_decode
def decode(
    model: R1V3,
    state: DecodeState,
    key: jax.Array,
    limit: jax.Array,
    until: jax.Array,
    temperature: jax.Array | None = None,
    drafter: DraftHead | None = None,
    *,
    sampling: SamplingParams,
) -> DecodeState:
    """Samples until `until` samples (int32[]), or all, have ended or have `limit` tokens.

    temperature: float32[], above 0, in place of that of `sampling`: one program for all of them.
    drafter: guesses the tokens behind the next, which changes no sample, see `drafts.py`.
    The state is donated. Each of several slices samples its share of them, and waits for no other
    until the end.

    Of a queue that is carried over, `until` are the oldest samples: it returns when the first
    until / D of each of D devices have ended.
    """
    decode_slice = functools.partial(_decode, sampling=sampling)
    arrays = (model, state, key, limit, until, temperature, drafter)
    return each_slice(decode_slice, *arrays, like=state)


def decode_with(options: tuple[tuple[str, str], ...]):
    """Returns `decode`, compiled with options of the compiler, as (("xla_x", "true"),)."""
    return _decode_with(options) if options else decode


@functools.cache
def _decode_with(options: tuple[tuple[str, str], ...]):
    """Does `decode_with`; one function for the same options, so that it is compiled once."""
    return jit_decode(decode.__wrapped__, compiler_options=dict(options))


def _decode(
    model: R1V3,
    state: DecodeState,
    key: jax.Array,
    limit: jax.Array,
    until: jax.Array,
    temperature: jax.Array | None,
    drafter: DraftHead | None,
    sampling: SamplingParams,
) -> DecodeState:
    """Does `decode` for the samples of one slice."""
    rules = model.compute.rules
    count = len(state.finished)
    spec = rules.spec("batch")
    batch_shards = rules.shards("batch")
    vocab_shards = rules.shards("vocab")
    is_joined = isinstance(state.cache, JoinedCache)
    decoding = Decoding(
        model=model,
        sampling=sampling,
        key=key,
        limit=jnp.minimum(sampling.max_tokens, limit),
        until=jnp.minimum(count, share_of_slice(until)),
        samples=number_rows(count, spec),
        tile=tile_of(state.logits.shape, batch_shards, vocab_shards),
        temperature=temperature,
        layers=model.language.merged_layers() if is_joined else None,
        drafter=drafter,
    )
    if state.queue is not None and state.queue.numbers is not None:
        first = decoding.until // batch_shards
        decoding = dataclasses.replace(decoding, first=first)
    one_step = advance if drafter is None else advance_several

    # Without a queue slot b is sample b: a single loop over tokens.
    if state.queue is None:
        sample_keys = decoding.sample_keys(decoding.samples)
        step = functools.partial(one_step, decoding, sample_keys)
        state = decode_rows(decoding, step, state)
    # With a queue: an outer loop over refills, and inside `serve` a loop over tokens.
    else:
        state = jax.lax.while_loop(
            lambda state: count_finished(decoding, state.queue) < decoding.until,
            functools.partial(serve, decoding),
            state,
        )
    return dataclasses.replace(state, step=max_over_slices(state.step))


def count_finished(decoding: Decoding, queue: Queue) -> jax.Array:
    """Returns how many samples have left their slot, int32[], of those that the call waits for."""
    finished = queue.finished
    if decoding.first is not None:
        local_count = len(decoding.samples) // len(queue.upcoming)
        finished &= decoding.samples % local_count < decoding.first
    return jnp.sum(finished)


def decode_rows(decoding: Decoding, step, state: DecodeState) -> DecodeState:
    """Calls `step` until `until` samples have finished, where each sample keeps its slot."""

    def is_running(state: DecodeState):
        return jnp.sum(state.idle) < decoding.until

    # The kernel is of a TPU's programs, which a machine with a GPU may compile for a dry run.
    # Blocks count tokens, and with a draft head each sample has a number of its own.
    is_counted = decoding.drafter is None
    if is_on_gpu() and is_counted and decoding.model.compute.attention != "splash":
        return decode_blocks(is_running, step, state)
    if not isinstance(state.cache, JoinedCache):
        return jax.lax.while_loop(is_running, step, state)
    # A loop for each section of the cache, which reads the slots up to its end. Those that a former
    # call has done, and those behind the end, do nothing.
    for end in state.cache.sections:

        def is_inside(state: DecodeState, end=end):
            return is_running(state) & (state.cache.step < end)

        whole = state.cache
        state = dataclasses.replace(state, cache=whole.first(end))
        state = jax.lax.while_loop(is_inside, step, state)
        state = dataclasses.replace(state, cache=whole.with_first(state.cache))
    return state


def is_on_gpu() -> bool:
    """Tells whether programs are made for a GPU."""
    return jax.default_backend() == "gpu"


def decode_blocks(is_running, step, state: DecodeState) -> DecodeState:
    """Does `decode_rows` for a GPU, which the host tells whether a loop goes on.

    It is asked after every BLOCK tokens, not after each; and there is no choice of a number of
    slots in every layer, but a loop for each number. Samples that have ended write nothing, so the
    tokens are the same. With 100 slots the loops read 32, 64, 80 and 100 of them.
    """
    sizes = quarters(state.cache.k.shape[3])
    ends = sorted({min(-(-size // BLOCK) * BLOCK, sizes[-1]) for size in sizes})
    for end in ends:

        def is_inside(state: DecodeState, end=end):
            return is_running(state) & (state.step < end)

        def block(state: DecodeState) -> DecodeState:
            return jax.lax.fori_loop(0, BLOCK, lambda _, state: step(state), state)

        cache = dataclasses.replace(state.cache, end=end)
        state = jax.lax.while_loop(
            is_inside, block, dataclasses.replace(state, cache=cache)
        )
    cache = dataclasses.replace(state.cache, end=0)
    return dataclasses.replace(state, cache=cache)


def serve(decoding: Decoding, state: DecodeState) -> DecodeState:
    """Advances all slots until a sample is finished while another waits, and refills the slots."""
    queue = state.queue
    remaining = decoding.until - count_finished(decoding, queue)
    shards = len(queue.upcoming)
    local_count = len(decoding.samples) // shards
    # The loop over tokens ends when `remaining` samples have finished, or when one has finished on
    # a device where another waits. So that this is one sum over the devices, not two, a finished
    # sample of such a device counts as all that remain. With 5 remaining, device 0 without waiting
    # samples and device 1 with some, the weights are [1, 5]: five of device 0 end the loop, or one
    # of device 1.
    is_waiting = queue.upcoming < local_count
    weight = jnp.where(is_waiting, remaining, 1)[:, None]
    # A younger sample of a device where none waits ends nothing.
    if decoding.first is not None:
        is_old = split_rows(queue.sample < decoding.first, shards)
        weight = jnp.where(is_waiting[:, None], remaining, is_old)

    def is_running(state: DecodeState):
        is_finished = state.idle & (queue.sample < local_count)
        by_device = split_rows(is_finished, shards)
        return jnp.sum(jnp.where(by_device, weight, 0)) < remaining

    numbers = decoding.samples if queue.numbers is None else queue.numbers
    samples = take_rows(numbers, jnp.minimum(queue.sample, local_count - 1))
    one_step = advance if decoding.drafter is None else advance_several
    step = functools.partial(one_step, decoding, decoding.sample_keys(samples))
    return refill(decoding.model, jax.lax.while_loop(is_running, step, state))


def refill(model: R1V3, state: DecodeState) -> DecodeState:
    """Moves finished samples out of their slots, and the next ones in."""
    parts = (
        state.queue,
        state.record,
        state.idle,
        state.closed,
        state.logits,
        state.hidden,
        state.cache.lengths,
    )
    # Every device serves its own slots, so nothing moves between devices.
    refill_shard = functools.partial(_refill_shard, model.config.pad_token_id)
    parts, rows = each_shard(refill_shard, *parts, like=(parts, state.cache.rows))
    queue, record, idle, closed, logits, hidden, lengths = parts
    cache = dataclasses.replace(state.cache, lengths=lengths, rows=rows)
    if isinstance(cache, JoinedCache):
        cache = refilled(cache, state.idle & ~idle)
    return dataclasses.replace(
        state,
        logits=logits,
        closed=closed,
        idle=idle,
        cache=cache,
        record=record,
        queue=queue,
        hidden=hidden,
    )


def _refill_shard(
    pad_token_id: int,
    queue: Queue,
    record,
    idle,
    closed,
    logits,
    hidden,
    lengths,
):
    """Does `refill` for one device; N, P and B are here its own samples, prompts and slots.

    Returns the parts of the state in this order, and the prompt of each slot, int32[B].
    """
    count = len(queue.finished)
    prompts = len(queue.logits)

    # 1. Finished samples go to their rows of the queue. Row `count` does not exist: dropped.
    row_of_slot = jnp.where(idle, queue.sample, count)

    def store(table, rows):
        return table.at[row_of_slot].set(rows, mode="drop")

    completions = jax.tree.map(store, queue.completions, record)
    finished = store(queue.finished, idle)

    # 2. Idle slots take the next samples in order. With idle [F T T], upcoming 4 and count 6, the
    #    sums are [0 1 2] and the samples [. 4 5]; with count 5 they are [. 4 5], and 5 is none.
    place = queue.upcoming + jnp.cumsum(idle) - 1
    sample = jnp.where(idle, jnp.minimum(place, count), queue.sample)
    is_refilled = idle & (sample < count)

    def clear(rows, value=0):
        mask = is_refilled.reshape(-1, *[1] * (rows.ndim - 1))
        return jnp.where(mask, jnp.asarray(value, rows.dtype), rows)

    tokens = clear(record.tokens, pad_token_id)
    record = dataclasses.replace(jax.tree.map(clear, record), tokens=tokens)
    # Sample 5 of 6 samples of 2 prompts continues prompt 5 // 3 = 1; an empty slot gets the last.
    rows = jnp.minimum(sample // (count // prompts), prompts - 1)

    # 3. They start from the logits after their prompts, with nothing in their cache.
    queue = dataclasses.replace(
        queue,
        sample=sample,
        upcoming=jnp.minimum(queue.upcoming + jnp.sum(idle), count),
        completions=completions,
        finished=finished,
    )
    logits = jnp.where(is_refilled[:, None], queue.logits[rows], logits)
    if hidden is not None:
        hidden = jnp.where(is_refilled[:, None], queue.hidden[rows], hidden)
    idle = idle & ~is_refilled
    closed = closed & ~is_refilled
    parts = (queue, record, idle, closed, logits, hidden, clear(lengths))
    return parts, rows
