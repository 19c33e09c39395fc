"""The demonstration task: questions about 2 x 2 grids of real handwritten digits.

Answers are integers, chains of thought are written by a program, and everything is a pure function
of an index: no state, no download, no order in which examples must be made.

    4 7     Add the two rows.        47 38 stepwise:7+8=15;4+3=7;7+1=8;85 / </think> / \\boxed{85}
    3 8     (a slash is a newline)   read  style    work

Levels: `read` only copies the digits and `sums` is arithmetic without an image, what a pretrained
model brings along; `easy` and `normal` are for the cold start; `hard` asks what `normal` asks, for
sums of 130 and more with a carry, which no chain of the cold start shows.
Knows nothing of models or rewards. `write_tokenizer` makes a vocabulary for this task alone.

Letters: N examples, M images, 4 the cells of a grid in reading order.
"""

import dataclasses
import functools
import importlib.resources
import itertools
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from r1v3_jax.literals import PARSER
from r1v3_jax.tasks import word_tokenizer
from r1v3_jax.tasks.digit_chains import CRITICAL_WORDS, STYLES, chain
from r1v3_jax.tasks.digit_questions import (
    LEVELS,
    QUESTIONS,
    Grid,
    answer,
    answer_text,
    check_choice,
    check_weights,
    choose,
    choose_weighted,
    draw_problem,
    grid_groups,
)
from r1v3_jax.types import Example

CELL = 28  # pixels a side of a digit; an image has 2 x 2
MAX_SHIFT = 2  # pixels, of an augmented digit
# The file of each domain, and how many of its images are for training.
FILES = {
    "home": ("mnist10k.npz", 8000),
    "second": ("uci_digits.npz", 900),
}
SPLITS = ("train", "held_out")
# Of the permutation before the split: one of the files is sorted by label.
SPLIT_SEED = 0
SUMS = 5  # in an example of the level `sums`


@dataclasses.dataclass(frozen=True)
class Chance:
    """All random numbers of one example, uniform in 0 <= u < 1, each with one use."""

    problem: list[float]  # 3: the kind, the group of grids, the grid
    images: list[float]  # 4: which image of each digit
    shifts: list[float]  # 8: of each digit in turn, down and to the right
    question: float  # its wording
    style: float
    chain: list[float]  # 3: slip or not, the wrong number, which slip or look back


