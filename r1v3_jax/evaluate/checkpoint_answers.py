"""Asks a checkpoint of ours the questions of a benchmark, all runs of a question in one prefill.

Batches are blocks of the benchmark's rows, and the random key of a batch is made of its first row:
what was killed and goes on samples the same tokens. Sampling is `rollout.texts`'s, scoring the
benchmark's.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from r1v3_jax.config import Compute
from r1v3_jax.data.placement import prefetch
from r1v3_jax.evaluate.critical_tokens import critical_sequences
from r1v3_jax.evaluate.each_image import EachImageProcessor
from r1v3_jax.evaluate.protocol import digest
from r1v3_jax.evaluate.samples import BUDGETS, Item, Sample
from r1v3_jax.evaluate.thinking import Thinking, asking
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing.chat import IMAGE_MARKER, IMAGE_TOKENS
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rollout.group import Answered
from r1v3_jax.rollout.texts import Look, PendingRollout, Prompts, Sampler
from r1v3_jax.run import weights
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.types import DroppedRow, Example, StepInfo

# Control tokens in a question. text: as characters. special: as the tokens, which forge turns, as
# vLLM encodes them; those of images are then refused.
ControlTokens = Literal["text", "special"]
CRITICAL_WORDS = ("Wait", "Alternatively", "Hmm")

# Prompts are padded to a multiple of this many tokens.
PADDING = 128


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a checkpoint is asked."""

    temperature: float
    max_tokens: int  # of an answer
    max_prompt_tokens: int
    seed: int
    batch: int  # questions at a time
    thinking: Thinking
    slots: int = 0  # samples decoded at a time; 0: all of a batch
    control_tokens: ControlTokens = "text"


