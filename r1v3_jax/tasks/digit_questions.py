"""Questions about a grid of four digits: levels, kinds, wordings and answers.

Everything is a function of uniform numbers 0 <= u < 1 that the caller draws. Knows nothing of
images or chains of thought.
"""

import functools
import itertools
from collections.abc import Iterable, Sequence

Grid = tuple[
    int, int, int, int
]  # the digits in reading order: 4 7 over 3 8 is (4, 7, 3, 8)

# The kinds of question of each level, equally often.
LEVELS = {
    "read": ("read",),
    "easy": ("spread", "even"),
    "normal": ("rows", "total"),
    "hard": ("rows",),
}
LARGE = 130  # a sum of rows that is so large, and carries from its ones, is hard
# The wordings of each kind, equally often.
QUESTIONS = {
    "read": (
        "Read the digits.",
        "Copy all four digits.",
    ),
    "spread": (
        "Largest minus smallest?",
        "Subtract the smallest digit from the largest.",
    ),
    "even": (
        "How many digits are even?",
        "Count the even digits.",
    ),
    "rows": (
        "Add the two rows.",
        "Top row plus bottom row?",
        "What is the sum of the rows?",
    ),
    "total": (
        "Add all four digits.",
        "What is the sum of all digits?",
    ),
}


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError if `value` is none of the choices, and names them."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose from {', '.join(choices)}")


def choose(options: Sequence, u: float):
    """Picks one of the options, all equally likely for a uniform 0 <= u < 1."""
    # 3 options: u below 1/3 is the option 0, below 2/3 the option 1, else the option 2.
    return options[int(u * len(options))]


def choose_weighted(options: Iterable, weights: Sequence[float], u: float):
    """Picks one of the options by weight for a uniform 0 <= u < 1."""
    # Weights 1, 0, 3 and u = 0.5: the point 2 is not below 1; minus 1 and 0 it is 1, below 3.
    point = u * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        if weight > 0:
            chosen = option  # also the end of the list, where rounding may leave a rest
            if point < weight:
                break
        point -= weight
    return chosen


def check_weights(name: str, weights: dict[str, float], known: Iterable[str]) -> None:
    """Raises ValueError for a weight of something unknown, or one that is not positive."""
    for option, weight in weights.items():
        check_choice(name, option, known)
        if not weight > 0:
            raise ValueError(
                f"the weight of {option} is {weight}, wanted a positive number; 1 would do"
            )


def draw_problem(level: str, numbers: Sequence[float]) -> tuple[str, Grid]:
    """Draws the kind of question and the grid from three uniform numbers."""
    kind = choose(LEVELS[level], numbers[0])
    group = choose(grid_groups(level, kind), numbers[1])
    return kind, choose(group, numbers[2])


@functools.cache
def grid_groups(level: str, kind: str) -> list[list[Grid]]:
    """Lists the grids that a question may be about, in groups drawn equally often."""
    grids = list(itertools.product(range(10), repeat=4))
    if kind == "rows":
        # The rows are numbers of two digits; 07 is none.
        numbers = [grid for grid in grids if grid[0] and grid[2]]
        hardness = level == "hard"
        return [[grid for grid in numbers if _is_hard(grid) == hardness]]
    if kind == "even":
        # A group for each answer. Else 2 would be right three times out of eight.
        groups = [[] for _ in range(5)]
        for grid in grids:
            groups[answer(kind, grid)].append(grid)
        return groups
    return [grids]


def _is_hard(grid: Grid) -> bool:
    """Whether the sum of the rows is large and carries: 85 + 47 = 132 does."""
    carries = grid[1] + grid[3] >= 10
    return carries and answer("rows", grid) >= LARGE


def answer(kind: str, grid: Grid) -> int:
    """Computes the answer to a kind of question about a grid."""
    a, b, c, d = grid
    match kind:
        case "read":
            return 1000 * a + 100 * b + 10 * c + d
        case "spread":
            return max(grid) - min(grid)
        case "even":
            return sum(digit % 2 == 0 for digit in grid)
        case "rows":
            return 10 * a + b + 10 * c + d
        case "total":
            return sum(grid)
    raise AssertionError(kind)


def answer_text(kind: str, grid: Grid) -> str:
    """Writes the answer; digits that are read keep their zeros: 0 7 over 3 8 is "0738"."""
    digits = 4 if kind == "read" else 1
    return f"{answer(kind, grid):0{digits}}"
