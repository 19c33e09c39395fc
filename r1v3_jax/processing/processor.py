"""Turns one Example into numbers for one model: token ids, labels, loss mask and tiles.

Knows the tokenizer, the tiling and the limits of the model. Does not know batches, packing or
devices.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from r1v3_jax.config import ModelConfig
from r1v3_jax.processing import tiling
from r1v3_jax.processing.tokenizer import Tokenizer, check_token_ids
from r1v3_jax.types import DroppedRow, Example


class Tiles:
    """The I tiles of one prompt's images, float32[I, S, S, 3], cut only where they are wanted."""

    def __init__(
        self, counts: list[int], size: int, cut: Callable[[np.ndarray], object]
    ):
        self.counts = counts  # tiles of each image
        self.size = size  # S
        self.cut = cut  # cut(target) writes all tiles into float32[I, S, S, 3]

    def __len__(self) -> int:
        return sum(self.counts)

    @functools.cached_property
    def array(self) -> np.ndarray:
        """All tiles, cut at the first use and then kept."""
        tiles = np.empty((len(self), self.size, self.size, 3), np.float32)
        self.cut(tiles)
        return tiles

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)

    def write(self, part: slice, target: np.ndarray) -> None:
        """Writes the tiles of a slice into `target`."""
        # All tiles for one device: cut in place, nothing is kept.
        if len(target) == len(self) and "array" not in vars(self):
            self.cut(target)
        # Some of them: all are cut and kept, for the other devices soon want the rest.
        else:
            target[:] = self.array[part]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One example in numbers."""

    tokens: np.ndarray  # int32[T]
    # int32[T], the tokens; except right after an image token that has a label: there the label
    # names what the image token shows
    labels: np.ndarray
    loss_mask: np.ndarray  # bool[T]
    tiles: Tiles  # float32[I, S, S, 3]


@dataclasses.dataclass(frozen=True)
class EncodedPair(Encoded):
    """A prompt in numbers, and two answers to it, each up to the end of its turn."""

    chosen: np.ndarray  # int32[C], the preferred one
    rejected: np.ndarray  # int32[R]


class Processor:
    """Turns examples into ids and tiles for one model."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, prefill: str = ""):
        self.config = config
        self.tokenizer = tokenizer
        # Text that every sampled answer is made to begin with; part of the prompt's ids.
        self.prefill = prefill
        # The same few questions come again and again; tokenising is the slow part.
        self._prompt_ids = functools.lru_cache(4096)(self._encode_prompt)

    def prompt(self, example: Example) -> Encoded:
        """Encodes what sampling starts from.

        ValueError if it is not a prompt of this model. DroppedRow if it is too long for the model,
        if the row has a chain but no answer: no sampled answer to it can be right; or if it has two
        answers to compare.
        """
        self._refuse_pair(example)
        # A row that only teaches is for supervised stages.
        if example.chain is not None and not example.answer:
            detail = "a chain of thought alone"
            raise DroppedRow(example.source, example.id, "no_answer", detail)
        tiles = self.tiles(example)
        turns = (*example.before, ("user", example.question))
        ids = np.asarray(self._prompt_ids(turns, tuple(tiles.counts)), np.int32)
        self._check_length(ids, example)
        return Encoded(
            tokens=ids, labels=ids, loss_mask=np.zeros(len(ids), bool), tiles=tiles
        )

    def supervised(self, example: Example) -> Encoded:
        """Encodes prompt, chain of thought and answer, to learn from.

        The loss is on what follows the prompt, and on the assistant's earlier turns. DroppedRow if
        there is nothing to learn from, or a reply that never ends its thought.
        """
        self._refuse_pair(example)
        if example.chain is None:
            raise DroppedRow(example.source, example.id, "no_chain")
        self._check_thoughts(example, example.chain)
        tiles = self.tiles(example)
        question = ("user", example.question)
        answer = ("assistant", example.chain)
        ids, mask = self.tokenizer.encode_example(
            _messages((*example.before, question, answer)),
            self._image_tokens(tiles.counts),
        )
        check_token_ids(ids, self.config.text.vocab_size)
        self._check_length(ids, example)
        ids = np.asarray(ids, np.int32)
        mask = np.asarray(mask)
        labels = ids
        if example.image_labels:
            labels = self._label_images(example, ids, mask)
        return Encoded(tokens=ids, labels=labels, loss_mask=mask, tiles=tiles)

    def pair(self, example: Example, *, answer_tokens: int) -> EncodedPair:
        """Encodes a prompt and the two answers to it, to learn which is preferred.

        answer_tokens: the room for one answer, with the end of its turn. DroppedRow if there are
        no two answers, if they are the same or too long, or if the preferred one never ends its
        thought. That of a rejected one may be its flaw.
        """
        row = example.source, example.id
        answers = [example.chosen or "", example.rejected or ""]
        if not all(answer.strip() for answer in answers):
            raise DroppedRow(*row, "no_pair")
        self._check_thoughts(example, answers[0])
        tiles = self.tiles(example)
        turns = (*example.before, ("user", example.question))
        prompt = np.asarray(self._prompt_ids(turns, tuple(tiles.counts)), np.int32)
        encoded = [self._answer_ids(turns, answer, tiles.counts) for answer in answers]
        if np.array_equal(*encoded):
            raise DroppedRow(*row, "same_answers", answers[0])
        longest = max(map(len, encoded))
        if longest > answer_tokens:
            detail = f"an answer of {longest} tokens, room for {answer_tokens}"
            raise DroppedRow(*row, "too_long", detail)
        return EncodedPair(
            tokens=prompt,
            labels=prompt,
            loss_mask=np.zeros(len(prompt), bool),
            tiles=tiles,
            chosen=encoded[0],
            rejected=encoded[1],
        )

    def _answer_ids(
        self, turns: tuple[tuple[str, str], ...], answer: str, counts
    ) -> np.ndarray:
        """Returns the tokens of the reply to `turns`, through the end of its turn, int32[C]."""
        messages = _messages((*turns, ("assistant", answer)))
        image_tokens = self._image_tokens(counts)
        ids, mask = self.tokenizer.encode_example(messages, image_tokens)
        check_token_ids(ids, self.config.text.vocab_size)
        # A chat is its prompt, then the reply: its mask is true up to the end of the turn.
        start = len(self.tokenizer.encode_prompt(_messages(turns), image_tokens))
        end = int(np.flatnonzero(mask)[-1]) + 1
        return np.asarray(ids[start:end], np.int32)

    def _refuse_pair(self, example: Example) -> None:
        """DroppedRow for a row with two answers to compare."""
        if example.chosen is not None or example.rejected is not None:
            detail = "chosen and rejected; a stage Preference(...) learns from them"
            raise DroppedRow(example.source, example.id, "pair", detail)

    def _check_thoughts(self, example: Example, last_reply: str) -> None:
        """DroppedRow if a reply never ends the thought that its turn begins with.

        Without </think>, "A cat." would be learnt as a thought that ends the turn.
        """
        if "<think>" not in self.tokenizer.chat.opening:
            return
        replies = [text for role, text in example.before if role == "assistant"]
        for reply in (*replies, last_reply):
            if "</think>" not in reply:
                detail = f"{reply[:100]!r} has no </think>"
                raise DroppedRow(example.source, example.id, "open_thought", detail)

    def _label_images(
        self, example: Example, ids: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """Returns the labels of an example whose image tokens have names; sets `mask` there.

        ids     [<img>  I   I  </img>]   a prediction is compared with the label one to the right,
        labels  [<img>  I   7   3    ]   so the label of an image token is one to its right
        mask    [  0    0   1   1    ]
        """
        encoded = [self.tokenizer.encode_text(text) for text in example.image_labels]
        names = np.concatenate(encoded)
        # <img> I I </img> at positions 0 to 3: the image tokens are 1 and 2, the places 2 and 3.
        places = np.flatnonzero(ids == self.config.image_token_id) + 1
        if len(names) != len(places):
            raise ValueError(
                f"{example.id}: {len(names)} tokens of image labels for {len(places)} image "
                "tokens; give one label of one token to each"
            )
        labels = ids.copy()
        labels[places] = names
        mask[places] = True
        return labels

    def _encode_prompt(self, turns: tuple[tuple[str, str], ...], counts) -> list[int]:
        image_tokens = self._image_tokens(counts)
        ids = self.tokenizer.encode_prompt(_messages(turns), image_tokens)
        ids += self.tokenizer.encode_text(self.prefill)
        check_token_ids(ids, self.config.text.vocab_size)
        return ids

    def _check_length(self, ids, example: Example) -> None:
        limit = self.config.text.max_positions
        if len(ids) > limit:
            detail = f"{len(ids)} tokens, the model has {limit} positions"
            raise DroppedRow(example.source, example.id, "too_long", detail)

    def _image_tokens(self, counts) -> list[int]:
        return [count * self.config.image_tokens_per_tile for count in counts]

    @property
    def tile_size(self) -> int:
        """The side of a tile in pixels; 1 for a language model, whose examples have no images."""
        return self.config.vision.image_size if self.config.vision else 1

    def tiles(self, example: Example) -> Tiles:
        """Counts the tiles of an example's images; cuts none yet."""
        size = self.tile_size
        images = list(example.images)
        limits = self._tile_limits(example)
        counts = tiling.count_tiles(images, tile_size=size, max_tiles=limits)

        def cut(target):
            tiling.tile_images(images, tile_size=size, max_tiles=limits, out=target)

        return Tiles(counts, size, cut)

    def _tile_limits(self, example: Example) -> list[int]:
        """Returns how many tiles each image may have, its thumbnail not counted.

        Images share the model's tiles, and the frames of a film the film's. With 12 tiles, two
        images and a film of 3 frames with 1 tile each:   [6, 6, 1, 1, 1]
        """
        limits = [0] * len(example.images)
        for film in example.films:
            # A frame of 3 tiles is two and a thumbnail; one of 2 tiles would be two without.
            limit = max(1, film.tiles - 1)
            limits[film.first : film.first + film.frames] = [limit] * film.frames
        num_images = limits.count(0)
        if num_images:
            share = tiling.tiles_per_image(num_images, self.config.max_tiles)
            limits = [limit or share for limit in limits]
        return limits


def _messages(turns: tuple[tuple[str, str], ...]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]