class CheckpointModel:
    """A checkpoint whose description and tokenizer are read, and whose weights are not yet."""

    def __init__(self, directory: str, settings: Settings):
        self.directory = directory
        self.settings = settings
        self.config, self.dtype = weights.read_config(directory)
        text_only = self.config.vision is None
        tokenizer = load(f"{directory}/tokenizer", text_only=text_only)
        tokenizer.check_model(self.config)
        if settings.control_tokens == "special":
            allowed = frozenset(tokenizer.control_ids) - set(IMAGE_TOKENS)
            tokenizer = dataclasses.replace(tokenizer, allowed=allowed)
        self.asking = asking(tokenizer, settings.thinking, CRITICAL_WORDS)
        self.tokenizer = self.asking.tokenizer
        self.processor = EachImageProcessor(
            self.config, self.tokenizer, self.asking.prefill
        )
        # (tokens, tiles) of the prompt of each question that can be asked.
        self.sizes: dict[str, tuple[int, int]] = {}
        self.began: float | None = None  # when the devices were first asked to sample
        self.sampling_s = 0.0  # in which they did

    def identity(self) -> str:
        """Returns a digest of the weights' checksums: the same weights in another folder agree."""
        path = Path(self.directory) / "weights" / "SHA256SUMS"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; {self.directory} is incomplete")
        return digest([path.read_text("utf-8")])

    def thinks_first(self) -> bool:
        """Whether answers begin with thoughts that only </think> ends."""
        return self.asking.thinks_first

    def banned_spellings(self) -> list[str]:
        """Returns the spellings of critical words that no_wait bans, as the tokenizer cuts them."""
        if self.settings.thinking != "no_wait":
            return []
        sequences = critical_sequences(self.tokenizer, CRITICAL_WORDS)
        return [self.tokenizer.decode(ids, skip_special=False) for ids in sequences]

    def example(self, item: Item) -> Example:
        """Returns an item as the sampler wants it."""
        parts = [
            IMAGE_MARKER if isinstance(part, int) else self._text(part)
            for part in item.asked.parts
        ]
        images = item.asked.images
        if all(isinstance(part, int) for part in item.asked.parts[:-1]):
            # Images in front: each on a line of its own, as the chat format puts them.
            parts[: len(images)] = [f"{IMAGE_MARKER}\n"] * len(images)
        return Example(
            id=item.question.index,
            images=tuple(item.question.images[number] for number in images),
            question="".join(parts),
            answer="-",
            verifier="string",
        )

    def _text(self, text: str) -> str:
        is_text = self.settings.control_tokens == "text"
        return self.tokenizer.as_text(text) if is_text else text

    def encodable(self, items: list[Item]) -> list[Item]:
        """Returns the items, with a problem where one cannot be encoded or is too long.

        ValueError if prompts and answers together are longer than the model allows.
        """
        limit = self.settings.max_prompt_tokens
        checked = []
        for item in items:
            problem = item.problem
            tokens = 0
            try:
                if not problem:
                    encoded = self.processor.prompt(self.example(item))
                    tokens = len(encoded.tokens)
                    self.sizes[item.question.index] = (tokens, len(encoded.tiles))
            # DroppedRow is no ValueError; errors of images are.
            except (ValueError, DroppedRow, OSError) as error:
                problem = " ".join(str(error).split())[:300]
            if tokens > limit:
                problem = f"a prompt of {tokens} tokens; --max_prompt_tokens is {limit}"
            checked.append(dataclasses.replace(item, problem=problem))
        asked = [item for item in checked if not item.problem]
        self._sampling().check(self.config, self._prompt_room(asked))
        return checked

    def ask(self, items: list[Item], runs: int, done) -> Iterator[list[Sample]]:
        """Yields the samples of one batch after the other; batches that are done are left out.

        items: as `encodable` returns them; those with a problem are not asked. done(run, index):
        whether a sample is there.
        """
        blocks = self._blocks(items)
        missing = [
            (start, batch)
            for start, batch in blocks
            if not all(
                done(run, x.question.index) for x in batch for run in range(runs)
            )
        ]
        # The weights are read only if an answer is missing.
        if not missing:
            return
        sampler = self._sampler(blocks, runs)
        model = for_decoding(self._load())
        key = jax.random.key(self.settings.seed)

        # The devices wait for nothing: the prompts of a batch are made while they sample the one
        # before, and its answers are told while they sample the next one.
        told = None
        made = (self._prompts(sampler, batch) for _, batch in missing)
        with contextlib.closing(prefetch(made)) as prompts_ahead:
            # Not strict: the prompts have no end of their own.
            for (start, batch), prompts in zip(missing, prompts_ahead, strict=False):
                info = StepInfo(
                    step=0,
                    key=jax.random.fold_in(key, start),
                    token_limit=self.settings.max_tokens,
                )
                pending = sampler.start(model, prompts, info)
                began = time.monotonic()
                self.began = self.began or began
                if told is not None:
                    yield self._samples(sampler, *told)
                last = sampler.wait(pending)
                seconds = time.monotonic() - began
                self.sampling_s += seconds
                told = batch, pending, last, seconds
        yield self._samples(sampler, *told)

    def _blocks(self, items: list[Item]) -> list[tuple[int, list[Item]]]:
        """Returns (number of its first row, what is asked of it) of each block of rows."""
        size = self.settings.batch
        blocks = [
            (start, items[start : start + size]) for start in range(0, len(items), size)
        ]
        asked = [
            (start, [x for x in block if not x.problem]) for start, block in blocks
        ]
        return [(start, batch) for start, batch in asked if batch]

    def _filled(self, batch: list[Item]) -> list[Item]:
        """Fills a batch up to its size with its last item, whose further answers nobody reads."""
        return batch + batch[-1:] * (self.settings.batch - len(batch))

    def _prompts(self, sampler: Sampler, batch: list[Item]) -> Prompts:
        """Encodes a batch."""
        prompts = sampler.prompts([self.example(item) for item in self._filled(batch)])
        if prompts.batch.tiles is None or jax.process_count() > 1:
            return prompts
        # Pictures are cut here, and not when the devices wait for them.
        tiles = np.asarray(prompts.batch.tiles)
        return dataclasses.replace(
            prompts, batch=dataclasses.replace(prompts.batch, tiles=tiles)
        )

    def _samples(
        self,
        sampler: Sampler,
        batch: list[Item],
        pending: PendingRollout,
        last: Look,
        seconds: float,
    ) -> list[Sample]:
        answers = sampler.answers(pending, last)
        each = seconds / (len(batch) * sampler.group_size)
        return [
            self._sample(item, run, answered, each)
            for item, answered in zip(batch, answers, strict=False)
            for run in range(sampler.group_size)
        ]

    def _prompt_room(self, items: list[Item]) -> int:
        """Returns the tokens to which all prompts are padded: one program for all."""
        longest = max((self.sizes[item.question.index][0] for item in items), default=1)
        return -(-longest // PADDING) * PADDING

    def _sampler(self, blocks: list[tuple[int, list[Item]]], runs: int) -> Sampler:
        """Returns a sampler as large as the largest batch needs: one program for all."""
        tiles = [
            sum(self.sizes[item.question.index][1] for item in self._filled(batch))
            for _, batch in blocks
        ]
        return Sampler(
            processor=self.processor,
            sampling=self._sampling(),
            max_prompt_tokens=self._prompt_room(
                [x for _, batch in blocks for x in batch]
            ),
            tiles=max(1, *tiles),
            group_size=runs,
            slots=self.settings.slots,
        )

    def _sampling(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            banned=self.asking.banned,
            banned_sequences=self.asking.banned_sequences,
        )

    def _load(self):
        compute = Compute(dtype=self.dtype, param_dtype=self.dtype)
        if jax.default_backend() == "tpu":
            compute = dataclasses.replace(compute, attention="splash")
        return weights.load_weights(self.directory, compute=compute)

    def _sample(
        self, item: Item, run: int, answered: Answered, seconds: float
    ) -> Sample:
        completions = answered.completions
        length = int(completions.lengths[run])
        text = answered.texts[run]
        cuts = {}
        for budget in BUDGETS:
            if budget < length:
                ids = completions.tokens[run, :budget]
                part = self.tokenizer.decode(ids, skip_special=True)
                part = self.processor.prefill + part
                # The last character may be cut in two.
                cuts[str(budget)] = len(os.path.commonprefix([text, part]))
        return Sample(
            run=run,
            index=item.question.index,
            text=text,
            tokens=length,
            ended=bool(completions.ended[run]),
            cuts=cuts,
            prompt=item.asked.text,
            images=[list(image.size) for image in item.question.images],
            seconds=round(seconds, 3),
        )
