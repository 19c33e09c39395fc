"""Asks a checkpoint of ours the questions of a benchmark, all runs of a question in one prefill.

Batches are blocks of the benchmark's rows, and the random key of a batch is made of its first row:
what was killed and goes on samples the same tokens. Sampling is `rollout.sampler`'s.
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax

from r1v3_jax.config import Compute
from r1v3_jax.evaluate.critical_tokens import critical_sequences, critical_tokens
from r1v3_jax.evaluate.held_out import NO_THINKING
from r1v3_jax.evaluate.protocol import digest
from r1v3_jax.evaluate.samples import BUDGETS, Item, Sample
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing import tiling
from r1v3_jax.processing.chat import IMAGE_MARKER, IMAGE_TOKENS
from r1v3_jax.processing.processor import Processor, Tiles
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.run import weights
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.types import DroppedRow, Example, StepInfo

# slow: as the checkpoint's template has it. no_think: the template without <think>, which is the
# report's NoThink. prefilled: <think>, and its end already written. no_wait: critical words are
# never sampled (report, section 6.2).
Thinking = Literal["slow", "no_think", "prefilled", "no_wait"]
# Control tokens in a question. text: as characters. special: as the tokens, which forge turns, as
# vLLM encodes them; those of images are then refused.
ControlTokens = Literal["text", "special"]
CRITICAL_WORDS = ("Wait", "Alternatively", "Hmm")

# Prompts are padded to a multiple of this many tokens.
PADDING = 128


class EachImageProcessor(Processor):
    """Gives every image of a prompt all `max_tiles`, as the report's server did."""

    def tiles(self, example: Example) -> Tiles:
        if self.config.vision is None:
            return super().tiles(example)
        images = list(example.images)
        size = self.config.vision.image_size
        limits = {"tile_size": size, "max_tiles": self.config.max_tiles, "share": False}

        def cut(target):
            tiling.tile_images(images, out=target, **limits)

        return Tiles(tiling.count_tiles(images, **limits), size, cut)


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
        if settings.thinking == "no_think":
            chat = dataclasses.replace(tokenizer.chat, opening="")
            tokenizer = dataclasses.replace(tokenizer, chat=chat)
        if settings.control_tokens == "special":
            allowed = frozenset(tokenizer.control_ids) - set(IMAGE_TOKENS)
            tokenizer = dataclasses.replace(tokenizer, allowed=allowed)
        prefill = NO_THINKING if settings.thinking == "prefilled" else ""
        self.tokenizer = tokenizer
        self.processor = EachImageProcessor(self.config, tokenizer, prefill)

    def identity(self) -> str:
        """Returns a digest of the weights' checksums: the same weights in another folder agree."""
        path = Path(self.directory) / "weights" / "SHA256SUMS"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; {self.directory} is incomplete")
        return digest([path.read_text("utf-8")])

    def thinks_first(self) -> bool:
        """Whether answers begin with thoughts that only </think> ends."""
        return self.settings.thinking in ("slow", "no_wait") and (
            "<think>" in self.tokenizer.chat.opening
        )

    def banned_spellings(self) -> list[str]:
        """Returns the spellings of critical words that no_wait bans, as the tokenizer cuts them."""
        if self.settings.thinking != "no_wait":
            return []
        sequences = critical_sequences(self.tokenizer, CRITICAL_WORDS)
        return [self.tokenizer.decode(ids, skip_special=False) for ids in sequences]

    def example(self, item: Item) -> Example:
        """Returns an item as the sampler wants it. The sampler's own score of it is not used."""
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
        longest = 1
        for item in items:
            problem = item.problem
            try:
                tokens = (
                    0
                    if problem
                    else len(self.processor.prompt(self.example(item)).tokens)
                )
            # DroppedRow is no ValueError; errors of images are.
            except (ValueError, DroppedRow, OSError) as error:
                tokens = 0
                problem = " ".join(str(error).split())[:300]
            if tokens > limit:
                problem = f"a prompt of {tokens} tokens; --max_prompt_tokens is {limit}"
            if not problem:
                longest = max(longest, tokens)
            checked.append(dataclasses.replace(item, problem=problem))
        self._sampling().check(self.config, _padded(longest))
        return checked

    def ask(self, items: list[Item], runs: int, done) -> Iterator[list[Sample]]:
        """Yields the samples of one batch after the other; batches that are done are left out.

        done(run, index): whether a sample is there. Items with a problem are not asked.
        """
        size = self.settings.batch
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        batches = [[item for item in batch if not item.problem] for batch in batches]
        plans = [_fill(batch, size) for batch in batches]
        sampler = self._sampler([plan for plan in plans if plan], runs)
        model = None
        key = jax.random.key(self.settings.seed)
        for number, (batch, plan) in enumerate(zip(batches, plans, strict=True)):
            pairs = [(run, item) for item in batch for run in range(runs)]
            if all(done(run, item.question.index) for run, item in pairs):
                continue
            # The weights are read when the first answer is wanted.
            if model is None:
                model = for_decoding(self._load())
            start = time.monotonic()
            info = StepInfo(
                step=0,
                key=jax.random.fold_in(key, number * size),
                token_limit=self.settings.max_tokens,
            )
            groups = sampler.groups(model, [self.example(item) for item in plan], info)
            seconds = (time.monotonic() - start) / max(1, len(pairs))
            yield [
                self._sample(item, run, group, seconds)
                for item, group in zip(batch, groups, strict=False)
                for run in range(runs)
            ]

    def _sampler(self, plans: list[list[Item]], runs: int) -> GroupSampler:
        """Returns a sampler as large as the largest batch needs: one program for all."""
        longest = 1
        tiles = 1
        for plan in plans:
            encoded = [self.processor.prompt(self.example(item)) for item in plan]
            longest = max(longest, *(len(prompt.tokens) for prompt in encoded))
            tiles = max(tiles, sum(len(prompt.tiles) for prompt in encoded))
        return GroupSampler(
            processor=self.processor,
            sampling=self._sampling(),
            max_prompt_tokens=_padded(longest),
            tiles=tiles,
            group_size=runs,
            slots=self.settings.slots,
        )

    def _sampling(self) -> SamplingParams:
        banned = self.tokenizer.banned_token_ids
        sequences = ()
        if self.settings.thinking == "no_wait":
            banned += critical_tokens(self.tokenizer, CRITICAL_WORDS)
            every = critical_sequences(self.tokenizer, CRITICAL_WORDS)
            sequences = tuple(sequence for sequence in every if len(sequence) > 1)
        return SamplingParams(
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            banned=banned,
            banned_sequences=sequences,
        )

    def _load(self):
        compute = Compute(dtype=self.dtype, param_dtype=self.dtype)
        if jax.default_backend() == "tpu":
            compute = dataclasses.replace(compute, attention="splash")
        return weights.load_weights(self.directory, compute=compute)

    def _sample(self, item: Item, run: int, group: Group, seconds: float) -> Sample:
        completions = group.completions
        length = int(completions.lengths[run])
        text = group.texts[run]
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


def _fill(batch: list[Item], size: int) -> list[Item]:
    """Fills a batch up to its size with its last item, whose further answers are thrown away."""
    return batch + batch[-1:] * (size - len(batch)) if batch else []


def _padded(tokens: int) -> int:
    """Returns the next multiple of PADDING: 1 -> 128, 129 -> 256."""
    return -(-tokens // PADDING) * PADDING
