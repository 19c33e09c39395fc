"""Three types of question about a grid of digits: for a number, a letter or a description.

    4 7    number        Add the two rows.                    \\boxed{85}
    3 8    letter        Where is the first largest digit?    \\boxed{D}, bottom right
           description   Describe the digits.                 \\boxed{four seven over three eight}

Each type is a source of its own with the verifier that it needs: `number`, `choice`, and for
descriptions `model`, a judge. The teacher of the cold start is imperfect in each: some of its
chains jump to the answer, and most of its descriptions leave digits out. Everything is a pure
function of an index. Pictures and numbers are those of `digits`.
"""

import dataclasses
from pathlib import Path

import numpy as np

from r1v3_jax.tasks import digits, word_tokenizer
from r1v3_jax.tasks.digit_chains import STYLES
from r1v3_jax.tasks.digit_questions import Grid
from r1v3_jax.tasks.digits import SPLITS, Digits
from r1v3_jax.types import Example

NAMES = "zero one two three four five six seven eight nine".split()
UNNAMED = "something"  # what a teacher writes for a digit that it leaves out
OVER = " over"  # between the rows of a description
LETTERS = "ABCD"  # of the places in reading order
OPTIONS = (
    "\n(A) top left",
    "\n(B) top right",
    "\n(C) bottom left",
    "\n(D) bottom right",
)
# What a letter is asked for: the question, and which of two digits is the better one.
PLACES = {
    "largest": ("Where is the first largest digit?", max),
    "smallest": ("Where is the first smallest digit?", min),
}
DESCRIBE = ("Describe the digits.", "What do the rows say?")

# 1. The sources


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Questions for the sum of the rows or of all digits, those of the level `normal`."""

    digits: Digits

    def __call__(self, index: int) -> Example:
        """Makes example number `index`."""
        example = self.digits.example(index, "normal")
        return dataclasses.replace(example, source="number", verifier="number")


@dataclasses.dataclass(frozen=True)
class Letters:
    """Questions for the place of the largest or the smallest digit, with four options."""

    digits: Digits
    jumping: float = 0.4  # share of chains that do not compare

    def __post_init__(self):
        check_share("Letters.jumping", self.jumping)

    def __call__(self, index: int) -> Example:
        """Makes example number `index`."""
        rng = _rng(self.digits, index)
        kind = str(rng.choice(list(PLACES)))
        jumps = bool(rng.random() < self.jumping)
        picture = self.digits.example(index, "read")
        grid = _grid(picture)
        question, _ = PLACES[kind]
        return dataclasses.replace(
            picture,
            id=f"{picture.id}/letter",
            question=question + "".join(OPTIONS),
            answer=LETTERS[place(kind, grid)],
            chain=letter_chain(kind, grid, jumps),
            level="letter",
            kind=kind,
            source="letter",
            verifier="choice",
        )


@dataclasses.dataclass(frozen=True)
class Descriptions:
    """Requests to name all four digits in their places."""

    digits: Digits
    # Chance of each digit to be named by the teacher: a whole description is its fourth power.
    naming: float = 0.4

    def __post_init__(self):
        check_share("Descriptions.naming", self.naming)

    def __call__(self, index: int) -> Example:
        """Makes example number `index`."""
        rng = _rng(self.digits, index)
        question = str(rng.choice(DESCRIBE))
        is_named = rng.random(4) < self.naming
        picture = self.digits.example(index, "read")
        a, b, c, d = _grid(picture)
        words = [NAMES[digit] for digit in (a, b, c, d)]
        told = [
            word if named else UNNAMED
            for word, named in zip(words, is_named, strict=True)
        ]
        reading = f"{a}{b} {c}{d}"
        return dataclasses.replace(
            picture,
            id=f"{picture.id}/description",
            question=question,
            answer=description(words),
            chain=f"{reading}\n</think>\n\\boxed{{{description(told)}}}",
            level="description",
            kind="description",
            source="description",
            verifier="model",
            # What the thoughts should say, for `terms.facts`: the rows.
            metadata={"facts": reading.split()},
        )


# 2. Answers and chains


def place(kind: str, grid: Grid) -> int:
    """Returns the first place of the largest or smallest digit: 4 7 over 7 3, largest -> 1."""
    _, better = PLACES[kind]
    return grid.index(better(grid))


def letter_chain(kind: str, grid: Grid, jumps: bool) -> str:
    """Writes the four options, the best one so far after each comparison, and the answer.

    A4 B7 C3 D8 stepwise:B7;B7;D8        A4 B7 C3 D8    jumping
    """
    options = [f"{letter}{digit}" for letter, digit in zip(LETTERS, grid, strict=True)]
    thought = " ".join(options)
    if not jumps:
        # The best of the first two, of the first three, of all four.
        best = [options[place(kind, grid[:count])] for count in (2, 3, 4)]
        thought += STYLES["worked"] + ";".join(best)
    return f"{thought}\n</think>\n\\boxed{{{LETTERS[place(kind, grid)]}}}"


def description(words: list[str]) -> str:
    """Puts four words in reading order into a description: "four seven over three eight"."""
    return f"{words[0]} {words[1]}{OVER} {words[2]} {words[3]}"


def check_share(name: str, share: float) -> None:
    """Raises ValueError unless a share lies between 0 and 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is {share}; it must be a share, as 0.35")


def _grid(picture: Example) -> Grid:
    return tuple(int(label) for label in picture.image_labels)


def _rng(pictures: Digits, index: int) -> np.random.Generator:
    """Returns the generator of what is asked and of the teacher's habits."""
    return np.random.default_rng([pictures.seed, SPLITS.index(pictures.split), index])


# 3. The tokenizer


def vocabulary() -> list[str]:
    """Lists the tokens in order of their ids: those of `digits`, then the words of the types."""
    known = digits.vocabulary()
    words = {*OPTIONS, OVER}
    for name in (*NAMES, UNNAMED):
        # At the start of a description, and behind another word.
        words |= {name, f" {name}"}
    questions = [*DESCRIBE, *(question for question, _ in PLACES.values())]
    for question in questions:
        words |= digits.words_of(question)
    return [*known, *sorted(words - set(known))]


def write_tokenizer(directory: str | Path) -> int:
    """Writes the task's tokenizer in Hugging Face's format; returns the size of its vocabulary.

    Names of digits are tokens, and so are the options of a question for a letter.
    """
    return word_tokenizer.write(directory, vocabulary())
