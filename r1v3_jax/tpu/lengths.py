"""Prices a step whose samples are of uneven lengths: --dry_run_lengths.

Decoding reads the slots in use, so a token of all samples takes a + b x slots in use, where the
slots are those of the fullest group of chips, and a is everything else: weights, prompts, sums. It
goes on until the longest sample ends:

    one group, lengths 4 2 1      token        0  1  2  3
                                  in use       0  2  2  3       seconds 4 a + 7 b

The update runs fewer micro-batches, as many as its packed samples take. Prompts are full. Nothing
is run: every figure is an estimate.
"""

import dataclasses
import heapq
import itertools
import math
from pathlib import Path

import numpy as np

from r1v3_jax.config import GRPO, Run
from r1v3_jax.report.samples import read_briefs

DRAWS = 16  # steps that are drawn; their mean is what is printed


@dataclasses.dataclass(frozen=True)
class Lengths:
    """A distribution of the lengths of samples, in tokens, before the limit cuts them."""

    name: str
    median: float = 0.0
    sigma: float = 0.0  # of the logarithm
    seen: tuple[int, ...] = ()  # of an earlier run, in place of the two

    def draw(
        self, random: np.random.Generator, shape: tuple[int, int], limit: int
    ) -> np.ndarray:
        """Returns int64[P, G] lengths from 1 to `limit`."""
        if self.seen:
            drawn = random.choice(np.array(self.seen), shape)
        else:
            drawn = random.lognormal(math.log(self.median), self.sigma, shape)
        return np.clip(np.ceil(drawn).astype(np.int64), 1, limit)


def parse(text: str) -> Lengths:
    """Reads "2400,0.8", median and sigma of a lognormal, or the path of a rollouts file.

    The file is WORKDIR/rollouts/STAGE_STEP.jsonl of a run. ValueError for what is neither.
    """
    path = Path(text)
    if path.is_file():
        briefs = read_briefs(path)
        seen = tuple(brief.length for brief in briefs if brief is not None)
        if not seen:
            raise ValueError(
                f"--dry_run_lengths={text}: no sample can be read in it; "
                "WORKDIR/rollouts/grpo_000010.jsonl of a run would do"
            )
        return Lengths(name=path.name, seen=seen)
    try:
        median, sigma = map(float, text.split(","))
    except ValueError:
        median = sigma = math.nan
    # Also false for nan.
    if not (1 <= median < math.inf and 0 <= sigma <= 5):
        raise ValueError(
            f"--dry_run_lengths={text} is neither a file nor the median and the sigma of a "
            "lognormal; 2400,0.8 would do, or WORKDIR/rollouts/grpo_000010.jsonl of a run"
        )
    return Lengths(
        name=f"lognormal, median {median:,.0f}, sigma {sigma:g}",
        median=median,
        sigma=sigma,
    )


@dataclasses.dataclass(frozen=True)
class Load:
    """What one decode does: its tokens, and the slots in use of its fullest group, summed."""

    trips: int
    slot_trips: float


def load(lengths: np.ndarray, slots: int = 0) -> Load:
    """Returns the load of samples of int[groups, samples] lengths.

    slots: of a group, into which waiting samples go in order; 0: one for each.
    """
    trips = 0
    in_use = []
    for row in lengths:
        starts = starts_of(row, slots)
        end = int(np.max(starts + row))
        trips = max(trips, end)
        used = np.zeros(end)
        # A sample that has t tokens uses t slots.
        for start, length in zip(starts, row, strict=True):
            used[start : start + length] += np.arange(length)
        in_use.append(used)
    most = np.zeros(trips)
    for used in in_use:
        most[: len(used)] = np.maximum(most[: len(used)], used)
    return Load(trips, float(most.sum()))


def starts_of(lengths: np.ndarray, slots: int) -> np.ndarray:
    """Returns int[samples], the token at which each sample of a group starts.

    Lengths 4 2 3 in 2 slots start at 0 0 2.
    """
    count = len(lengths)
    starts = np.zeros(count, np.int64)
    if not slots or slots >= count:
        return starts
    free = [int(length) for length in lengths[:slots]]  # when each slot is free
    heapq.heapify(free)
    for i in range(slots, count):
        starts[i] = heapq.heappop(free)
        heapq.heappush(free, int(starts[i] + lengths[i]))
    return starts


def cache_bytes(config: Run, stage: GRPO) -> float:
    """Returns the bytes of the samples' own keys and values on a chip, all slots."""
    text = config.model.text
    data, fsdp, tensor = config.mesh
    rows = (stage.slots or stage.prompts * stage.group_size) / data
    heads = text.kv_heads / (fsdp * tensor)
    itemsize = np.dtype(np.float32).itemsize // (
        2 if config.compute.dtype == "bfloat16" else 1
    )
    slots = stage.max_completion_tokens
    return 2 * text.layers * rows * heads * slots * text.head_dim * itemsize


def draws(stage: GRPO, lengths: Lengths) -> list[np.ndarray]:
    """Returns the lengths of a few steps, int[P, G] each; the same at every call."""
    random = np.random.default_rng(0)
    shape = (stage.prompts, stage.group_size)
    limit = stage.max_completion_tokens
    return [lengths.draw(random, shape, limit) for _ in range(DRAWS)]


def drawn(stage: GRPO, lengths: Lengths | None) -> list[np.ndarray]:
    """Returns int[P, G] lengths of a few steps; without `lengths` of one whose rows are full."""
    if lengths is not None:
        return draws(stage, lengths)
    return [np.full((stage.prompts, stage.group_size), stage.max_completion_tokens)]


def decode_seconds(
    config: Run,
    stage: GRPO,
    steps: list[np.ndarray],
    trip: float,
    cache: float,
) -> float:
    """Returns the seconds of decoding, the mean of several steps.

    trip: seconds of a token with a full cache. cache: of it, those that read the samples' own
    slots.
    """
    data = config.mesh[0]
    capacity = (stage.slots or stage.prompts * stage.group_size) // data
    capacity *= stage.max_completion_tokens
    seconds = []
    for step in steps:
        by_group = step.reshape(data, -1)
        done = load(by_group, stage.slots // data)
        seconds.append(done.trips * (trip - cache) + done.slot_trips / capacity * cache)
    return float(np.mean(seconds))


def mean_and_cut(steps: list[np.ndarray], limit: int) -> tuple[float, float]:
    """Returns the mean length, and the share of samples that the limit cuts."""
    every = np.fromiter(itertools.chain.from_iterable(s.flat for s in steps), np.int64)
    return float(every.mean()), float(np.mean(every >= limit))
