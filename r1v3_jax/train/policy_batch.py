"""Groups -> the arrays of one policy update: each prompt once, its samples packed behind it."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from r1v3_jax.config import GRPO, ModelConfig
from r1v3_jax.data.abstract import prompt_batch_of
from r1v3_jax.data.prompts import prompt_batch
from r1v3_jax.losses import Part
from r1v3_jax.processing.processor import Processor
from r1v3_jax.rollout.group import Group
from r1v3_jax.sharding import TRAIN
from r1v3_jax.train.strengths import numbers_at
from r1v3_jax.types import PolicyBatch, PromptBatch, SampleRows

# Rows side by side that share a prompt, at most: with more, short groups leave some empty.
BLOCK = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the samples of a step are stored."""

    shape: tuple[int, int, int]  # N micro-batches of B rows of T tokens
    # Sample g of prompt p: (p, g) -> micro-batch, row, first token, segment.
    places: dict[tuple[int, int], tuple[int, int, int, int]]
    prompt_of_row: np.ndarray  # see `SampleRows`
    used: int  # micro-batches that hold a sample
    # Rows that each prompt takes, so that every device with some of its samples has the prompt.
    copies: int


def empty_rows(
    plan: Plan, new: Callable = np.zeros, *, old: bool = False, ref: bool = False
) -> SampleRows:
    """Returns SampleRows of zeros; with new=jax.ShapeDtypeStruct their shapes alone.

    old, ref: whether they have `old_logprobs` and `ref_logprobs`.
    """

    def ints():
        return new(plan.shape, np.int32)

    def floats():
        return new(plan.shape, np.float32)

    return SampleRows(
        prompt_of_row=new(plan.prompt_of_row.shape, np.int32),
        tokens=ints(),
        positions=ints(),
        segment_ids=ints(),
        loss_weights=floats(),
        advantages=floats(),
        sampler_logprobs=floats(),
        old_logprobs=floats() if old else None,
        ref_logprobs=floats() if ref else None,
    )


def policy_batch_of(
    config: ModelConfig,
    stage: GRPO,
    length: int,
    tiles: int,
    *,
    old: bool = False,
    ref: bool = False,
) -> PolicyBatch:
    """Returns the shapes of what `policy_batch` makes on the current mesh.

    length: tokens that prompts are padded to. tiles: tile slots.
    """
    full = np.full((stage.prompts, stage.group_size), stage.max_completion_tokens)
    plan = pack(full, stage)
    return PolicyBatch(
        prompts=prompt_batch_of(config, stage.prompts * plan.copies, length, tiles),
        rows=empty_rows(plan, jax.ShapeDtypeStruct, old=old, ref=ref),
        used=jax.ShapeDtypeStruct((), np.int32),
        numbers={
            name: jax.ShapeDtypeStruct((), np.float32)
            for name in numbers_at(stage, progress=0.0)
        },
    )


def policy_batch(
    groups: list[Group],
    config: GRPO,
    processor: Processor,
    *,
    seed: tuple[int, ...] = (0,),
    progress: float = 0.0,
    entropy_coef: float = 0.0,
) -> PolicyBatch:
    """Returns the arrays of one update, for the current mesh.

    Samples whose verifier failed have no advantage and no weight, and no part in their group's
    mean. seed: of what the weights of samples draw, the same on every host. progress: of the stage,
    0 to 1. entropy_coef: of an adaptive bonus, at this step.
    """
    # 1. Advantages, float32[P, G, C], and the weight of each token, float32[P, G, C].
    lengths = np.stack([group.completions.lengths for group in groups])
    advantages, weights = credits(groups, lengths, config, np.random.default_rng(seed))

    # 2. Each sample goes to its place.
    plan = pack(lengths, config)
    rows = empty_rows(plan)
    rows = dataclasses.replace(rows, prompt_of_row=plan.prompt_of_row)
    rows.tokens[:] = processor.tokenizer.pad_token_id
    for (p, g), (n, b, start, segment) in plan.places.items():
        group = groups[p]
        size = int(lengths[p, g])
        place = (n, b, slice(start, start + size))
        rows.tokens[place] = group.completions.tokens[g, :size]
        rows.positions[place] = len(group.prompt.tokens) + np.arange(size)
        rows.segment_ids[place] = segment
        rows.loss_weights[place] = weights[p, g, :size]
        rows.advantages[place] = advantages[p, g, :size]
        rows.sampler_logprobs[place] = group.completions.logprobs[g, :size]

    # 3. The prompts, each as often as devices share its samples.
    prompts = prompt_batch(
        [group.prompt for group in groups],
        processor,
        max_prompt_tokens=config.max_prompt_tokens,
        tiles=config.tiles,
        buckets=config.buckets,
    )
    return PolicyBatch(
        prompts=repeat_prompts(prompts, plan.copies),
        rows=rows,
        used=np.int32(plan.used),
        numbers=numbers_at(config, progress, entropy_coef),
    )


