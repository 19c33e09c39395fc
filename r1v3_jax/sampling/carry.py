"""Samples carried over from one update to the next: a queue that prompts enter and leave.

One state stands from step to step. It has room for F prompts, K batches of P; a step brings a batch
in (`exchange`), and decodes until the samples of the oldest have ended (`loop.decode`). Those of
the others go on in the next step, drawn by its weights. What the weights before wrote into the
cache stays there: nothing is computed again.

Every device has its share of each batch, in the order in which they came. So what came together
leaves together, and nothing moves between devices. Batches of 2 prompts, a b, then c d, then e f;
F = 4, on 2 devices:

                            device 0   device 1   all rows
    a b and c d are there   a  c       b  d       a c b d
    e f come, a b leave     c  e       d  f       c e d f

Samples are served in that order too (`state.Queue`), and their random keys come from their numbers
in the stage: a sample does not depend on when or where it is drawn, if the weights stay the same.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from r1v3_jax.models.caches import PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sampling.loop import check_slots, refill
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import Completions, DecodeState, Queue, no_completions
from r1v3_jax.sharding import each_shard


@functools.partial(
    jax.jit,
    static_argnames=("prompts", "group_size", "slots", "prompt_tokens", "sampling"),
)
def empty(
    model: R1V3,
    *,
    prompts: int,
    group_size: int,
    slots: int,
    prompt_tokens: int,
    sampling: SamplingParams,
) -> DecodeState:
    """Returns a state with room for `prompts` prompts, in which nothing is under way.

    All its samples count as finished. prompt_tokens: of a prompt at most. slots: samples that are
    decoded at a time. ValueError for numbers that do not divide among devices.
    """
    rules = model.compute.rules
    text = model.config.text
    shards = rules.shards("batch")
    spec = rules.spec("batch")
    count = prompts * group_size
    check_slots(prompts, count, slots, shards)
    local_count = count // shards

    shape = (text.layers, prompts, text.kv_heads, prompt_tokens, text.head_dim)
    cache_spec = rules.spec(None, "batch", "kv_heads", None, None)
    # A prompt of one token, so that every slot reads something.
    lengths = jnp.ones(prompts, jnp.int32, out_sharding=spec)

    def keys():
        return jnp.zeros(shape, model.language.dtype, out_sharding=cache_spec)

    prompt = PromptCache(k=keys(), v=keys(), lengths=lengths)

    def logits(rows: int):
        vocab = rules.spec("batch", "vocab")
        return jnp.zeros((rows, text.padded_vocab), jnp.float32, out_sharding=vocab)

    # Sample numbers of N / D are those of empty slots, and tell that no sample waits.
    none = jnp.full(slots, local_count, jnp.int32, out_sharding=spec)
    queue = Queue(
        sample=none,
        upcoming=jnp.full(shards, local_count, jnp.int32, out_sharding=spec),
        logits=logits(prompts),
        completions=no_completions(model, count, sampling),
        finished=jnp.ones(count, bool, out_sharding=spec),
        numbers=jnp.zeros(count, jnp.int32, out_sharding=spec),
    )
    rows = jnp.zeros(slots, jnp.int32, out_sharding=spec)
    return DecodeState(
        step=jnp.int32(0),
        logits=logits(slots),
        closed=jnp.zeros(slots, bool, out_sharding=spec),
        idle=jnp.ones(slots, bool, out_sharding=spec),
        cache=model.new_cache(prompt, rows=rows, max_tokens=sampling.max_tokens),
        record=no_completions(model, slots, sampling),
        queue=queue,
    )


@functools.partial(
    jax.jit, static_argnames=("group_size", "sampling"), donate_argnames="state"
)
def exchange(
    model: R1V3,
    state: DecodeState,
    tokens: jax.Array,
    lengths: jax.Array,
    image_embeddings: jax.Array | None,
    image_index: jax.Array | None,
    first: jax.Array,
    *,
    group_size: int,
    sampling: SamplingParams,
) -> DecodeState:
    """Puts P prompts behind those of the state, in place of its P oldest, and refills idle slots.

    int32[P, T] tokens padded on the right, int32[P] lengths; T at most the room of the state. The
    samples of the oldest must have finished. first: int32[], the number of the first new sample.
    The state is donated.
    """
    rules = model.compute.rules
    spec = rules.spec("batch")
    count = len(tokens) * group_size

    # 1. What the new prompts bring, in the layout of what is there.
    logits, prompt = model.prefill(tokens, lengths, image_embeddings, image_index)
    room = state.cache.prompt.k.shape[3] - prompt.k.shape[3]
    slots = ((0, 0), (0, 0), (0, 0), (0, room), (0, 0))
    lengths = prompt.lengths if spec is None else jax.reshard(prompt.lengths, spec)
    prompt = PromptCache(
        k=jnp.pad(prompt.k, slots), v=jnp.pad(prompt.v, slots), lengths=lengths
    )
    row = jax.lax.broadcasted_iota(jnp.int32, (count,), 0, out_sharding=spec)
    zeros = jnp.zeros_like(row)
    new = Queue(
        sample=zeros,
        upcoming=jnp.zeros_like(state.queue.upcoming),
        logits=logits,
        completions=no_completions(model, count, sampling),
        finished=zeros.astype(bool),
        numbers=first + row,
    )

    # 2. Every device moves its own rows.
    parts = (state.queue, state.cache.prompt)
    queue, prompt = each_shard(_exchange_shard, *parts, new, prompt, like=parts)
    cache = dataclasses.replace(state.cache, prompt=prompt)
    return refill(model, dataclasses.replace(state, queue=queue, cache=cache))


def _exchange_shard(
    queue: Queue, prompt: PromptCache, new: Queue, new_prompt: PromptCache
) -> tuple[Queue, PromptCache]:
    """Does `exchange` for one device, whose rows are here counted from 0.

    With 6 samples, 2 that leave and 3 slots: sample [2 6 4], of which 6 is none, becomes [0 6 2],
    and upcoming 5 becomes 3; the samples 4 and 5 are new.
    """
    count = len(queue.finished)
    leaving = len(new.finished)

    def followed(old, new, axis=0):
        kept = jax.lax.slice_in_dim(old, new.shape[axis], None, axis=axis)
        return jnp.concatenate([kept, new], axis)

    moved = Queue(
        sample=jnp.where(queue.sample < count, queue.sample - leaving, count),
        upcoming=queue.upcoming - leaving,
        logits=followed(queue.logits, new.logits),
        completions=jax.tree.map(followed, queue.completions, new.completions),
        finished=followed(queue.finished, new.finished),
        numbers=followed(queue.numbers, new.numbers),
    )
    return moved, PromptCache(
        k=followed(prompt.k, new_prompt.k, axis=1),
        v=followed(prompt.v, new_prompt.v, axis=1),
        lengths=followed(prompt.lengths, new_prompt.lengths),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carried:
    """What the host asks of a state: one of its batches, and how far all samples are."""

    completions: Completions  # [P * G, C], of the batch; empty where a sample goes on
    finished: jax.Array  # bool[P * G], of the batch
    lengths: jax.Array  # int32[N], tokens of every sample so far
    step: jax.Array  # int32[], tokens sampled so far in each slot


@functools.partial(jax.jit, static_argnames="count")
def carried(state: DecodeState, batch: jax.Array, *, count: int) -> Carried:
    """Returns what the host asks of a state; `batch`: int32[], counted from the oldest, 0.

    count: samples of a batch.
    """
    queue = state.queue
    local_count = count // len(queue.upcoming)

    def of_shard(completions, finished, sample, record, batch):
        start = batch * local_count

        def take(table):
            return jax.lax.dynamic_slice_in_dim(table, start, local_count)

        # Samples in slots have tokens of which the table knows nothing yet.
        lengths = completions.lengths.at[sample].set(record.lengths, mode="drop")
        return jax.tree.map(take, completions), take(finished), lengths

    arrays = (queue.completions, queue.finished, queue.sample, state.record, batch)
    like = (queue.completions, queue.finished, queue.completions.lengths)
    completions, finished, lengths = each_shard(of_shard, *arrays, like=like)
    return Carried(completions, finished, lengths, state.step)
