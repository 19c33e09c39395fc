"""Prompts under way through several steps: `GRPO.in_flight`.

A step learns from the oldest P of F prompts, once all their samples have ended. So batch s is
learnt from at step s, as without it: the order of data is a function of the position, and no short
answer comes before a long one. F = 3 P, and a state is saved after step 4:

    step                    0       1     2     3    4    5       6
    batches that come in    0 1 2   3     4     -    -    5 6 7   8
    under way in it         0 1 2   1 2 3 2 3 4 3 4  4    5 6 7   6 7 8
    learnt from             0       1     2     3    4    5       6

Batches that no step before the save would learn from do not come in before it: nothing is under way
then, nothing is thrown away, and the run goes on from the state with the same bits.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import GRPO
from r1v3_jax.data.placement import fetch, place
from r1v3_jax.data.reader import Consumed, Reader
from r1v3_jax.models.build import for_decoding
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rollout.collect import Collected, counts_of
from r1v3_jax.rollout.sampler import GroupSampler, PendingRollout
from r1v3_jax.rollout.texts import Prompts, decode_here, encode_images
from r1v3_jax.run import watchdog
from r1v3_jax.sampling.carry import Carried, carried, empty, exchange
from r1v3_jax.sampling.state import DecodeState
from r1v3_jax.types import StepInfo


@dataclasses.dataclass
class Batch:
    """P prompts under way."""

    prompts: Prompts
    # Of each step so far, (its number, int[P * G] tokens that each sample had after it).
    grown: list[tuple[int, np.ndarray]]


class InFlight:
    """The prompts under way of a stage, and their state on the devices."""

    def __init__(
        self,
        sampler: GroupSampler,
        config: GRPO,
        key: jax.Array,
        next_saved: Callable[[int], int],
    ):
        """Begins with nothing under way.

        key: of the whole stage. next_saved: the first step from a step on that is saved.
        """
        self.sampler = sampler
        self.config = config
        self.key = key
        self.next_saved = next_saved
        self.room = config.in_flight // config.prompts  # batches, K
        self.batches: collections.deque[Batch] = collections.deque()
        self.state: DecodeState | None = None
        # Of the last step: the share of slots with a sample, and tokens drawn.
        self.busy_slots = 1.0
        self.drawn = 0

    def collect(self, model: R1V3, reader: Reader, info: StepInfo) -> Collected:
        """Lets prompts in, waits for the samples of the oldest and returns their scored groups."""
        step = info.step
        model = for_decoding(model, int8=self.config.rollout_int8)

        # 1. Let in what steps before the next save learn from.
        lengths = []
        consumed = Consumed(reader.cursor)
        newest = min(step + self.room - 1, self.next_saved(step))
        for number in range(step + len(self.batches), newest + 1):
            consumed = consumed.followed_by(self.admit(model, reader, number))
            lengths.append(self.batches[-1].prompts.batch.tokens.shape[1])

        # 2. Sample until the oldest have ended, and score them.
        prompts = self.batches[0].prompts
        pending = PendingRollout(
            prompts.examples,
            prompts.encoded,
            info,
            prompts.batch.tokens.shape[1],
            self.snapshots(model, info),
        )
        groups = self.sampler.finish(pending)
        oldest = self.batches.popleft()

        # 3. What is logged of them.
        groups = [dataclasses.replace(g, busy_slots=self.busy_slots) for g in groups]
        counts = counts_of(groups, passes=1)
        counts |= ages(oldest.grown, step, self.config.updates_per_rollout)
        return Collected(groups, consumed, counts, lengths, None, drawn=self.drawn)

    def admit(self, model: R1V3, reader: Reader, number: int) -> Consumed:
        """Puts the batch of this number, from 0 in the stage, into the state."""
        config = self.config
        with watchdog.own_work():
            items, consumed = reader.take(config.prompts)
        prompts = self.sampler.prompts([item.example for item in items])
        batch = place(prompts.batch, model.compute.rules, jax.sharding.get_mesh())
        images = None
        if batch.tiles is not None:
            images = encode_images(model, batch.tiles)
        sampling = self.sampler.sampling
        sampling.check(model.config, config.max_prompt_tokens)
        if self.state is None:
            self.state = empty(model, **state_sizes(config), sampling=sampling)
        samples = config.prompts * config.group_size
        self.state = exchange(
            model,
            self.state,
            batch.tokens,
            batch.lengths,
            images,
            batch.image_index,
            jnp.int32(np.int32(number * samples)),
            group_size=config.group_size,
            sampling=sampling,
        )
        self.batches.append(Batch(prompts, grown=[]))
        return consumed

    def snapshots(self, model: R1V3, info: StepInfo) -> Iterator:
        """Samples until the oldest have ended; yields as `Sampler.snapshots` after its first.

        What has ended in the steps before can be scored while the devices sample.
        """
        config = self.config
        samples = config.prompts * config.group_size
        # Its place among the batches that the state has room for: those before it are done.
        oldest = self.room - len(self.batches)
        before = self.look(oldest, samples)
        bounds = (info.token_limit, (oldest + 1) * samples)
        limit, until = (jnp.int32(np.int32(bound)) for bound in bounds)
        decode = decode_here()
        self.state = decode(
            model, self.state, self.key, limit, until, sampling=self.sampler.sampling
        )
        yield before.completions, before.finished, 0, None
        after = self.look(oldest, samples)
        steps = int(after.step - before.step)
        self.drawn = int(after.lengths.sum()) - int(before.lengths.sum())
        # A step whose oldest had ended before has no idle slot either.
        places = config.decode_slots * steps
        self.busy_slots = self.drawn / places if steps else 1.0
        shards = model.compute.rules.shards("batch")
        by_batch = after.lengths.reshape(shards, self.room, -1).swapaxes(0, 1)
        by_batch = by_batch.reshape(self.room, samples)
        for batch, lengths in zip(self.batches, by_batch[oldest:], strict=True):
            batch.grown.append((info.step, lengths))
        yield after.completions, after.finished, steps, None

    def look(self, batch: int, samples: int) -> Carried:
        """Returns what the host asks of the state, of the batch in this place."""
        place = jnp.int32(np.int32(batch))
        arrays = fetch(carried(self.state, place, count=samples))
        return jax.tree.map(np.array, arrays)


def state_sizes(config: GRPO) -> dict[str, int]:
    """Returns the sizes of a stage's state, as arguments of `sampling.carry.empty`."""
    return {
        "prompts": config.in_flight,
        "group_size": config.group_size,
        "slots": config.decode_slots,
        "prompt_tokens": config.max_prompt_tokens,
    }


def ages(
    grown: list[tuple[int, np.ndarray]], step: int, updates: int
) -> dict[str, float]:
    """Returns the mean and greatest age of tokens that `step` learns from, in updates.

    grown: see `Batch`. updates: of a step. Of two samples that had 3 and 2 tokens after step 4 and
    5 and 2 after step 5, the one that learns, five tokens are one step old and two are new.
    """
    before = 0
    tokens = []
    ages = []
    for drawn_in, lengths in grown:
        total = int(lengths.sum())
        tokens.append(total - before)
        ages.append((step - drawn_in) * updates)
        before = total
    oldest = max(age for age, count in zip(ages, tokens, strict=True) if count)
    return {
        "age/mean": float(np.average(ages, weights=tokens)),
        "age/max": float(oldest),
    }
