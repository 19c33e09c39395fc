r"""Grids of cells, as of a Sudoku, a table or an ARC puzzle: the same size and equal cells.

One grid in many forms: [[1,2],[3,4]]; rows on lines of their own, or ended by ; or \\; cells
between spaces, commas, | or &; lines of single characters (12 and 34).
"""

import json
import re

from r1v3_jax.rewards.verifiers.spelling import normalise, read_number

MAX_TEXT = 20_000  # characters: 60 x 60 cells, with brackets and spaces

Grid = tuple[tuple[str, ...], ...]


def difference(answer: str, box: str) -> str | None:
    """What is wrong with a box; None if it is right. ValueError if `answer` is not a grid."""
    if len(answer) > MAX_TEXT or not (gold := read(answer)):
        raise ValueError(
            f"the answer {answer[:100]!r} is not a grid, such as [[1,2],[3,4]]"
        )
    found = read(box) if len(box) <= MAX_TEXT else []
    if not found:
        return "not a grid"
    if set(gold) & set(found):
        return None
    sizes = [(len(grid), len(grid[0])) for grid in (gold[0], found[0])]
    return "other cells" if sizes[0] == sizes[1] else "another size"


def read(text: str) -> list[Grid]:
    """The grids that a text may mean: none, one, or (12 and 34: a column, or two by two) two."""
    text = text.strip().strip("$").strip()
    if text.startswith("["):
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError):
            return []
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            return []
        if not all(isinstance(cell, str | int | float) for row in rows for cell in row):
            return []
        return _same_width([[str(cell) for cell in row] for row in rows])
    text = re.sub(
        r"\\(?:begin|end)\{[a-z]{1,9}\*?\}(?:\{[lcr| ]*\})?|\\hline|\\text", " ", text
    )
    rows = [row.strip() for row in re.split(r"\\\\|\n|;", text)]
    rows = [re.sub(r"^\||\|$", "", row).strip() for row in rows if row]
    separator = next(
        (s for s in ("&", "|", ",") if any(s in row for row in rows)), None
    )
    cells = [[cell.strip() for cell in row.split(separator)] for row in rows]
    grids = _same_width(cells)
    if all(len(row) == 1 for row in cells) and any(len(row[0]) > 1 for row in cells):
        grids += _same_width([list(row[0]) for row in cells])
    return grids


def _same_width(rows: list[list[str]]) -> list[Grid]:
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        return []
    return [tuple(tuple(map(_spelled, row)) for row in rows)]


def _spelled(cell: str) -> str:
    cell = normalise(cell.strip(" '\"{}")[:100])
    number = read_number(cell)
    return str(number[0]) if number else cell.casefold()