def credits(
    groups: list[Group],
    lengths: np.ndarray,
    config: GRPO,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the advantage and the weight of each token, float32[P, G, C] each.

    Learnt from are tokens that the model chose (not those that were forced), within the sample's
    length, of samples with a reward.
    """
    # 1. Advantages of samples, and how often each counts.
    rewards = np.stack([group.rewards for group in groups])
    valid = ~np.isnan(rewards)
    ended = np.stack([group.completions.ended for group in groups])
    parts = reward_parts(groups, config.reward.names)
    advantages = config.advantage(rewards, valid, lengths, parts)
    times = config.sample_weight(advantages, ended, valid, random)

    # 2. Weights of tokens.
    max_tokens = config.max_completion_tokens
    chosen = np.stack([group.completions.chosen for group in groups])
    is_sampled = np.arange(max_tokens) < lengths[..., None]
    learnt = chosen & is_sampled & valid[..., None]
    weights = config.aggregation(
        learnt.reshape(-1, max_tokens), max_tokens, times.ravel()
    )

    # 3. Tokens that the advantage does not push have none; they stay in the KL term.
    entropies = np.stack([group.completions.entropies for group in groups])
    is_pushed = config.tokens(entropies, learnt) | ~learnt
    pushes = np.where(is_pushed, advantages[..., None], 0.0).astype(np.float32)
    return pushes, weights.reshape(learnt.shape)


def reward_parts(groups: list[Group], names: tuple[str, ...]) -> list[Part]:
    """Returns what each term of the reward said of the samples of a step, and its weights."""

    def table(of_sample: Callable) -> np.ndarray:  # float64[P, G]
        return np.array([[of_sample(s) for s in group.scores] for group in groups])

    return [
        Part(
            said=table(lambda score, name=name: score.parts.get(name, np.nan)),
            weights=table(lambda score, name=name: score.weights.get(name, 0.0)),
        )
        for name in names
    ]


def of_samples(
    table: np.ndarray, groups: list[Group], config: GRPO
) -> list[list[np.ndarray]]:
    """Takes the tokens of each sample, [length], out of an array of `SampleRows`, [N, B, T].

    The result has P lists of G arrays. Call it with the mesh that the batch was made for.
    """
    lengths = np.stack([group.completions.lengths for group in groups])
    places = pack(lengths, config).places
    samples = [[None] * lengths.shape[1] for _ in groups]
    for (p, g), (n, b, start, _) in places.items():
        samples[p][g] = table[n, b, start : start + int(lengths[p, g])]
    return samples


def repeat_prompts(prompts: PromptBatch, copies: int) -> PromptBatch:
    """Repeats each prompt `copies` times, side by side; their tiles are shared."""
    repeated = {}
    for name in ("tokens", "lengths", "image_index"):
        array = getattr(prompts, name)
        if array is not None:
            repeated[name] = np.repeat(array, copies, axis=0)
    return dataclasses.replace(prompts, **repeated)


def busy_rows(batch: PolicyBatch) -> float:
    """Returns the share of the tokens that an update computes, prompts aside, that were sampled."""
    # Segment 0 is padding. Micro-batches beyond `used` are not computed.
    is_sampled = batch.rows.segment_ids > 0
    computed = batch.used * is_sampled[0].size
    return float(is_sampled.sum() / computed)


def pack(lengths: np.ndarray, config: GRPO) -> Plan:
    """Plans where samples of int[P, G] lengths go, for the current mesh.

    A sample is stored with its prompt, on one of the devices that rows are split over. There, a
    prompt's samples go into the first row with room, the longest first, and its rows are cut into
    blocks; the blocks fill the micro-batches from the first on.

        prompt p   [a a a a a b b]  [c c c c d d d]  [e e - - - - -]  [- - - - - - -]
                   --------------- a block ---------------------------------------

    Example: P = 4 prompts of G = 4 samples with lengths [5 1 4 2], rows of T = 8 tokens, N = 2
    micro-batches, 2 devices. A device has 2 prompts and, in a micro-batch, 4 rows: one block. Each
    prompt packs into the rows [5 2 1] [4]. So the first prompt of each device fills micro-batch 0,
    the second micro-batch 1: used = 2.
    """
    # 1. How much a device has.
    P, G = lengths.shape
    N = config.accumulate
    T = config.max_completion_tokens
    shards = TRAIN.shards("batch")
    copies = max(shards // P, 1)
    samples_a_copy = G // copies
    prompts_a_device = P * copies // shards  # copies counted
    rows = P * G // N // shards  # of a device, in a micro-batch
    block = math.gcd(math.gcd(rows, samples_a_copy), BLOCK)
    blocks = rows // block  # of a device, in a micro-batch

    # 2. Each device on its own: prompt by prompt, block by block.
    prompt_of_row = np.zeros((N, shards * blocks), np.int32)
    places = {}
    used = 0
    for device in range(shards):
        filled = 0  # blocks of this device
        for local in range(prompts_a_device):
            p, copy = divmod(device * prompts_a_device + local, copies)
            samples = range(copy * samples_a_copy, (copy + 1) * samples_a_copy)
            packed = first_fit([int(lengths[p, g]) for g in samples], T)
            for first in range(0, len(packed), block):
                n, slot = divmod(filled, blocks)
                prompt_of_row[n, device * blocks + slot] = local
                first_row = device * rows + slot * block
                for b, row in enumerate(packed[first : first + block], start=first_row):
                    start = 0
                    for segment, i in enumerate(row, start=1):
                        g = samples[i]
                        places[p, g] = (n, b, start, segment)
                        start += int(lengths[p, g])
                filled += 1
        used = max(used, -(-filled // blocks))
    return Plan((N, shards * rows, T), places, prompt_of_row, used, copies)


def first_fit(sizes: list[int], room: int) -> list[list[int]]:
    """Packs indices of `sizes` into rows of at most `room`: the largest first, each into the first
    row with room.

        sizes [5 1 4 2], room 8   ->   [[0, 3, 1], [2]]
    """
    rows: list[list[int]] = []
    free: list[int] = []
    # The largest first; of equal sizes the first first, so that the plan is a function of lengths.
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        row = next((r for r, left in enumerate(free) if sizes[i] <= left), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(room)
        rows[row].append(i)
        free[row] -= sizes[i]
    return rows
