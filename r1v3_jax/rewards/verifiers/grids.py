r"""Grids of cells, as of a Sudoku, a table or an ARC puzzle: the same size and equal cells.

One grid has many forms: [[1,2],[3,4]]; rows on lines of their own, or ended by ; or \\; cells
between spaces, commas, | or &; lines of single characters (12 and 34).
"""

import json
import re

from r1v3_jax.rewards.verifiers.digits import read_number
from r1v3_jax.rewards.verifiers.spelling import normalise

MAX_TEXT = 20_000  # characters: 60 x 60 cells, with brackets and spaces

Grid = tuple[tuple[str, ...], ...]


def difference(answer: str, box: str) -> str | None:
    """Returns what differs between the grid in a box and that of `answer`; None if nothing does.

    ValueError if `answer` is not a grid.
    """
    gold = read(answer) if len(answer) <= MAX_TEXT else []
    if not gold:
        raise ValueError(
            f"the answer {answer[:100]!r} is not a grid, such as [[1,2],[3,4]]"
        )
    grids = read(box) if len(box) <= MAX_TEXT else []
    if not grids:
        return "not a grid"
    # An ambiguous text is right if one of its meanings is.
    if set(gold) & set(grids):
        return None
    return "other cells" if _size(gold[0]) == _size(grids[0]) else "another size"


def _size(grid: Grid) -> tuple[int, int]:
    return len(grid), len(grid[0])


def read(text: str) -> list[Grid]:
    """Returns the grids that a text may mean: none, one, or two.

    Two: the lines 12 and 34 are a column of two cells, or two rows of two cells.
    """
    text = text.strip().strip("$").strip()
    return _read_json(text) if text.startswith("[") else _read_lines(text)


def _read_json(text: str) -> list[Grid]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return []
    if not all(isinstance(cell, str | int | float) for row in rows for cell in row):
        return []
    return _same_width([[str(cell) for cell in row] for row in rows])


_MARKUP = re.compile(
    r"\\(?:begin|end)\{[a-z]{1,9}\*?\}(?:\{[lcr| ]*\})?|\\hline|\\text"
)


def _read_lines(text: str) -> list[Grid]:
    lines = [line.strip() for line in re.split(r"\\\\|\n|;", _MARKUP.sub(" ", text))]
    # A table in Markdown has bars at both ends of a row too.
    rows = [re.sub(r"^\||\|$", "", line).strip() for line in lines if line]
    separator = None  # split at spaces
    for candidate in ("&", "|", ","):
        if any(candidate in row for row in rows):
            separator = candidate
            break
    cells = [[cell.strip() for cell in row.split(separator)] for row in rows]
    grids = _same_width(cells)
    if all(len(row) == 1 for row in cells) and any(len(row[0]) > 1 for row in cells):
        grids += _same_width([list(row[0]) for row in cells])
    return grids


def _same_width(rows: list[list[str]]) -> list[Grid]:
    """Returns the one grid that rows of equal, positive width make; else nothing."""
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        return []
    return [tuple(tuple(_spelled(cell) for cell in row) for row in rows)]


def _spelled(cell: str) -> str:
    """Returns one spelling of a cell: 1.0 -> 1, 2/4 -> 1/2, 'Cat' -> cat."""
    cell = normalise(cell.strip(" '\"{}")[:100])
    number = read_number(cell)
    return str(number.value) if number else cell.casefold()
