"""A task of shapes with labelled sides on a 3 x 3 grid, as pictures and in words.

      A    B    C
    1 []3            What is the total area?                         25    area
    2      ()2       Where is the shape nearest to the square?       B2    place
    3           /|4  What is the total area of the square and the
                2    shape nearest to it?                            21    both

ComPABench (arXiv 2505.19406) trains on areas and places, and tests whether a model joins them in
`both`, and in questions of another kind: `largest`, `farthest`, `larger`. The same question comes
as a picture, or in words. Chains begin with a caption; `metadata["facts"]` lists what they should
say on the way, for the reward term `facts`. The paper's generator is not published: sizes, wordings
and chains are our own.

Pictures are drawn to scale by PIL, 112 pixels a side. Everything is a pure function of an index,
and no arrangement is in two splits. Knows nothing of models or rewards.
"""

import dataclasses
import functools
import hashlib
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from r1v3_jax.tasks import word_tokenizer
from r1v3_jax.tasks.digit_questions import check_choice, check_weights, choose_weighted
from r1v3_jax.tasks.shape_questions import (
    COLUMNS,
    JUMP,
    KINDS,
    QUESTIONS,
    ROWS,
    SIDES,
    Scene,
    Shape,
    answer,
    chain,
    described,
    draw_scene,
    facts,
)
from r1v3_jax.types import Example

