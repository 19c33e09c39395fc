"""Prompts -> groups of scored completions.

Sampled ids are kept from end to end: text is decoded for the verifier and the log, and never
encoded again.
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

from r1v3_jax.config import Data, Verify
from r1v3_jax.data.placement import fetch, place
from r1v3_jax.data.prompts import prompt_batch
from r1v3_jax.data.reader import Consumed, Reader, format_counts
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing.processor import Encoded, Processor
from r1v3_jax.rewards.answered import Sample
from r1v3_jax.rewards.reward import Reward, Score
from r1v3_jax.rewards.score import score_all
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.helpers import Asked, with_helpers
from r1v3_jax.rollout.scoring import gather_scores, own_block
from r1v3_jax.run import tpu_flags, watchdog
from r1v3_jax.sampling.loop import decode_with, prefill
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.types import Example, PromptBatch, StepInfo

# With fewer slots than samples, how often the finished samples are taken off the device in a
# rollout.
SNAPSHOTS = 4


@dataclasses.dataclass(frozen=True)
class PendingRollout:
    """A rollout under way on the devices."""

    examples: list[Example]
    encoded: list[Encoded]
    info: StepInfo
    length: int  # to which its prompts are padded
    snapshots: Iterator  # see `GroupSampler.snapshots`; the first has been taken
    consumed: Consumed = Consumed(0)  # what it took of a reader


@dataclasses.dataclass(frozen=True)
class GroupSampler:
    """Samples groups of completions and scores them; the same from rollout to rollout."""

    processor: Processor
    sampling: SamplingParams
    max_prompt_tokens: int
    tiles: int
    group_size: int
    verify: Verify = Verify()
    data: Data = Data()
    reward: Reward = Reward()
    slots: int = 0  # samples decoded at a time; 0: all
    buckets: tuple[tuple[int, int], ...] = ()  # see `data.prompts.prompt_batch`
    helpers: tuple[Asked, ...] = ()  # of the reward's terms that ask a model

    def reader(self, source: Callable[[int], Example], prompts: int) -> Reader:
        """Returns a reader of the good rows of a source, to sample from `prompts` at a time.

        Not for training: bad rows stop it only where they are most of the rows.
        """
        return Reader(
            source,
            self.processor.prompt,
            tokens=self.max_prompt_tokens,
            tiles=self.tiles // prompts,
            data=dataclasses.replace(self.data, max_drop_fraction=0.5),
            tile_size=self.processor.tile_size,
        )

    def groups(self, model, examples: list[Example], info: StepInfo) -> list[Group]:
        """Samples `group_size` completions of each example, and scores them.

        Finished samples are scored while others are still sampled. `model`: laid out for decoding
        (`models.build.for_decoding`).
        """
        return self.finish(self.begin(model, examples, info))

    def begin(self, model, examples: list[Example], info: StepInfo) -> PendingRollout:
        """Starts sampling on the devices, and does not wait for it."""
        encoded = [self.processor.prompt(example) for example in examples]
        prompts = prompt_batch(
            encoded,
            self.processor,
            max_prompt_tokens=self.max_prompt_tokens,
            tiles=self.tiles,
            buckets=self.buckets,
        )
        snapshots = self.snapshots(model, prompts, info)
        next(snapshots)
        length = prompts.tokens.shape[1]
        return PendingRollout(examples, encoded, info, length, snapshots)

    def finish(
        self,
        pending: PendingRollout,
        *,
        when_all_are_sampled: Callable[[], None] = lambda: None,
    ) -> list[Group]:
        """Waits for a rollout, scores its samples and returns their groups.

        when_all_are_sampled: called once, when the devices are done and before the last samples are
        scored.
        """
        # The example of each sample: those of one prompt stand side by side.
        asked = [
            example for example in pending.examples for _ in range(self.group_size)
        ]
        count = len(asked)
        texts: list[str | None] = [None] * count
        scores: list[Score | None] = [None] * count
        block = own_block(count)

        # 1. Turn finished samples into text and score them, while the devices sample on.
        for snapshot in pending.snapshots:
            completions, is_finished, decode_steps = snapshot
            newly_finished = [
                i for i in np.flatnonzero(is_finished) if texts[i] is None
            ]
            if newly_finished and np.all(is_finished):
                when_all_are_sampled()
            self._write_texts(newly_finished, completions, texts)
            # Every process scores its own block of the samples.
            to_score = [i for i in newly_finished if block.start <= i < block.stop]
            with watchdog.own_work():
                scored = score_all(
                    [
                        Sample(
                            text=texts[i],
                            example=asked[i],
                            ended=bool(completions.ended[i]),
                            ids=completions.tokens[i, : completions.lengths[i]],
                            limit=pending.info.token_limit,
                        )
                        for i in to_score
                    ],
                    reward=self.reward,
                    verify=self.verify,
                    progress=pending.info.progress,
                )
            for i, score in zip(to_score, scored, strict=True):
                scores[i] = score

        # 2. Exchange the scores of all processes.
        scores = gather_scores(scores[block.start : block.stop], count, self.reward)

        # 3. Cut the samples into groups. Each decode slot could have sampled a token in each step.
        slot_steps = (self.slots or count) * decode_steps
        busy_slots = float(completions.lengths.sum() / slot_steps)
        groups = []
        for p, example in enumerate(pending.examples):
            rows = slice(p * self.group_size, (p + 1) * self.group_size)
            group_completions = jax.tree.map(lambda x, rows=rows: x[rows], completions)
            groups.append(
                Group(
                    example=example,
                    prompt=pending.encoded[p],
                    completions=group_completions,
                    texts=texts[rows],
                    scores=scores[rows],
                    busy_slots=busy_slots,
                )
            )

        # 4. What helpers say of the samples.
        return with_helpers(groups, self.helpers, pending.info)

    def _write_texts(
        self, samples: list[int], completions, texts: list[str | None]
    ) -> None:
        """Writes the text of the named samples into `texts`."""
        ids = [completions.tokens[i, : completions.lengths[i]] for i in samples]
        decoded = self.processor.tokenizer.decode_all(ids, skip_special=True)
        for i, text in zip(samples, decoded, strict=True):
            texts[i] = self.processor.prefill + text

    def snapshots(self, model, prompts: PromptBatch, info: StepInfo) -> Iterator:
        """Starts sampling, then yields snapshots of it.

        The first yield is None, as soon as the work is on the devices. Each later one is
        (completions, finished bool[N], decode steps) on the host: one at the end, or, with fewer
        slots than samples, SNAPSHOTS of them. The devices go on sampling while the caller works on
        a snapshot.
        """
        count = len(prompts.tokens) * self.group_size
        self.sampling.check(model.config, prompts.tokens.shape[1])
        prompts = place(prompts, model.compute.rules, jax.sharding.get_mesh())
        images = None
        if prompts.tiles is not None:
            images = encode_images(model, prompts.tiles)
        state = prefill(
            model,
            prompts.tokens,
            prompts.lengths,
            images,
            prompts.image_index,
            group_size=self.group_size,
            slots=self.slots,
            sampling=self.sampling,
        )

        temperature = None
        if info.temperature is not None:
            temperature = jnp.float32(np.float32(info.temperature))
        # On a TPU this program has options of its own.
        options = tpu_flags.own_options("decode", jax.local_devices()[0])
        decode = decode_with(tuple(options.items()))

        def decode_until(finished: int, state):
            """Decodes until so many of the samples are finished."""
            limit = jnp.int32(np.int32(info.token_limit))
            goal = jnp.int32(np.int32(finished))
            bounds = (limit, goal, temperature)
            return decode(model, state, info.key, *bounds, sampling=self.sampling)

        def copy_to_host(state):
            # Copies: the arrays of the state itself are donated to the next call.
            arrays = fetch((state.completions, state.finished, state.step))
            return jax.tree.map(np.array, arrays)

        parts = SNAPSHOTS if 0 < self.slots < count else 1
        state = decode_until(count // parts, state)
        yield
        for part in range(2, parts + 1):
            snapshot = copy_to_host(state)
            state = decode_until(count * part // parts, state)
            yield snapshot
        yield copy_to_host(state)


def sample(
    sampler: GroupSampler,
    model,
    source: Callable[[int], Example],
    count: int,
    batch: int,
    key,
    *,
    temperature: float | None = None,
) -> Iterator[tuple[int, Group]]:
    """Yields (index, group) of the first `count` good rows of a source, `batch` prompts at a time.

    No row of a source with an end comes twice. `model`: as it is trained. temperature: in
    place of the sampler's. Warns if rows were dropped.
    """
    model = for_decoding(model)
    dropped = collections.Counter()
    end = len(source) if hasattr(source, "__len__") else sys.maxsize
    with contextlib.closing(sampler.reader(source, batch)) as reader:
        for start in range(0, count, batch):
            # The last batch is as large as the others: one shape, one program. Rows beyond `count`
            # or beyond the end of the source are thrown away.
            items, consumed = reader.take(batch)
            dropped.update(drop["reason"] for drop in consumed.drops)
            info = StepInfo(
                step=0,
                key=jax.random.fold_in(key, start),
                token_limit=sampler.sampling.max_tokens,
                temperature=temperature,
            )
            examples = [item.example for item in items]
            groups = sampler.groups(model, examples, info)
            pairs = [
                (item.index, group) for item, group in zip(items, groups, strict=True)
            ]
            yield from [pair for pair in pairs if pair[0] < end][: count - start]
            if pairs[-1][0] >= end - 1:
                break
    if dropped:
        warnings.warn(
            f"bad rows were left out of the questions: {format_counts(dropped)}",
            stacklevel=2,
        )


@jax.jit
def encode_images(model, tiles):
    """Encodes the tiles of one rollout: float32[1, I, S, S, 3] -> float[I, M, D]."""
    return model.encode_images(tiles[0])
