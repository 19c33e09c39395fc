"""Sources made of sources: mixtures, curricula, questions by pass rate or with a teacher's chains.

Each is again `source(index) -> Example`, a pure function of an index; the classes have fields that
can be changed on the command line. A source with an end has a `len`, the rows of one pass.
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

from r1v3_jax.types import DroppedRow, Example

Source = Callable[[int], Example]

MAX_PERIOD = 100_000  # examples after which a mixture begins again


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several sources as one: ((weight, source), ...). Each keeps its own order and its passes.

    Not drawn but dealt out: of the first n examples a part has n times its share, rounded up or
    down. ValueError for weights that are no positive numbers of few digits.

        weights 2 and 1   ->   a a b  a a b  ...      (the schedule, over and over)
    """

    parts: tuple[tuple[float, Source], ...]

    def __post_init__(self):
        _schedule(tuple(weight for weight, _ in self.parts))

    def check(self) -> None:
        """What the parts' own `check` refuses."""
        for _, source in self.parts:
            _check(source)

    def fingerprint(self) -> str:
        """Of the parts; see `sources.Rows`."""
        return "; ".join(_fingerprint(source) for _, source in self.parts)

    def __call__(self, index: int) -> Example:
        turns, before = _schedule(tuple(weight for weight, _ in self.parts))
        place, at = divmod(index, len(turns))
        part = turns[at]
        return self.parts[part][1](int(place * before[-1, part] + before[at, part]))


