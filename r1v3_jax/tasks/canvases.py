"""A task with boxes: one to three real handwritten digits at random places on a canvas.

Three kinds of question are asked of the same pictures, as V-Triune asks one model to perceive and
to reason (arXiv 2505.18129). Answers stand between tags, chains of thought are written by a
program, and everything is a pure function of an index.

    detection     Detect all digits.      [{"bbox_2d":[5,9,9,14],"label":"7"}]   verifier overlap
    counting      How many 7s are there?  1
    mathematics   Add all digits.         7

Coordinates are on a grid of UNIT pixels, so that each is one token of a small model: a canvas is
28 x 28 units. A box is the smallest on that grid that holds the ink of a digit; it is exact.
The images are those of `digits`, and no image is in two splits. Knows nothing of models or rewards.
"""

import dataclasses
import functools
import random
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from r1v3_jax.tasks import word_tokenizer
from r1v3_jax.tasks.canvas_chains import JUMP, QUESTIONS, Digit, answer, chain
from r1v3_jax.tasks.digit_questions import check_choice, check_weights, choose_weighted
from r1v3_jax.tasks.digits import CELL, MAX_SHIFT, load_images
from r1v3_jax.types import Example

CANVAS = 112  # pixels a side
UNIT = 4  # pixels of one step of a coordinate
STEP = 14  # pixels of the grid that the images are placed on
MAX_DIGITS = 3
INK = 64  # of 255: pixels as bright as this are ink
TOKEN = 28  # pixels a side of what one image token covers, with patches of 14
KINDS = tuple(QUESTIONS)
# How many of the training images of `digits` are for choosing settings, and not for training.
NUM_VALIDATION = 1000
SPLITS = ("train", "validation", "held_out")
# What each kind is checked by. 0.3 is V-Triune's share of completeness.
OVERLAP = "overlap iou=dynamic completeness=0.3"


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is on a canvas, and what is asked about it."""

    pixels: np.ndarray  # uint8[112, 112]
    digits: list[Digit]  # in the order of the image tokens that hold their centres
    names: tuple[str, ...]  # what each image token shows, row by row: a digit or "none"
    question: str
    target: int | None  # the digit that is counted; None: all, or another kind


@dataclasses.dataclass(frozen=True)
class Canvases:
    """Questions over one split of the images."""

    split: Literal["train", "validation", "held_out"] = "train"  # of the images
    seed: int = 0
    # The shares of chains that skip the work, and of chains whose boxes are loose. Nothing else
    # depends on them.
    jumps: float = 0.0
    loose: float = 0.0
    verifier: str = OVERLAP  # of the detection rows; see `rewards.verifiers.routing`

    def __post_init__(self):
        check_choice("split", self.split, SPLITS)
        for name in ("jumps", "loose"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}, wanted 0 to 1; 0.5 would do")

    def example(self, index: int, kind: str) -> Example:
        """Makes example number `index` of a kind: a pure function of arguments and fields."""
        scene = self._scene(index, kind)
        # A stream of its own: the chain changes neither the picture nor the question.
        chance = random.Random(f"{self.seed} {self.split} {kind} {index}")
        jumps = chance.random() < self.jumps
        slack = chance if chance.random() < self.loose else None
        return Example(
            id=f"canvases/{self.split}/{self.seed}/{kind}/{index}",
            images=(Image.fromarray(scene.pixels).convert("RGB"),),
            question=scene.question,
            answer=answer(kind, scene.digits, scene.target),
            chain=chain(
                kind,
                scene.digits,
                scene.target,
                jumps=jumps,
                slack=slack,
                size=CANVAS // UNIT,
            ),
            level=kind,
            kind=kind,
            image_labels=scene.names,
            verifier=self.verifier if kind == "detection" else "",
            source=kind,
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its kind drawn by weight; without weights, all alike.

        Example: Canvases().mix(detection=2, counting=1).
        """
        check_weights("kind", weights, KINDS)
        weights = weights or dict.fromkeys(KINDS, 1.0)
        kinds = tuple(weights)
        return functools.partial(self._mixed, kinds, tuple(weights.values()))

    def _mixed(
        self, kinds: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        u = self._rng(index, 0).random()
        return self.example(index, choose_weighted(kinds, weights, u))

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns the generator of one example. Streams: 0 mixes, 1 to 3 the KINDS."""
        seeds = [self.seed, SPLITS.index(self.split), stream, index]
        return np.random.default_rng(seeds)

    def _scene(self, index: int, kind: str) -> Scene:
        """Draws the digits, their places and the question."""
        check_choice("kind", kind, KINDS)
        rng = self._rng(index, 1 + KINDS.index(kind))
        # 1. The question, and the labels that it is about.
        wording = QUESTIONS[kind][rng.integers(len(QUESTIONS[kind]))]
        count = int(rng.integers(1, MAX_DIGITS + 1))
        labels = rng.integers(10, size=count).tolist()
        target = None
        if "{}" in wording:
            target = int(rng.integers(10))
            labels = _with_target(labels, target, rng)
        # 2. An image of each, at a place of its own.
        images, by_label = split_images(self.split)
        pixels = np.zeros((CANVAS, CANVAS), np.uint8)
        names = np.full((CANVAS // TOKEN, CANVAS // TOKEN), "none")
        digits = {}
        for label, (x, y) in zip(labels, _places(count, rng), strict=True):
            image = images[rng.choice(by_label[label])]
            pixels[y : y + CELL, x : x + CELL] = image
            # Two images do not overlap, so their centres lie under different image tokens.
            token = (y + CELL // 2) // TOKEN, (x + CELL // 2) // TOKEN
            names[token] = str(label)
            digits[token] = Digit(label, ink_box(image, x, y))
        in_order = [digits[token] for token in sorted(digits)]
        return Scene(
            pixels,
            in_order,
            tuple(names.ravel().tolist()),
            wording.format(target),
            target,
        )


def _with_target(labels: list[int], target: int, rng: np.random.Generator) -> list[int]:
    """Returns labels of which 0 to all are the target, each number equally often.

    Drawn one by one, a digit would be there once or not at all, nearly always.
    """
    wanted = int(rng.integers(len(labels) + 1))
    # Other labels than the target: 10 steps lead back to it, so 1 to 9 steps reach each of the
    # others. Target 7, 5 steps: 2.
    others = (target + rng.integers(1, 10, size=len(labels))) % 10
    chosen = [target] * wanted + others[wanted:].tolist()
    return rng.permutation(chosen).tolist()


def _places(count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draws the upper left corners, in pixels, of images that do not overlap."""
    steps = (CANVAS - CELL) // STEP + 1
    places: list[tuple[int, int]] = []
    # It ends: there are 7 x 7 places, and each image takes at most 3 x 3 of them from the others.
    while len(places) < count:
        x, y = (STEP * rng.integers(steps, size=2)).tolist()
        if all(abs(x - a) >= CELL or abs(y - b) >= CELL for a, b in places):
            places.append((x, y))
    return places


def ink_box(image: np.ndarray, x: int, y: int) -> tuple[int, int, int, int]:
    """Returns the smallest box in units that holds the ink of uint8[28, 28] placed at (x, y)."""
    rows = np.flatnonzero((image >= INK).any(axis=1))
    columns = np.flatnonzero((image >= INK).any(axis=0))
    # Ink in the pixels 13 to 20 reaches from 13 to 21: in units of 4 pixels from 3 to 6.
    return (
        int(x + columns[0]) // UNIT,
        int(y + rows[0]) // UNIT,
        -(-int(x + columns[-1] + 1) // UNIT),
        -(-int(y + rows[-1] + 1) // UNIT),
    )


@functools.cache
def split_images(split: str) -> tuple[np.ndarray, list[list[int]]]:
    """Returns (uint8[M, 28, 28], the numbers of the split's images of each label).

    Validation has the last 1,000 images that `digits` trains on, training the others.
    """
    of_digits = "held_out" if split == "held_out" else "train"
    images, by_label = load_images("home", of_digits)
    # The stored images have a margin for shifts.
    images = images[:, MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT]
    if split == "held_out":
        return images, by_label
    first = len(images) - NUM_VALIDATION
    is_validation = split == "validation"
    chosen = [[n for n in ids if (n >= first) == is_validation] for ids in by_label]
    return images, chosen


def vocabulary() -> list[str]:
    """Lists the tokens in order of their ids; a coordinate is one token, and so is a sum.

    A word that follows another one holds the space before it.
    """
    words = {"none", JUMP}
    for wordings in QUESTIONS.values():
        for question in wordings:
            words.update(re.findall(r" ?[A-Za-z]+", question.format(7)))
    structure = ["system", "user", "assistant", "<think>", "</think>"]
    json = ['[{"bbox_2d":[', '],"label":"', '"},{"bbox_2d":[', '"}]']
    return [
        *word_tokenizer.SPECIAL_TOKENS,
        *structure,
        "<answer>",
        "</answer>",
        *json,
        *map(str, range(CANVAS // UNIT + 1)),
        *"+=;,.? \n",
        *sorted(words - set(string.ascii_letters)),
        *string.ascii_letters,
    ]


def write_tokenizer(directory: str | Path) -> int:
    """Writes the task's tokenizer in Hugging Face's format; returns the size of its vocabulary."""
    return word_tokenizer.write(directory, vocabulary())
