"""A task of moving pictures: films over real handwritten digits, and questions with four options.

    order        a window walks over a board; in which order were three digits first seen?
    direction    ... which way did it go at the end?
    where        ... where is a digit, seen from the start?
    next         digits count; which one comes next? The last frame is the present

The films of walks are those of Embodied-R in small (arXiv 2504.12680), those of counting are
SEED-Bench-R1's (arXiv 2503.24376), whose three levels of test questions are `LEVELS`: other digits
of the same writers (L1), other writers (L2), other writers and another rule (L3).

A frame is an image of 56 pixels a side, which is 2 x 2 cells of a digit or none. The frames are the
`images` of an Example, each with a line of its question, `Frame1: <image>`; nothing is decoded.
Everything is a pure function of an index. The images are those of `digits`, and no image is in two
splits. Knows nothing of models or rewards.
"""

import dataclasses
import functools
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from r1v3_jax.tasks import canvases, word_tokenizer
from r1v3_jax.tasks.digit_questions import check_choice, check_weights, choose_weighted
from r1v3_jax.tasks.digits import CELL, FILES, MAX_SHIFT, load_images
from r1v3_jax.tasks.film_questions import (
    JUMP,
    KINDS,
    LETTERS,
    MOVES,
    QUESTIONS,
    RULES,
    Film,
    chain,
    draw_film,
    question_text,
)
from r1v3_jax.types import Example

SPLITS = canvases.SPLITS
MAX_FRAMES = 9  # that `vocabulary` has names for


@dataclasses.dataclass(frozen=True)
class Films:
    """Questions about films of one set of images."""

    domain: Literal["home", "second"] = "home"  # of the images; see `digits.Digits`
    split: Literal["train", "validation", "held_out"] = "train"  # of the images
    seed: int = 0
    side: int = 4  # cells a side of a board
    moves: int = 4  # of a walk; it has a frame more
    rules: tuple[str, ...] = ("up",)  # of the films of counting, equally often
    # The share of chains that skip the work. Nothing else depends on it.
    jumps: float = 0.0

    def __post_init__(self):
        check_choice("domain", self.domain, FILES)
        check_choice("split", self.split, SPLITS)
        if self.domain == "second" and self.split == "validation":
            raise ValueError(
                "split is 'validation', which domain 'second' does not have; choose train or "
                "held_out"
            )
        if self.side < 3:
            raise ValueError(
                f"side is {self.side}, where no walk sees new digits; 4 would do"
            )
        if not 2 <= self.moves < MAX_FRAMES:
            raise ValueError(
                f"moves is {self.moves}, wanted 2 to {MAX_FRAMES - 1}; 4 would do"
            )
        if not self.rules:
            raise ValueError('rules is empty; ("up",) would do')
        for rule in self.rules:
            check_choice("rules", rule, RULES)
        if not 0 <= self.jumps <= 1:
            raise ValueError(f"jumps is {self.jumps}, wanted 0 to 1; 0.5 would do")

    def example(self, index: int, kind: str) -> Example:
        """Makes example number `index` of a kind: a pure function of arguments and fields."""
        check_choice("kind", kind, KINDS)
        rng = self._rng(index, 1 + KINDS.index(kind))
        film = draw_film(kind, rng, side=self.side, moves=self.moves, rules=self.rules)
        cells = [cell for frame in film.frames for cell in frame]
        names = ["none" if n is None else f"{film.digits[n]}" for n in cells]
        pixels = self._draw(film, rng)
        # Drawn last: the chain changes neither the film nor the question.
        jumps = bool(rng.random() < self.jumps)
        return Example(
            id=f"films/{self.domain}/{self.split}/{self.seed}/{kind}/{index}",
            images=tuple(Image.fromarray(frame).convert("RGB") for frame in pixels),
            question=question_text(film),
            answer=LETTERS[film.right],
            chain=chain(film, jumps),
            level=kind,
            kind=kind,
            # One image token a cell, as in `digits`.
            image_labels=tuple(names),
            verifier="choice",
            source=kind,
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its kind drawn by weight; without weights, all alike.

        Example: Films().mix(order=2, direction=1).
        """
        check_weights("kind", weights, KINDS)
        weights = weights or dict.fromkeys(KINDS, 1.0)
        return functools.partial(self._mixed, tuple(weights), tuple(weights.values()))

    def _mixed(
        self, kinds: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        u = self._rng(index, 0).random()
        return self.example(index, choose_weighted(kinds, weights, u))

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns the generator of one example. Streams: 0 mixes, 1 to 4 the KINDS."""
        domain = list(FILES).index(self.domain)
        split = SPLITS.index(self.split)
        return np.random.default_rng([self.seed, domain, split, stream, index])

    def _draw(self, film: Film, rng: np.random.Generator) -> np.ndarray:
        """Draws the F frames, uint8[F, 56, 56]; a digit of several frames is one image."""
        images, by_label = split_images(self.domain, self.split)
        drawn = [images[rng.choice(by_label[digit])] for digit in film.digits]
        # Axes: frame, row of cells, pixel row, column of cells, pixel column.
        pixels = np.zeros((len(film.frames), 2, CELL, 2, CELL), np.uint8)
        for number, frame in enumerate(film.frames):
            for cell, digit in enumerate(frame):
                if digit is not None:
                    row, column = divmod(cell, 2)
                    pixels[number, row, :, column] = drawn[digit]
        return pixels.reshape(-1, 2 * CELL, 2 * CELL)


# The test questions of SEED-Bench-R1: in distribution, other surroundings, and another task there.
LEVELS = {
    "L1": Films(split="held_out", seed=1),
    "L2": Films(domain="second", split="held_out", seed=1),
    "L3": Films(domain="second", split="held_out", seed=1, rules=("down", "double")),
}


@functools.cache
def split_images(domain: str, split: str) -> tuple[np.ndarray, list[list[int]]]:
    """Returns (uint8[M, 28, 28], the numbers of the split's images of each label)."""
    if domain == "home":
        return canvases.split_images(split)
    images, by_label = load_images(domain, split)
    # The stored images have a margin for shifts.
    return images[:, MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT], by_label


def vocabulary() -> list[str]:
    """Lists the tokens in order of their ids; a word that follows another holds the space."""
    words = {"none", JUMP, "Now: "}
    words |= {f"Frame{n}: " for n in range(1, MAX_FRAMES + 1)}
    words |= {f"\n({letter})" for letter in LETTERS}
    for move in MOVES:
        words |= {move, f" {move}"}
    for question in QUESTIONS.values():
        words.update(re.findall(r" ?[A-Za-z]+", question))
    structure = ["system", "user", "assistant", "<think>", "</think>"]
    return [
        *word_tokenizer.SPECIAL_TOKENS,
        *structure,
        "<answer>",
        "</answer>",
        *"0123456789+-x=;,.?: \n",
        *sorted(words),
        *sorted(set(string.ascii_letters) - {"x"}),
    ]


def write_tokenizer(directory: str | Path) -> int:
    """Writes the task's tokenizer in Hugging Face's format; returns the size of its vocabulary."""
    return word_tokenizer.write(directory, vocabulary())
