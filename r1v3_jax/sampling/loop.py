"""Sampling: prompts in, groups of completions out, two programs: `prefill`, and `decode`, one loop
on the device.

Knows token ids only: no text, no images (their embeddings come in), no rewards. A prompt is
prefilled once and its keys are shared by its `group_size` samples. The random key of a token is
`fold_in(fold_in(key, sample), t)`: a sample is the same whatever its neighbours are, and whenever
it is sampled.

Samples may be more than the slots they are decoded in (continuous batching). They wait in order,
and the slot of one that is done takes the next:

    samples 0 0 0 of prompt a, 3 4 5 of prompt b; 3 slots
                     step  0 . . . . . . . .
                   slot 0  0 0 0 0 0 0 0 0 0
                   slot 1  1 1 1 4 4 4 4 - -
                   slot 2  2 2 3 3 3 5 5 5 5
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from r1v3_jax.models.qwen2 import PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sampling.next_token import (
    choose,
    close_thinking,
    measure,
    penalised,
    tile_of,
)
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import (
    Completions,
    DecodeState,
    Queue,
    append,
    no_completions,
)
from r1v3_jax.sharding import each_shard, split_rows, take_rows


def generate(
    model: R1V3,
    tokens: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    image_embeddings: jax.Array | None = None,
    image_index: jax.Array | None = None,
    limit: jax.Array | None = None,
    *,
    group_size: int = 1,
    slots: int = 0,
    sampling: SamplingParams,
) -> Completions:
    """`group_size` completions of each prompt: int32[P, T] tokens padded on the right, int32[P]
    lengths from 1 to T (not checked: they are on the device).

    `slots` samples are decoded at a time; 0: all. Stops when every sample has ended or holds
    `limit` tokens (int32[], from 1, at most and by default `max_tokens`). ValueError for settings
    that are not for this model.
    """
    sampling.check(model.config, tokens.shape[1])
    state = prefill(
        model, tokens, lengths, image_embeddings, image_index,
        group_size=group_size, slots=slots, sampling=sampling,
    )  # fmt: skip
    limit = jnp.int32(sampling.max_tokens if limit is None else limit)
    until = jnp.int32(len(tokens) * group_size)
    return decode(model, state, key, limit, until, sampling=sampling).completions


@functools.partial(jax.jit, static_argnames=("group_size", "slots", "sampling"))
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
) -> DecodeState:
    """The state in which the samples of these prompts have no token yet; see `generate`."""
    logits, prompt = model.prefill(tokens, lengths, image_embeddings, image_index)
    rules, count = model.compute.rules, len(tokens) * group_size
    queue = rows = None
    if slots and slots != count:
        queue, rows, prompt = make_queue(model, logits, prompt, count, slots, sampling)
    cache = model.new_cache(
        prompt, group_size=group_size, rows=rows, max_tokens=sampling.max_tokens
    )
    if queue is None:
        # The group's samples start from the one row of logits their prompt has.
        logits = jnp.broadcast_to(
            logits[:, None], (len(logits), group_size, logits.shape[-1])
        )
        # Of one prompt the sharding is not inferred.
        logits = jnp.reshape(
            logits, (count, -1), out_sharding=rules.spec("batch", "vocab")
        )
    else:
        logits = take_rows(logits, rows)
    none = jnp.zeros(slots or count, bool, out_sharding=rules.spec("batch"))
    return DecodeState(
        step=jnp.int32(0),
        logits=logits,
        closed=none,
        done=none,
        cache=cache,
        record=no_completions(model, slots or count, sampling),
        queue=queue,
    )


def make_queue(
    model: R1V3, logits, prompt: PromptCache, count: int, slots: int, sampling
):
    """The queue whose first samples are in the slots; the prompt of each slot; the prompts laid out
    for both.
    """
    rules, shards = model.compute.rules, model.compute.rules.shards("batch")
    spec, local = rules.spec("batch"), slots // shards
    check_slots(len(logits), count, slots, shards)
    slot = jax.lax.broadcasted_iota(jnp.int32, (slots,), 0, out_sharding=spec)
    sample = slot % local
    lengths = prompt.lengths if spec is None else jax.reshard(prompt.lengths, spec)
    queue = Queue(
        sample=sample,
        next=jnp.full(shards, local, jnp.int32, out_sharding=spec),
        logits=logits,
        completions=no_completions(model, count, sampling),
        finished=jnp.zeros(count, bool, out_sharding=spec),
    )
    rows = sample // (count // len(logits))
    return queue, rows, dataclasses.replace(prompt, lengths=lengths)


def check_slots(prompts: int, samples: int, slots: int, shards: int) -> None:
    if not 0 < slots <= samples:
        raise ValueError(f"{slots} slots for {samples} samples; at most one for each")
    for name, count in (("prompts", prompts), ("slots", slots)):
        if count % shards:
            raise ValueError(f"{count} {name} cannot be split over {shards} devices")


@functools.partial(jax.jit, static_argnames="sampling", donate_argnames="state")
def decode(
    model: R1V3,
    state: DecodeState,
    key: jax.Array,
    limit: jax.Array,
    until: jax.Array,
    *,
    sampling: SamplingParams,
) -> DecodeState:
    """Samples until `until` samples (int32[]), or all, have ended or hold `limit` tokens; the state
    is donated.
    """
    rules, queue, count = model.compute.rules, state.queue, len(state.finished)
    rows = rules.spec("batch")
    limit, until = jnp.minimum(sampling.max_tokens, limit), jnp.minimum(count, until)
    samples = jax.lax.broadcasted_iota(jnp.int32, (count,), 0, out_sharding=rows)
    tile = tile_of(state.logits.shape, rules.shards("batch"), rules.shards("vocab"))

    def advance(sample_keys, state: DecodeState):
        record = state.record
        keys = jax.vmap(jax.random.fold_in)(sample_keys, record.lengths)
        logits = state.logits
        if rows is not None and (sampling.top_k or sampling.top_p < 1):
            logits = jax.reshard(logits, rules.spec("batch", None))  # to be sorted
        token = choose(penalised(logits, record, sampling), keys, sampling, tile)
        token, chosen, closed = close_thinking(
            token, record.lengths, record.tokens, state.closed, sampling
        )
        logprob, entropy = measure(logits, token, sampling.temperature or 1.0)
        record = append(
            record,
            ~state.done,
            token,
            logprob,
            entropy,
            chosen,
            model.config.end_token_id,
        )
        done = state.done | record.ended | (record.lengths >= limit)
        logits, cache = model.decode(token, state.cache)
        return dataclasses.replace(
            state,
            step=state.step + 1,
            logits=logits,
            closed=closed,
            done=done,
            # A slot without a sample reads nothing of its cache.
            cache=dataclasses.replace(cache, lengths=jnp.where(done, 0, cache.lengths)),
            record=record,
        )

    def sample_keys(samples):
        return jax.vmap(functools.partial(jax.random.fold_in, key))(samples)

    if queue is None:
        advance = functools.partial(advance, sample_keys(samples))
        return jax.lax.while_loop(
            lambda state: jnp.sum(state.done) < until, advance, state
        )

    last = count // len(queue.next)  # samples of a device

    def serve(state: DecodeState):
        """Advances all slots until a sample is done and another waits for its slot."""
        queue, left = state.queue, until - jnp.sum(state.queue.finished)
        shards = len(queue.next)
        # One sum over the devices, not two: a slot that is waited for counts as all that are left.
        weight = jnp.where(queue.next < last, left, 1)[:, None]

        def running(state: DecodeState):
            held = state.done & (queue.sample < last)
            return jnp.sum(jnp.where(split_rows(held, shards), weight, 0)) < left

        keys = sample_keys(take_rows(samples, jnp.minimum(queue.sample, last - 1)))
        return refill(
            jax.lax.while_loop(running, functools.partial(advance, keys), state), model
        )

    return jax.lax.while_loop(
        lambda state: jnp.sum(state.queue.finished) < until, serve, state
    )


def refill(state: DecodeState, model: R1V3) -> DecodeState:
    """Takes the samples that are done out of their slots, and the next ones in."""
    parts = (
        state.queue,
        state.record,
        state.done,
        state.closed,
        state.logits,
        state.cache.lengths,
    )

    def local(queue, record, done, closed, logits, lengths):
        count, prompts = len(queue.finished), len(queue.logits)
        left = jnp.where(done, queue.sample, count)  # row `count` is dropped

        def put(table, rows):
            return table.at[left].set(rows, mode="drop")

        completions = jax.tree.map(put, queue.completions, record)
        finished = put(queue.finished, done)

        place = queue.next + jnp.cumsum(done) - 1
        sample = jnp.where(done, jnp.minimum(place, count), queue.sample)
        new = done & (sample < count)

        def clear(rows, value=0):
            here = new.reshape(-1, *[1] * (rows.ndim - 1))
            return jnp.where(here, jnp.asarray(value, rows.dtype), rows)

        tokens = clear(record.tokens, model.config.pad_token_id)
        record = dataclasses.replace(jax.tree.map(clear, record), tokens=tokens)
        rows = jnp.minimum(sample // (count // prompts), prompts - 1)
        queue = Queue(
            sample=sample,
            next=jnp.minimum(queue.next + jnp.sum(done), count),
            logits=queue.logits,
            completions=completions,
            finished=finished,
        )
        logits = jnp.where(new[:, None], queue.logits[rows], logits)
        return (queue, record, done & ~new, closed & ~new, logits, clear(lengths)), rows

    parts, rows = each_shard(local, *parts, like=(parts, state.cache.rows))
    queue, record, done, closed, logits, lengths = parts
    return DecodeState(
        step=state.step,
        logits=logits,
        closed=closed,
        done=done,
        cache=dataclasses.replace(state.cache, lengths=lengths, rows=rows),
        record=record,
        queue=queue,
    )
