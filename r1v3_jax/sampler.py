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
import math

import jax
import jax.numpy as jnp

from r1v3_jax.config import ModelConfig
from r1v3_jax.models.attention import LANES, NEVER
from r1v3_jax.models.qwen2 import Cache, PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import each_shard, merge_rows, split_last, split_rows, take_rows


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is chosen. temperature 0 is greedy; top_k 0, top_p 1 and repetition_penalty 1 are
    off.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = (
        1.0  # over the completion's own tokens, as transformers sees them (not the prompt's)
    )
    # Never sampled. Images: `Tokenizer.banned_token_ids`. NoWait: with the first tokens of critical
    # words.
    banned: tuple[int, ...] = ()
    # A thinking budget: a sample that has not produced `think_end` within so many tokens is made
    # to. 0: no limit.
    thinking_tokens: int = 0
    # For each token of "</think>" the ids it may have, `Tokenizer.closing`; the first are forced.
    think_end: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self):
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} must not be negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must lie in (0, 1]; 1 keeps every token")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must not be negative; 0 keeps every token")
        if self.repetition_penalty <= 0:
            raise ValueError(
                f"repetition_penalty {self.repetition_penalty} must be positive; 1 is off"
            )
        if self.thinking_tokens and not self.think_end:
            raise ValueError("thinking_tokens needs think_end, the ids that close the thinking")

    def check(self, config: ModelConfig, prompt_tokens: int) -> None:
        """ValueError if a model cannot be sampled so, behind prompts of `prompt_tokens`."""
        room = config.text.max_positions
        if prompt_tokens + self.max_tokens > room:
            raise ValueError(
                f"prompts of {prompt_tokens} tokens and completions of {self.max_tokens} exceed "
                f"the model's {room} positions; lower one of them"
            )
        for name, ids in (("banned", self.banned), ("think_end", sum(self.think_end, ()))):
            if outside := [i for i in ids if not 0 <= i < config.text.vocab_size]:
                raise ValueError(
                    f"{name}: token {outside[0]} is outside the vocabulary of "
                    f"{config.text.vocab_size}; this tokenizer is not this model's"
                )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Completions:
    """P * group_size samples, those of a prompt side by side; padded with `pad_token_id` and 0.

    tokens: int32[B, C]; lengths: int32[B], the end token counted; ended: bool[B], true where the
    end token came before the limit. logprobs, entropies: float32[B, C], of the policy at the
    sampling temperature (1 if greedy) at each token, not cut by top-k, top-p, penalty or ban;
    entropy in nats. chosen: bool[B, C], false where a token was forced by the thinking budget.
    """

    tokens: jax.Array
    logprobs: jax.Array
    entropies: jax.Array
    chosen: jax.Array
    lengths: jax.Array
    ended: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queue:
    """N = P * group_size samples that share B slots. The devices of the batch axis, D, have equal
    blocks of prompts, samples and slots, and serve their own: numbers of samples count on a device,
    and one from N / D on is no sample.

    sample: int32[B], in each slot; next: int32[D], the first that is still to come; logits:
    float32[P, V], after each prompt; completions: [N, C], and finished: bool[N], of those that have
    left their slot.
    """

    sample: jax.Array
    next: jax.Array
    logits: jax.Array
    completions: Completions
    finished: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """One decode in flight, in B slots.

    step: int32[], tokens a slot so far; logits: float32[B, V] of the next; closed: bool[B], true
    once the sample has closed its thinking; done: bool[B], true where there is nothing to sample
    (any more); record: [B, C], the samples in the slots. queue: None if each sample has its slot.
    """

    step: jax.Array
    logits: jax.Array
    closed: jax.Array
    done: jax.Array
    cache: Cache
    record: Completions
    queue: Queue | None

    @property
    def completions(self) -> Completions:
        return self.record if self.queue is None else self.queue.completions

    @property
    def finished(self) -> jax.Array:
        """bool[P * group_size]: which of the completions nothing will be added to."""
        return self.done if self.queue is None else self.queue.finished


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
    sampling: Sampling,
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
    sampling: Sampling,
) -> State:
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
        logits = jnp.broadcast_to(logits[:, None], (len(logits), group_size, logits.shape[-1]))
        # Of one prompt the sharding is not inferred.
        logits = jnp.reshape(logits, (count, -1), out_sharding=rules.spec("batch", "vocab"))
    else:
        logits = take_rows(logits, rows)
    none = jnp.zeros(slots or count, bool, out_sharding=rules.spec("batch"))
    return State(
        step=jnp.int32(0),
        logits=logits,
        closed=none,
        done=none,
        cache=cache,
        record=no_completions(model, slots or count, sampling),
        queue=queue,
    )


def make_queue(model: R1V3, logits, prompt: PromptCache, count: int, slots: int, sampling):
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


def no_completions(model: R1V3, count: int, sampling: Sampling) -> Completions:
    """Those of `count` samples without a token."""
    rules = model.compute.rules
    rows, table = rules.spec("batch"), rules.spec("batch", None)

    def full(value, dtype):
        return jnp.full((count, sampling.max_tokens), value, dtype, out_sharding=table)

    return Completions(
        tokens=full(model.config.pad_token_id, jnp.int32),
        logprobs=full(0, jnp.float32),
        entropies=full(0, jnp.float32),
        chosen=full(False, bool),
        lengths=jnp.zeros(count, jnp.int32, out_sharding=rows),
        ended=jnp.zeros(count, bool, out_sharding=rows),
    )


