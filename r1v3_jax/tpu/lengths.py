"""Prices a step whose samples are of uneven lengths: --dry_run_lengths.

Decoding reads the slots in use, so a token of all samples takes a + b x slots in use, where the
slots are those of the fullest group of chips, and a is everything else: weights, prompts, sums. It
goes on until the longest sample ends:

    one group, lengths 4 2 1      token        0  1  2  3
                                  in use       0  2  2  3       seconds 4 a + 7 b

The update runs fewer micro-batches, as many as its packed samples take. Prompts are full. Nothing
is run: every figure is an estimate.

With `GRPO.in_flight` a step lasts from the end of one batch's last sample to the end of the next
one's, while the slots serve the batches behind it. Batches of two samples, 4 1, 2 1 and 3 1, in two
slots, two batches under way: a slot takes the next sample where it is free.

    slot 0   4 4 4 4 3 3 3     batch 0 ends at 4, batch 1 at 4, batch 2, which came at 4, at 7:
    slot 1   1 2 2 1 1         steps of 4, 0 and 3 tokens
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
CARRIED = 64  # steps that are simulated with prompts in flight; the draws come again and again


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

    trips: float
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


def carried_loads(batches: list[np.ndarray], slots: int, under_way: int) -> list[Load]:
    """Returns the loads of the steps that learn from these batches in turn, int[groups, samples].

    slots: of a group. under_way: batches. A batch comes when the one so many before it is learnt
    from; the last ones have none behind them.
    """
    # 1. Where each sample starts, and where each step ends.
    groups = len(batches[0])
    free = [[0] * slots for _ in range(groups)]  # when each slot is free
    starts = []
    ends = []
    for number, batch in enumerate(batches):
        came = ends[number - under_way] if number >= under_way else 0
        begun = np.zeros_like(batch)
        for (g, i), length in np.ndenumerate(batch):
            begun[g, i] = max(heapq.heappop(free[g]), came)
            heapq.heappush(free[g], int(begun[g, i] + length))
        starts.append(begun)
        ends.append(max(int(np.max(begun + batch)), *ends[-1:], 0))

    # 2. The slots in use at each token: of a sample 0 at its start, one more at each token, and
    #    none at its end. Summed twice, that is +1 behind its start, and what it had at its end.
    most = np.zeros(ends[-1])
    for g in range(groups):
        start = np.concatenate([begun[g] for begun in starts])
        length = np.concatenate([batch[g] for batch in batches])
        slope = np.zeros(ends[-1] + 2)
        np.add.at(slope, start + 1, 1)
        np.add.at(slope, start + length, -1)
        rise = np.cumsum(slope)
        np.add.at(rise, start + length, 1 - length)
        most = np.maximum(most, np.cumsum(rise)[: ends[-1]])
    cuts = [0, *ends]
    return [
        Load(end - begin, float(most[begin:end].sum()))
        for begin, end in itertools.pairwise(cuts)
    ]


def mean_load(stage: GRPO, steps: list[np.ndarray], data: int) -> Load:
    """Returns the mean load of decoding, of steps with int[P, G] lengths on `data` groups.

    With prompts in flight that of the steps between the first and the last ones, which have fewer
    samples under way.
    """
    by_group = [step.reshape(data, -1) for step in steps]
    if stage.in_flight:
        under_way = stage.in_flight // stage.prompts
        count = max(CARRIED, 4 * under_way)
        batches = list(itertools.islice(itertools.cycle(by_group), count))
        loads = carried_loads(batches, stage.decode_slots // data, under_way)
        loads = loads[under_way:-under_way]
    else:
        loads = [load(step, stage.slots // data) for step in by_group]
    trips = np.mean([done.trips for done in loads])
    return Load(float(trips), float(np.mean([done.slot_trips for done in loads])))


def drained_trips(stage: GRPO, steps: list[np.ndarray], data: int) -> float:
    """Returns the tokens of a step with prompts in flight, over an interval between two saves."""
    batches = [step.reshape(data, -1) for step in steps]
    count = min(stage.checkpoint_every, stage.steps)
    batches = list(itertools.islice(itertools.cycle(batches), count))
    under_way = stage.in_flight // stage.prompts
    loads = carried_loads(batches, stage.decode_slots // data, under_way)
    return float(np.mean([done.trips for done in loads]))


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
    rows = stage.decode_slots / data
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
    capacity = stage.decode_slots // data * stage.max_completion_tokens
    done = mean_load(stage, steps, data)
    return done.trips * (trip - cache) + done.slot_trips / capacity * cache


def mean_and_cut(steps: list[np.ndarray], limit: int) -> tuple[float, float]:
    """Returns the mean length, and the share of samples that the limit cuts."""
    every = np.fromiter(itertools.chain.from_iterable(s.flat for s in steps), np.int64)
    return float(every.mean()), float(np.mean(every >= limit))
