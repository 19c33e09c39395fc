"""Sampling: prompts in, groups of completions out, one loop on the device.

Knows token ids only: no text, no images (their embeddings come in), no rewards. A prompt is
prefilled once and its keys are shared by its `group_size` samples. The random key of a token is
`fold_in(fold_in(key, sample), t)`: a sample is the same whatever the batch it sits in.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from r1v3_jax.models.layers import NEVER
from r1v3_jax.models.qwen2 import Cache
from r1v3_jax.models.r1v3 import R1V3


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 leave the distribution
    whole.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    banned: tuple[int, ...] = ()  # never sampled: `Tokenizer.banned_token_ids`

    def __post_init__(self):
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} must not be negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must lie in (0, 1]; 1 keeps every token")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must not be negative; 0 keeps every token")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Completions:
    """B = P * group_size samples, those of a prompt side by side.

    tokens: int32[B, C], padded with `pad_token_id`; lengths: int32[B], the end token counted.
    logprobs: float32[B, C] of each token under the policy at the sampling temperature, not cut by
    top-k, top-p or the ban, 0 on padding. ended: bool[B], true where the end token came before
    `max_tokens` ran out.
    """

    tokens: jax.Array
    logprobs: jax.Array
    lengths: jax.Array
    ended: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """One decode in flight. step: int32[], tokens sampled so far; logits: float32[B, V] of the
    next.
    """

    step: jax.Array
    logits: jax.Array
    cache: Cache
    completions: Completions


@functools.partial(jax.jit, static_argnames=("group_size", "sampling"))
def generate(
    model: R1V3,
    tokens: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
    image_embeddings: jax.Array | None = None,
    image_index: jax.Array | None = None,
    *,
    group_size: int = 1,
    sampling: Sampling,
) -> Completions:
    """`group_size` completions of each prompt: int32[P, T] tokens padded on the right, int32[P]
    lengths.

    Stops when every sample has ended or holds `max_tokens`.
    """
    logits, prompt = model.prefill(tokens, lengths, image_embeddings, image_index)
    cache = model.new_cache(prompt, group_size=group_size, max_tokens=sampling.max_tokens)
    rules, count = model.compute.rules, cache.lengths.shape[0]
    rows, table = rules.spec("batch"), rules.spec("batch", None)
    shape = (count, sampling.max_tokens)
    empty = Completions(
        tokens=jnp.full(shape, model.config.pad_token_id, jnp.int32, out_sharding=table),
        logprobs=jnp.zeros(shape, jnp.float32, out_sharding=table),
        lengths=jnp.zeros(count, jnp.int32, out_sharding=rows),
        ended=jnp.zeros(count, bool, out_sharding=rows),
    )
    # The group's samples start from the one row of logits their prompt has.
    logits = jnp.broadcast_to(logits[:, None], (len(logits), group_size, logits.shape[-1]))
    logits = logits.reshape(count, -1)
    samples = jax.lax.broadcasted_iota(jnp.int32, (count,), 0, out_sharding=rows)
    sample_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(samples)

    def running(state: State):
        return (state.step < sampling.max_tokens) & ~jnp.all(state.completions.ended)

    def advance(state: State):
        keys = jax.vmap(functools.partial(jax.random.fold_in, data=state.step))(sample_keys)
        token, logprob = choose(whole(state.logits), keys, sampling)
        completions = record(
            state.completions, state.step, token, logprob, model.config.end_token_id
        )
        logits, cache = model.decode(token, state.cache)
        return State(step=state.step + 1, logits=logits, cache=cache, completions=completions)

    def whole(logits):  # the vocabulary axis, for sorting and drawing
        return logits if rows is None else jax.reshard(logits, table)

    state = State(step=jnp.int32(0), logits=logits, cache=cache, completions=empty)
    return jax.lax.while_loop(running, advance, state).completions


def choose(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
    """One token a row of float32[B, V] logits: int32[B], and its log-probability float32[B].

    The log-probability is of softmax(logits / temperature) as it stands (of softmax(logits) when
    greedy): top-k, top-p and the ban decide what is drawn, not what the policy is.
    """
    scaled = logits / sampling.temperature if sampling.temperature > 0 else logits
    allowed = scaled
    if sampling.banned:
        forbidden = jnp.zeros(logits.shape[-1], bool).at[jnp.asarray(sampling.banned)].set(True)
        allowed = jnp.where(forbidden, NEVER, allowed)
    if sampling.top_k:
        kth = jax.lax.top_k(allowed, min(sampling.top_k, logits.shape[-1]))[0][:, -1:]
        allowed = jnp.where(allowed < kth, NEVER, allowed)
    if sampling.top_p < 1:
        allowed = jnp.where(allowed < nucleus_floor(allowed, sampling.top_p), NEVER, allowed)
    if sampling.temperature > 0:
        token = jax.vmap(jax.random.categorical)(keys, allowed)
    else:
        token = jnp.argmax(allowed, axis=-1)
    hit = jnp.arange(logits.shape[-1]) == token[:, None]
    logprob = jnp.sum(jnp.where(hit, scaled, 0.0), axis=-1) - jax.nn.logsumexp(scaled, axis=-1)
    return token.astype(jnp.int32), logprob


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


def record(completions: Completions, step, token, logprob, end_token_id: int) -> Completions:
    """Appends one token a row at column `step`, to the rows that have not ended."""
    live = ~completions.ended
    here = (jnp.arange(completions.tokens.shape[1]) == step) & live[:, None]
    return Completions(
        tokens=jnp.where(here, token[:, None], completions.tokens),
        logprobs=jnp.where(here, logprob[:, None], completions.logprobs),
        lengths=completions.lengths + live,
        ended=completions.ended | (live & (token == end_token_id)),
    )
