"""Puzzles on grids, of MME-Reasoning: Sudoku, skyscrapers, yin and yang, and Hashi's bridges.

A check is a function (solution, reference, given) -> whether the solution keeps the rules.
"""

from collections import defaultdict
from collections.abc import Callable

Grid = list[list[int]]


def _keeps(grid: Grid, given: Grid) -> bool:
    """Whether a grid has the size of the given one, and its filled cells."""
    if [len(row) for row in grid] != [len(row) for row in given]:
        return False
    cells = zip(sum(grid, []), sum(given, []), strict=True)
    return all(wanted is None or cell == wanted for cell, wanted in cells)


def _columns(grid: Grid) -> Grid:
    return [list(column) for column in zip(*grid, strict=True)]


def _is_latin(grid: Grid) -> bool:
    """Whether no row and no column holds a value twice."""
    return all(len(set(line)) == len(grid) for line in (*grid, *_columns(grid)))


def sudoku(size: int, width: int) -> Callable[..., bool]:
    """Returns the check of a grid of that size, in blocks of two rows and `width` columns."""

    def check(grid: Grid, reference, given: dict) -> bool:
        if len(grid) != size or not _keeps(grid, given["base_matrix"]):
            return False
        blocks = [
            {grid[r][c] for r in range(top, top + 2) for c in range(left, left + width)}
            for top in range(0, size, 2)
            for left in range(0, size, width)
        ]
        return _is_latin(grid) and all(len(block) == size for block in blocks)

    return check


def skyscrapers(grid: Grid, reference, given: dict) -> bool:
    """Seen from above, left, right and below, as many towers as are written there."""
    if not _keeps(grid, given["base_matrix"]) or not _is_latin(grid):
        return False
    columns = _columns(grid)
    sides = (
        columns,
        grid,
        [row[::-1] for row in grid],
        [column[::-1] for column in columns],
    )
    return all(
        wanted is None or _seen(line) == wanted
        for lines, counts in zip(sides, given["visible_skyscrapers"], strict=True)
        for line, wanted in zip(lines, counts, strict=True)
    )


def _seen(line: list[int]) -> int:
    """[2, 1, 3, 4] -> 3: the 1 is hidden."""
    return sum(line[i] > max(line[:i], default=0) for i in range(len(line)))


def yin_yang(grid: Grid, reference, given: dict) -> bool:
    """Zeros are connected, and ones; no square of four is all of one kind."""
    if len(grid) != 6 or not _keeps(grid, given["base_matrix"]):
        return False
    squares = (
        {grid[r][c], grid[r][c + 1], grid[r + 1][c], grid[r + 1][c + 1]}
        for r in range(5)
        for c in range(5)
    )
    has_block = any(square in ({0}, {1}) for square in squares)
    return not has_block and all(_is_connected(grid, value) for value in (0, 1))


def _is_connected(grid: Grid, value: int) -> bool:
    size = range(len(grid))
    left = {(r, c) for r in size for c in size if grid[r][c] == value}
    reached = [left.pop()] if left else []
    while reached:
        r, c = reached.pop()
        for place in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
            if place in left:
                left.remove(place)
                reached.append(place)
    return not left


def bridges(bridges: list[dict], reference, given: dict) -> bool:
    """Hashi: as many bridges at each island as it says, straight, at most two, none crossing."""
    wanted = {island["cord"]: island["requirement"] for island in given["init_islands"]}
    at_island: dict[str, int] = defaultdict(int)
    between: dict[tuple, int] = defaultdict(int)
    crossed = set()
    for bridge in bridges:
        ends = tuple(sorted((bridge["start"], bridge["end"])))
        (x1, y1), (x2, y2) = map(_coordinates, ends)
        if not set(ends) <= wanted.keys() or (x1 == x2) == (y1 == y2):
            return False
        between[ends] += bridge["number"]
        for end in ends:
            at_island[end] += bridge["number"]
        cells = {
            (x, y)
            for x in range(min(x1, x2), max(x1, x2) + 1)
            for y in range(min(y1, y2), max(y1, y2) + 1)
        } - {(x1, y1), (x2, y2)}
        if cells & crossed:
            return False
        crossed |= cells
    return max(between.values(), default=3) <= 2 and all(
        at_island[island] == count for island, count in wanted.items()
    )


def _coordinates(island: str) -> tuple[int, int]:
    """Returns the place of an island: c12 -> 2, 12."""
    return ord(island[0]) - ord("a"), int(island[1:])
