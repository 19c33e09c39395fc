"""Completions, Queue, DecodeState: all of one decode in flight."""

import dataclasses

import jax
import jax.numpy as jnp

from r1v3_jax.models.qwen2 import Cache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sampling.params import SamplingParams


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
class DecodeState:
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


def no_completions(model: R1V3, count: int, sampling: SamplingParams) -> Completions:
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
