"""Good rows of a source in order, made ahead by threads, and the rows that are left out.

A source is a pure function of an index, so a position is one integer: the same rows come in the
same order on every process, on any number of processes, and after a restart. A row that cannot be
used raises `types.DroppedRow` and is skipped; `stages.ledger` lists it in WORKDIR/drops.jsonl and
counts it. Images and films are decoded here, where a batch is planned, and tiles are cut later: a
row whose image does not open is left out by all processes alike.
"""

import collections
import dataclasses
import os
import sys
import time
from collections.abc import Callable

import grain

from r1v3_jax.config import Data, Video
from r1v3_jax.data.films import with_frames
from r1v3_jax.processing.image_files import ImageError, StoredImage
from r1v3_jax.processing.processor import Encoded
from r1v3_jax.types import DroppedRow, Example

MAX_THREADS = 16
# Grace at the start, where a share says little: a stage stops when
# bad rows > max_drop_fraction x (rows read + FIRST_ROWS), or + one pass if the source is shorter.
# With 0.01, 10 bad rows may come first, before any good one; the 11th stops it.
FIRST_ROWS = 1000

Counts = dict[str, dict[str, int]]  # {source: {reason: rows left out}}


@dataclasses.dataclass(frozen=True)
class Item:
    """A good row."""

    index: int  # in the source
    example: Example  # with its images decoded
    encoded: Encoded  # the same example in numbers


@dataclasses.dataclass(frozen=True)
class Consumed:
    """What a batch or a step used up of a reader.

    Rows 40 to 43 were read, 41 was bad: Consumed(44, ({"index": 41, "reason": "json"},), 0.02),
    with the other fields of a drop left out.
    """

    cursor: int  # the index of the first row that is still to come
    # The rows left out on the way, each {"index", "source", "id", "reason", "detail"}.
    drops: tuple[dict, ...] = ()
    wait_s: float = 0.0  # seconds for which the caller waited for rows

    def followed_by(self, later: "Consumed") -> "Consumed":
        """Adds up two that came one after the other: the cursor is that of the later one."""
        drops = self.drops + later.drops
        return Consumed(later.cursor, drops, self.wait_s + later.wait_s)


class TooManyDropped(ValueError):
    """More rows than `Data.max_drop_fraction` are bad."""

    def __init__(self, message: str, drops: tuple[dict, ...]):
        super().__init__(message)
        self.drops = drops  # those that no `Consumed` has listed yet


