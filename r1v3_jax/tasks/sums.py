"""Column addition in text: sums of two to four numbers, in digits or in words.

Answers are integers, chains of thought are written by a program, and everything is a pure function
of an index: no state, no download, no order in which examples must be made.

    Add 47, 38 and 5.                  7+8=15+5=20;2+4=6+3=9+0=9 / </think> / \\boxed{90}
    Sum of forty-seven and thirty?     7+0=7;4+3=7 / ...        (a slash is a newline)

The ones are added from left to right, then the carry and the tens. The teacher is not perfect. Some
of its chains jump to the answer. Others fall into a loop: one piece of the chain, as "+5=20", is
written again and again until the thought is cut off, and there is no answer.

Knows nothing of models or rewards. `write_tokenizer` makes a vocabulary for this task alone.
"""

import dataclasses
import functools
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from r1v3_jax.tasks import word_tokenizer
from r1v3_jax.types import Example

# How many numbers are added, at each level.
LEVELS = {"short": (2, 3), "long": (4,)}
QUESTIONS = ("Add {}.", "What is {}?", "Sum of {}?")
SPLITS = ("train", "held_out")
# A question is held out if its numbers, weighted 1, 2, 3, ..., add up to a multiple of this.
HELD_OUT = 7
LOOP_CHARACTERS = 72  # of a thought in a loop; a character is a token

_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