SIZE = 112  # pixels a side of a picture: 4 x 4 cells, the first row and column name the places
CELL = 28  # pixels a side of a place, which is what one image token covers, with patches of 14
SCALE = 3  # pixels of one unit of a side
FILL = 150  # of 255, a shape
INK = 255  # a label
LINE = 60  # between places
GAP = 2  # pixels between a shape and its label
LABEL = (6, 7)  # pixels, the most that the ink of a character is wide and high
# Of ten classes of arrangements, those of each split.
SPLITS = {"train": range(2, 10), "validation": range(1, 2), "held_out": range(0, 1)}
# A system turn for a model that was never told how a picture is to be read.
SYSTEM = (
    "There are shapes on a grid with the columns A, B, C and the rows 1, 2, 3; a place is written "
    "as B2. A square is labelled with its side, a circle with its radius, a triangle with its base "
    "below and its height at the right. Take 3 for pi. Distances are between places. Say what you "
    "see inside <caption> </caption>, then think, and put the answer into <answer> </answer>."
)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Questions about the arrangements of one split."""

    form: Literal["picture", "words"] = "picture"
    split: Literal["train", "validation", "held_out"] = "train"
    seed: int = 0
    # The shares of chains that begin with a caption, and of chains that skip the work. A question
    # in words has no caption. Nothing else depends on them.
    captions: float = 1.0
    jumps: float = 0.0

    def __post_init__(self):
        check_choice("form", self.form, ("picture", "words"))
        check_choice("split", self.split, SPLITS)
        for name in ("captions", "jumps"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}, wanted 0 to 1; 0.5 would do")

    def example(self, index: int, kind: str) -> Example:
        """Makes example number `index` of a kind: a pure function of arguments and fields."""
        check_choice("kind", kind, KINDS)
        scene = self.scene(index, kind)
        rng = self._rng(index, kind, 1)
        wording = QUESTIONS[kind][rng.integers(len(QUESTIONS[kind]))]
        question = wording.format(scene.target.kind)
        is_picture = self.form == "picture"
        images = ()
        names = ()
        if is_picture:
            images = (Image.fromarray(draw(scene.shapes, rng)).convert("RGB"),)
            names = image_labels(scene.shapes)
        else:
            question = f"{described(scene.shapes)}. {question}"
        # A stream of its own: the chain changes neither the picture nor the question.
        chance = self._rng(index, kind, 2).random(2)
        return Example(
            id=f"shapes/{self.form}/{self.split}/{self.seed}/{kind}/{index}",
            images=images,
            question=question,
            answer=answer(kind, scene),
            chain=chain(
                kind,
                scene,
                captioned=is_picture and chance[0] < self.captions,
                jumps=chance[1] < self.jumps,
            ),
            level=kind,
            kind=kind,
            image_labels=names,
            verifier="number" if answer(kind, scene).isdigit() else "string",
            source=kind,
            metadata={"facts": facts(kind, scene)},
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its kind drawn by weight; without weights, all alike.

        Example: Shapes().mix(area=1, place=1).
        """
        check_weights("kind", weights, KINDS)
        weights = weights or dict.fromkeys(KINDS, 1.0)
        return functools.partial(self._mixed, tuple(weights), tuple(weights.values()))

    def scene(self, index: int, kind: str) -> Scene:
        """Draws the shapes of an example: the same in both forms."""
        rng = self._rng(index, kind, 0)
        while True:  # each split has a tenth of all arrangements or more
            scene = draw_scene(rng)
            if arrangement_class(scene.shapes) in SPLITS[self.split]:
                return scene

    def _mixed(
        self, kinds: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        splits = list(SPLITS)
        seeds = [self.seed, splits.index(self.split), index]
        u = np.random.default_rng(seeds).random()
        return self.example(index, choose_weighted(kinds, weights, u))

    def _rng(self, index: int, kind: str, stream: int) -> np.random.Generator:
        """Returns a generator of one example.

        Streams: 0 its shapes, 1 wording and pixels, 2 the chain.
        """
        split = list(SPLITS).index(self.split)
        seeds = [self.seed, split, KINDS.index(kind), stream, index]
        return np.random.default_rng(seeds)


def arrangement_class(shapes: tuple[Shape, ...]) -> int:
    """Returns a number from 0 to 9 that depends on what is where, and on nothing else."""
    digest = hashlib.sha256(described(shapes).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10


# 1. Pictures


def draw(shapes: tuple[Shape, ...], rng: np.random.Generator) -> np.ndarray:
    """Draws shapes with their labels, each at a random point of its place, uint8[112, 112].

    A triangle with base 2 and height 4:    |\\
                                            | \\  4
                                            |__\\
                                             2
    """
    image = Image.new("L", (SIZE, SIZE))
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default_imagefont()
    # 1. The board: names of columns and rows, and lines between the places.
    middle = (CELL - LABEL[0]) // 2
    for number in range(3):
        edge = CELL * (number + 1)
        _write(canvas, font, COLUMNS[number], edge + middle, middle)
        _write(canvas, font, ROWS[number], middle, edge + middle)
        canvas.line((edge, 0, edge, SIZE), fill=LINE)
        canvas.line((0, edge, SIZE, edge), fill=LINE)
    # 2. The shapes, each with the room that it and its labels need.
    for shape in shapes:
        width, height = _extent(shape)
        all_width = width + GAP + LABEL[0]
        all_height = max(height, LABEL[1])
        if shape.kind == "triangle":
            all_height += GAP + LABEL[1]
        # The first pixel of a place is the line.
        x = CELL * (shape.column + 1) + int(rng.integers(1, CELL - all_width + 1))
        y = CELL * (shape.row + 1) + int(rng.integers(1, CELL - all_height + 1))
        corners = (x, y, x + width - 1, y + height - 1)
        match shape.kind:
            case "square":
                canvas.rectangle(corners, fill=FILL)
            case "circle":
                canvas.ellipse(corners, fill=FILL)
            case "triangle":
                left, top, right, bottom = corners
                points = [(left, top), (left, bottom), (right, bottom)]
                canvas.polygon(points, fill=FILL)
                base_x = x + (width - LABEL[0]) // 2
                _write(canvas, font, f"{shape.sides[0]}", base_x, y + height + GAP)
        _write(canvas, font, f"{shape.sides[-1]}", x + width + GAP, y)
    return np.asarray(image)


def _extent(shape: Shape) -> tuple[int, int]:
    """Returns width and height in pixels: a circle of radius 2 has 12 x 12."""
    if shape.kind == "circle":
        side = 2 * SCALE * shape.sides[0]
        return side, side
    return SCALE * shape.sides[0], SCALE * shape.sides[-1]


def _write(canvas: ImageDraw.ImageDraw, font, character: str, x: int, y: int) -> None:
    """Writes one character whose ink begins at (x, y)."""
    # The ink of a bitmap glyph does not begin at the glyph's corner.
    glyph = Image.new("L", (CELL, CELL))
    ImageDraw.Draw(glyph).text((0, 0), character, fill=INK, font=font)
    box = glyph.getbbox()
    canvas.bitmap((x, y), glyph.crop(box), fill=INK)


def image_labels(shapes: tuple[Shape, ...]) -> tuple[str, ...]:
    """Returns what each of the 16 image tokens shows, row by row: a shape, a name or "none"."""
    names = np.full((4, 4), "none", dtype=object)
    names[0, 1:] = list(COLUMNS)
    names[1:, 0] = list(ROWS)
    for shape in shapes:
        names[shape.row + 1, shape.column + 1] = shape.name
    return tuple(names.ravel())


# 2. The tokenizer


def vocabulary() -> list[str]:
    """Lists the tokens in order of their ids.

    A place is one token, a shape with its sides, and an area or a sum of areas. A word that follows
    another one holds the space before it.
    """
    words = {"none", JUMP, " area ", "from ", " off ", ": "}
    words |= {column + row for column in COLUMNS for row in ROWS}
    for kind, all_sides in SIDES.items():
        words |= {Shape(kind, sides, 0, 0).name for sides in all_sides}
        words.add(f" {kind}")
    for wordings in QUESTIONS.values():
        for question in wordings:
            words.update(re.findall(r" ?[A-Za-z]+", question.format("square")))
    largest = max(
        Shape(kind, sides, 0, 0).area for kind in SIDES for sides in SIDES[kind]
    )
    structure = ["system", "user", "assistant", "<think>", "</think>"]
    return [
        *word_tokenizer.SPECIAL_TOKENS,
        *structure,
        *("<caption>", "</caption>", "<answer>", "</answer>"),
        # Three shapes may all be the largest.
        *map(str, range(3 * largest + 1)),
        *"+=;,.? \n",
        *sorted(words - set(string.ascii_letters)),
        *string.ascii_letters,
    ]


def write_tokenizer(directory: str | Path) -> int:
    """Writes the task's tokenizer in Hugging Face's format; returns the size of its vocabulary."""
    return word_tokenizer.write(directory, vocabulary())
