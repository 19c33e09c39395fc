"""A frozen process reward model that scores the steps of a step's samples (`FrozenScores`)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.data import placement
from r1v3_jax.data.packing import empty_batch
from r1v3_jax.data.prompts import TileSlots, place_images
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Encoded, Processor
from r1v3_jax.rewards.helpers import StepScores
from r1v3_jax.train.update import micro_batch
from r1v3_jax.types import Batch, Example


@jax.jit
def step_scores(model: R1V3, batch: Batch, good: jax.Array, bad: jax.Array):
    """Returns p(good) / (p(good) + p(bad)) of the token behind each token, float32[B, T].

    batch: one micro-batch, [1, B, T]. good, bad: int32[], tokens.
    """
    rows = micro_batch(batch, 0)
    images = None if rows.tiles is None else model.encode_images(rows.tiles)
    hidden = model(
        rows.tokens, rows.positions, rows.segment_ids, images, rows.image_index
    )
    for_good, _ = model.logprobs(hidden, jnp.full_like(rows.tokens, good))
    for_bad, _ = model.logprobs(hidden, jnp.full_like(rows.tokens, bad))
    return jax.nn.sigmoid(for_good - for_bad)


@dataclasses.dataclass(frozen=True)
class FrozenScores:
    """A frozen model that scores steps; see `rewards.helpers.StepScores`.

    All processes must call it with the same rows. It scores at least once a call, so that its
    program is compiled in the first step.
    """

    term: StepScores
    model: R1V3
    processor: Processor  # the helper's
    prompts: int  # samples at a time
    rows: int  # of a batch: no fewer, and they split over the devices
    room: int  # tokens of a row
    tiles: int  # slots of a batch

    def __call__(self, rows: list[tuple[Example, str]]) -> list[tuple[list, str]]:
        """Returns (the scores of its steps, "") of each sample, or ([], why there are none)."""
        answers: list[tuple[list, str]] = [([], "")] * len(rows)
        known: dict[int, tuple[Encoded, list[int]]] = {}
        for i, (example, thoughts) in enumerate(rows):
            try:
                known[i] = self._encode(example, thoughts)
            except (
                Exception
            ) as error:  # as a control token that the policy wrote as text
                answers[i] = [], str(error)[:200]
        places = list(known)
        for start in range(0, max(len(places), 1), self.prompts):
            chunk = places[start : start + self.prompts]
            scores = self._score([known[i][0] for i in chunk])
            for row, i in enumerate(chunk):
                of_steps = [float(scores[row, end]) for end in known[i][1]]
                if np.isfinite(of_steps).all():
                    answers[i] = of_steps, ""
                else:
                    answers[i] = [], f"the scores of its steps are {of_steps}"[:200]
        return answers

    def _encode(self, example: Example, thoughts: str) -> tuple[Encoded, list[int]]:
        """Encodes a question and its steps; and the place of each step's last token.

        prompt of 5 tokens, steps of 3 and 2   ->   10 tokens, [7, 9]
        """
        prompt = self.processor.prompt(example)
        pieces = [prompt.tokens]
        ends = []
        size = len(prompt.tokens)
        for step in self.term.steps(thoughts):
            ids = self.processor.tokenizer.encode_text(step)
            pieces.append(np.asarray(ids, np.int32))
            size += len(ids)
            ends.append(size - 1)
        if size > self.room:
            raise ValueError(f"{size} tokens, the helper has room for {self.room}")
        most = self.tiles // self.prompts
        if len(prompt.tiles) > most:
            raise ValueError(f"{len(prompt.tiles)} tiles, the helper has {most}")
        tokens = np.concatenate(pieces)
        return dataclasses.replace(prompt, tokens=tokens), ends

    def _score(self, examples: list[Encoded]) -> np.ndarray:
        """Returns `step_scores` of at most `prompts` rows, on the host."""
        config = self.processor.config
        shape = (1, self.rows, self.room)
        tiles = [[example.tiles for example in examples]]
        slots = None
        if config.vision is not None:
            slots = TileSlots(tiles, self.tiles, config.vision.image_size)
        batch = empty_batch(config, shape, slots)
        if slots is not None:
            batch.image_index[:] = -1
        first_tile = 0
        for row, example in enumerate(examples):
            size = len(example.tokens)
            batch.tokens[0, row, :size] = example.tokens
            batch.positions[0, row, :size] = np.arange(size)
            batch.segment_ids[0, row, :size] = 1
            if slots is not None:
                index = batch.image_index[0, row, :size]
                place_images(index, example, first_tile, self.processor)
                first_tile += len(example.tiles)
        rules = self.model.compute.rules
        batch = placement.place(batch, rules, jax.sharding.get_mesh())
        good, bad = marks(self.term, self.processor)
        scores = step_scores(self.model, batch, jnp.int32(good), jnp.int32(bad))
        return np.asarray(placement.fetch(scores))


@functools.lru_cache
def marks(term: StepScores, processor: Processor) -> tuple[int, int]:
    """Returns the tokens of `good` and `bad`. ValueError if one is not a single token."""
    found = []
    for name in ("good", "bad"):
        text = getattr(term, name)
        ids = processor.tokenizer.encode_text(text)
        if len(ids) != 1:
            raise ValueError(
                f"StepScores.{name} is {text!r}, which is {len(ids)} tokens of its helper; wanted "
                "a text of one token, as '+'"
            )
        found.append(int(ids[0]))
    return tuple(found)