@dataclasses.dataclass(frozen=True)
class Digits:
    """Questions over one set of images."""

    # "home" is MNIST; "second" is other writers, coarser and larger (UCI, 8 x 8 pixels over the
    # whole cell).
    domain: Literal["home", "second"] = "home"
    split: Literal["train", "held_out"] = "train"  # of the images; no image is in both
    seed: int = 0
    augment: bool = (
        False  # shift each digit by up to MAX_SHIFT pixels; train split only
    )
    # Weights of the chains' STYLES; nothing else depends on them.
    styles: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self):
        check_choice("domain", self.domain, FILES)
        check_choice("split", self.split, SPLITS)
        if self.augment and self.split != "train":
            raise ValueError(
                "augment=True with split='held_out': held-out images stay as they are"
            )
        if (
            len(self.styles) != len(STYLES)
            or min(self.styles) < 0
            or not sum(self.styles) > 0
        ):
            raise ValueError(
                f"styles are weights of {', '.join(STYLES)}, got {self.styles}"
            )

    def example(self, index: int, level: str = "normal") -> Example:
        """Makes example number `index` of a level: a pure function of arguments and fields."""
        if level == "sums":
            return self._sums(index)
        chance = self._chance(index, level)
        kind, grid = draw_problem(level, chance.problem)
        # 1. The work that the chain shows.
        if kind == "read":
            style = "direct"  # there is nothing to work out
        else:
            style = choose_weighted(STYLES, self.styles, chance.style)
        # 2. The image.
        ids = self._image_ids(grid, chance)
        shifts = self._shifts(chance)
        pixels = self._draw([ids], [shifts])
        image = Image.fromarray(pixels[0]).convert("RGB")
        return Example(
            id=f"digits/{self.domain}/{self.split}/{self.seed}/{level}/{index}",
            images=(image,),
            question=choose(QUESTIONS[kind], chance.question),
            answer=answer_text(kind, grid),
            chain=chain(kind, grid, style, chance.chain),
            level=level,
            kind=kind,
            # One image token a digit: a patch is half a digit (14 pixels) and a token 2 x 2.
            image_labels=tuple(map(str, grid)),
        )

    def _sums(self, index: int) -> Example:
        """Makes sums in text: the arithmetic that a language model brings along."""
        rng = self._rng(index, 1 + len(LEVELS))
        results = []
        terms = []
        statements = []
        for u in rng.random((SUMS, 3)).tolist():
            # As in the chains: a digit and a digit, or (40%) a sum so far, 10 to 27, and a digit.
            if u[0] < 0.4:
                x = int(10 + 18 * u[1])
            else:
                x = int(10 * u[1])
            y = int(10 * u[2])
            result = x + y
            results.append(result)
            terms.append(f"{x}+{y}")
            statements.append(f"{x}+{y}={result}")
        largest = max(results)
        question = " ".join(terms)
        steps = ";".join(statements)
        return Example(
            id=f"digits/sums/{self.seed}/{index}",
            images=(),
            question=f"Largest of {question}?",
            answer=f"{largest}",
            chain=f"{steps};{largest}\n</think>\n\\boxed{{{largest}}}",
            level="sums",
            kind="sums",
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its level drawn by weight.

        Example: Digits().mix(easy=1, normal=2).
        """
        check_weights("level", weights, (*LEVELS, "sums"))
        levels = tuple(weights)
        shares = tuple(weights.values())
        return functools.partial(self._mixed, levels, shares)

    def labels(self, index: int, level: str = "normal") -> Grid:
        """Returns the four digits in the image of that example, in reading order."""
        chance = self._chance(index, level)
        _, grid = draw_problem(level, chance.problem)
        return grid

    def images(self, indices: Iterable[int], level: str = "normal") -> np.ndarray:
        """Draws the images of N examples at once, uint8[N, 56, 56, 3]."""
        ids = []
        shifts = []
        for index in indices:
            chance = self._chance(index, level)
            _, grid = draw_problem(level, chance.problem)
            ids.append(self._image_ids(grid, chance))
            shifts.append(self._shifts(chance))
        grey = self._draw(ids, shifts)
        return np.repeat(grey[..., None], 3, axis=-1)

    def _mixed(
        self, levels: tuple[str, ...], weights: tuple[float, ...], index: int
    ) -> Example:
        u = self._rng(index, 0).random()
        level = choose_weighted(levels, weights, u)
        return self.example(index, level)

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns the generator of one example. Streams: 0 mixes, 1 to 4 the LEVELS, 5 sums."""
        domain = list(FILES).index(self.domain)
        split = SPLITS.index(self.split)
        seeds = [self.seed, domain, split, stream, index]
        return np.random.default_rng(seeds)

    def _chance(self, index: int, level: str) -> Chance:
        check_choice("level", level, LEVELS)
        stream = 1 + list(LEVELS).index(level)
        numbers = self._rng(index, stream).random(20).tolist()
        return Chance(
            problem=numbers[0:3],
            images=numbers[3:7],
            shifts=numbers[7:15],
            question=numbers[15],
            style=numbers[16],
            chain=numbers[17:20],
        )

    def _image_ids(self, grid: Grid, chance: Chance) -> list[int]:
        """Chooses an image of each digit."""
        _, by_label = load_images(self.domain, self.split)
        ids = []
        for digit, u in zip(grid, chance.images, strict=True):
            candidates = by_label[digit]
            ids.append(choose(candidates, u))
        return ids

    def _shifts(self, chance: Chance) -> list[int]:
        """Returns for each digit in turn the shift down and to the right, in pixels."""
        if not self.augment:
            return [0] * len(chance.shifts)
        # MAX_SHIFT = 2: five equally likely shifts, -2 to 2.
        steps = 2 * MAX_SHIFT + 1
        return [int(u * steps) - MAX_SHIFT for u in chance.shifts]

    def _draw(self, ids: list[list[int]], shifts: list[list[int]]) -> np.ndarray:
        """Puts images together: ids N x 4, shifts N x 8 -> uint8[N, 56, 56]."""
        pixels, _ = load_images(self.domain, self.split)
        # Axes: example, row of the grid, pixel row, column of the grid, pixel column.
        canvas = np.empty((len(ids), 2, CELL, 2, CELL), np.uint8)
        for n, cell in itertools.product(range(len(ids)), range(4)):
            # Stored images have a margin of 2. A digit that moves down by 1 is cut from row 1 on.
            y = MAX_SHIFT - shifts[n][2 * cell]
            x = MAX_SHIFT - shifts[n][2 * cell + 1]
            image = pixels[ids[n][cell]]
            digit = image[y : y + CELL, x : x + CELL]
            row, column = divmod(cell, 2)
            canvas[n, row, :, column] = digit
        return canvas.reshape(-1, 2 * CELL, 2 * CELL)


@functools.cache
def load_images(domain: str, split: str) -> tuple[np.ndarray, list[list[int]]]:
    """Loads (uint8[M, 32, 32], the image numbers of each label).

    The images have a margin of 2 pixels, room for shifts.
    """
    name, num_train = FILES[domain]
    path = importlib.resources.files("r1v3_jax") / "data_files" / name
    # Two readers' threads may be here at once: NumPy parses the header of each array.
    with PARSER, path.open("rb") as file:
        arrays = np.load(file)
        images = arrays["x"]
        labels = arrays["y"]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    if split == "train":
        chosen = order[:num_train]
    else:
        chosen = order[num_train:]
    images = images[chosen]
    labels = labels[chosen]
    if domain == "home":
        images = images.reshape(-1, CELL, CELL)
    else:
        coarse = images.reshape(-1, 8, 8)
        images = np.stack([_enlarge(image) for image in coarse])
    margin = (MAX_SHIFT, MAX_SHIFT)
    pixels = np.pad(images, ((0, 0), margin, margin))
    by_label = [np.flatnonzero(labels == digit).tolist() for digit in range(10)]
    return pixels, by_label


def _enlarge(image: np.ndarray) -> np.ndarray:
    """Enlarges uint8[8, 8] of 0 to 16 to uint8[28, 28] of 0 to 255.

    The digit has 20 pixels within a margin of 4, as MNIST was made: so the domains differ in
    writers and resolution, but not in scale.
    """
    grey = np.rint(image * (255 / 16)).astype(np.uint8)
    digit = Image.fromarray(grey).resize((20, 20), Image.Resampling.BILINEAR)
    return np.pad(np.asarray(digit), 4)


def answer_prior(level: str) -> dict[str, float]:
    """Returns {kind: accuracy of the best constant answer}: what guessing blindly achieves."""
    check_choice("level", level, LEVELS)
    priors = {}
    for kind in LEVELS[level]:
        groups = grid_groups(level, kind)
        odds = Counter()
        for group in groups:
            # Groups are drawn equally often, and so are the grids of a group.
            share = len(group) * len(groups)
            counts = Counter(answer(kind, grid) for grid in group)
            for result, count in counts.items():
                odds[result] += count / share
        priors[kind] = max(odds.values())
    return priors


def words_of(question: str) -> set[str]:
    """Returns the words of a question; one that follows another holds the space before it."""
    return set(re.findall(r" ?[A-Za-z]+", question))


def vocabulary() -> list[str]:
    """Lists the tokens in order of their ids; at most 128, the rows of the padded embedding.

    A word that follows another one holds the space before it.
    """
    words = {"none", " ok"}
    for wordings in QUESTIONS.values():
        for question in wordings:
            words |= words_of(question)
    words.update(f" {word}" for word in CRITICAL_WORDS)
    words.update(opening for opening in STYLES.values() if opening)
    structure = ["system", "user", "assistant", "<think>", "</think>", "\\boxed{", "}"]
    return [
        *word_tokenizer.SPECIAL_TOKENS,
        *structure,
        *"0123456789+-=;,.?: \n",
        *sorted(words),
        *string.ascii_lowercase,
        *string.ascii_uppercase,
    ]


def write_tokenizer(directory: str | Path) -> int:
    """Writes the task's tokenizer in Hugging Face's format; returns the size of its vocabulary.

    A digit is a token, and so are a word of the questions with the space before it, `\\boxed{`
    and each critical word. Other English falls into letters. Chat format: ChatML without a system
    turn, opened by `<think>`.
    """
    return word_tokenizer.write(directory, vocabulary())


def contact_sheet(
    examples: Sequence[Example], path: str | Path, columns: int = 4
) -> None:
    """Draws a PNG of examples with question, chain and answer, for a human to look at."""
    # Pixels of one example: its place on the sheet, and the lines of text under the image.
    width = 380
    height = 210
    scale = 2
    line_height = 14
    rows = -(-len(examples) // columns)  # rounded up
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    canvas = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for i, example in enumerate(examples):
        row, column = divmod(i, columns)
        x = column * width + 8
        y = row * height + 8
        image = example.images[0]
        enlarged = image.resize((image.width * scale, image.height * scale))
        sheet.paste(enlarged, (x, y))
        y += enlarged.height + 4
        for text in _sheet_lines(example):
            canvas.text((x, y), text, fill="black", font=font)
            y += line_height
    sheet.save(path)


def _sheet_lines(example: Example) -> list[str]:
    """Cuts the text of an example into lines of at most 56 characters of its chain."""
    lines = [example.id, f"{example.question} -> {example.answer}"]
    for part in (example.chain or "").split("\n"):
        for start in range(0, len(part), 56):
            lines.append(part[start : start + 56])
    return lines
