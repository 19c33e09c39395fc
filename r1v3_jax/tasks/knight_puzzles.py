"""Knights and knaves: statements about who tells the truth, and who therefore does.

A person is a knight, whose statement is true, or a knave, whose statement is false. Statements are
nested tuples over the numbers of the people, as in the data of arXiv 2410.23123 (which Logic-RL,
arXiv 2502.14768, trains on):

    ("telling-truth", 1)                                person 1 is a knight
    ("lying", 0)                                        person 0 is a knave
    ("not", s), ("and", s, t), ("or", s, t), ("->", s, t), ("<=>", s, t)

Knows nothing of chains of thought or tokens.
"""

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

Statement = tuple
Roles = tuple[bool, ...]  # of the people in their order; True: a knight

ATOMS = ("telling-truth", "lying")
PAIRS = ("and", "or", "->", "<=>")
COMMUTATIVE = ("and", "or", "<=>")
# Single names, each a word of letters: an answer is found by them.
NAMES = (
    *("Ada", "Ben", "Cleo", "David", "Emma", "Felix", "Grace", "Henry", "Isaac", "Jane"),
    *("Karl", "Lucas", "Mia", "Noah", "Oliver", "Penny", "Riley", "Sofia", "Tom", "Zoey"),
)  # fmt: skip

INTRODUCTION = (
    "On an island there are only knights and knaves. Knights always tell the truth, and knaves "
    "always lie. You meet {count} people: {names}."
)
SAYINGS = (
    "{name} said that {content}.",
    'As {name} put it, "{content}".',
    '{name} told you: "{content}".',
    "According to {name}, {content}.",
)
BRIEF_SAYING = "{name}: {content}."
QUESTION = "Who is a knight, and who is a knave?"


# 1. Truth


def is_true(statement: Statement, roles: Sequence[bool]) -> bool:
    """Whether a statement holds if these are the people's roles."""
    kind = statement[0]
    if kind in ATOMS:
        return roles[statement[1]] == (kind == "telling-truth")
    values = [is_true(part, roles) for part in statement[1:]]
    match kind:
        case "not":
            return not values[0]
        case "and":
            return all(values)
        case "or":
            return any(values)
        case "->":
            return not values[0] or values[1]
        case "<=>":
            return values[0] == values[1]
    raise ValueError(f"got a statement of kind {kind!r}, wanted one of {ATOMS + PAIRS}")


def solutions(statements: Sequence[Statement]) -> list[Roles]:
    """Returns all roles in which knights, and only knights, say what is true.

    statements: of the people in their order. All 2 ** N roles are tried.
    """
    tried = itertools.product((True, False), repeat=len(statements))
    return [roles for roles in tried if is_consistent(statements, roles)]


def is_consistent(statements: Sequence[Statement], roles: Roles) -> bool:
    """Whether with these roles every knight's statement is true and every knave's false."""
    pairs = zip(statements, roles, strict=True)
    return all(is_true(statement, roles) == role for statement, role in pairs)


# 2. Drawing


def draw_statements(
    people: int, depth: int, rng: np.random.Generator
) -> tuple[Statement, ...]:
    """Draws a statement of each person, nested up to `depth` deep."""
    return tuple(_draw(speaker, people, depth, rng) for speaker in range(people))


def _draw(speaker: int, people: int, depth: int, rng: np.random.Generator) -> Statement:
    kinds = ("atom", "not", *PAIRS)
    kind = kinds[rng.integers(len(kinds))]
    if depth == 1 or kind == "atom":
        return _draw_atom(speaker, people, rng)
    first = _draw(speaker, people, depth - 1, rng)
    if kind == "not":
        return ("not", first)
    # "A and A" says no more than A.
    second = first
    while second == first:
        second = _draw(speaker, people, depth - 1, rng)
    return (kind, first, second)


def _draw_atom(speaker: int, people: int, rng: np.random.Generator) -> Statement:
    kind = ATOMS[rng.integers(2)]
    person = int(rng.integers(people))
    # Nobody can say "I am a knave": a knight would lie, and a knave would tell the truth.
    if person == speaker:
        kind = "telling-truth"
    return (kind, person)


