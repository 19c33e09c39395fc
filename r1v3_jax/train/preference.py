"""Pairs of answers -> the arrays of one update, and its gradient.

A pair is one row: the chosen answer, then the rejected one, both behind their prompt, which is read
once. In the row's `advantages` stands +1 at the chosen answer and -1 at the rejected one.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import ModelConfig, Preference
from r1v3_jax.data.abstract import prompt_batch_of
from r1v3_jax.data.prompts import prompt_batch
from r1v3_jax.losses.supervised import cross_entropy
from r1v3_jax.models.caches import PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import EncodedPair, Processor
from r1v3_jax.sharding import TRAIN
from r1v3_jax.train import shared_prompts
from r1v3_jax.train.logprobs import sample_logprobs
from r1v3_jax.train.policy_batch import Plan, empty_rows
from r1v3_jax.types import PolicyBatch, SampleRows

# -------------------------------------------------------------------------------------------------
# arrays


def plan_pairs(config: Preference, shards: int) -> Plan:
    """Plans where the answers of a step go: each pair has a row of its own.

    A row is stored with its prompt, on one of the `shards` devices that rows are split over.
    places: of (pair, 0) and (pair, 1), where the row begins; the second answer follows the first.

    Example: 8 pairs, N = 2 micro-batches, 2 devices: a device has 4 prompts and, in a micro-batch,
    2 rows. Pairs 0 to 3 are on device 0: 0 and 1 in micro-batch 0, 2 and 3 in micro-batch 1. Pairs
    by micro-batch and row: [[0 1 4 5] [2 3 6 7]]; prompts, counted on each device:
    [[0 1 0 1] [2 3 2 3]].
    """
    N = config.accumulate
    rows = config.pairs // N // shards  # of a device, in a micro-batch
    # [device, N, rows] -> [N, device x rows]
    pairs = np.arange(config.pairs).reshape(shards, N, rows)
    pairs = pairs.swapaxes(0, 1).reshape(N, shards * rows)
    places = {
        (int(pairs[n, b]), answer): (n, b, 0, answer + 1)
        for n, b in np.ndindex(pairs.shape)
        for answer in (0, 1)
    }
    return Plan(
        shape=(N, shards * rows, 2 * config.max_answer_tokens),
        places=places,
        prompt_of_row=(pairs % (config.pairs // shards)).astype(np.int32),
        used=N,
        copies=1,
    )


def pair_batch_of(
    config: ModelConfig, stage: Preference, *, ref: bool = False
) -> PolicyBatch:
    """Returns the shapes of what `pair_batch` makes on the current mesh, with `shift`.

    ref: with the log-probabilities of the reference.
    """
    plan = plan_pairs(stage, TRAIN.shards("batch"))
    return PolicyBatch(
        prompts=prompt_batch_of(
            config, stage.pairs, stage.max_prompt_tokens, stage.tiles
        ),
        rows=empty_rows(plan, jax.ShapeDtypeStruct, ref=ref),
        used=jax.ShapeDtypeStruct((), np.int32),
        numbers={"shift": jax.ShapeDtypeStruct((), np.float32)},
    )


def pair_batch(
    pairs: list[EncodedPair], config: Preference, processor: Processor, shards: int
) -> PolicyBatch:
    """Returns the arrays of one update, for rows that are split over `shards` devices.

    tokens         [ c   c  end  r   r   r  end  - ]    one row
    positions      [ 5   6   7   5   6   7   8   0 ]    behind a prompt of 5 tokens
    segment_ids    [ 1   1   1   2   2   2   2   0 ]
    loss_weights   [1/n 1/n 1/n  0   0   0   0   0 ]    n: chosen tokens of the whole step
    advantages     [ 1   1   1  -1  -1  -1  -1   0 ]
    """
    plan = plan_pairs(config, shards)
    rows = empty_rows(plan)
    rows = dataclasses.replace(rows, prompt_of_row=plan.prompt_of_row)
    rows.tokens[:] = processor.tokenizer.pad_token_id
    chosen_tokens = sum(len(pair.chosen) for pair in pairs)
    for p, pair in enumerate(pairs):
        start = 0
        for answer, tokens in enumerate((pair.chosen, pair.rejected)):
            n, b, first, segment = plan.places[p, answer]
            start += first
            place = (n, b, slice(start, start + len(tokens)))
            rows.tokens[place] = tokens
            rows.positions[place] = len(pair.tokens) + np.arange(len(tokens))
            rows.segment_ids[place] = segment
            rows.advantages[place] = -1.0 if answer else 1.0
            rows.loss_weights[place] = 0.0 if answer else 1.0 / chosen_tokens
            start += len(tokens)
    prompts = prompt_batch(
        pairs,
        processor,
        max_prompt_tokens=config.max_prompt_tokens,
        tiles=config.tiles,
    )
    return PolicyBatch(prompts=prompts, rows=rows, used=np.int32(plan.used))


# -------------------------------------------------------------------------------------------------
# gradient


def gradients(model: Callable, params, batch: PolicyBatch, *, config: Preference):
    """Returns the gradients and metrics of a whole batch, for `train.update.make_update`."""

    def loss(model: R1V3, read, rows: SampleRows):
        return pair_loss(model, read, rows, batch.numbers["shift"], config)

    return shared_prompts.gradients(loss, model, params, batch, config.prompt_parts)


def pair_loss(
    model: R1V3,
    read: tuple[jax.Array, PromptCache],
    rows: SampleRows,
    shift: jax.Array,
    config: Preference,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of a micro-batch of pairs, and means over the pairs of the step.

    read: the prompts, as `train.logprobs.read_prompts` returns them.
    """
    # 1. The reward of each answer, float32[B]: a row is a pair.
    logprobs, _ = sample_logprobs(model, read, rows)
    chosen = config.beta * log_ratios(logprobs, rows, rows.advantages > 0)
    rejected = config.beta * log_ratios(logprobs, rows, rows.advantages < 0)

    # 2. The loss.
    generation = cross_entropy(logprobs, rows.loss_weights)
    weight = 1.0 / config.pairs
    loss, metrics = config.loss(chosen, rejected, shift, weight, generation)

    # 3. What is logged.
    margins = chosen - rejected
    metrics["rewards/chosen"] = weight * jnp.sum(chosen)
    metrics["rewards/rejected"] = weight * jnp.sum(rejected)
    metrics["rewards/margin"] = weight * jnp.sum(margins)
    metrics["rewards/accuracy"] = weight * jnp.sum(margins > 0, dtype=jnp.float32)
    return loss, metrics


def log_ratios(
    logprobs: jax.Array, rows: SampleRows, is_counted: jax.Array
) -> jax.Array:
    """Returns log p - log p_ref of each row, summed over the tokens that count, float32[B].

    The difference is taken token by token: those are small, and their sum keeps its digits.
    """
    # Padding may hold anything: it is left out, not multiplied.
    ratios = jnp.where(is_counted, logprobs - rows.ref_logprobs, 0.0)
    return jnp.sum(ratios, axis=1)
