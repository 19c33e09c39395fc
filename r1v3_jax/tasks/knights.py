"""A task in text: who is a knight, who always tells the truth, and who is a knave, who lies?

    Ada: Ben is a knave.                     (1) Ada is a knight
    Ben: if Ada is a knight then Ben is      (2) Ben is a knave
    a knight.

Every puzzle has exactly one solution, found by trying all roles. Examples are a pure function of an
index: no state, no download. As in Logic-RL (arXiv 2502.14768) the answer stands inside
<answer> </answer> and is a numbered list; the verifier `knights` reads it.
"""

import dataclasses
import functools
import string
from typing import Literal

import numpy as np

from r1v3_jax.tasks import word_tokenizer
from r1v3_jax.tasks.knight_chains import JUMPED, chain, draw_rules, obeying, worked
from r1v3_jax.tasks.knight_puzzles import (
    NAMES,
    Roles,
    Statement,
    draw_statements,
    puzzle_class,
    quiz,
    solution_text,
    solutions,
)
from r1v3_jax.types import Example

MAX_TRIES = 100_000  # puzzles drawn until one has a single solution and is of the split
# Of ten classes of puzzles, those of each split.
SPLITS = {
    "train": range(3, 10),
    "tuning": range(2, 3),  # for choosing settings by hand
    "validation": range(1, 2),  # for choosing a checkpoint
    "held_out": range(0, 1),
}

# A system turn for a model that was never told where the answer goes.
SYSTEM = (
    "Think about the puzzle first, inside <think> </think>. Then say who is what inside "
    "<answer> </answer>, as a numbered list:\n<answer>\n(1) NAME is a knight\n(2) NAME is a knave\n"
    "</answer>"
)


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """A puzzle with its only solution."""

    statements: tuple[Statement, ...]
    names: tuple[str, ...]
    roles: Roles


@dataclasses.dataclass(frozen=True)
class Knights:
    """Puzzles for 2 to 8 people, and chains that solve them.

    No puzzle is in two splits, in whatever names and order.
    """

    people: tuple[int, ...] = (2, 3)  # equally often
    split: Literal["train", "tuning", "validation", "held_out"] = "train"
    seed: int = 0
    depth: int = 2  # of a statement: 1 says who one person is, 2 joins two of these
    brief: bool = False  # only who says what, for a model that knows the task alone
    # The share of chains that are worked out; the others jump to the answer.
    worked: float = 1.0
    # The share of rows with a line of drawn rules in a system turn. The chain obeys half of them;
    # the other half is as it would be without.
    with_rules: float = 0.0

    def __post_init__(self):
        if not self.people or not all(2 <= count <= 8 for count in self.people):
            raise ValueError(
                f"got people {self.people}, wanted numbers from 2 to 8; (2, 3) would do"
            )
        if self.split not in SPLITS:
            raise ValueError(
                f"split is {self.split!r}; choose from {', '.join(SPLITS)}"
            )
        for name in ("worked", "with_rules"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}, wanted a share from 0 to 1")
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, wanted at least 1; 2 would do")

    def __call__(self, index: int) -> Example:
        puzzle = self.puzzle(index)
        wording = self._rng(index, stream=1)
        count = len(puzzle.names)
        example = Example(
            id=f"knights/{self.split}/{self.seed}/{index}",
            images=(),
            question=quiz(
                puzzle.statements, puzzle.names, brief=self.brief, rng=wording
            ),
            answer=solution_text(puzzle.names, puzzle.roles),
            level=f"{count}_people",
            verifier="knights",
            source="knights",
            metadata={"people": count},
        )
        return self._with_chain(example, puzzle, self._rng(index, stream=2))

    def puzzle(self, index: int) -> Puzzle:
        """Draws puzzle number `index`: a pure function of the index and the fields."""
        rng = self._rng(index, stream=0)
        count = int(rng.choice(self.people))
        for _ in range(MAX_TRIES):
            statements = draw_statements(count, self.depth, rng)
            roles = solutions(statements)
            if (
                len(roles) != 1
                or puzzle_class(statements) % 10 not in SPLITS[self.split]
            ):
                continue
            names = rng.permutation(NAMES)[:count].tolist()
            return Puzzle(statements, tuple(names), roles[0])
        raise ValueError(
            f"no puzzle of the split {self.split!r} for {count} people at depth {self.depth} "
            f"among {MAX_TRIES}; a larger depth would do"
        )

    def _with_chain(
        self, example: Example, puzzle: Puzzle, rng: np.random.Generator
    ) -> Example:
        """Adds the chain, and a line of rules where the draw wants one."""
        is_worked = rng.random() < self.worked
        has_rules = rng.random() < self.with_rules
        obeys = rng.random() < 0.5
        thought = worked(puzzle.statements, puzzle.names) if is_worked else JUMPED
        text = chain(thought, puzzle.names, puzzle.roles)
        if not has_rules:
            return dataclasses.replace(example, chain=text)
        rules = draw_rules(rng)
        if obeys:
            text = obeying(rules, puzzle.statements, puzzle.names, puzzle.roles, rng)
        before = (("system", str(rules)),)
        return dataclasses.replace(example, before=before, chain=text)

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Returns a generator of one example. Streams: 0 the puzzle, 1 its words, 2 its chain."""
        split = list(SPLITS).index(self.split)
        return np.random.default_rng([self.seed, split, stream, index])


# The tokenizer of a model that knows the task alone


def vocabulary() -> list[str]:
    """Lists the tokens in order of their ids; at most 192, the rows of the padded embedding."""
    words = {f" {name}" for name in NAMES} | set(NAMES)
    words |= {f" is {maybe}a {role}" for maybe in ("", "not ") for role in ROLES}
    words |= {f"({number})" for number in range(1, 9)}
    words |= {" if and only if", "if", " then", " and", " or", " if"}
    words |= {"it is not the case that", " it is not the case that"}
    words |= {" ok", " no", JUMPED, "<answer>", "</answer>"}
    words |= {"Scores:", " right", " wrong", " unreadable", " form", " else"}
    structure = ["system", "user", "assistant", "<think>", "</think>"]
    return [
        *word_tokenizer.SPECIAL_TOKENS,
        *structure,
        *"0123456789+-();,.?:\"' \n",
        *sorted(words),
        *string.ascii_lowercase,
        *string.ascii_uppercase,
    ]


ROLES = ("knight", "knave")

# The tokenizer of the task in Hugging Face's format: other English falls into letters.
write_tokenizer = functools.partial(word_tokenizer.write, vocabulary=vocabulary())
