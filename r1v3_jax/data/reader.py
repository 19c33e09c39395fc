"""Examples of a source in order, made by threads before they are wanted, and the rows left out.

A source is a pure function of an index, so a position is one integer: the same rows come in the
same order on every process, on any number of them, and after a restart. A row that cannot be used
(`types.DroppedRow`) is skipped wherever examples are drawn; a `Ledger` lists it in WORKDIR/drops.jsonl
and counts it. Images are decoded here, where a batch is planned, and their tiles are cut later: a
picture that does not open is left out by all processes alike.
"""

import collections
import dataclasses
import os
import sys
import time
from collections.abc import Callable

import grain

from r1v3_jax.config import GRPO, SFT, Data
from r1v3_jax.data.mixtures import with_chains
from r1v3_jax.processing.image_files import ImageError, StoredImage
from r1v3_jax.processing.processor import Encoded, Processor
from r1v3_jax.types import DroppedRow, Example

MAX_THREADS = 16
# A share says little of few rows: as many bad ones more are let pass as it would be of these, or of
# all rows of a source that has fewer.
FIRST_ROWS = 1000

Counts = dict[str, dict[str, int]]  # {source: {reason: rows left out}}


@dataclasses.dataclass(frozen=True)
class Item:
    """A good row. example: its images are decoded."""

    index: int
    example: Example
    encoded: Encoded


@dataclasses.dataclass(frozen=True)
class Consumed:
    """What was used up: cursor, the index of the first row that is still to come; the rows left out
    on the way, as {index, source, id, reason, detail}; seconds waited for.
    """

    cursor: int
    drops: tuple[dict, ...] = ()
    wait_s: float = 0.0

    def then(self, later: "Consumed") -> "Consumed":
        return Consumed(
            later.cursor, self.drops + later.drops, self.wait_s + later.wait_s
        )


class TooManyDropped(ValueError):
    """More rows than `Data.max_drop_fraction` are bad. drops: those not handed out yet."""

    def __init__(self, message: str, drops: tuple[dict, ...]):
        super().__init__(message)
        self.drops = drops


class Reader:
    """An endless iterator over the good rows of a source from index `start` on.

    encode: of `Processor`, an example in numbers. tokens, tiles: room for one example; a larger one
    is left out. counts: what was left out before `start`. Any other exception than `DroppedRow` is
    raised when its row's turn comes, and TooManyDropped as soon as `how` says so. Close it.
    """

    def __init__(
        self,
        source: Callable[[int], Example],
        encode: Callable[[Example], Encoded],
        *,
        tokens: int,
        tiles: int,
        how: Data | None = None,
        start: int = 0,
        counts: Counts | None = None,
    ):
        self.source, self.encode, self.tokens, self.tiles = (
            source,
            encode,
            tokens,
            tiles,
        )
        self.how, self.cursor = how or Data(), start
        self.reasons = collections.Counter()
        for reasons in (counts or {}).values():
            self.reasons.update(reasons)
        rows = len(source) if hasattr(source, "__len__") else FIRST_ROWS
        self._first_rows = min(rows, FIRST_ROWS)
        self._drops: list[dict] = []
        self._wait_s = 0.0
        options = grain.ReadOptions(
            num_threads=self.how.threads or min(os.cpu_count() or 1, MAX_THREADS),
            prefetch_buffer_size=self.how.ahead,
        )
        made = grain.MapDataset.range(start, sys.maxsize).map(self.make)
        self._made = iter(made.to_iter_dataset(options))

    def __iter__(self) -> "Reader":
        return self

    def __next__(self) -> Item:
        while True:
            began = time.perf_counter()
            made = next(self._made)
            self._wait_s += time.perf_counter() - began
            self.cursor += 1
            if isinstance(made, Item):
                return made
            self._leave_out(made)

    def take(self, count: int) -> tuple[list[Item], Consumed]:
        """The next `count` good rows."""
        items = [next(self) for _ in range(count)]
        return items, self.consumed()

    def consumed(self, *, back: int = 0) -> Consumed:
        """What was used up since the last call, if the last `back` rows were given back."""
        drops, self._drops = tuple(self._drops), []
        wait_s, self._wait_s = self._wait_s, 0.0
        return Consumed(self.cursor - back, drops, wait_s)

    def close(self) -> None:
        """Stops the threads; rows that were begun are finished behind the caller's back."""
        self._made.close()

    def make(self, index: int) -> Item | dict:
        """The row at an index, or why it is left out; what the threads do."""
        try:
            example = decoded(self.source(index))
            encoded = self._encoded(example)
        except DroppedRow as drop:
            # Not the exception itself: it would hold on to the images of its frames.
            names = ("source", "id", "reason", "detail")
            return {
                "index": int(index),
                **{name: getattr(drop, name) for name in names},
            }
        return Item(int(index), example, encoded)

    def _encoded(self, example: Example) -> Encoded:
        where = example.source, example.id
        try:
            encoded = self.encode(example)
        except (
            ValueError
        ) as error:  # a control token in its text, another number of markers
            raise DroppedRow(*where, "text", str(error)) from error
        if len(encoded.tokens) > self.tokens:
            got = f"{len(encoded.tokens)} tokens, room for {self.tokens}"
            raise DroppedRow(*where, "too_long", got)
        if len(encoded.tiles) > self.tiles:
            got = f"{len(encoded.tiles)} tiles, room for {self.tiles}"
            raise DroppedRow(*where, "too_many_tiles", got)
        return encoded

    def _leave_out(self, drop: dict) -> None:
        self._drops.append(drop)
        self.reasons[drop["reason"]] += 1
        dropped, limit = self.reasons.total(), self.how.max_drop_fraction
        if dropped <= limit * (self.cursor + self._first_rows):
            return
        last = f"{drop['source']}, {drop['id']}: {drop['reason']} ({drop['detail']})"
        raise TooManyDropped(
            f"got {dropped} bad rows among the first {self.cursor} ({format_counts(self.reasons)}), wanted "
            f"at most max_drop_fraction = {limit}; the last is {last}; mend the data, or raise "
            "data.max_drop_fraction",
            tuple(self._drops),
        )


def of_stage(
    config: SFT | GRPO,
    processor: Processor,
    how: Data,
    *,
    source: Callable[[int], Example] | None = None,
    start: int = 0,
    counts: Counts | None = None,
) -> Reader:
    """What a stage draws from: `source`, by default what it learns from.

    Every prompt of a GRPO step has the same share of the step's tile slots.
    """
    if source is None:
        source = config.train
        if chains := getattr(config, "chains", ""):
            source = with_chains(source, chains)
    if isinstance(config, GRPO):
        encode, tokens = processor.prompt, config.max_prompt_tokens
        tiles = config.tiles // config.prompts
    else:
        encode, tokens = processor.supervised, config.row_tokens
        tiles = config.tiles // config.accumulate
    limits = {"tokens": tokens, "tiles": tiles}
    return Reader(source, encode, how=how, start=start, counts=counts, **limits)


def format_counts(reasons: collections.Counter) -> str:
    """Reasons and how often, as "5 markers, 2 image_missing"."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def decoded(example: Example) -> Example:
    """The example with its images decoded. Dropped if one of them cannot be."""
    pictures = []
    for image in example.images:
        try:
            pictures.append(image.decode() if isinstance(image, StoredImage) else image)
        except ImageError as error:
            raise DroppedRow(
                example.source, example.id, error.reason, str(error)
            ) from error
    return dataclasses.replace(example, images=tuple(pictures))
