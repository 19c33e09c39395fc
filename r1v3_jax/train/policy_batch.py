"""Groups -> the arrays of one policy update; packing."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import GRPO, ModelConfig
from r1v3_jax.data.abstract import prompt_batch_of
from r1v3_jax.data.prompts import prompt_batch
from r1v3_jax.losses.advantages import group_advantages, token_weights
from r1v3_jax.processing.processor import Processor
from r1v3_jax.rollout.group import Group
from r1v3_jax.sharding import TRAIN
from r1v3_jax.types import PolicyBatch, SampleRows


def policy_batch_of(
    config: ModelConfig,
    stage: GRPO,
    length: int,
    tiles: int,
    *,
    old: bool = False,
    ref: bool = False,
) -> PolicyBatch:
    """The shapes of what `rollout.policy_batch` makes on the current mesh, of prompts padded to
    `length` tokens, with `tiles` tile slots.
    """
    full = np.full((stage.prompts, stage.group_size), stage.max_completion_tokens)
    plan = pack(full, stage)
    ints, floats = (
        jax.ShapeDtypeStruct(plan.shape, x) for x in (jnp.int32, jnp.float32)
    )
    rows = SampleRows(
        prompt_of_row=jax.ShapeDtypeStruct(plan.prompt_of_row.shape, jnp.int32),
        tokens=ints,
        positions=ints,
        segment_ids=ints,
        loss_weights=floats,
        advantages=floats,
        sampler_logprobs=floats,
        old_logprobs=floats if old else None,
        ref_logprobs=floats if ref else None,
    )
    prompts = prompt_batch_of(config, stage.prompts * plan.copies, length, tiles)
    return PolicyBatch(
        prompts=prompts, rows=rows, used=jax.ShapeDtypeStruct((), jnp.int32)
    )


def policy_batch(
    groups: list[Group], config: GRPO, processor: Processor
) -> PolicyBatch:
    """The arrays of one update, for the current mesh: each prompt once, its samples packed into
    rows behind it.

    Samples whose verifier failed have no advantage and no weight, and no part in their group's
    mean.
    """
    C = config.max_completion_tokens
    plan = pack(np.stack([group.completions.lengths for group in groups]), config)
    shape = plan.shape
    out = {
        name: np.zeros(shape, np.int32)
        for name in ("tokens", "positions", "segment_ids")
    }
    out["tokens"][:] = processor.tokenizer.pad_token_id
    numbers = ("loss_weights", "advantages", "sampler_logprobs")
    out |= {name: np.zeros(shape, np.float32) for name in numbers}

    reward = np.stack([group.rewards for group in groups])
    advantage = group_advantages(
        reward, ~np.isnan(reward), divide_by_std=config.divide_by_std
    )
    chosen = np.stack([group.completions.chosen for group in groups])
    lengths = np.stack([group.completions.lengths for group in groups])
    learnt = chosen & (np.arange(C) < lengths[..., None]) & ~np.isnan(reward)[..., None]
    weights = token_weights(learnt.reshape(-1, C), config.aggregation, C).reshape(
        learnt.shape
    )

    for (p, g), (n, b, start, segment) in plan.places.items():
        group, size = groups[p], int(lengths[p, g])
        at = n, b, slice(start, start + size)
        out["tokens"][at] = group.completions.tokens[g, :size]
        out["positions"][at] = len(group.prompt.tokens) + np.arange(size)
        out["segment_ids"][at] = segment
        out["loss_weights"][at] = weights[p, g, :size]
        out["advantages"][at] = advantage[p, g]
        out["sampler_logprobs"][at] = group.completions.logprobs[g, :size]
    prompts = prompt_batch(
        [group.prompt for group in groups], processor,
        max_prompt_tokens=config.max_prompt_tokens, tiles=config.tiles, buckets=config.buckets,
    )  # fmt: skip
    again = {
        name: np.repeat(x, plan.copies, axis=0)
        for name in ("tokens", "lengths", "image_index")
        if (x := getattr(prompts, name)) is not None
    }
    return PolicyBatch(
        prompts=dataclasses.replace(prompts, **again),
        rows=SampleRows(prompt_of_row=plan.prompt_of_row, **out),
        used=np.int32(plan.used),
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the samples of a step lie. shape: N micro-batches of B rows of T tokens.

    places: sample g of prompt p -> micro-batch, row, first token, segment. owner: see `SampleRows`.
    used: micro-batches that hold a sample. copies: rows each prompt takes, so that every device
    that has some of its samples has the prompt.
    """

    shape: tuple[int, int, int]
    places: dict[tuple[int, int], tuple[int, int, int, int]]
    prompt_of_row: np.ndarray
    used: int
    copies: int


BLOCK = 4  # rows side by side that share a prompt, at most: with more, short groups leave some empty


def pack(lengths: np.ndarray, config: GRPO) -> Plan:
    """Packs samples of int[P, G] lengths, for the current mesh.

    A sample lies with its prompt on one of the devices that rows are dealt out to. There, a
    prompt's samples go into the first row with room, the longest first, and its rows are cut into
    blocks; the blocks fill the micro-batches from the first on.

        prompt p   [a a a a a b b]  [c c c c d d d]  [e e - - - - -]  [- - - - - - -]
                   --------------- a block ---------------------------------------
    """
    P, G = lengths.shape
    N, T, shards = (
        config.accumulate,
        config.max_completion_tokens,
        TRAIN.shards("batch"),
    )
    copies = max(shards // P, 1)
    mine = G // copies  # samples of a copy
    rows = P * G // N // shards  # of a device, in a micro-batch
    block = math.gcd(math.gcd(rows, mine), BLOCK)
    blocks = rows // block
    prompt_of_row = np.zeros((N, shards * blocks), np.int32)
    places, used = {}, 0
    prompts = P * copies // shards  # of a device, copies counted
    for device in range(shards):
        filled = 0  # blocks of this device
        for local in range(prompts):
            p, copy = divmod(device * prompts + local, copies)
            samples = range(copy * mine, (copy + 1) * mine)
            packed = first_fit([int(lengths[p, g]) for g in samples], T)
            for first in range(0, len(packed), block):
                n, slot = divmod(filled, blocks)
                prompt_of_row[n, device * blocks + slot] = local
                for k, row in enumerate(packed[first : first + block]):
                    b, at = device * rows + slot * block + k, 0
                    for segment, i in enumerate(row, start=1):
                        places[p, samples[i]] = (n, b, at, segment)
                        at += int(lengths[p, samples[i]])
                filled += 1
        used = max(used, -(-filled // blocks))
    return Plan((N, shards * rows, T), places, prompt_of_row, used, copies)


def first_fit(sizes: list[int], room: int) -> list[list[int]]:
    """Indices of `sizes`, in rows of at most `room` in sum: the largest first, each into the first
    row it fits.
    """
    rows, left = [], []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        r = next((r for r, free in enumerate(left) if sizes[i] <= free), len(rows))
        if r == len(rows):
            rows.append([])
            left.append(room)
        rows[r].append(i)
        left[r] -= sizes[i]
    return rows
