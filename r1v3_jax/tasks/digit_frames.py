"""Short films of one real handwritten digit a frame, small enough to be learnt in minutes.

    Frame1: 4    ends    Add first and last.    4 7 3 stepwise:4+3=7
    Frame2: 7    next    What comes next?       2 4 6 stepwise:4-2=2;6+2=8
    Frame3: 3

The digits of `ends` are all different, so its answer depends on the order of the frames; those of
`next` count up by 1, 2 or 3. A digit stands in one of the four cells of a frame, the others are
empty. `films` has walks and options, and is far harder. Everything is a pure function of an index.
Pictures are those of `digits`, and so is the vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from r1v3_jax.tasks.digit_chains import STYLES
from r1v3_jax.tasks.digit_questions import check_choice, choose_weighted
from r1v3_jax.tasks.digit_types import check_share
from r1v3_jax.tasks.digits import CELL, FILES, MAX_SHIFT, SPLITS, Digits, load_images
from r1v3_jax.types import Example

QUESTIONS = {"ends": "Add first and last.", "next": "What comes next?"}
KINDS = tuple(QUESTIONS)
FRAMES = 3
STRIDES = (1, 2, 3)  # of `next`, equally often


@dataclasses.dataclass(frozen=True)
class Frames:
    """Questions of the two kinds about films of three frames."""

    digits: Digits  # whose images these are; they are never shifted
    # The frames come in a random order, and what is asked for stays that of the right one.
    shuffled: bool = False
    # Shares of chains that only read the digits, and that do not even read them. Nothing else
    # depends on them.
    reading: float = 0.0
    jumping: float = 0.0

    def __post_init__(self):
        check_share("Frames.reading", self.reading)
        check_share("Frames.jumping", self.jumping)
        check_share("Frames.reading + Frames.jumping", self.reading + self.jumping)

    def example(self, index: int, kind: str) -> Example:
        """Makes example number `index` of a kind: a pure function of arguments and fields."""
        check_choice("kind", kind, KINDS)
        rng = self._rng(index, 1 + KINDS.index(kind))
        film = draw_film(kind, rng)
        images = [self._draw(digit, rng) for digit in film]
        u = rng.random()
        order = rng.permutation(FRAMES)  # drawn last: nothing else depends on it
        if self.shuffled:
            images = [images[place] for place in order]
        markers = [f"Frame{number}: <image>\n" for number in range(1, FRAMES + 1)]
        answer = f"{solve(kind, film)}"
        thought = " ".join(map(str, film))
        if u < self.jumping:
            thought = ""
        elif u >= self.jumping + self.reading:
            thought += STYLES["worked"] + ";".join(steps(kind, film))
        digits = self.digits
        return Example(
            id=f"frames/{digits.domain}/{digits.split}/{digits.seed}/{kind}/{index}",
            images=tuple(images),
            question="".join(markers) + QUESTIONS[kind],
            answer=answer,
            chain=f"{thought}\n</think>\n\\boxed{{{answer}}}",
            level=kind,
            kind=kind,
            source=kind,
            verifier="number",
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its kind drawn by weight.

        Example: Frames(Digits()).mix(ends=1, next=1).
        """
        for kind, weight in weights.items():
            check_choice("kind", kind, KINDS)
            if not weight > 0:
                raise ValueError(
                    f"the weight of {kind} is {weight}, wanted a positive number; 1 would do"
                )
        return functools.partial(self._mixed, tuple(weights), tuple(weights.values()))

    def _mixed(
        self, kinds: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        u = self._rng(index, 0).random()
        return self.example(index, choose_weighted(kinds, weights, u))

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns the generator of one example. Streams: 0 mixes, 1 and 2 the KINDS."""
        digits = self.digits
        domain = list(FILES).index(digits.domain)
        split = SPLITS.index(digits.split)
        return np.random.default_rng([digits.seed, domain, split, stream, index])

    def _draw(self, digit: int, rng: np.random.Generator) -> Image.Image:
        """Draws a frame of 56 x 56 pixels: a digit in one of four cells."""
        images, by_label = load_images(self.digits.domain, self.digits.split)
        row, column = divmod(int(rng.integers(4)), 2)
        frame = np.zeros((2, CELL, 2, CELL), np.uint8)
        # The stored images have a margin for shifts.
        inner = slice(MAX_SHIFT, MAX_SHIFT + CELL)
        frame[row, :, column] = images[rng.choice(by_label[digit])][inner, inner]
        return Image.fromarray(frame.reshape(2 * CELL, 2 * CELL)).convert("RGB")


def draw_film(kind: str, rng: np.random.Generator) -> tuple[int, ...]:
    """Draws the digits of the frames in order."""
    if kind == "ends":
        return tuple(rng.choice(10, FRAMES, replace=False).tolist())
    stride = int(rng.choice(STRIDES))
    # By 3: begins at 0 to 3, so that the third one, 6 more, is a digit.
    first = int(rng.integers(10 - stride * (FRAMES - 1)))
    return tuple(range(first, first + stride * FRAMES, stride))


def solve(kind: str, film: tuple[int, ...]) -> int:
    """Computes the answer: 4 7 3 -> 7 (ends), 2 4 6 -> 8 (next)."""
    if kind == "ends":
        return film[0] + film[-1]
    return 2 * film[-1] - film[-2]


def steps(kind: str, film: tuple[int, ...]) -> list[str]:
    """Lists the equations of a chain."""
    if kind == "ends":
        return [f"{film[0]}+{film[-1]}={solve(kind, film)}"]
    stride = film[1] - film[0]
    return [
        f"{film[1]}-{film[0]}={stride}",
        f"{film[-1]}+{stride}={solve(kind, film)}",
    ]
