"""What one decode holds on the device: the samples in its slots, the waiting and the finished.

Knows shapes and where a token is written; not how it is chosen (`next_token.py`) and not when
decoding stops (`loop.py`).
"""

import dataclasses

import jax
import jax.numpy as jnp

from r1v3_jax.models.caches import Cache
from r1v3_jax.models.joined_cache import JoinedCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sampling.params import SamplingParams


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Completions:
    """B samples of up to C tokens, those of a prompt adjacent; padded with `pad_token_id` and 0.

    Log-probabilities and entropies are those of the policy at the sampling temperature (1 if
    greedy), not cut by top-k, top-p, penalty or ban. One row for C = 5, end token 2, padding 0,
    where the thinking budget forced the second token:

        tokens     [ 57    61     8     2     0  ]    lengths 4
        logprobs   [-0.4  -7.1  -0.9  -0.1    0  ]    ended   True
        entropies  [ 1.3   0.8   1.1   0.2    0  ]
        chosen     [  T     F     T     T     F  ]
    """

    tokens: jax.Array  # int32[B, C]
    logprobs: jax.Array  # float32[B, C], of each token when it was sampled
    entropies: jax.Array  # float32[B, C], in nats, before each token was chosen
    chosen: jax.Array  # bool[B, C], False where the thinking budget forced it
    lengths: jax.Array  # int32[B], tokens so far, the end token counted
    ended: jax.Array  # bool[B], True if the end token came before the limit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queue:
    """N = P * group_size samples that share B slots.

    Prompts, samples and slots are split evenly over the D devices of the batch axis, and each
    device fills its slots from its own samples. Sample numbers are local to a device, 0 to N/D - 1;
    a larger number means that the slot is empty, or that no sample waits.

    With N 6, B 3, D 1 after sample 1 is finished: sample [0 3 2], upcoming [4].

    A queue with `numbers` is carried over from call to call (`carry.py`): prompts come and go.
    """

    sample: jax.Array  # int32[B], the number of the sample in each slot
    upcoming: jax.Array  # int32[D], the number of the first sample that waits
    logits: jax.Array  # float32[P, V], after each prompt: a sample starts from them
    completions: Completions  # [N, C], of the samples that have left their slot
    finished: jax.Array  # bool[N], True for the samples that have left their slot
    # float[P, D], after each prompt: a draft head starts from them. None: there is none.
    hidden: jax.Array | None = None
    # int32[N], the number of each sample in its whole stage, of which its random key is made. None:
    # its place here, counted over all devices.
    numbers: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """One decode in flight, in B slots."""

    step: (
        jax.Array
    )  # int32[], passes so far: with one token a pass, tokens sampled in each slot
    logits: jax.Array  # float32[B, V], of the next token
    closed: jax.Array  # bool[B], True once the sample has closed its thinking
    idle: jax.Array  # bool[B], True where nothing is sampled: finished or empty
    # The keys and values of the prompts and of the samples in the slots.
    cache: Cache | JoinedCache
    record: Completions  # [B, C], the samples in the slots
    queue: Queue | None  # None if each sample has a slot of its own
    # With a draft head: float[B, D], the last hidden state, which `logits` are of; and int32[B],
    # the passes in which each slot had a sample.
    hidden: jax.Array | None = None
    passes: jax.Array | None = None

    @property
    def completions(self) -> Completions:
        """[P * group_size, C]: all samples; with a queue, the finished ones only."""
        return self.record if self.queue is None else self.queue.completions

    @property
    def finished(self) -> jax.Array:
        """bool[P * group_size]: True for the completions to which nothing will be added."""
        return self.idle if self.queue is None else self.queue.finished


def no_completions(model: R1V3, count: int, sampling: SamplingParams) -> Completions:
    """Returns the completions of `count` samples without a token."""
    rules = model.compute.rules
    row_spec = rules.spec("batch")
    table_spec = rules.spec("batch", None)
    shape = (count, sampling.max_tokens)

    def table(value, dtype):
        return jnp.full(shape, value, dtype, out_sharding=table_spec)

    return Completions(
        tokens=table(model.config.pad_token_id, jnp.int32),
        logprobs=table(0, jnp.float32),
        entropies=table(0, jnp.float32),
        chosen=table(False, bool),
        lengths=jnp.zeros(count, jnp.int32, out_sharding=row_spec),
        ended=jnp.zeros(count, bool, out_sharding=row_spec),
    )


def append(
    completions: Completions,
    live,
    token,
    logprob,
    entropy,
    chosen,
    end_token_id: int,
) -> Completions:
    """Adds one token to the rows that are `live`, bool[B]; the other rows stay the same.

    token, logprob, entropy, chosen: [B], what goes to column lengths[b] of row b.
    """
    columns = jnp.arange(completions.tokens.shape[1])
    is_next = (columns == completions.lengths[:, None]) & live[:, None]

    # Writes by selection: rows of different lengths need no scatter, and a mesh moves nothing.
    def write(table, entries):
        return jnp.where(is_next, entries[:, None], table)

    return Completions(
        tokens=write(completions.tokens, token),
        logprobs=write(completions.logprobs, logprob),
        entropies=write(completions.entropies, entropy),
        chosen=write(completions.chosen, chosen),
        lengths=completions.lengths + live,
        ended=completions.ended | (live & (token == end_token_id)),
    )
