"""Prompts -> sampled texts. Whoever asked says what they are worth.

Sampled ids are kept from end to end: text is decoded for people and verifiers, and never encoded
again.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import Data
from r1v3_jax.data.placement import fetch, place
from r1v3_jax.data.prompts import prompt_batch
from r1v3_jax.data.reader import Consumed, Reader
from r1v3_jax.processing.processor import Encoded, Processor
from r1v3_jax.rollout.group import Answered
from r1v3_jax.run import tpu_flags
from r1v3_jax.sampling.loop import decode_with, prefill
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import Completions
from r1v3_jax.types import Example, PromptBatch, StepInfo

# With fewer slots than samples, how often the finished samples are taken off the device in a
# rollout.
SNAPSHOTS = 4


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The prompts of a rollout, ready for the devices."""

    examples: list[Example]
    encoded: list[Encoded]
    batch: PromptBatch


@dataclasses.dataclass(frozen=True)
class PendingRollout:
    """A rollout under way on the devices."""

    examples: list[Example]
    encoded: list[Encoded]
    info: StepInfo
    length: int  # to which its prompts are padded
    snapshots: Iterator  # see `Sampler.snapshots`; its first yield has been taken
    consumed: Consumed = Consumed(0)  # what it took of a reader


@dataclasses.dataclass(frozen=True)
class Look:
    """What is there of a rollout's samples at one moment; the devices may sample on."""

    new: list[int]  # numbers of the samples that have ended since the look before
    texts: list[str | None]  # of each sample; None: it goes on
    completions: Completions  # of all samples, on the host
    is_last: bool  # whether all have ended
    decode_steps: int
    # With guesses: in how many of the steps each slot had a sample, int32[slots].
    passes: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Samples groups of completions; the same from rollout to rollout."""

    processor: Processor
    sampling: SamplingParams
    max_prompt_tokens: int
    tiles: int
    group_size: int
    data: Data = Data()
    slots: int = 0  # samples decoded at a time; 0: all
    buckets: tuple[tuple[int, int], ...] = ()  # see `data.prompts.prompt_batch`

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

    def begin(self, model, examples: list[Example], info: StepInfo) -> PendingRollout:
        """Starts sampling on the devices, and does not wait for it."""
        return self.start(model, self.prompts(examples), info)

    def prompts(self, examples: list[Example]) -> Prompts:
        """Encodes the prompts of a rollout; no device is touched."""
        encoded = [self.processor.prompt(example) for example in examples]
        batch = prompt_batch(
            encoded,
            self.processor,
            max_prompt_tokens=self.max_prompt_tokens,
            tiles=self.tiles,
            buckets=self.buckets,
        )
        return Prompts(examples, encoded, batch)

    def start(self, model, prompts: Prompts, info: StepInfo) -> PendingRollout:
        """Starts sampling encoded prompts, and does not wait for it."""
        snapshots = self.snapshots(model, prompts.batch, info)
        next(snapshots)
        length = prompts.batch.tokens.shape[1]
        return PendingRollout(
            prompts.examples, prompts.encoded, info, length, snapshots
        )

    def looks(self, pending: PendingRollout) -> Iterator[Look]:
        """Yields what has ended, while the devices sample on; the last look has everything."""
        count = len(pending.examples) * self.group_size
        texts: list[str | None] = [None] * count
        for completions, is_finished, decode_steps, passes in pending.snapshots:
            new = [i for i in np.flatnonzero(is_finished) if texts[i] is None]
            self._write_texts(new, completions, texts)
            is_last = bool(np.all(is_finished))
            yield Look(new, texts, completions, is_last, decode_steps, passes)

    def wait(self, pending: PendingRollout) -> Look:
        """Waits for all samples, whose texts are left to `answers`: another rollout may start."""
        (last,) = collections.deque(pending.snapshots, maxlen=1)
        completions, _, decode_steps, passes = last
        texts = [None] * len(completions.lengths)
        return Look([], texts, completions, True, decode_steps, passes)

    def answers(self, pending: PendingRollout, last: Look) -> list[Answered]:
        """Cuts the samples of the last look into groups, one for each prompt."""
        count = len(last.texts)
        texts = list(last.texts)
        self._write_texts(
            [i for i in range(count) if texts[i] is None], last.completions, texts
        )
        # Each decode slot could have had a sample in each step: with one token a step as many as
        # there are tokens.
        # None is decoded where all had ended in the steps before (`in_flight`).
        slot_steps = max(1, (self.slots or count) * last.decode_steps)
        sampled = last.completions.lengths.sum()
        passes = sampled if last.passes is None else last.passes.sum()
        busy_slots = float(passes / slot_steps)
        tokens_a_pass = None if last.passes is None else float(sampled / passes)
        groups = []
        for p, example in enumerate(pending.examples):
            rows = slice(p * self.group_size, (p + 1) * self.group_size)
            completions = jax.tree.map(lambda x, rows=rows: x[rows], last.completions)
            groups.append(
                Answered(
                    example=example,
                    prompt=pending.encoded[p],
                    completions=completions,
                    texts=texts[rows],
                    busy_slots=busy_slots,
                    tokens_a_pass=tokens_a_pass,
                )
            )
        return groups

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
        (completions, finished bool[N], decode steps, passes) on the host: one at the end, or, with
        fewer slots than samples, SNAPSHOTS of them. The devices go on sampling while the caller
        works on a snapshot. passes: see `Look`.
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
            drafts=info.drafter is not None,
        )

        temperature = None
        if info.temperature is not None:
            temperature = jnp.float32(np.float32(info.temperature))
        decode = decode_here()

        def decode_until(finished: int, state):
            """Decodes until so many of the samples are finished."""
            limit = jnp.int32(np.int32(info.token_limit))
            goal = jnp.int32(np.int32(finished))
            bounds = (limit, goal, temperature, info.drafter)
            return decode(model, state, info.key, *bounds, sampling=self.sampling)

        def copy_to_host(state):
            # Copies: the arrays of the state itself are donated to the next call.
            progress = (state.finished, state.step, state.passes)
            arrays = fetch((state.completions, *progress))
            return jax.tree.map(np.array, arrays)

        parts = SNAPSHOTS if 0 < self.slots < count else 1
        state = decode_until(count // parts, state)
        yield
        for part in range(2, parts + 1):
            snapshot = copy_to_host(state)
            state = decode_until(count * part // parts, state)
            yield snapshot
        yield copy_to_host(state)


def decode_here():
    """Returns `sampling.loop.decode`; on a TPU this program has options of its own."""
    options = tpu_flags.own_options("decode", jax.local_devices()[0])
    return decode_with(tuple(options.items()))


@jax.jit
def encode_images(model, tiles):
    """Encodes the tiles of one rollout: float32[1, I, S, S, 3] -> float[I, M, D]."""
    return model.encode_images(tiles[0])
