"""The yardstick of an update: one that reads a prompt again with each of its samples.

The same loss and the same gradient as `train.policy_gradient`, for prompts of `max_prompt_tokens`
and one tile each.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import GRPO
from r1v3_jax.data import placement
from r1v3_jax.data.prompts import TileSlots, place_images
from r1v3_jax.losses.supervised import weighted_sum
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Processor
from r1v3_jax.rollout.group import Group
from r1v3_jax.sampling.state import Completions
from r1v3_jax.train.logprobs import token_logprobs
from r1v3_jax.types import Batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NaiveBatch:
    """N micro-batches of B rows: a row is a sample, prompt and completion side by side."""

    batch: Batch
    advantages: np.ndarray  # float32[N, B, T]
    sampler_logprobs: np.ndarray  # float32[N, B, T]


def naive_batch(groups: list[Group], config: GRPO, processor: Processor) -> NaiveBatch:
    """Returns the arrays of one update, which has every prompt as often as it has samples.

    P prompts of T tokens, G samples of at most C tokens each, in N micro-batches. Rows are made as
    [P x G, T + C] and then split.
    """
    parts = config.accumulate
    samples = _joined(groups)
    is_sampled = np.arange(config.max_completion_tokens) < samples.lengths[:, None]
    rewards = np.stack([group.rewards for group in groups])
    lengths = samples.lengths.reshape(rewards.shape)
    advantages = config.advantage(rewards, ~np.isnan(rewards), lengths)

    def join(prompts, completions):  # [P, T] or a number, [P x G, C] -> [P x G, T + C]
        shape = (len(groups), config.max_prompt_tokens)
        prompts = np.broadcast_to(prompts, shape)
        repeated = np.repeat(prompts, config.group_size, axis=0)
        return np.concatenate([repeated, completions], axis=1)

    # 1. Tokens; the positions count on from the prompt to the sample.
    prompt_tokens = np.stack([group.prompt.tokens for group in groups])
    padding = processor.tokenizer.pad_token_id
    sample_tokens = np.where(is_sampled, samples.tokens, padding)
    used = join(True, is_sampled)
    learnt = join(False, is_sampled & samples.chosen)
    batch = Batch(
        tokens=join(prompt_tokens, sample_tokens),
        positions=np.where(used, np.arange(used.shape[1]), 0).astype(np.int32),
        segment_ids=used.astype(np.int32),
        loss_weights=config.aggregation(
            learnt, config.max_completion_tokens, np.ones(len(learnt))
        ),
    )

    # 2. Images. The tiles of a micro-batch are those of its prompts.
    vision = processor.config.vision
    if vision is not None:
        index = _image_index(groups, config, processor)
        no_images = np.full_like(samples.tokens, -1)
        batch = dataclasses.replace(batch, image_index=join(index, no_images))
    batch = placement.split(batch, parts)
    if vision is not None:
        prompts = len(groups) // parts  # of a micro-batch
        tiles = [group.prompt.tiles for group in groups]
        tiles_of_parts = []
        for start in range(0, parts * prompts, prompts):
            tiles_of_parts.append(tiles[start : start + prompts])
        slots = TileSlots(tiles_of_parts, prompts, vision.image_size)
        batch = dataclasses.replace(batch, tiles=slots)

    # 3. A number of each sampled token.
    def of_samples(numbers):
        masked = np.float32(is_sampled * numbers)
        return join(np.float32(0), masked).reshape(parts, -1, used.shape[1])

    return NaiveBatch(
        batch=batch,
        advantages=of_samples(advantages.reshape(-1, 1)),
        sampler_logprobs=of_samples(samples.logprobs),
    )


def _joined(groups: list[Group]) -> Completions:
    """Returns the samples of all groups, one after the other: arrays [P x G, ...]."""
    completions = [group.completions for group in groups]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *completions)


def _image_index(groups: list[Group], config: GRPO, processor: Processor) -> np.ndarray:
    """Returns which image embedding of its micro-batch each prompt token stands for, int32[P, T].

    -1 is none. With 8 prompts in 2 micro-batches the prompts 0 and 4 have tile slot 0.
    """
    index = np.full((len(groups), config.max_prompt_tokens), -1, np.int32)
    prompts = len(groups) // config.accumulate
    for p, group in enumerate(groups):
        place_images(index[p], group.prompt, p % prompts, processor)
    return index


def naive_loss(
    model: R1V3, micro: NaiveBatch, *, config: GRPO
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns `train.policy_gradient.policy_loss` of such rows, strictly on-policy, without KL."""
    weights = micro.batch.loss_weights
    logprobs, entropy = token_logprobs(
        model, micro.batch, temperature=config.temperature
    )
    old = jax.lax.stop_gradient(logprobs)
    segments = micro.batch.segment_ids
    loss, metrics = config.loss(logprobs, old, micro.advantages, weights, segments)
    gap = jnp.abs(old - micro.sampler_logprobs)
    metrics["sampler_gap"] = weighted_sum(gap, weights)
    metrics["policy_entropy"] = weighted_sum(entropy, weights)
    return loss, metrics
