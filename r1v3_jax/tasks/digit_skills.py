"""Two skills about a grid of digits, and questions that need both at once.

    4 7    sum      Add row 2.                          A4 B7 C3 D8 stepwise:3+8=11
    3 8    place    Where is the largest digit?         A4 B7 C3 D8 stepwise:B7;B7;D8
           both     Add the row of the largest digit.   A4 B7 C3 D8 stepwise:B7;B7;D8;3+8=11

The tasks of ComPABench (arXiv 2505.19406) over digits instead of shapes: a measure, a place, and a
measure of what stands in a place. Each is asked about a picture, or about the same grid in words,
"A4 B7 C3 D8". The largest digit is the only one of its size. Everything is a pure function of an
index. Pictures are those of `digits`, and so is the vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

from r1v3_jax.tasks.digit_chains import STYLES
from r1v3_jax.tasks.digit_questions import (
    Grid,
    check_choice,
    check_weights,
    choose_weighted,
)
from r1v3_jax.tasks.digit_types import LETTERS, check_share, place
from r1v3_jax.tasks.digits import SPLITS, Digits
from r1v3_jax.types import Example

# {} is the number of a row.
QUESTIONS = {
    "sum": "Add row {}.",
    "place": "Where is the largest digit?",
    "both": "Add the row of the largest digit.",
}
KINDS = tuple(QUESTIONS)


@dataclasses.dataclass(frozen=True)
class Skills:
    """Questions of the three kinds, about pictures or words."""

    digits: Digits  # whose pictures of the level `read` these are
    form: Literal["picture", "words"] = "picture"
    # Shares of chains that only read the digits, and that do not even read them. Nothing else
    # depends on them.
    reading: float = 0.0
    jumping: float = 0.0

    def __post_init__(self):
        check_choice("form", self.form, ("picture", "words"))
        check_share("Skills.reading", self.reading)
        check_share("Skills.jumping", self.jumping)
        if self.reading + self.jumping > 1:
            raise ValueError(
                f"Skills.reading + Skills.jumping is {self.reading + self.jumping}; at most 1"
            )

    def example(self, index: int, kind: str) -> Example:
        """Makes example number `index` of a kind: a pure function of arguments and fields."""
        check_choice("kind", kind, KINDS)
        rng = self._rng(index, 1 + KINDS.index(kind))
        picture, grid = self._picture(rng)
        row = int(rng.integers(2))
        if kind == "both":
            row = place("largest", grid) // 2
        question = QUESTIONS[kind].format(row + 1)
        if self.form == "words":
            question = f"{described(grid)}. {question}"
            picture = dataclasses.replace(picture, images=(), image_labels=())
        u = rng.random()
        work = STYLES["worked"] + ";".join(steps(kind, grid, row))
        if u < self.jumping:
            thought = ""
        elif u < self.jumping + self.reading:
            thought = described(grid)
        else:
            thought = described(grid) + work
        answer = answer_text(kind, grid, row)
        return dataclasses.replace(
            picture,
            id=f"skills/{self.form}/{kind}/{self.digits.split}/{self.digits.seed}/{index}",
            question=question,
            answer=answer,
            chain=f"{thought}\n</think>\n\\boxed{{{answer}}}",
            level=kind,
            kind=kind,
            source=kind,
            verifier="string" if kind == "place" else "number",
            metadata={"facts": facts(kind, grid, row)},
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its kind drawn by weight.

        Example: Skills(Digits()).mix(sum=1, place=1).
        """
        check_weights("kind", weights, KINDS)
        return functools.partial(self._mixed, tuple(weights), tuple(weights.values()))

    def _mixed(
        self, kinds: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        u = self._rng(index, 0).random()
        return self.example(index, choose_weighted(kinds, weights, u))

    def _picture(self, rng: np.random.Generator) -> tuple[Example, Grid]:
        """Draws pictures until one has a single largest digit: two of three or more have."""
        while True:
            picture = self.digits.example(int(rng.integers(2**31)), "read")
            grid = tuple(int(label) for label in picture.image_labels)
            if grid.count(max(grid)) == 1:
                return picture, grid

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns the generator of one example. Streams: 0 mixes, 1 to 3 the KINDS."""
        split = SPLITS.index(self.digits.split)
        is_picture = int(self.form == "picture")
        return np.random.default_rng(
            [self.digits.seed, split, is_picture, stream, index]
        )


def described(grid: Grid) -> str:
    """Says what stands where: 4 7 over 3 8 is "A4 B7 C3 D8"."""
    return " ".join(
        f"{letter}{digit}" for letter, digit in zip(LETTERS, grid, strict=True)
    )


def answer_text(kind: str, grid: Grid, row: int) -> str:
    """Writes the answer: of a row (0 or 1) its sum, of a place its letter."""
    if kind == "place":
        return LETTERS[place("largest", grid)]
    return f"{sum(grid[2 * row : 2 * row + 2])}"


def steps(kind: str, grid: Grid, row: int) -> list[str]:
    """Lists the work: the largest of the first two, three, four digits; then the sum of the row."""
    work = []
    if kind != "sum":
        for count in (2, 3, 4):
            best = place("largest", grid[:count])
            work.append(f"{LETTERS[best]}{grid[best]}")
    if kind != "place":
        left, right = grid[2 * row : 2 * row + 2]
        work.append(f"{left}+{right}={left + right}")
    return work


def facts(kind: str, grid: Grid, row: int) -> list[str]:
    """Lists what a chain should say on the way: what stands where, and the sum if one is asked."""
    seen = described(grid).split()
    if kind == "place":
        return seen
    return [*seen, steps("sum", grid, row)[0]]
