"""Sources made of sources: mixtures, curricula, questions by pass rate or with a teacher's chains.

Each is a source again, `source(index) -> Example`, a pure function of an index. The classes have
fields that can be changed on the command line. A source with an end has a `len`, the rows of one
pass. Which files the rows are from is not known here.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from r1v3_jax.data.sources import pass_order
from r1v3_jax.types import DroppedRow, Example

Source = Callable[[int], Example]

MAX_PERIOD = 100_000  # examples after which the schedule of a mixture must repeat


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Mixes several sources by weight; each keeps its own order and its own passes.

    Turns are not drawn at random but dealt out: among the first n examples, a part with share w has
    n * w, rounded up or down. ValueError for weights that are no positive numbers of few digits.

        Mixture(((2, a), (1, b)))   ->   a(0) a(1) b(0)   a(2) a(3) b(1)   ...
    """

    parts: tuple[tuple[float, Source], ...]  # (weight, source) each

    def __post_init__(self):
        schedule(self._weights)

    @property
    def _weights(self) -> tuple[float, ...]:
        return tuple(weight for weight, _ in self.parts)

    def check(self) -> None:
        """Calls the `check` of each part."""
        for _, source in self.parts:
            check_source(source)

    def fingerprint(self) -> str:
        """Joins the fingerprints of the parts; see `sources.Rows`."""
        return "; ".join(fingerprint_of(source) for _, source in self.parts)

    def __call__(self, index: int) -> Example:
        turns, counts = schedule(self._weights)
        # Weights 2 and 1, index 7: round 2, position 1 of the schedule a a b. Part a has 2 turns a
        # round and had 1 in this one, so this is its example 2 * 2 + 1 = 5.
        round_number, position = divmod(index, len(turns))
        part = turns[position]
        turns_a_round = counts[-1, part]
        index_in_part = round_number * turns_a_round + counts[position, part]
        _, source = self.parts[part]
        return source(int(index_in_part))


