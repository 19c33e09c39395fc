"""An Example in numbers, as one model wants it (today: data.Processor)."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from r1v3_jax.config import ModelConfig
from r1v3_jax.processing import tiling
from r1v3_jax.processing.tokenizer import Tokenizer, check_token_ids
from r1v3_jax.types import DroppedRow, Example


class Tiles:
    """The I tiles of one prompt's images, float32[I, S, S, 3], cut where they are wanted.

    counts: of each image. size: S. `cut(out)` writes all of them into float32[I, S, S, 3].
    """

    def __init__(
        self, counts: list[int], size: int, cut: Callable[[np.ndarray], object]
    ):
        self.counts, self.size, self.cut = counts, size, cut

    def __len__(self) -> int:
        return sum(self.counts)

    @functools.cached_property
    def array(self) -> np.ndarray:
        out = np.empty((len(self), self.size, self.size, 3), np.float32)
        self.cut(out)
        return out

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)

    def write(self, part: slice, out: np.ndarray) -> None:
        """The tiles of a slice, into `out`. If it is not all, all are kept: the rest will follow,
        for the next device.
        """
        if len(out) == len(self) and "array" not in vars(self):
            self.cut(out)
        else:
            out[:] = self.array[part]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One example in numbers.

    tokens, labels: int32[T]; loss_mask: bool[T]; tiles: float32[I, S, S, 3]. labels are the tokens,
    but for those behind image tokens that are to name what they show.
    """

    tokens: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray
    tiles: Tiles


class Processor:
    """Turns examples into ids and tiles, as one model wants them.

    prefill: text that every sampled answer is made to begin with; part of the prompt's ids.
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, prefill: str = ""):
        self.config, self.tokenizer, self.prefill = config, tokenizer, prefill
        # The same few questions come again and again; tokenising is the slow part.
        self._prompt_ids = functools.lru_cache(4096)(self._encode_prompt)

    def prompt(self, example: Example) -> Encoded:
        """What sampling starts from. ValueError if it is not a prompt of this model, Dropped if it
        is too long for it, or a row that only teaches: no answer to it can be right.
        """
        if example.chain is not None and not example.answer:
            raise DroppedRow(
                example.source, example.id, "no_answer", "a chain of thought alone"
            )
        tiles = self.tiles(example)
        turns = (*example.before, ("user", example.question))
        ids = np.asarray(self._prompt_ids(turns, tuple(tiles.counts)), np.int32)
        self._check_length(ids, example)
        return Encoded(ids, ids, np.zeros(len(ids), bool), tiles)

    def supervised(self, example: Example) -> Encoded:
        """Prompt, chain of thought and answer; the loss is on what follows the prompt, and on what
        the assistant said before.
        """
        if example.chain is None:
            raise DroppedRow(example.source, example.id, "no_chain")
        tiles = self.tiles(example)
        turns = (
            *example.before,
            ("user", example.question),
            ("assistant", example.chain),
        )
        ids, mask = self.tokenizer.encode_example(
            _messages(turns), self._image_tokens(tiles.counts)
        )
        check_token_ids(ids, self.config.text.vocab_size)
        self._check_length(ids, example)
        ids, mask = np.asarray(ids, np.int32), np.asarray(mask)
        labels = self._label_images(example, ids, mask) if example.image_labels else ids
        return Encoded(ids, labels, mask, tiles)

    def _label_images(
        self, example: Example, ids: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """The labels of an example whose image tokens are to be named; sets `mask` there.

        ids     [<img>  I   I  </img>]   a prediction is held against what stands behind it, so
        labels  [<img>  I   7   3    ]   the label of an image token stands one to the right
        mask    [  0    0   1   1    ]
        """
        named = np.concatenate(
            [self.tokenizer.encode_text(text) for text in example.image_labels]
        )
        behind = np.flatnonzero(ids == self.config.image_token_id) + 1
        if len(named) != len(behind):
            raise ValueError(
                f"{example.id}: {len(named)} tokens of image labels for {len(behind)} image "
                "tokens; give one label of one token to each"
            )
        labels = ids.copy()
        labels[behind], mask[behind] = named, True
        return labels

    def _encode_prompt(self, turns: tuple[tuple[str, str], ...], counts) -> list[int]:
        ids = self.tokenizer.encode_prompt(_messages(turns), self._image_tokens(counts))
        ids += self.tokenizer.encode_text(self.prefill)
        check_token_ids(ids, self.config.text.vocab_size)
        return ids

    def _check_length(self, ids, example: Example) -> None:
        if len(ids) > (limit := self.config.text.max_positions):
            got = f"{len(ids)} tokens, the model has {limit} positions"
            raise DroppedRow(example.source, example.id, "too_long", got)

    def _image_tokens(self, counts) -> list[int]:
        return [count * self.config.image_tokens_per_tile for count in counts]

    def tiles(self, example: Example) -> Tiles:
        size = self.config.vision.image_size if self.config.vision else 1
        how = {"tile_size": size, "max_tiles": self.config.max_tiles}
        pictures = list(example.images)
        return Tiles(
            tiling.count_tiles(pictures, **how),
            size,
            lambda out: tiling.tile_images(pictures, **how, out=out),
        )


def _messages(turns: tuple[tuple[str, str], ...]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]
