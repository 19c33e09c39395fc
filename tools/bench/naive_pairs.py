"""The yardstick of a Preference step: one that reads a prompt again with each of its two answers.

The same loss and the same gradient as `train.preference`, for prompts with one tile each.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import Preference
from r1v3_jax.data import placement
from r1v3_jax.data.prompts import TileSlots, place_images
from r1v3_jax.losses.supervised import cross_entropy
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import EncodedPair, Processor
from r1v3_jax.train.logprobs import token_logprobs
from r1v3_jax.train.update import micro_batch
from r1v3_jax.types import Batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NaivePairs:
    """N micro-batches of B rows: row 2p is the chosen answer of pair p, row 2p + 1 the rejected."""

    batch: Batch  # prompt and answer side by side; its loss weights are those of chosen tokens
    is_answer: np.ndarray  # bool[N, B, T]
    ref_logprobs: np.ndarray | None = None  # float32[N, B, T], once they are computed


def naive_pair_batch(
    pairs: list[EncodedPair], config: Preference, processor: Processor
) -> NaivePairs:
    """Returns the arrays of one update, which has every prompt twice.

    P pairs of prompts of at most S tokens and answers of at most C, in N micro-batches. Rows are
    made as [2P, S + C] and then split: with 4 pairs and N = 2, pairs 0 and 1 are rows 0 to 3 of the
    first micro-batch, and their tiles its slots 0 and 1.
    """
    parts = config.accumulate
    pairs_of_part = len(pairs) // parts
    shape = (2 * len(pairs), config.max_prompt_tokens + config.max_answer_tokens)
    tokens = np.full(shape, processor.tokenizer.pad_token_id, np.int32)
    positions = np.zeros(shape, np.int32)
    segments = np.zeros(shape, np.int32)
    index = np.full(shape, -1, np.int32)
    is_answer = np.zeros(shape, bool)
    weights = np.zeros(shape, np.float32)
    chosen_tokens = sum(len(pair.chosen) for pair in pairs)

    # 1. A row an answer.
    for row in range(len(tokens)):
        pair = pairs[row // 2]
        is_chosen = row % 2 == 0
        answer = pair.chosen if is_chosen else pair.rejected
        start = len(pair.tokens)
        end = start + len(answer)
        tokens[row, :end] = np.concatenate([pair.tokens, answer])
        positions[row, :end] = np.arange(end)
        segments[row, :end] = 1
        is_answer[row, start:end] = True
        weights[row, start:end] = 1 / chosen_tokens if is_chosen else 0
        place_images(index[row, :start], pair, row // 2 % pairs_of_part, processor)
    batch = Batch(
        tokens=tokens, positions=positions, segment_ids=segments, loss_weights=weights
    )

    # 2. Images. The tiles of a micro-batch are those of its prompts: both rows of a pair see one.
    vision = processor.config.vision
    if vision is not None:
        batch = dataclasses.replace(batch, image_index=index)
    batch = placement.split(batch, parts)
    if vision is not None:
        tiles_of_parts = []
        for start in range(0, len(pairs), pairs_of_part):
            part = pairs[start : start + pairs_of_part]
            tiles_of_parts.append([pair.tiles for pair in part])
        slots = TileSlots(tiles_of_parts, pairs_of_part, vision.image_size)
        batch = dataclasses.replace(batch, tiles=slots)
    return NaivePairs(batch=batch, is_answer=is_answer.reshape(batch.tokens.shape))


@jax.jit
def naive_score(model: R1V3, pairs: NaivePairs) -> jax.Array:
    """Returns log p of every token, float32[N, B, T]."""

    def of_micro_batch(i):
        logprobs, _ = token_logprobs(model, micro_batch(pairs.batch, i))
        return logprobs

    return jax.lax.map(of_micro_batch, jnp.arange(len(pairs.is_answer)))


def naive_pair_loss(
    model: R1V3, micro: NaivePairs, *, config: Preference
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `train.preference.pair_loss` of such rows, with a shift of 0."""
    logprobs, _ = token_logprobs(model, micro.batch)
    ratios = jnp.where(micro.is_answer, logprobs - micro.ref_logprobs, 0.0)
    rewards = config.beta * jnp.sum(ratios, axis=1)
    chosen = rewards[0::2]
    rejected = rewards[1::2]
    generation = cross_entropy(logprobs, micro.batch.loss_weights)
    shift = jnp.float32(0)
    return config.loss(chosen, rejected, shift, 1 / config.pairs, generation)