@functools.lru_cache(64)
def schedule(weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Deals out the turns of one period of N examples to K parts.

    Returns (turns, counts): the part whose turn it is, int[N], and how many turns each part had
    before a position, int[N + 1, K]; the last row is a whole period.

    Earliest deadline first (Baruah et al., Proportionate progress, 1996). A part of share w may
    take its j-th turn from position floor(j / w) on, and must take it before ceil((j + 1) / w). Of
    the parts that may, the one with the earliest deadline goes next. Then every part meets every
    deadline, and no count is ever off by one or more.
    """
    shares = _whole_shares(weights)
    period = int(shares.sum())
    if period > MAX_PERIOD:
        raise ValueError(
            f"the weights {weights} repeat after {period} examples, wanted at most {MAX_PERIOD}; "
            "give them fewer digits"
        )
    turns = np.zeros(period, int)
    counts = np.zeros((period + 1, len(shares)), int)
    # Weights 2 and 1, period 3: at position 0 part a must go before 2 and part b before 3, so a; at
    # position 1 both must go before 3, so the first of them, a; at 2 part a may not go before 3, so
    # b. The schedule is a a b.
    for position in range(period):
        count = counts[position]
        is_allowed = count * period // shares <= position
        deadline = -(-(count + 1) * period // shares)  # divided, and rounded up
        part = np.where(is_allowed, deadline, period + 1).argmin()
        turns[position] = part
        counts[position + 1] = count
        counts[position + 1, part] += 1
    return turns, counts


def _whole_shares(weights: tuple[float, ...]) -> np.ndarray:
    """Returns the smallest whole numbers in the ratio of the weights: 0.5 and 0.25 are 2 and 1."""
    try:
        # By their decimal digits: as a binary number, 0.1 would repeat after 2**55 examples.
        exact = [Fraction(str(weight)) for weight in weights]
        assert exact and min(exact) > 0
    except (ValueError, AssertionError):
        raise ValueError(
            f"got the weights {weights}, wanted positive numbers; leave a part out that is not used"
        ) from None
    # 0.55, 0.25 and 0.2 are 11/20, 1/4 and 1/5: times 20 they are 11, 5 and 4.
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*whole)
    return np.array([weight // divisor for weight in whole])


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a curriculum: from which index on, and which rows it wants.

    Phase(1000, by="pass_rate", low=0.2, high=0.5): from index 1000 on, the rows whose metadata has
    a pass rate from 0.2 to 0.5.
    """

    start: int = 0  # the first index of the phase
    levels: tuple[str, ...] = ()  # of rows that are wanted; empty: any
    by: str = ""  # the name of a number in the metadata; empty: any row
    low: float = -math.inf  # the smallest metadata[by] that is wanted
    high: float = math.inf  # the largest

    def wants(self, example: Example) -> bool:
        """Whether an example belongs to this phase."""
        if self.levels and example.level not in self.levels:
            return False
        if not self.by:
            return True
        # A row without the number, or with a text in its place, is wanted by no phase that asks
        # for it. True and False are integers to Python, but no measurements.
        value = example.metadata.get(self.by)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """A source with an end, in phases: from the `start` of each on, only the rows that it wants.

    A phase goes through its rows again and again; the order of each pass is drawn from `seed`. All
    rows are read once, when the first is asked for. ValueError if a phase has no rows, or does not
    start after the one before it.

    20 rows, 16 of them easy and 4 hard, with Phase(0, ("easy",)) and Phase(32, ("hard",)): indices
    0 to 31 are two passes through the easy rows, and from 32 on every four are the hard ones.
    """

    source: Source
    phases: tuple[Phase, ...]
    seed: int = 0

    def __post_init__(self):
        starts = [phase.start for phase in self.phases]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(
                f"got phases that start at {starts}, wanted the first at 0 and each later than the "
                "one before it"
            )

    def check(self) -> None:
        """Checks the source and sorts its rows; ValueError if it has no end, or a phase no row."""
        if not hasattr(self.source, "__len__"):
            raise ValueError(
                f"a curriculum of {type(self.source).__name__}, which has no end: its rows cannot "
                "be sorted into phases; give each part of a mixture its own curriculum"
            )
        check_source(self.source)
        _ = self.rows

    def fingerprint(self) -> str:
        """Returns the fingerprint of the source; see `sources.Rows`."""
        return fingerprint_of(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __call__(self, index: int) -> Example:
        # The last phase that has started by this index.
        started = [n for n, phase in enumerate(self.phases) if phase.start <= index]
        number = max(started)
        rows = self.rows[number]
        # Index 53, where a phase of 4 rows started at 32: its index is 21, so pass 5, position 1.
        index_in_phase = index - self.phases[number].start
        pass_number, position = divmod(index_in_phase, len(rows))
        # With the number of the phase: two phases that want the same rows have other orders.
        order = pass_order(len(rows), self.seed, number, pass_number)
        return self.source(int(rows[order[position]]))

    @functools.cached_property
    def rows(self) -> list[np.ndarray]:
        """The indices of each phase's rows in the source's first pass, int[N] a phase."""
        rows_of_phase = [[] for _ in self.phases]
        bad = []
        for index in range(len(self.source)):
            try:
                example = self.source(index)
            except DroppedRow:
                bad.append(index)
                continue
            for phase, rows in zip(self.phases, rows_of_phase, strict=True):
                if phase.wants(example):
                    rows.append(index)
        good = len(self.source) - len(bad)
        for phase, rows in zip(self.phases, rows_of_phase, strict=True):
            if not rows:
                raise ValueError(
                    f"no row is wanted by {phase}; change it or leave it out"
                )
            # Bad rows have no level, but they must be met and counted: each phase gets as large a
            # share of them as the source has. 2 bad and 8 good rows: a phase of 6 good rows gets
            # round(2 * 6 / 8) = 2 of them, a phase of 2 good rows gets round(0.5) = 0.
            share_of_bad = round(len(bad) * len(rows) / good)
            rows += bad[:share_of_bad]
        return [np.array(rows) for rows in rows_of_phase]


@dataclasses.dataclass(frozen=True)
class ByPassRate:
    """The rows of a source whose measured pass rate is above `low` and below `high`.

    The rate is in the metadata of an example, as "pass_rate". Rows without a measurement are left
    out. The order of each pass is drawn from `seed`. FileNotFoundError without the file; ValueError
    if it is of another kind or of another source.

    Six rows with the rates 0, 0.125, 1, 0.5, none, 0.875: a source of three rows, the second, the
    fourth and the sixth. With low=0.2 and high=0.6, of the fourth alone.
    """

    source: Source
    rates: str  # a file of tools/pass_rates.py
    low: float = 0.0  # not included: a question that is never solved teaches nothing
    high: float = 1.0  # not included: nor does one that is always solved
    seed: int = 0

    def check(self) -> None:
        """Checks the source and reads the file."""
        check_source(self.source)
        _rated_rows(self.rates, self.low, self.high)

    def fingerprint(self) -> str:
        """Joins the fingerprint of the source and a digest of the rates; see `sources.Rows`."""
        digest = hashlib.sha256(Path(self.rates).read_bytes())
        return f"{fingerprint_of(self.source)}; rates {digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(_rated_rows(self.rates, self.low, self.high))

    def __call__(self, index: int) -> Example:
        rows = _rated_rows(self.rates, self.low, self.high)
        pass_number, position = divmod(index, len(rows))
        order = pass_order(len(rows), self.seed, pass_number)
        number, name, rate = rows[order[position]]
        example = self.source(number)
        # The file has the ids that were measured: a source that was changed, or has another seed,
        # would give the rates of other questions.
        if example.id != name:
            raise ValueError(
                f"{self.rates}: example {number} is {example.id!r} here and was {name!r}; use the "
                "source that was measured"
            )
        metadata = {**example.metadata, "pass_rate": rate}
        return dataclasses.replace(example, metadata=metadata)


@functools.lru_cache(64)
def _rated_rows(path: str, low: float, high: float) -> list[tuple[int, str, float]]:
    """Reads the (index, id, pass rate) of the rows whose rate is above `low` and below `high`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; tools/pass_rates.py makes one")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    try:
        rows = [json.loads(line) for line in lines]
        wanted = []
        for row in rows:
            entry = (row["index"], row["id"], row["pass_rate"])
            rate = entry[-1]
            # None: no sample of the question could be verified, so it has no rate.
            if rate is not None and low < rate < high:
                wanted.append(entry)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a file of tools/pass_rates.py ({error!r})"
        ) from error
    if not wanted:
        raise ValueError(
            f"{path}: no pass rate between {low} and {high} among {len(rows)} rows"
        )
    return wanted


def with_chains(source: Source, path) -> Source:
    """Returns the examples that a file of tools/distill.py has chains for, with those chains.

    The source is endless: after the last line of the file comes the first. FileNotFoundError
    without the file; ValueError if it is empty, of another kind, or was made from another source.
    """
    rows = _chains(path)

    def example(index: int) -> Example:
        # Every pass has the order of the file.
        number, name, chain = rows[index % len(rows)]
        original = source(number)
        # As with pass rates: the chain of another question must never be learnt.
        if original.id != name:
            raise ValueError(
                f"{path}: example {number} is {original.id!r} here and was {name!r}; use the "
                "source that the chains were made from"
            )
        return dataclasses.replace(original, chain=chain)

    return example


def _chains(path) -> list[tuple[int, str, str]]:
    """Reads the (index, id, chain) of each line of a file of tools/distill.py."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; tools/distill.py makes one")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    try:
        rows = []
        for line in lines:
            row = json.loads(line)
            rows.append((row["index"], row["id"], row["chain"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a file of tools/distill.py ({error!r})"
        ) from error
    if not rows:
        raise ValueError(
            f"{path}: no chains; distil from a checkpoint that answers some questions"
        )
    return rows


# A source is any function of an index; these two methods are optional.


def fingerprint_of(source: Source) -> str:
    """Returns the fingerprint of a source; "" for one that has none."""
    return source.fingerprint() if hasattr(source, "fingerprint") else ""


def check_source(source: Source) -> None:
    """Calls the `check` of a source that has one."""
    if hasattr(source, "check"):
        source.check()
