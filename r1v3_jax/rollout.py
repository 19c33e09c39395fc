"""Prompts -> groups of completions -> rewards -> advantages -> the arrays of one policy update.

Sampled ids are kept end to end: text is decoded for the verifier and the log, and never encoded
again.
"""

import collections
import contextlib
import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from r1v3_jax.config import GRPO, Data, Shaping, Verify
from r1v3_jax.data.placement import fetch, place
from r1v3_jax.data.prompts import prompt_batch
from r1v3_jax.data.reader import Drawn, Reader, told
from r1v3_jax.losses.advantages import group_advantages, token_weights
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing.processor import Encoded, Encoder
from r1v3_jax.rewards import score as rewards_score
from r1v3_jax.rewards import terms
from r1v3_jax.rewards.score import Score, score_all, scored
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict
from r1v3_jax.run import watchdog
from r1v3_jax.sampling.loop import decode, prefill
from r1v3_jax.sampling.params import Sampling
from r1v3_jax.sampling.state import Completions
from r1v3_jax.sharding import TRAIN
from r1v3_jax.types import Example, PolicyBatch, PromptBatch, SampleRows

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
    scores: list[Score]
    busy: float = 1.0

    @property
    def rewards(self) -> np.ndarray:
        """float32[G]; nan where the verifier failed."""
        return np.asarray([np.nan if s.total is None else s.total for s in self.scores], np.float32)

    @property
    def has_signal(self) -> bool:
        known = self.rewards[~np.isnan(self.rewards)]
        return len(known) > 1 and bool(known.max() > known.min())


@dataclasses.dataclass(frozen=True)
class Flight:
    """A rollout under way; see `Sampler.looks`. length: to which its prompts are padded; drawn:
    what it took of a reader.
    """

    examples: list[Example]
    encoded: list[Encoded]
    length: int
    looks: Iterator
    drawn: Drawn = Drawn(0)