@functools.lru_cache(64)
def _schedule(weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn it is, int[N], and how often it was each part's before, int[N + 1, K].

    The j-th turn of a part of share w may come from place floor(j / w) on and must have come by
    place ceil((j + 1) / w); of those who may, the first who must goes first. All get there in time
    (Baruah et al., Proportionate progress, 1996), so a count is never off by one or more.
    """
    try:
        exact = [Fraction(str(weight)) for weight in weights]
        assert exact and min(exact) > 0
    except (ValueError, AssertionError):
        raise ValueError(
            f"got the weights {weights}, wanted positive numbers; leave a part out that is not used"
        ) from None
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    whole = np.array([weight // math.gcd(*whole) for weight in whole])
    period = int(whole.sum())
    if period > MAX_PERIOD:
        raise ValueError(
            f"the weights {weights} repeat after {period} examples, wanted at most {MAX_PERIOD}; "
            "give them fewer digits"
        )
    turns, before = np.zeros(period, int), np.zeros((period + 1, len(whole)), int)
    for place in range(period):
        had = before[place]
        may = had * period // whole <= place
        must = -(-(had + 1) * period // whole)
        turns[place] = part = np.where(may, must, period + 1).argmin()
        before[place + 1] = had
        before[place + 1, part] += 1
    return turns, before


@dataclasses.dataclass(frozen=True)
class Phase:
    """From index `start` on: rows of one of the `levels` and, with `by`, rows whose number
    metadata[by] lies from `low` to `high`.
    """

    start: int = 0
    levels: tuple[str, ...] = ()  # empty: any
    by: str = ""
    low: float = -math.inf
    high: float = math.inf

    def wants(self, example: Example) -> bool:
        if self.levels and example.level not in self.levels:
            return False
        if not self.by:
            return True
        value = example.metadata.get(self.by)
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return known and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """A source with an end, in phases: from the `start` of each on only the rows that it wants.

    A phase goes through its rows again and again, in an order drawn anew for each pass from `seed`.
    The rows are looked at once, when the first is asked for. Bad rows cannot be told apart: every
    phase has the same share of them as the source. ValueError if a phase has no rows or does not
    start after the one before it.
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
        if not hasattr(self.source, "__len__"):
            raise ValueError(
                f"a curriculum of {type(self.source).__name__}, which has no end: its rows cannot "
                "be sorted into phases; give each part of a mixture its own curriculum"
            )
        _check(self.source)
        _ = self.rows

    def fingerprint(self) -> str:
        """Of the source; see `sources.Rows`."""
        return _fingerprint(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __call__(self, index: int) -> Example:
        number = max(n for n, phase in enumerate(self.phases) if phase.start <= index)
        rows = self.rows[number]
        place, at = divmod(index - self.phases[number].start, len(rows))
        return self.source(int(rows[_order(len(rows), (self.seed, number, place))[at]]))

    @functools.cached_property
    def rows(self) -> list[np.ndarray]:
        """Of each phase, the indices of its rows in the source's first pass, int[N]."""
        wanted, bad = [[] for _ in self.phases], []
        for index in range(len(self.source)):
            try:
                example = self.source(index)
            except DroppedRow:
                bad.append(index)
                continue
            for phase, rows in zip(self.phases, wanted, strict=True):
                if phase.wants(example):
                    rows.append(index)
        good = len(self.source) - len(bad)
        for phase, rows in zip(self.phases, wanted, strict=True):
            if not rows:
                raise ValueError(
                    f"no row is wanted by {phase}; change it or leave it out"
                )
            rows += bad[: round(len(bad) * len(rows) / good)]
        return [np.array(rows) for rows in wanted]


@dataclasses.dataclass(frozen=True)
class ByPassRate:
    """The rows of a source whose measured pass rate lies between `low` and `high`, both left out.

    rates: a file of tools/pass_rates.py; rows that it has not measured are left out. The rate is in
    the example's metadata, as "pass_rate". The order of each pass is drawn from `seed`.
    FileNotFoundError without the file, ValueError if it is of another kind or of another source.
    """

    source: Source
    rates: str
    low: float = 0.0
    high: float = 1.0
    seed: int = 0

    def check(self) -> None:
        _check(self.source)
        _rates(self.rates, self.low, self.high)

    def fingerprint(self) -> str:
        """Of the source and of the rates; see `sources.Rows`."""
        rates = hashlib.sha256(Path(self.rates).read_bytes()).hexdigest()[:16]
        return f"{_fingerprint(self.source)}; rates {rates}"

    def __len__(self) -> int:
        return len(_rates(self.rates, self.low, self.high))

    def __call__(self, index: int) -> Example:
        rows = _rates(self.rates, self.low, self.high)
        place, at = divmod(index, len(rows))
        number, name, rate = rows[_order(len(rows), (self.seed, place))[at]]
        example = self.source(number)
        if example.id != name:
            raise ValueError(
                f"{self.rates}: example {number} is {example.id!r} here and was {name!r}; use the "
                "source that was measured"
            )
        return dataclasses.replace(
            example, metadata={**example.metadata, "pass_rate": rate}
        )


@functools.lru_cache(64)
def _rates(path: str, low: float, high: float) -> list[tuple[int, str, float]]:
    """(index, id, pass rate) of the rows wanted."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; tools/pass_rates.py makes one")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    try:
        rows = [
            (row["index"], row["id"], row["pass_rate"])
            for row in map(json.loads, lines)
        ]
        wanted = [row for row in rows if row[2] is not None and low < row[2] < high]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a file of tools/pass_rates.py ({error!r})"
        ) from error
    if not wanted:
        raise ValueError(
            f"{path}: no pass rate between {low} and {high} among {len(rows)} rows"
        )
    return wanted


@functools.lru_cache(64)
def _order(count: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)


def with_chains(source: Source, path) -> Source:
    """The examples that a file of `distill` has chains for, with those chains, over and over.

    FileNotFoundError without the file; ValueError if it is empty, of another kind, or was made from
    another source.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; tools/distill.py makes one")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    try:
        rows = [
            (row["index"], row["id"], row["chain"]) for row in map(json.loads, lines)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a file of tools/distill.py ({error!r})"
        ) from error
    if not rows:
        raise ValueError(
            f"{path}: no chains; distil from a checkpoint that answers some questions"
        )

    def example(index: int) -> Example:
        at, name, chain = rows[index % len(rows)]
        found = source(at)
        if found.id != name:
            raise ValueError(
                f"{path}: example {at} is {found.id!r} here and was {name!r}; use the source that "
                "the chains were made from"
            )
        return dataclasses.replace(found, chain=chain)

    return example


def _fingerprint(source: Source) -> str:
    return source.fingerprint() if hasattr(source, "fingerprint") else ""


def _check(source: Source) -> None:
    if hasattr(source, "check"):
        source.check()
