"""Prompts -> groups of completions -> rewards -> advantages -> the arrays of one policy update.

Sampled ids are kept end to end: text is decoded for the verifier and the log, and never encoded
again.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from r1v3_jax import rewards
from r1v3_jax.config import GRPO
from r1v3_jax.data import (
    Encoded,
    Encoder,
    PromptBatch,
    Tiles,
    TileSlots,
    place,
    place_images,
    prompt_batch,
    split,
)
from r1v3_jax.losses import group_advantages, token_weights
from r1v3_jax.models.r1v3 import for_decoding
from r1v3_jax.sampler import Completions, Sampling, decode, prefill
from r1v3_jax.types import Batch, Example, PolicyBatch

# With fewer slots than samples, how often the finished ones are taken off the device in a rollout.
LOOKS = 4


@dataclasses.dataclass(frozen=True)
class Group:
    """One prompt and its G samples, on the host.

    prompt: as encoded. tokens int32[G, C], lengths int32[G], ...: see `sampler.Completions`. busy:
    of its rollout, the tokens sampled for each of the decode slots in each of the steps.
    """

    example: Example
    prompt: Encoded
    completions: Completions
    texts: list[str]
    scores: list[rewards.Score]
    busy: float

    @property
    def rewards(self) -> np.ndarray:
        """float32[G]; nan where the verifier failed."""
        return np.asarray([np.nan if s.total is None else s.total for s in self.scores], np.float32)

    @property
    def has_signal(self) -> bool:
        known = self.rewards[~np.isnan(self.rewards)]
        return len(known) > 1 and bool(known.max() > known.min())


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Everything that stays the same from rollout to rollout."""

    encoder: Encoder
    sampling: Sampling
    max_prompt_tokens: int
    tiles: int
    group_size: int
    slots: int = 0  # samples decoded at a time; 0: all

    def groups(
        self,
        model,
        examples: list[Example],
        key,
        limit: int,
        *,
        accuracy_weight: float = 0.8,
        verifier=None,
    ) -> list[Group]:
        """Samples `group_size` completions of each example and scores them, those that are finished
        while others are sampled.

        `model`: laid out for decoding (`r1v3.for_decoding`).
        """
        prompts, encoded = prompt_batch(
            examples, self.encoder, max_prompt_tokens=self.max_prompt_tokens, tiles=self.tiles
        )
        answers = [example.answer for example in examples for _ in range(self.group_size)]
        count, tokenizer = len(answers), self.encoder.tokenizer
        texts, scores, share = [None] * count, [None] * count, my_share(count)
        for look in self.looks(model, prompts, key, limit):
            completions, finished, steps = look
            new = [i for i in np.flatnonzero(finished) if texts[i] is None]
            for i in new:
                ids = completions.tokens[i, : completions.lengths[i]]
                texts[i] = self.encoder.prefill + tokenizer.decode(ids, skip_special=True)
            mine = [i for i in new if share.start <= i < share.stop]
            found = rewards.score_all(
                [texts[i] for i in mine],
                [answers[i] for i in mine],
                [completions.ended[i] for i in mine],
                accuracy_weight=accuracy_weight,
                verifier=verifier,
            )
            for i, score in zip(mine, found, strict=True):
                scores[i] = score
        scores = gather_scores(scores[share], count, accuracy_weight)
        busy = float(completions.lengths.sum() / ((self.slots or count) * steps))
        out = []
        for p, example in enumerate(examples):
            rows = slice(p * self.group_size, (p + 1) * self.group_size)
            mine = jax.tree.map(lambda x, rows=rows: x[rows], completions)
            out.append(Group(example, encoded[p], mine, texts[rows], scores[rows], busy))
        return out

    def looks(self, model, prompts: PromptBatch, key, limit: int):
        """Samples; gives the completions, which of them are finished, bool[N], and the steps made
        so far, on the host. Once, when all are finished; with fewer slots than samples LOOKS times,
        and while the caller works on what it was given the devices sample on.
        """
        sampling, count = self.sampling, len(prompts.tokens) * self.group_size
        sampling.check(model.config, prompts.tokens.shape[1])
        prompts = place(prompts, model.compute.rules, jax.sharding.get_mesh())
        images = None if prompts.tiles is None else encode_images(model, prompts.tiles)
        state = prefill(
            model, prompts.tokens, prompts.lengths, images, prompts.image_index,
            group_size=self.group_size, slots=self.slots, sampling=sampling,
        )  # fmt: skip

        def until(finished, state):
            bounds = jnp.int32(np.int32(limit)), jnp.int32(np.int32(finished))
            return decode(model, state, key, *bounds, sampling=sampling)

        def seen(state):  # copies: the state itself is given away to the next call
            return fetch((state.completions, state.finished, state.step))

        looks = LOOKS if 0 < self.slots < count else 1
        state = until(count // looks, state)
        for look in range(2, looks + 1):
            given = seen(state)
            state = until(count * look // looks, state)
            yield given
        yield seen(state)


@jax.jit
def encode_images(model, tiles):
    """float32[1, I, S, S, 3] -> float[I, M, D]."""
    return model.encode_images(tiles[0])


def fetch(tree):
    """Arrays of a computation, whole, on the host of every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def my_share(count: int) -> slice:
    """Which of `count` samples this process scores: equal blocks, the last one shorter."""
    size = -(-count // jax.process_count())
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def gather_scores(
    mine: list[rewards.Score], count: int, accuracy_weight: float
) -> list[rewards.Score]:
    """The scores of all `count` samples in order, from each process's share. Of the others' a
    process learns verdict and format, not what was extracted and why.
    """
    if jax.process_count() == 1:
        return mine
    verdicts = list(rewards.Verdict)
    table = np.zeros((-(-count // jax.process_count()), 2), np.float32)  # equal on all processes
    for row, score in zip(table, mine, strict=False):
        row[:] = verdicts.index(score.verdict), score.format
    table = multihost_utils.process_allgather(table, tiled=True)[:count]
    return [
        rewards.scored(verdicts[int(verdict)], float(form), accuracy_weight)
        for verdict, form in table
    ]


def collect(
    sampler: Sampler,
    model,
    source: Callable[[int], Example],
    cursor: int,
    key,
    config: GRPO,
    limit: int,
    verifier=None,
) -> tuple[list[Group], int, dict[str, float]]:
    """P groups for one step, the source's next index, and counts.

    With `config.refills`, groups whose rewards are all equal are replaced by later prompts, as long
    as refills last (dynamic sampling); what is still missing is filled up with groups without
    signal.
    """
    model = for_decoding(model)
    kept: list[Group] = []
    idle: list[Group] = []
    passes = 0
    while len(kept) < config.prompts and passes <= config.refills:
        examples = [source(cursor + i) for i in range(config.prompts)]
        cursor += config.prompts
        groups = sampler.groups(
            model, examples, jax.random.fold_in(key, passes), limit,
            accuracy_weight=config.accuracy_weight, verifier=verifier,
        )  # fmt: skip
        passes += 1
        for group in groups:
            (kept if group.has_signal or not config.refills else idle).append(group)
    seen = len(kept) + len(idle)
    without = sum(not group.has_signal for group in kept) + len(idle)
    stats = {"frac_reward_zero_std": without / seen, "rollout_passes": passes}
    return (kept + idle)[: config.prompts], cursor, stats


def policy_batch(groups: list[Group], config: GRPO, encoder: Encoder) -> PolicyBatch:
    """The arrays of one update: a row a sample, prompt and completion side by side, N
    micro-batches.

    Samples whose verifier failed have no advantage and no weight, and no part in their group's
    mean.
    """
    G, length = config.group_size, config.max_prompt_tokens + config.max_completion_tokens
    shape = (len(groups) * G, length)
    ints = {name: np.zeros(shape, np.int32) for name in ("tokens", "positions", "segment_ids")}
    ints["tokens"][:] = encoder.tokenizer.pad_token_id
    image_index, mask = np.full(shape, -1, np.int32), np.zeros(shape, bool)
    sampled, advantages = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    reward = np.stack([group.rewards for group in groups])
    advantage = group_advantages(reward, ~np.isnan(reward), divide_by_std=config.divide_by_std)
    per_micro = len(groups) // config.accumulate
    tiles: list[list[Tiles]] = [[] for _ in range(config.accumulate)]
    for p, group in enumerate(groups):
        mine, prompt, start = tiles[p // per_micro], group.prompt, len(group.prompt.tokens)
        for g in range(G):
            row, size = p * G + g, int(group.completions.lengths[g])
            end = start + size
            ints["tokens"][row, :start] = prompt.tokens
            ints["tokens"][row, start:end] = group.completions.tokens[g, :size]
            ints["positions"][row, :end] = np.arange(end)
            ints["segment_ids"][row, :end] = 1
            place_images(image_index[row, :start], prompt, sum(map(len, mine)), encoder)
            if not np.isnan(reward[p, g]):
                mask[row, start:end] = group.completions.chosen[g, :size]
            sampled[row, start:end] = group.completions.logprobs[g, :size]
            advantages[row, start:end] = advantage[p, g]
        mine.append(prompt.tiles)
    with_images = encoder.config.vision is not None
    slots = (config.update_tiles or config.tiles) // config.accumulate
    batch = Batch(
        loss_weights=token_weights(mask, config.aggregation, config.max_completion_tokens),
        image_index=image_index if with_images else None,
        **ints,
    )
    batch = split(batch, config.accumulate)
    if with_images:
        size = encoder.config.vision.image_size
        batch = dataclasses.replace(batch, tiles=TileSlots(tiles, slots, size))
    per_part = lambda x: x.reshape(config.accumulate, -1, length)  # noqa: E731
    return PolicyBatch(
        batch=batch, advantages=per_part(advantages), sampler_logprobs=per_part(sampled)
    )


def statistics(groups: list[Group], limit: int) -> dict[str, float]:
    """Means over the samples of a step, under the names that users of TRL know."""
    scores = [score for group in groups for score in group.scores]
    known = [score for score in scores if score.total is not None]
    lengths = np.concatenate([group.completions.lengths for group in groups])
    ended = np.concatenate([group.completions.ended for group in groups])
    reward = np.asarray([score.total for score in known] or [0.0])
    return {
        "reward": float(reward.mean()),
        "reward_std": float(reward.std()),
        "accuracy": float(np.mean([score.accuracy for score in known] or [0.0])),
        "format": float(np.mean([score.format for score in known] or [0.0])),
        "verifier_errors": len(scores) - len(known),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(1 - ended.mean()),
        "slots/busy": float(np.mean([group.busy for group in groups])),
        "length_limit": limit,
    }


def rows(groups: list[Group]) -> list[dict]:
    """One JSON row a sample, for the rollouts file."""
    out = []
    for group in groups:
        for g, (text, score) in enumerate(zip(group.texts, group.scores, strict=True)):
            size = int(group.completions.lengths[g])
            out.append(
                {
                    "id": group.example.id,
                    "sample": g,
                    "images": len(group.example.images),
                    "prompt": group.example.question,
                    "completion": text,
                    "answer": group.example.answer,
                    "reward": score.total,
                    "accuracy": score.accuracy,
                    "format": score.format,
                    "verdict": score.verdict.name.lower(),
                    "tokens": group.completions.tokens[g, :size].tolist(),
                    "logprobs": [round(float(x), 6) for x in group.completions.logprobs[g, :size]],
                    "entropies": [
                        round(float(x), 6) for x in group.completions.entropies[g, :size]
                    ],
                }
            )
    return out