@dataclasses.dataclass(frozen=True)
class Collected:
    """The groups of one step, what they took of the reader, and counts for the log. lengths: to
    which the prompts of each pass were padded; ahead: the next rollout, if it was begun.
    """

    groups: list[Group]
    drawn: Drawn
    counts: dict[str, float]
    lengths: list[int]
    ahead: Flight | None


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Everything that stays the same from rollout to rollout."""

    encoder: Encoder
    sampling: Sampling
    max_prompt_tokens: int
    tiles: int
    group_size: int
    verify: Verify = Verify()
    data: Data = Data()
    slots: int = 0  # samples decoded at a time; 0: all
    buckets: tuple[tuple[int, int], ...] = ()  # see `data.prompt_batch`

    def reader(self, source: Callable[[int], Example], prompts: int) -> Reader:
        """The good rows of a source, `prompts` of which are sampled from at a time. Not for
        training: bad rows stop nothing but where they are most of them.
        """
        limits = {"tokens": self.max_prompt_tokens, "tiles": self.tiles // prompts}
        how = dataclasses.replace(self.data, max_drop_fraction=0.5)
        return Reader(source, self.encoder.prompt, how=how, **limits)

    def groups(
        self,
        model,
        examples: list[Example],
        key,
        limit: int,
        *,
        accuracy_weight: float = 0.8,
        progress: float = 1.0,
    ) -> list[Group]:
        """Samples `group_size` completions of each example and scores them, those that are finished
        while others are sampled.

        `model`: laid out for decoding (`r1v3.for_decoding`). accuracy_weight: of rewards, where an
        example has none of its own.
        """
        flight = self.begin(model, examples, key, limit)
        return self.finish(flight, accuracy_weight=accuracy_weight, progress=progress)

    def begin(self, model, examples: list[Example], key, limit: int) -> "Flight":
        """Sends the devices to sample, and does not wait for them."""
        encoded = [self.encoder.prompt(example) for example in examples]
        prompts = prompt_batch(
            encoded, self.encoder,
            max_prompt_tokens=self.max_prompt_tokens, tiles=self.tiles, buckets=self.buckets,
        )  # fmt: skip
        looks = self.looks(model, prompts, key, limit)
        next(looks)
        return Flight(examples, encoded, prompts.tokens.shape[1], looks)

    def finish(
        self,
        flight: "Flight",
        *,
        accuracy_weight: float = 0.8,
        progress: float = 1.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Group]:
        """The groups. meanwhile: is called once, when all samples are there and before the last of
        them are scored.
        """
        examples, encoded = flight.examples, flight.encoded
        asked = [example for example in examples for _ in range(self.group_size)]
        count, tokenizer = len(asked), self.encoder.tokenizer
        texts, scores, share = [None] * count, [None] * count, my_share(count)
        own = [example.accuracy_weight for example in asked]
        weights = [accuracy_weight if weight is None else weight for weight in own]
        for look in flight.looks:
            completions, finished, steps = look
            new = [i for i in np.flatnonzero(finished) if texts[i] is None]
            if new and np.all(finished):
                meanwhile()
            ids = [completions.tokens[i, : completions.lengths[i]] for i in new]
            said = tokenizer.decode_all(ids, skip_special=True)
            for i, text in zip(new, said, strict=True):
                texts[i] = self.encoder.prefill + text
            mine = [i for i in new if share.start <= i < share.stop]
            with watchdog.own_work():
                found = score_all(
                    [texts[i] for i in mine],
                    [asked[i].answer for i in mine],
                    [completions.ended[i] for i in mine],
                    accuracy_weight=[weights[i] for i in mine],
                    verifiers=[asked[i].verifier for i in mine],
                    questions=[asked[i].question for i in mine],
                    progress=progress,
                    how=self.verify,
                )
            for i, score in zip(mine, found, strict=True):
                scores[i] = score
        scores = gather_scores(scores[share], weights)
        busy = float(completions.lengths.sum() / ((self.slots or count) * steps))
        out = []
        for p, example in enumerate(examples):
            rows = slice(p * self.group_size, (p + 1) * self.group_size)
            mine = jax.tree.map(lambda x, rows=rows: x[rows], completions)
            out.append(Group(example, encoded[p], mine, texts[rows], scores[rows], busy))
        return out

    def looks(self, model, prompts: PromptBatch, key, limit: int):
        """Samples; gives nothing once the devices are on their way, then the completions, which of
        them are finished, bool[N], and the steps made so far, on the host. Once, when all are
        finished; with fewer slots than samples LOOKS times, and while the caller works on what it
        was given the devices sample on.
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
            found = fetch((state.completions, state.finished, state.step))
            return jax.tree.map(np.array, found)

        looks = LOOKS if 0 < self.slots < count else 1
        state = until(count // looks, state)
        yield
        for look in range(2, looks + 1):
            given = seen(state)
            state = until(count * look // looks, state)
            yield given
        yield seen(state)


def sample(
    sampler: Sampler, model, source: Callable[[int], Example], count: int, batch: int, key
) -> Iterator[tuple[int, Group]]:
    """(index, group) of the first `count` good rows of a source, `batch` prompts at a time; of a
    source with an end none twice.

    `model`: as it is trained. Warns if rows were left out.
    """
    model, left_out = for_decoding(model), collections.Counter()
    end = len(source) if hasattr(source, "__len__") else sys.maxsize
    with contextlib.closing(sampler.reader(source, batch)) as reader:
        for start in range(0, count, batch):
            # The last batch is as large as the others: one shape, one program. What is too much is
            # thrown away.
            items, drawn = reader.take(batch)
            left_out.update(drop["reason"] for drop in drawn.drops)
            groups = sampler.groups(
                model,
                [item.example for item in items],
                jax.random.fold_in(key, start),
                sampler.sampling.max_tokens,
            )
            pairs = [(item.index, group) for item, group in zip(items, groups, strict=True)]
            yield from [pair for pair in pairs if pair[0] < end][: count - start]
            if pairs[-1][0] >= end - 1:
                break
    if left_out:
        warnings.warn(f"the questions asked are without bad rows: {told(left_out)}", stacklevel=2)


@jax.jit
def encode_images(model, tiles):
    """float32[1, I, S, S, 3] -> float[I, M, D]."""
    return model.encode_images(tiles[0])


def my_share(count: int) -> slice:
    """Which of `count` samples this process scores: equal blocks, the last one shorter."""
    size = -(-count // jax.process_count())
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def gather_scores(mine: list[Score], weights: list[float]) -> list[Score]:
    """The scores of all samples in order, from each process's share. Of the others' a process
    learns verdict, accuracy and format, not what was extracted and why. weights: of accuracy, of
    each.
    """
    if jax.process_count() == 1:
        return mine
    verdicts, count = list(Verdict), len(weights)
    table = np.zeros((-(-count // jax.process_count()), 3), np.float32)  # equal on all processes
    for row, score in zip(table, mine, strict=False):
        row[:] = verdicts.index(score.verdict), score.accuracy or 0.0, score.format
    table = multihost_utils.process_allgather(table, tiled=True)[:count]
    out = []
    for (verdict, accuracy, form), weight in zip(table, weights, strict=True):
        # As `detection.overlap` rounds: float32 holds six digits.
        check = Check(verdicts[int(verdict)], None, "", round(float(accuracy), 6))
        out.append(scored(check, float(form), weight))
    return out


def collect(
    sampler: Sampler,
    model,
    reader: Reader,
    key,
    config: GRPO,
    limit: int,
    progress: float = 1.0,
    *,
    flight: Flight | None = None,
    then: Callable[[], Flight] | None = None,
) -> Collected:
    """P groups for one step. `then` begins the next rollout, as soon as the devices are done;
    flight: this one, if it was begun so.

    With `config.refills`, groups whose rewards are all equal are replaced by later prompts, as long
    as refills last (dynamic sampling); what is still missing is filled up with groups without
    signal. progress: of the run, 0 to 1.
    """
    decoding, begun = None, []
    kept: list[Group] = []
    idle: list[Group] = []
    lengths, drawn = [], Drawn(reader.cursor)
    while len(kept) < config.prompts and len(lengths) <= config.refills:
        if flight is None:
            decoding = decoding or for_decoding(model, int8=config.rollout_int8)
            flight = begin(sampler, decoding, reader, key, config, limit, len(lengths))
        groups = sampler.finish(
            flight, accuracy_weight=config.accuracy_weight, progress=progress,
            meanwhile=lambda: then and begun.append(then()),
        )  # fmt: skip
        lengths.append(flight.length)
        drawn, flight = drawn.then(flight.drawn), None
        for group in (shaped(group, config, limit) for group in groups):
            (kept if group.has_signal or not config.refills else idle).append(group)
    seen = len(kept) + len(idle)
    without = sum(not group.has_signal for group in kept) + len(idle)
    counts = {"frac_reward_zero_std": without / seen, "rollout_passes": len(lengths)}
    groups = (kept + idle)[: config.prompts]
    return Collected(groups, drawn, counts, lengths, begun[0] if begun else None)


def begin(
    sampler: Sampler, model, reader: Reader, key, config: GRPO, limit: int, passes: int = 0
) -> Flight:
    """A pass over the next P prompts, the first or a later one of its step, sent on its way."""
    with watchdog.own_work():
        items, drawn = reader.take(config.prompts)
    examples = [item.example for item in items]
    flight = sampler.begin(model, examples, jax.random.fold_in(key, passes), limit)
    return dataclasses.replace(flight, drawn=drawn)


def shaped(group: Group, config: GRPO, limit: int) -> Group:
    """The group with `config.shaping` taken off its rewards."""
    if config.shaping == Shaping():
        return group
    question, made, scores = group.example.question, group.completions, []
    for g, (score, text) in enumerate(zip(group.scores, group.texts, strict=True)):
        ids = made.tokens[g, : made.lengths[g]]
        penalty = terms.penalty(config.shaping, ids, text, question, limit)
        scores.append(rewards_score.shaped(score, penalty))
    return dataclasses.replace(group, scores=scores)


def not_finite(groups: list[Group]) -> str:
    """What of the samples no update may see: a reward or a log-probability of the sampler that is
    not finite; empty if all are well. (A failed verification has no reward: it is masked.)
    """
    for group in groups:
        if not all(np.isfinite(s.total) for s in group.scores if s.total is not None):
            return f"a reward of {group.example.id} is"
        held = np.arange(group.completions.logprobs.shape[1]) < group.completions.lengths[:, None]
        if not np.isfinite(group.completions.logprobs[held]).all():
            return f"a log-probability of the sampler, {group.example.id}, is"
    return ""


def policy_batch(groups: list[Group], config: GRPO, encoder: Encoder) -> PolicyBatch:
    """The arrays of one update, for the current mesh: each prompt once, its samples packed into
    rows behind it.

    Samples whose verifier failed have no advantage and no weight, and no part in their group's
    mean.
    """
    C = config.max_completion_tokens
    plan = pack(np.stack([group.completions.lengths for group in groups]), config)
    shape = plan.shape
    out = {name: np.zeros(shape, np.int32) for name in ("tokens", "positions", "segment_ids")}
    out["tokens"][:] = encoder.tokenizer.pad_token_id
    numbers = ("loss_weights", "advantages", "sampler_logprobs")
    out |= {name: np.zeros(shape, np.float32) for name in numbers}

    reward = np.stack([group.rewards for group in groups])
    advantage = group_advantages(reward, ~np.isnan(reward), divide_by_std=config.divide_by_std)
    chosen = np.stack([group.completions.chosen for group in groups])
    lengths = np.stack([group.completions.lengths for group in groups])
    learnt = chosen & (np.arange(C) < lengths[..., None]) & ~np.isnan(reward)[..., None]
    weights = token_weights(learnt.reshape(-1, C), config.aggregation, C).reshape(learnt.shape)

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
        [group.prompt for group in groups], encoder,
        max_prompt_tokens=config.max_prompt_tokens, tiles=config.tiles, buckets=config.buckets,
    )  # fmt: skip
    again = {
        name: np.repeat(x, plan.copies, axis=0)
        for name in ("tokens", "lengths", "image_index")
        if (x := getattr(prompts, name)) is not None
    }
    return PolicyBatch(
        prompts=dataclasses.replace(prompts, **again),
        rows=SampleRows(owner=plan.owner, **out),
        used=np.int32(plan.used),
    )


def busy(batch: PolicyBatch) -> float:
    """The share of the tokens that an update computes, prompts aside, which were sampled."""
    held = batch.rows.segment_ids > 0
    return float(held.sum() / (batch.used * held[0].size))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the samples of a step lie. shape: N micro-batches of B rows of T tokens.

    places: sample g of prompt p -> micro-batch, row, first token, segment. owner: see `SampleRows`.
    used: micro-batches that hold a sample. copies: rows each prompt takes, so that every device
    that has some of its samples has the prompt.
    """

    shape: tuple[int, int, int]
    places: dict[tuple[int, int], tuple[int, int, int, int]]
    owner: np.ndarray
    used: int
    copies: int


BLOCK = (
    4  # rows side by side that share a prompt, at most: with more, short groups leave some empty
)


def pack(lengths: np.ndarray, config: GRPO) -> Plan:
    """Packs samples of int[P, G] lengths, for the current mesh.

    A sample lies with its prompt on one of the devices that rows are dealt out to. There, a
    prompt's samples go into the first row with room, the longest first, and its rows are cut into
    blocks; the blocks fill the micro-batches from the first on.

        prompt p   [a a a a a b b]  [c c c c d d d]  [e e - - - - -]  [- - - - - - -]
                   --------------- a block ---------------------------------------
    """
    P, G = lengths.shape
    N, T, shards = config.accumulate, config.max_completion_tokens, TRAIN.shards("batch")
    copies = max(shards // P, 1)
    mine = G // copies  # samples of a copy
    rows = P * G // N // shards  # of a device, in a micro-batch
    block = math.gcd(math.gcd(rows, mine), BLOCK)
    blocks = rows // block
    owner = np.zeros((N, shards * blocks), np.int32)
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
                owner[n, device * blocks + slot] = local
                for k, row in enumerate(packed[first : first + block]):
                    b, at = device * rows + slot * block + k, 0
                    for segment, i in enumerate(row, start=1):
                        places[p, samples[i]] = (n, b, at, segment)
                        at += int(lengths[p, samples[i]])
                filled += 1
        used = max(used, -(-filled // blocks))
    return Plan((N, shards * rows, T), places, owner, used, copies)


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


def statistics(groups: list[Group], limit: int) -> dict[str, float]:
    """Means over the samples of a step, under the names that users of TRL know, and the accuracy of
    each source if there are several.
    """
    scores = [score for group in groups for score in group.scores]
    known = [score for score in scores if score.total is not None]
    lengths = np.concatenate([group.completions.lengths for group in groups])
    ended = np.concatenate([group.completions.ended for group in groups])
    reward = np.asarray([score.total for score in known] or [0.0])
    by_source: dict[str, list[float]] = {}
    for group in groups:
        right = [score.accuracy for score in group.scores if score.total is not None]
        by_source.setdefault(group.example.source, []).extend(right)
    several = by_source if len(by_source) > 1 else {}
    return {
        "reward": float(reward.mean()),
        "reward_std": float(reward.std()),
        "accuracy": float(np.mean([score.accuracy for score in known] or [0.0])),
        "format": float(np.mean([score.format for score in known] or [0.0])),
        "penalty": float(np.mean([score.penalty for score in known] or [0.0])),
        "verifier_errors": len(scores) - len(known),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(1 - ended.mean()),
        "slots/busy": float(np.mean([group.busy for group in groups])),
        "length_limit": limit,
        **{f"accuracy/{name}": float(np.mean(right)) for name, right in several.items() if right},
    }


def rows(groups: list[Group]) -> Iterator[dict]:
    """One JSON row a sample, for the rollouts file."""

    def six_digits(numbers: np.ndarray) -> list[float]:
        return np.round(numbers.astype(np.float64), 6).tolist()

    for group in groups:
        for g, (text, score) in enumerate(zip(group.texts, group.scores, strict=True)):
            size = int(group.completions.lengths[g])
            yield {
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
                "logprobs": six_digits(group.completions.logprobs[g, :size]),
                "entropies": six_digits(group.completions.entropies[g, :size]),
            }
