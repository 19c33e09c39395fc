r"""easy-VQA: real, published questions about pictures of one coloured shape (Victor Zhou, 2019).

4,000 pictures of 64 x 64 pixels with 38,575 questions to learn from, 1,000 with 9,673 to be asked.
They come with `pip install easy-vqa` (3 MB, MIT), and are read from its files.

    Is there not a teal shape?      a red circle / </think> / \boxed{yes}   (a slash is a newline)

The package has questions and answers alone. The chain of a question says what all questions about
its picture tell: its colour and its shape. Of one picture in ten they do not tell both; its
questions are asked, and not learnt from.
"""

import dataclasses
import functools
import importlib.util
import json
import re
from pathlib import Path
from typing import Literal

import numpy as np

from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.tasks import word_tokenizer
from r1v3_jax.types import Example

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
QUESTION_WORDS = (
    "a color contain does image in is no not of present shape the there what".split()
)
FOLDERS = {"train": "train", "held_out": "test"}


@dataclasses.dataclass(frozen=True)
class EasyVQA:
    """The questions of one split, in an order of their own; they come again after the last."""

    split: Literal["train", "held_out"] = "train"
    seed: int = 0  # of the order

    def __post_init__(self):
        if self.split not in FOLDERS:
            raise ValueError(
                f"split is {self.split!r}; choose from {', '.join(FOLDERS)}"
            )

    def __len__(self) -> int:
        return len(_order(self.split, self.seed))

    def __call__(self, index: int) -> Example:
        """Returns question number `index`: a pure function of it and the fields."""
        order = _order(self.split, self.seed)
        number = int(order[index % len(order)])
        text, answer, picture = _questions(self.split)[number]
        colour, shape = _facts(self.split)[picture]
        chain = None
        if colour and shape:
            chain = f"a {colour} {shape}\n</think>\n\\boxed{{{answer}}}"
        path = _folder(self.split) / "images" / f"{picture}.png"
        return Example(
            id=f"easy_vqa/{self.split}/{number}",
            images=(StoredImage(path.read_bytes()),),
            question=text[0].upper() + text[1:],
            answer=answer,
            chain=chain,
            verifier="string",
            kind=_kind(answer),
            source="easy_vqa",
        )


def vocabulary() -> list[str]:
    """Lists the tokens in order of their ids; a word behind another one holds the space."""
    words = {"yes", "no", "a"}
    for word in (*QUESTION_WORDS, *SHAPES, *COLOURS):
        words |= {word, f" {word}", word.capitalize()}
    structure = ["system", "user", "assistant", "<think>", "</think>", "\\boxed{", "}"]
    return [*word_tokenizer.SPECIAL_TOKENS, *structure, "?", " ", "\n", *sorted(words)]


def write_tokenizer(directory: str | Path) -> int:
    """Writes the task's tokenizer in Hugging Face's format; returns the size of its vocabulary."""
    return word_tokenizer.write(directory, vocabulary())


def facts_of(questions: list[tuple[str, str, int]]) -> dict[int, tuple[str, str]]:
    """Returns {picture: (colour, shape)}, "" for what its questions do not tell.

    ("Is there a red shape?", "no", 7)          picture 7 is not red
    ("What color is the circle?", "blue", 7)    it is a blue circle
    """
    left = {
        picture: {"colour": set(COLOURS), "shape": set(SHAPES)}
        for _, _, picture in questions
    }
    for text, answer, picture in questions:
        words = re.findall("[a-z]+", text.lower())
        is_denied = bool({"no", "not"} & set(words))
        for name in [*words, answer]:
            kind = "colour" if name in COLOURS else "shape"
            if name not in (*COLOURS, *SHAPES):
                continue
            # What a question of another kind names is there: "What color is the circle?"
            is_true = answer not in ("yes", "no") or (answer == "yes") != is_denied
            if is_true:
                left[picture][kind] &= {name}
            else:
                left[picture][kind] -= {name}
    return {
        picture: (_only(kinds["colour"]), _only(kinds["shape"]))
        for picture, kinds in left.items()
    }


def _only(names: set[str]) -> str:
    return next(iter(names)) if len(names) == 1 else ""


def _kind(answer: str) -> str:
    if answer in SHAPES:
        return "shape"
    return "colour" if answer in COLOURS else "yes or no"


@functools.cache
def _folder(split: str) -> Path:
    found = importlib.util.find_spec("easy_vqa")
    if found is None:
        raise ModuleNotFoundError(
            "the package easy-vqa, which holds the questions, is not installed: pip install "
            "easy-vqa"
        )
    return Path(found.origin).parent / "data" / FOLDERS[split]


@functools.cache
def _questions(split: str) -> list[tuple[str, str, int]]:
    """Returns (question, answer, number of the picture)."""
    rows = json.loads((_folder(split) / "questions.json").read_text("utf-8"))
    return [(text, answer, picture) for text, answer, picture in rows]


@functools.cache
def _facts(split: str) -> dict[int, tuple[str, str]]:
    return facts_of(_questions(split))


@functools.cache
def _order(split: str, seed: int) -> np.ndarray:
    """Returns the numbers of the questions in the order in which they come."""
    numbers = np.arange(len(_questions(split)))
    if split == "train":
        facts = _facts(split)
        pictures = [picture for _, _, picture in _questions(split)]
        numbers = numbers[[all(facts[picture]) for picture in pictures]]
    return np.random.default_rng(seed).permutation(numbers)
