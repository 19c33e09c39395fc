"""One pass through the model for all slots: a token chosen, written down, and read.

Knows one step of the loop; `loop.py` says how often, and what is in the slots.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from r1v3_jax.models.draft_head import DraftHead
from r1v3_jax.models.qwen2_layers import MergedBlock
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sampling.next_token import (
    choose,
    close_thinking,
    measure,
    penalised,
    without_sequences,
)
from r1v3_jax.sampling.params import RowParams, SamplingParams
from r1v3_jax.sampling.state import Completions, DecodeState, append


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What stays the same from token to token in one call of `decode`."""

    model: R1V3
    sampling: SamplingParams | RowParams
    key: jax.Array  # the random key of the whole rollout
    limit: jax.Array  # int32[] or int32[B], tokens of a sample at most
    until: jax.Array  # int32[], so many finished samples end the call
    samples: jax.Array  # int32[N], the numbers of all samples (of a slice): 0 to N - 1
    tile: tuple[int, int]  # see `draw`
    temperature: jax.Array | None  # float32[], in place of that of `sampling`
    layers: tuple[MergedBlock, ...] | None = None  # for a joined cache
    drafter: DraftHead | None = None  # guesses tokens; None: one token a pass
    # int32[], with a queue that is carried over: the samples of each device, from the first on,
    # that the call waits for. None: for any `until` of them.
    first: jax.Array | None = None

    def sample_keys(self, samples: jax.Array) -> jax.Array:
        """Returns the random key of each of these samples."""
        return jax.vmap(functools.partial(jax.random.fold_in, self.key))(samples)


@dataclasses.dataclass(frozen=True)
class Next:
    """The next token of every slot, as it is to be written down; arrays [B]."""

    token: jax.Array
    logprob: jax.Array
    entropy: jax.Array
    chosen: jax.Array
    closed: jax.Array  # whether the sample has closed its thinking with it


def next_tokens(
    decoding: Decoding,
    sample_keys: jax.Array,
    record: Completions,
    logits: jax.Array,
    closed: jax.Array,
) -> Next:
    """Chooses and measures a token in every slot, idle or not: the shapes are fixed.

    float32[B, V] logits behind the tokens of `record`; closed: bool[B], before these tokens.
    """
    sampling = decoding.sampling
    keys = jax.vmap(jax.random.fold_in)(sample_keys, record.lengths)
    logits = with_whole_rows(decoding, logits)
    allowed = penalised(logits, record, sampling)
    allowed = without_sequences(allowed, record, sampling)
    token = choose(allowed, keys, sampling, decoding.tile, decoding.temperature)
    token, chosen, closed = close_thinking(
        token, record.lengths, record.tokens, closed, sampling
    )
    temperature = decoding.temperature
    if temperature is None:
        temperature = sampling.measured_at
    logprob, entropy = measure(logits, token, temperature)
    return Next(token, logprob, entropy, chosen, closed)


def with_whole_rows(decoding: Decoding, logits: jax.Array) -> jax.Array:
    """Returns the logits as `choose` takes them: sorting needs the whole vocabulary on a device."""
    sampling = decoding.sampling
    rules = decoding.model.compute.rules
    is_sorted = isinstance(sampling, SamplingParams) and (
        sampling.top_k or sampling.top_p < 1
    )
    if is_sorted and rules.spec("batch") is not None:
        return jax.reshard(logits, rules.spec("batch", None))
    return logits


def written(
    decoding: Decoding, record: Completions, live: jax.Array, new: Next
) -> Completions:
    """Returns the record with the new tokens of the samples that are `live`, bool[B]."""
    entries = (new.token, new.logprob, new.entropy, new.chosen)
    return append(record, live, *entries, decoding.model.config.end_token_id)


def advance(
    decoding: Decoding, sample_keys: jax.Array, state: DecodeState
) -> DecodeState:
    """Samples one token in every slot that is not idle; `sample_keys`: of the slots' samples."""
    # 1. Choose a token, and write it down where a sample is live.
    arrays = (state.record, state.logits, state.closed)
    new = next_tokens(decoding, sample_keys, *arrays)
    record = written(decoding, state.record, ~state.idle, new)
    idle = state.idle | record.ended | (record.lengths >= decoding.limit)

    # 2. The logits of the token after it.
    model = decoding.model
    logits, cache = model.decode(new.token, state.cache, decoding.layers)
    step = state.step + 1
    # A slot without a sample reads nothing of its cache.
    lengths = jnp.where(idle, 0, cache.lengths)
    return dataclasses.replace(
        state,
        step=step,
        logits=logits,
        closed=new.closed,
        idle=idle,
        cache=dataclasses.replace(cache, lengths=lengths),
        record=record,
    )
