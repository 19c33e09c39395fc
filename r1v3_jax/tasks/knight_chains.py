r"""Chains of thought about knights and knaves, written by a program, and lines of rules for them.

A chain tries everybody's roles until all statements fit, or jumps to the answer:

    worked    Ada+ Ben+ ok no; Ada+ Ben- ok ok        + a knight, - a knave; a word a statement
    jumped    clear

A statement fits (ok) if a knight's is true or a knave's is false; behind the first that does not
(no), the next roles are tried. Every word of a worked chain is true.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from r1v3_jax.tasks.knight_puzzles import Roles, Statement, is_true, solution_text

JUMPED = " clear"


# 1. Chains


def worked(statements: Sequence[Statement], names: Sequence[str]) -> str:
    """Writes the way to the first roles that fit, trying knights first."""
    tries = []
    for roles in itertools.product((True, False), repeat=len(statements)):
        marks = ["+" if role else "-" for role in roles]
        people = [f" {name}{mark}" for name, mark in zip(names, marks, strict=True)]
        verdicts = []
        for statement, role in zip(statements, roles, strict=True):
            fits = is_true(statement, roles) == role
            verdicts.append(" ok" if fits else " no")
            if not fits:
                break
        tries.append("".join(people + verdicts))
        if " no" not in verdicts:
            break
    return ";".join(tries)


def chain(
    thought: str, names: Sequence[str], roles: Roles, *, tags: bool = True
) -> str:
    """Writes a thought and the answer behind it; tags: inside <answer> </answer>."""
    answer = solution_text(names, roles)
    if tags:
        answer = f"<answer>\n{answer}\n</answer>"
    return f"{thought}\n</think>\n{answer}"


# 2. Rules of a reward, told in the prompt


@dataclasses.dataclass(frozen=True)
class Rules:
    """What an answer earns, and what its form does (MeRF, arXiv 2506.18485: Logic-RL's reward)."""

    right: float
    wrong: float
    unreadable: float
    # None: nothing is said of the form.
    form: float | None = None
    no_form: float | None = None

    def __str__(self) -> str:
        """Scores: right 2, wrong -1.5, unreadable -2; form 1, else -1."""
        answer = (
            f"Scores: right {self.right:g}, wrong {self.wrong:g}, "
            f"unreadable {self.unreadable:g}"
        )
        if self.form is None:
            return f"{answer}."
        return f"{answer}; form {self.form:g}, else {self.no_form:g}."

    def negated(self) -> "Rules":
        """Returns the rules that pay for the opposite: every number with the other sign."""
        numbers = dataclasses.asdict(self)
        return Rules(**{name: x if x is None else -x for name, x in numbers.items()})

    def without_form(self) -> "Rules":
        """Returns the rules of the answer alone."""
        return dataclasses.replace(self, form=None, no_form=None)


NUMBERS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
# Logic-RL's numbers for right, wrong and unreadable are never drawn: whoever is told them later
# meets them for the first time.
HELD_BACK = [2.0, 1.5, 2.0]


def draw_rules(rng: np.random.Generator) -> Rules:
    """Draws rules of any size: three of four pay for right answers, the others for wrong ones.

    Of the form, a quarter of them say nothing; of the others, two of three pay for it.
    """
    sign = 1 if rng.random() < 0.75 else -1
    numbers = HELD_BACK
    while numbers[:3] == HELD_BACK:
        numbers = rng.choice(NUMBERS, 5).tolist()
    right, wrong, unreadable, form, no_form = numbers
    rules = Rules(sign * right, -sign * wrong, -sign * unreadable)
    chance = rng.random()
    if chance < 0.25:
        return rules
    sign = 1 if chance < 0.75 else -1
    return dataclasses.replace(rules, form=sign * form, no_form=-sign * no_form)


def obeying(
    rules: Rules,
    statements: Sequence[Statement],
    names: Sequence[str],
    roles: Roles,
    rng: np.random.Generator,
) -> str:
    """Writes a chain that obeys the rules of the answer and those of the form, each by itself.

    Where right answers pay it is worked; where wrong ones do, it jumps to the roles with somebody's
    turned around. Where a form costs, the answer has no tags. It need not earn most: an answer
    without tags is not read, and an unreadable one may pay more than a wrong one.
    """
    pays_form = rules.form is None or rules.form > rules.no_form
    if rules.right > rules.wrong:
        return chain(worked(statements, names), names, roles, tags=pays_form)
    person = rng.integers(len(roles))
    wrong_roles = tuple(role != (i == person) for i, role in enumerate(roles))
    return chain(JUMPED, names, wrong_roles, tags=pays_form)