@dataclasses.dataclass(frozen=True)
class Sums:
    """Questions of one split, with the habits of their teacher."""

    split: Literal["train", "held_out"] = "train"  # no question is in both
    seed: int = 0
    looping: float = 0.0  # share of chains that end in a loop
    jumping: float = 0.0  # share of chains that name the answer without a step

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(
                f"split is {self.split!r}; choose from {', '.join(SPLITS)}"
            )
        for name in ("looping", "jumping"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it must be a share, as 0.15")
        if self.looping + self.jumping > 1:
            raise ValueError(
                f"looping {self.looping} and jumping {self.jumping} are shares of the same chains; "
                "they must add up to at most 1, as 0.15 and 0.35"
            )

    def example(self, index: int, level: str = "short") -> Example:
        """Makes example number `index` of a level: a pure function of arguments and fields."""
        if level not in LEVELS:
            raise ValueError(f"level is {level!r}; choose from {', '.join(LEVELS)}")
        stream = 1 + list(LEVELS).index(level)
        rng = self._rng(index, stream)
        count = int(rng.choice(LEVELS[level]))
        numbers = self._draw(rng, count)
        in_words = rng.random() < 0.5
        wording = QUESTIONS[rng.integers(len(QUESTIONS))]
        question = wording.format(listed(numbers, in_words))
        return Example(
            id=f"sums/{self.split}/{self.seed}/{level}/{index}",
            images=(),
            question=question,
            answer=f"{sum(numbers)}",
            chain=self._chain(numbers, rng),
            level=level,
            kind="words" if in_words else "digits",
            source="sums",
        )

    def mix(self, **weights: float) -> Callable[[int], Example]:
        """Returns index -> example, with its level drawn by weight, as mix(short=2, long=1)."""
        unknown = sorted(set(weights) - set(LEVELS))
        if unknown or not weights or min(weights.values()) <= 0:
            raise ValueError(
                f"weights are {weights}; wanted positive ones of {', '.join(LEVELS)}"
            )
        levels = tuple(weights)
        total = sum(weights.values())
        shares = tuple(weight / total for weight in weights.values())
        return functools.partial(self._mixed, levels, shares)

    def _mixed(
        self, levels: tuple[str, ...], shares: tuple[float, ...], index: int
    ) -> Example:
        level = self._rng(index, 0).choice(levels, p=shares)
        return self.example(index, str(level))

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns the generator of one example. Streams: 0 mixes, then the LEVELS."""
        seeds = [self.seed, SPLITS.index(self.split), stream, index]
        return np.random.default_rng(seeds)

    def _draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """Draws numbers from 1 to 99 until they make a question of this split."""
        while True:
            numbers = rng.integers(1, 100, count).tolist()
            if is_held_out(numbers) == (self.split == "held_out"):
                return numbers

    def _chain(self, numbers: list[int], rng: np.random.Generator) -> str:
        """Writes the teacher's reply in one of its three habits."""
        habit = rng.random()
        pieces = chain_pieces(numbers)
        if habit < self.looping:
            position = int(rng.integers(len(pieces)))
            return looped_chain(pieces, position)
        answer = f"{sum(numbers)}"
        thought = "".join(pieces)
        if habit < self.looping + self.jumping:
            thought = answer
        return f"{thought}\n</think>\n\\boxed{{{answer}}}"


def is_held_out(numbers: list[int]) -> bool:
    """Returns whether a question is kept for evaluation, in whatever words, in this order.

    The same numbers in another order may be a question of the training: 2 + 6 is kept, 6 + 2 is
    not. 47 + 38 + 5: 1*47 + 2*38 + 3*5 = 138, no multiple of 7. A seventh of all are kept.
    """
    weighted = sum(weight * n for weight, n in enumerate(numbers, start=1))
    return weighted % HELD_OUT == 0


def chain_pieces(numbers: list[int]) -> list[str]:
    """Writes the steps of a column addition, one addition a piece.

    47, 38, 5   ->   "7+8=15" "+5=20" ";2+4=6" "+3=9" "+0=9"     and the sum is 90
    """
    ones = [number % 10 for number in numbers]
    tens = [number // 10 for number in numbers]
    pieces = _column(ones)
    carry = sum(ones) // 10
    if carry:
        tens = [carry, *tens]
    first, *others = _column(tens)
    return [*pieces, f";{first}", *others]


def _column(digits: list[int]) -> list[str]:
    """Adds digits from left to right: 7, 8, 5 -> "7+8=15" "+5=20"."""
    total = digits[0] + digits[1]
    pieces = [f"{digits[0]}+{digits[1]}={total}"]
    for digit in digits[2:]:
        total += digit
        pieces.append(f"+{digit}={total}")
    return pieces


def looped_chain(pieces: list[str], position: int) -> str:
    """Writes a thought that repeats the piece at `position` until it is cut off, and no answer.

    At position 1 of the pieces above: 7+8=15+5=20+5=20+5=20 ...
    """
    thought = "".join(pieces[:position])
    missing = LOOP_CHARACTERS - len(thought)
    repeats = -(-missing // len(pieces[position]))  # rounded up
    thought += pieces[position] * repeats
    return f"{thought[:LOOP_CHARACTERS]}\n</think>"


def listed(numbers: list[int], in_words: bool) -> str:
    """Lists numbers as in a sentence: "47, 38 and 5", "forty-seven and thirty-eight"."""
    written = [number_in_words(n) if in_words else f"{n}" for n in numbers]
    return ", ".join(written[:-1]) + f" and {written[-1]}"


def number_in_words(number: int) -> str:
    """Writes a number from 0 to 99: 47 -> forty-seven."""
    if number < len(_SMALL):
        return _SMALL[number]
    tens = _TENS[number // 10 - 2]
    ones = number % 10
    return f"{tens}-{_SMALL[ones]}" if ones else tens


def vocabulary() -> list[str]:
    """Lists the tokens in order of their ids; at most 128, the rows of the padded embedding."""
    words = {*_SMALL, *_TENS, " and"}
    for question in QUESTIONS:
        words.update(re.findall(r" ?[A-Za-z]+", question))
    structure = ["system", "user", "assistant", "<think>", "</think>", "\\boxed{", "}"]
    return [
        *word_tokenizer.SPECIAL_TOKENS,
        *structure,
        *"0123456789+-=;,.?: \n",
        *sorted(words),
        *string.ascii_lowercase,
    ]


def write_tokenizer(directory: str | Path) -> int:
    """Writes the task's tokenizer in Hugging Face's format; returns the size of its vocabulary.

    A digit is a token, and so are a number word, a word of the questions with the space before it,
    and `\\boxed{`. Other English falls into letters.
    """
    return word_tokenizer.write(directory, vocabulary())