class Reader:
    """An endless iterator over the good rows of a source, from index `start` on. Close it.

    encode: a method of `Processor`, an example in numbers. tokens, tiles: the room for one example;
    a larger one is left out. data: threads, and how many rows may be bad. counts: what was left out
    before `start`. tile_size: see `decoded`.

    An exception other than DroppedRow is raised when its row's turn comes; TooManyDropped as soon
    as more rows are bad than `data` allows.
    """

    def __init__(
        self,
        source: Callable[[int], Example],
        encode: Callable[[Example], Encoded],
        *,
        tokens: int,
        tiles: int,
        data: Data | None = None,
        start: int = 0,
        counts: Counts | None = None,
        tile_size: int = 0,
    ):
        self.source = source
        self.encode = encode
        self.tokens = tokens
        self.tiles = tiles
        self.tile_size = tile_size
        self.data = data or Data()
        self.cursor = start
        # Of all sources together: the limit is the stage's.
        self.reasons = collections.Counter()
        for reasons in (counts or {}).values():
            self.reasons.update(reasons)
        # A source without an end, as a mixture is, has no pass: it gets the whole grace.
        rows = len(source) if hasattr(source, "__len__") else FIRST_ROWS
        self._grace_rows = min(rows, FIRST_ROWS)
        self._drops: list[dict] = []
        self._wait_s = 0.0
        options = grain.ReadOptions(
            num_threads=self.data.threads or min(os.cpu_count() or 1, MAX_THREADS),
            prefetch_buffer_size=self.data.ahead,
        )
        outcomes = grain.MapDataset.range(start, sys.maxsize).map(self.make)
        # Grain's threads call `make` for the next rows and hand its results over in order.
        self._outcomes = iter(outcomes.to_iter_dataset(options))

    def __iter__(self) -> "Reader":
        return self

    def __next__(self) -> Item:
        while True:
            # No time passes here while rows are ahead; `wait_s` grows when the threads are slower
            # than the devices.
            began = time.perf_counter()
            outcome = next(self._outcomes)
            self._wait_s += time.perf_counter() - began
            self.cursor += 1
            if isinstance(outcome, Item):
                return outcome
            self._leave_out(outcome)

    def take(self, count: int) -> tuple[list[Item], Consumed]:
        """Returns the next `count` good rows, and what they used up."""
        items = [next(self) for _ in range(count)]
        return items, self.consumed()

    def consumed(self, *, unused: int = 0) -> Consumed:
        """Returns what was used up since the last call.

        unused: how many of the good rows read last are left for the next batch. After rows 0 to 9,
        unused=1 gives the cursor 9: a resumed run reads row 9 again.
        """
        drops = tuple(self._drops)
        wait_s = self._wait_s
        self._drops = []
        self._wait_s = 0.0
        return Consumed(self.cursor - unused, drops, wait_s)

    def close(self) -> None:
        """Stops the threads without waiting for the rows that they are at."""
        self._outcomes.close()

    def make(self, index: int) -> Item | dict:
        """Makes the row at an index, or says why it is left out. The threads call this."""
        try:
            example = decoded(
                self.source(index),
                self.data.image_conversion,
                self.data.video,
                self.tile_size,
            )
            encoded = self._encoded(example)
        except DroppedRow as drop:
            # The fields and not the exception: it would keep the images of its frames in memory.
            return {
                "index": int(index),
                "source": drop.source,
                "id": drop.id,
                "reason": drop.reason,
                "detail": drop.detail,
            }
        return Item(int(index), example, encoded)

    def _encoded(self, example: Example) -> Encoded:
        """Encodes an example; DroppedRow if it is no text for this model, or too large."""
        row = example.source, example.id
        try:
            encoded = self.encode(example)
        except ValueError as error:
            # A control token in its text, or not one marker an image.
            raise DroppedRow(*row, "text", str(error)) from error
        # Nothing is ever cut to fit: half an image or half a chain of thought teaches nonsense.
        if len(encoded.tokens) > self.tokens:
            detail = f"{len(encoded.tokens)} tokens, room for {self.tokens}"
            raise DroppedRow(*row, "too_long", detail)
        if len(encoded.tiles) > self.tiles:
            detail = f"{len(encoded.tiles)} tiles, room for {self.tiles}"
            raise DroppedRow(*row, "too_many_tiles", detail)
        return encoded

    def _leave_out(self, drop: dict) -> None:
        """Notes a bad row; TooManyDropped if that is one too many."""
        self._drops.append(drop)
        self.reasons[drop["reason"]] += 1
        dropped = self.reasons.total()
        limit = self.data.max_drop_fraction
        if dropped <= limit * (self.cursor + self._grace_rows):
            return
        row = f"{drop['source']}, {drop['id']}: {drop['reason']} ({drop['detail']})"
        raise TooManyDropped(
            f"got {dropped} bad rows among the first {self.cursor} "
            f"({format_counts(self.reasons)}), wanted at most max_drop_fraction = {limit}; "
            f"the last is {row}; mend the data, or raise data.max_drop_fraction",
            tuple(self._drops),
        )


def format_counts(reasons: collections.Counter) -> str:
    """Formats reasons with how often each came, most frequent first: "5 markers, 2 json"."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def decoded(
    example: Example,
    conversion: str = "served",
    video: Video | None = None,
    tile_size: int = 0,
) -> Example:
    """Returns the example with its images and films decoded; DroppedRow if one cannot be.

    conversion: how they become RGB, see `config.Data.image_conversion`. video: which frames of a
    film. tile_size: the side that frames of one tile are stretched to at once, so that 32 frames
    take 19 MB and not 118; 0: they stay as they are.
    """
    images = []
    frames = []
    video = video or Video()
    # With one tile each, a frame is stretched to that tile and to nothing else.
    side = 0 if video.tiles else tile_size
    try:
        for image in example.images:
            # Sources that draw their images themselves have decoded ones already.
            if isinstance(image, StoredImage):
                image = image.decode(conversion)
            images.append(image)
        for film in example.videos:
            frames.append(film.decode(video, side=side, conversion=conversion))
    except ImageError as error:
        raise DroppedRow(
            example.source, example.id, error.reason, str(error)
        ) from error
    example = dataclasses.replace(example, images=tuple(images))
    return with_frames(example, frames, video.tiles) if frames else example
