"""Short films of one real handwritten digit a frame, small enough to be learnt in minutes.

    Frame1: 4    ends    Add first and last.    4 7 3 stepwise:4+3=7
    Frame2: 7    next    What comes next?       2 4 6 stepwise:4-2=2;6+2=8
    Frame3: 3

The digits of `ends` are all different, so its answer depends on the order of the frames; those of
`next` count up by 1, 2 or 3. A digit stands in one of the four cells of a frame, the others are
empty. `films` has walks and options, and is far harder. Everything is a pure function of an index.
Pictures are those of `digits`, and so is the vocabulary.

For a model that sees and another one that reasons about its words (Embodied-R, arXiv 2504.12680)
the same film may be shown by a still camera, be read aloud, or stand in words:

    a still camera, stays 3     4 4 7 3 3 3             its key frames     4 7 3 3
    read aloud (`readings`)     Read the digits.        \\boxed{4 4 7 3 3 3}
    in words                    4 4 7 3 3 3, an empty line, Add first and last.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from r1v3_jax.processing.video import key_frames
from r1v3_jax.tasks.digit_chains import STYLES
from r1v3_jax.tasks.digit_questions import check_choice, check_weights, choose_weighted
from r1v3_jax.tasks.digit_types import check_share
from r1v3_jax.tasks.digits import CELL, FILES, MAX_SHIFT, SPLITS, Digits, load_images
from r1v3_jax.types import Example

QUESTIONS = {"ends": "Add first and last.", "next": "What comes next?"}
KINDS = tuple(QUESTIONS)
READ = "Read the digits."
FRAMES = 3  # that show something new
STRIDES = (1, 2, 3)  # of `next`, equally often
MOST = 18  # that two digits add up to
# Of 256 grey levels: the noise of a camera, and the mean difference of two frames that is more.
NOISE = 4.0
DIFFERENT = 4.0


@dataclasses.dataclass(frozen=True)
class Frames:
    """Questions of the two kinds about films of three digits."""

    digits: Digits  # whose images these are; they are never shifted
    # In words, a line says which digits the frames show, and there is no picture.
    form: Literal["film", "words"] = "film"
    # A digit is shown for 1 to so many frames; with more than one the camera has noise.
    stays: int = 1
    key_frames: bool = False  # whether frames that show nothing new are left out
    # The frames come in a random order, and what is asked for stays that of the right one.
    shuffled: bool = False
    # Shares of chains that only read the digits, that do not even read them, whose last equation is
    # wrong before a right answer, and whose last equation and answer are wrong alike. Nothing else
    # depends on them, but the answer of the last.
    reading: float = 0.0
    jumping: float = 0.0
    slipping: float = 0.0
    misled: float = 0.0

    def __post_init__(self):
        check_choice("form", self.form, ("film", "words"))
        shares = ("reading", "jumping", "slipping", "misled")
        for share in shares:
            check_share(f"Frames.{share}", getattr(self, share))
        total = sum(getattr(self, share) for share in shares)
        check_share(" + ".join(f"Frames.{share}" for share in shares), total)
        if self.stays < 1:
            raise ValueError(
                f"Frames.stays is {self.stays}, wanted 1 or more; 3 would do"
            )
        if self.shuffled and self.stays > 1:
            raise ValueError(
                f"Frames.shuffled and stays = {self.stays}: a camera that stands still shows its "
                "frames in order; set one of them"
            )

    def example(self, index: int, kind: str) -> Example:
        """Makes example number `index` of a kind: a pure function of arguments and fields."""
        # 1. What is shown.
        check_choice("kind", kind, KINDS)
        rng = self._rng(index, 1 + KINDS.index(kind))
        film = draw_film(kind, rng)
        images = [self._draw(digit, rng) for digit in film]
        u = rng.random()
        order = rng.permutation(FRAMES)  # drawn last: nothing else depends on it
        if self.shuffled:
            images = [images[place] for place in order]
        shown = list(film)
        if self.stays > 1:
            images, shown = self._stand_still(images, film, index, kind)
        if self.key_frames:
            kept = key_frames(images, is_different, least=1)
            images = [images[place] for place in kept]
            shown = [shown[place] for place in kept]

        # 2. What is thought and answered.
        thought, answer = self._think(kind, film, u)

        # 3. The row.
        question = QUESTIONS[kind]
        if self.form == "words":
            question = f"{' '.join(map(str, shown))}\n\n{question}"
            images = []
        digits = self.digits
        return Example(
            id=f"frames/{digits.domain}/{digits.split}/{digits.seed}/{kind}/{index}",
            images=tuple(images),
            question=_markers(len(images)) + question,
            answer=f"{answer}",
            chain=f"{thought}\n</think>\n\\boxed{{{answer}}}",
            level=kind,
            kind=kind,
            source=kind,
            verifier="number",
            metadata={"shown": " ".join(map(str, shown))},
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its kind drawn by weight.

        Example: Frames(Digits()).mix(ends=1, next=1).
        """
        check_weights("kind", weights, KINDS)
        return functools.partial(self._mixed, tuple(weights), tuple(weights.values()))

    def readings(self, **weights: float) -> Callable[[int], Example]:
        """Returns the films of `mix`, under the same ids, each asked to be read aloud."""
        return functools.partial(_read_aloud, self.mix(**weights))

    def _mixed(
        self, kinds: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        u = self._rng(index, 0).random()
        return self.example(index, choose_weighted(kinds, weights, u))

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns the generator of one example.

        Streams: 0 mixes, 1 and 2 the KINDS, 3 and 4 the camera of each.
        """
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

    def _think(self, kind: str, film: tuple[int, ...], u: float) -> tuple[str, int]:
        """Returns the thought and the answer of a chain; u: uniform, which decides how it goes.

        4 7 3 stepwise:4+3=7, 7    slipping: 4 7 3 stepwise:4+3=9, 7    misled: ...4+3=9, 9
        """
        # 1. u falls among the shares in this order; what is left is right.
        jumps_to = self.jumping
        reads_to = jumps_to + self.reading
        slips_to = reads_to + self.slipping
        misled_to = slips_to + self.misled
        answer = solve(kind, film)
        reading = " ".join(map(str, film))
        if u < jumps_to:
            return "", answer
        if u < reads_to:
            return reading, answer

        # 2. The equations. A wrong result is another one of 0 to 18, by later digits of u.
        work = steps(kind, film)
        if u < misled_to:
            wrong = (answer + 1 + int(u * 1e6) % MOST) % (MOST + 1)
            left, _, _ = work[-1].partition("=")
            work[-1] = f"{left}={wrong}"
            if u >= slips_to:
                answer = wrong
        return reading + STYLES["worked"] + ";".join(work), answer

    def _stand_still(
        self, images: list[Image.Image], film: tuple[int, ...], index: int, kind: str
    ) -> tuple[list[Image.Image], list[int]]:
        """Shows each digit for 1 to `stays` frames, with noise: (the frames, their digits)."""
        rng = self._rng(index, 1 + len(KINDS) + KINDS.index(kind))
        frames = []
        shown = []
        for image, digit in zip(images, film, strict=True):
            for _ in range(int(rng.integers(1, self.stays + 1))):
                noise = rng.normal(0, NOISE, (2 * CELL, 2 * CELL, 1))
                pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
                frames.append(Image.fromarray(pixels))
                shown.append(digit)
        return frames, shown


def _markers(count: int) -> str:
    """Writes the markers of so many frames, each in a line."""
    return "".join(f"Frame{number}: <image>\n" for number in range(1, count + 1))


def _read_aloud(films: Callable[[int], Example], index: int) -> Example:
    """Returns a film with the question what its frames show."""
    example = films(index)
    said = example.metadata["shown"]
    return dataclasses.replace(
        example,
        question=_markers(len(example.images)) + READ,
        answer=said,
        chain=f"\n</think>\n\\boxed{{{said}}}",
        verifier="string",
    )


def is_different(before: Image.Image, after: Image.Image) -> bool:
    """Tells a frame that shows another digit from one that differs by the camera's noise."""
    difference = np.abs(np.asarray(after, np.int16) - np.asarray(before, np.int16))
    return float(difference.mean()) > DIFFERENT


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