def puzzle_class(statements: Sequence[Statement]) -> int:
    """Returns a number of 64 bits that tells puzzles apart.

    It is the same for puzzles that differ only in who is called what, who speaks first, or in
    which order "and" has its parts. So a split by it keeps all forms of a puzzle on one side.
    """
    # Colours, as in a test of whether two graphs are the same: a person's colour is what the
    # person says, with people named by the colours of the round before. N rounds reach everybody.
    colours = [""] * len(statements)
    for _ in statements:
        colours = [
            _digest(_with_colours(statement, speaker, colours))
            for speaker, statement in enumerate(statements)
        ]
    return int(_digest(" ".join(sorted(colours))), 16)


def _with_colours(statement: Statement, speaker: int, colours: list[str]) -> str:
    """Writes a statement with people named by their colours, and its parts in alphabetical order.

    "Ada and Ben are knights", said by Ada   ->   (and (telling-truth 9f3c) (telling-truth me))
    """
    kind = statement[0]
    if kind in ATOMS:
        person = statement[1]
        name = f"me {colours[person]}" if person == speaker else colours[person]
        return f"({kind} {name})"
    # "Not a knave" says the same as "a knight".
    if kind == "not" and statement[1][0] in ATOMS:
        flipped = _flipped(statement[1])
        return _with_colours(flipped, speaker, colours)
    parts = [_with_colours(part, speaker, colours) for part in statement[1:]]
    if kind in COMMUTATIVE:
        parts.sort()
    return f"({kind} {' '.join(parts)})"


def _flipped(atom: Statement) -> Statement:
    kind, person = atom
    return (ATOMS[1 - ATOMS.index(kind)], person)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# 3. Words


def quiz(
    statements: Sequence[Statement],
    names: Sequence[str],
    *,
    brief: bool,
    rng: np.random.Generator,
) -> str:
    """Writes a puzzle; brief: only who says what."""
    sayings = []
    for name, statement in zip(names, statements, strict=True):
        saying = BRIEF_SAYING if brief else SAYINGS[rng.integers(len(SAYINGS))]
        content = in_words(statement, names)
        sayings.append(saying.format(name=name, content=content))
    if brief:
        return "\n".join(sayings)
    everybody = f"{', '.join(names[:-1])} and {names[-1]}"
    introduction = INTRODUCTION.format(count=len(names), names=everybody)
    return " ".join([introduction, *sayings, QUESTION])


def in_words(statement: Statement, names: Sequence[str]) -> str:
    """Writes a statement in words, its compound parts in brackets.

    ("->", ("lying", 0), ("and", ("telling-truth", 1), ("not", ("lying", 0))))
        ->   if Ada is a knave then (Ben is a knight and Ada is not a knave)
    """
    kind = statement[0]
    if kind in ATOMS:
        return f"{names[statement[1]]} is {_a_role(kind == 'telling-truth')}"
    if kind == "not" and statement[1][0] in ATOMS:
        atom, person = statement[1]
        return f"{names[person]} is not {_a_role(atom == 'telling-truth')}"
    parts = []
    for part in statement[1:]:
        words = in_words(part, names)
        is_simple = part[0] in ATOMS or (part[0] == "not" and part[1][0] in ATOMS)
        parts.append(words if is_simple else f"({words})")
    match kind:
        case "not":
            return f"it is not the case that {parts[0]}"
        case "->":
            return f"if {parts[0]} then {parts[1]}"
        case "<=>":
            return f"{parts[0]} if and only if {parts[1]}"
    return f" {kind} ".join(parts)


def _a_role(is_knight: bool) -> str:
    return "a knight" if is_knight else "a knave"


def solution_text(names: Sequence[str], roles: Sequence[bool]) -> str:
    r"""Writes who is what as Logic-RL does: "(1) Ada is a knight\n(2) Ben is a knave"."""
    lines = []
    for number, (name, role) in enumerate(zip(names, roles, strict=True), 1):
        lines.append(f"({number}) {name} is {_a_role(role)}")
    return "\n".join(lines)
