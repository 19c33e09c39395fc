"""Numbers that move with a run: a coefficient that rises, a threshold in steps.

A field of a config that may move is a `Number`: a float, or a function of the progress of its
stage, 0 at the first step and nearly 1 at the last. Of 40 steps, step 10 is at 0.25.
"""

import dataclasses
from collections.abc import Callable

Number = float | Callable[[float], float]


def value(number: Number, progress: float) -> float:
    """Returns a number at `progress` (0 to 1) of its stage."""
    return number(progress) if callable(number) else number


def is_off(number) -> bool:
    """Whether a number is 0 from the first step to the last."""
    return not callable(number) and isinstance(number, int | float) and number == 0


@dataclasses.dataclass(frozen=True)
class Steps:
    """One value after the other: Steps(((0, 0.85), (0.1, 0.95))) is 0.85, from 0.1 on 0.95."""

    points: tuple[tuple[float, float], ...]  # (from which progress on, value), rising

    def __post_init__(self):
        are_pairs = all(
            isinstance(point, tuple | list) and len(point) == 2 for point in self.points
        )
        starts = [point[0] for point in self.points] if are_pairs else []
        if (
            not starts
            or starts[0] != 0
            or starts != sorted(set(starts))
            or starts[-1] >= 1
        ):
            raise ValueError(
                f"Steps.points is {self.points!r}; wanted (progress, value) from progress 0 on, "
                "rising and below 1, as ((0, 0.85), (0.1, 0.95))"
            )

    def __call__(self, progress: float) -> float:
        return [value for start, value in self.points if start <= progress][-1]


@dataclasses.dataclass(frozen=True)
class Line:
    """start + (end - start) * progress: a straight line from one value to another."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclasses.dataclass(frozen=True)
class DipAndRise:
    """Falls from midway between `low` and `high` to `low`, then rises to `high`: GRPO-D.

    OThink-MR1 (arXiv 2503.16081): little is held to the reference while there is much to explore.
    With the progress s and the turn w:

        beta(s) = mid - (mid - low) s / w                  s <= w,  mid = (low + high) / 2
        beta(s) = low + (high - low) (s - w) / (1 - w)     s > w
    """

    low: float
    high: float
    turn: float = 0.3  # progress at which it is `low`

    def __post_init__(self):
        if not 0 < self.turn < 1:
            raise ValueError(
                f"DipAndRise.turn is {self.turn!r}; it must lie between 0 and 1, as 0.3"
            )

    def __call__(self, progress: float) -> float:
        if progress < self.turn:
            middle = (self.low + self.high) / 2
            return middle - (middle - self.low) * progress / self.turn
        rise = (progress - self.turn) / (1 - self.turn)
        return self.low + (self.high - self.low) * rise


@dataclasses.dataclass(frozen=True)
class Decay:
    """start until `after`, then start * rate^(100 (progress - after)): `rate` a hundredth."""

    start: float
    rate: float
    after: float = 0.0  # progress up to which it does not move

    def __post_init__(self):
        if not 0 < self.rate <= 1:
            raise ValueError(
                f"Decay.rate is {self.rate!r}; it must lie in (0, 1], as 0.985"
            )
        if not 0 <= self.after < 1:
            raise ValueError(
                f"Decay.after is {self.after!r}; it must lie in [0, 1), as 0.2"
            )

    def __call__(self, progress: float) -> float:
        hundredths = max(0.0, 100 * (progress - self.after))
        return self.start * self.rate**hundredths
