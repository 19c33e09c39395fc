"""Prompts -> groups of completions -> rewards -> advantages -> the arrays of one policy update.

Sampled ids are kept end to end: text is decoded for the verifier and the log, and never encoded
again.
"""

import collections
import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import GRPO, Data, Verify
from r1v3_jax.data.placement import fetch, place
from r1v3_jax.data.prompts import prompt_batch
from r1v3_jax.data.reader import Consumed, Reader, format_counts
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing.processor import Encoded, Processor
from r1v3_jax.rewards.score import score_all
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.scoring import gather_scores, my_share
from r1v3_jax.run import watchdog
from r1v3_jax.sampling.loop import decode, prefill
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.types import Example, PromptBatch

# With fewer slots than samples, how often the finished ones are taken off the device in a rollout.
SNAPSHOTS = 4


@dataclasses.dataclass(frozen=True)
class PendingRollout:
    """A rollout under way; see `Sampler.snapshots`. length: to which its prompts are padded; drawn:
    what it took of a reader.
    """

    examples: list[Example]
    encoded: list[Encoded]
    length: int
    snapshots: Iterator
    consumed: Consumed = Consumed(0)


@dataclasses.dataclass(frozen=True)
class GroupSampler:
    """Everything that stays the same from rollout to rollout."""

    processor: Processor
    sampling: SamplingParams
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
        return Reader(source, self.processor.prompt, how=how, **limits)

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

    def begin(
        self, model, examples: list[Example], key, limit: int
    ) -> "PendingRollout":
        """Sends the devices to sample, and does not wait for them."""
        encoded = [self.processor.prompt(example) for example in examples]
        prompts = prompt_batch(
            encoded, self.processor,
            max_prompt_tokens=self.max_prompt_tokens, tiles=self.tiles, buckets=self.buckets,
        )  # fmt: skip
        snapshots = self.snapshots(model, prompts, key, limit)
        next(snapshots)
        return PendingRollout(examples, encoded, prompts.tokens.shape[1], snapshots)

    def finish(
        self,
        flight: "PendingRollout",
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
        count, tokenizer = len(asked), self.processor.tokenizer
        texts, scores, share = [None] * count, [None] * count, my_share(count)
        own = [example.accuracy_weight for example in asked]
        weights = [accuracy_weight if weight is None else weight for weight in own]
        for look in flight.snapshots:
            completions, finished, steps = look
            new = [i for i in np.flatnonzero(finished) if texts[i] is None]
            if new and np.all(finished):
                meanwhile()
            ids = [completions.tokens[i, : completions.lengths[i]] for i in new]
            said = tokenizer.decode_all(ids, skip_special=True)
            for i, text in zip(new, said, strict=True):
                texts[i] = self.processor.prefill + text
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
            out.append(
                Group(example, encoded[p], mine, texts[rows], scores[rows], busy)
            )
        return out

    def snapshots(self, model, prompts: PromptBatch, key, limit: int):
        """Samples; gives nothing once the devices are on their way, then the completions, which of
        them are finished, bool[N], and the steps made so far, on the host. Once, when all are
        finished; with fewer slots than samples SNAPSHOTS times, and while the caller works on what it
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

        snapshots = SNAPSHOTS if 0 < self.slots < count else 1
        state = until(count // snapshots, state)
        yield
        for look in range(2, snapshots + 1):
            given = seen(state)
            state = until(count * look // snapshots, state)
            yield given
        yield seen(state)


def sample(
    sampler: GroupSampler,
    model,
    source: Callable[[int], Example],
    count: int,
    batch: int,
    key,
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
            items, consumed = reader.take(batch)
            left_out.update(drop["reason"] for drop in consumed.drops)
            groups = sampler.groups(
                model,
                [item.example for item in items],
                jax.random.fold_in(key, start),
                sampler.sampling.max_tokens,
            )
            pairs = [
                (item.index, group) for item, group in zip(items, groups, strict=True)
            ]
            yield from [pair for pair in pairs if pair[0] < end][: count - start]
            if pairs[-1][0] >= end - 1:
                break
    if left_out:
        warnings.warn(
            f"the questions asked are without bad rows: {format_counts(left_out)}",
            stacklevel=2,
        )


@jax.jit
def encode_images(model, tiles):
    """float32[1, I, S, S, 3] -> float[I, M, D]."""
    return model.encode_images(tiles[0])


def begin(
    sampler: GroupSampler,
    model,
    reader: Reader,
    key,
    config: GRPO,
    limit: int,
    passes: int = 0,
) -> PendingRollout:
    """A pass over the next P prompts, the first or a later one of its step, sent on its way."""
    with watchdog.own_work():
        items, consumed = reader.take(config.prompts)
    examples = [item.example for item in items]
    flight = sampler.begin(model, examples, jax.random.fold_in(key, passes), limit)
    return dataclasses.replace(flight, consumed=consumed)