@functools.partial(jax.jit, static_argnames="sampling", donate_argnames="state")
def decode(
    model: R1V3,
    state: State,
    key: jax.Array,
    limit: jax.Array,
    until: jax.Array,
    *,
    sampling: Sampling,
) -> State:
    """Samples until `until` samples (int32[]), or all, have ended or hold `limit` tokens; the state
    is donated.
    """
    rules, queue, count = model.compute.rules, state.queue, len(state.finished)
    rows = rules.spec("batch")
    limit, until = jnp.minimum(sampling.max_tokens, limit), jnp.minimum(count, until)
    samples = jax.lax.broadcasted_iota(jnp.int32, (count,), 0, out_sharding=rows)
    tile = tile_of(state.logits.shape, rules.shards("batch"), rules.shards("vocab"))

    def advance(sample_keys, state: State):
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
            record, ~state.done, token, logprob, entropy, chosen, model.config.end_token_id
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
        return jax.lax.while_loop(lambda state: jnp.sum(state.done) < until, advance, state)

    last = count // len(queue.next)  # samples of a device

    def serve(state: State):
        """Advances all slots until a sample is done and another waits for its slot."""
        queue, left = state.queue, until - jnp.sum(state.queue.finished)
        shards = len(queue.next)
        # One sum over the devices, not two: a slot that is waited for counts as all that are left.
        weight = jnp.where(queue.next < last, left, 1)[:, None]

        def running(state: State):
            held = state.done & (queue.sample < last)
            return jnp.sum(jnp.where(split_rows(held, shards), weight, 0)) < left

        keys = sample_keys(take_rows(samples, jnp.minimum(queue.sample, last - 1)))
        return refill(jax.lax.while_loop(running, functools.partial(advance, keys), state), model)

    return jax.lax.while_loop(lambda state: jnp.sum(state.queue.finished) < until, serve, state)


def refill(state: State, model: R1V3) -> State:
    """Takes the samples that are done out of their slots, and the next ones in."""
    parts = state.queue, state.record, state.done, state.closed, state.logits, state.cache.lengths

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
    return State(
        step=state.step,
        logits=logits,
        closed=closed,
        done=done,
        cache=dataclasses.replace(state.cache, lengths=lengths, rows=rows),
        record=record,
        queue=queue,
    )


def tile_of(shape: tuple[int, int], batch: int, vocab: int) -> tuple[int, int]:
    """The tile for `draw` of logits [B, V], dealt out in so many shards: that of a TPU's memory, 8
    x 128, as far as it divides a shard. Its columns are the same on any of up to 8 devices.
    """
    B, V = shape
    return math.gcd(B // batch, 8), math.gcd(V // math.gcd(V, math.lcm(8, vocab)), LANES)


def choose(
    logits: jax.Array, keys: jax.Array, sampling: Sampling, tile: tuple[int, int]
) -> jax.Array:
    """One token a row of float32[B, V] logits: int32[B]; `tile`: see `draw`."""
    allowed = logits / sampling.temperature if sampling.temperature > 0 else logits
    if sampling.banned:
        forbidden = jnp.zeros(logits.shape[-1], bool).at[jnp.asarray(sampling.banned)].set(True)
        allowed = jnp.where(forbidden, NEVER, allowed)
    if sampling.top_k:
        kth = jax.lax.top_k(allowed, min(sampling.top_k, logits.shape[-1]))[0][:, -1:]
        allowed = jnp.where(allowed < kth, NEVER, allowed)
    if sampling.top_p < 1:
        allowed = jnp.where(allowed < nucleus_floor(allowed, sampling.top_p), NEVER, allowed)
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


def penalised(logits: jax.Array, completions: Completions, sampling: Sampling) -> jax.Array:
    """Logits with those of tokens already in the completion made smaller (CTRL, arXiv
    1909.05858).
    """
    if sampling.repetition_penalty == 1:
        return logits
    columns = jnp.arange(completions.tokens.shape[1]) < completions.lengths[:, None]
    seen = jax.vmap(lambda row, used: jnp.zeros(logits.shape[-1], bool).at[row].max(used))(
        completions.tokens, columns
    )
    factor = sampling.repetition_penalty
    return jnp.where(seen, jnp.where(logits > 0, logits / factor, logits * factor), logits)


def close_thinking(token, lengths, tokens, closed, sampling: Sampling):
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

    def begun(count):  # bool[B]: the last `count` tokens are the first `count` of think_end
        parts = [among(column(count - i), ids) for i, ids in enumerate(ends[:count])]
        return functools.reduce(jnp.logical_and, parts, jnp.ones_like(closed))

    wanted = jnp.full_like(token, ends[0][0])
    for count in range(1, len(ends)):  # the longest beginning wins
        wanted = jnp.where(begun(count), ends[count][0], wanted)
    force = ~closed & (lengths >= sampling.thinking_tokens)
    token = jnp.where(force, wanted, token)
    return token, ~force, closed | (begun(len(ends) - 1) & among(token, ends[-1]))


def measure(logits: jax.Array, token: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """log p(token) and the entropy of softmax(logits / temperature), float32[B] each."""
    logits = logits / temperature
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    hit = jnp.arange(logits.shape[-1]) == token[:, None]
    chosen = jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
    mean = jnp.sum(jnp.exp(logits - normaliser[:, None]) * logits, axis=-1)
    return chosen - normaliser, normaliser - mean


def append(
    completions: Completions, live, token, logprob, entropy, chosen, end_token_id: int
) -> Completions:
    """One token more in the rows that are `live`, bool[B]."""
    columns = jnp.arange(completions.tokens.shape[1])
    here = (columns == completions.lengths[:, None]) & live[:, None]

    def put(table, column):
        return jnp.where(here, column[:, None], table)

    return Completions(
        tokens=put(completions.tokens, token),
        logprobs=put(completions.logprobs, logprob),
        entropies=put(completions.entropies, entropy),
        chosen=put(completions.chosen, chosen),
        lengths=completions.lengths + live,
        ended=completions.ended | (live & (token == end_token_id)),
    )
