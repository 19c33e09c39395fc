"""Films as numbers: walks over a board of digits and digits that count, questions with options.

A film is a list of frames of 2 x 2 cells; a cell holds the number of a digit of the film, or None.
A question has four options, each letter is right equally often. A chain reads the frames one by
one and works out the answer. Knows nothing of images or tokens.
"""

import dataclasses
import itertools

import numpy as np

# The step of the window, (down, to the right), of each move.
MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}
# Where something may be, seen from the first frame: also two words, as "up left".
PLACES = (
    *MOVES,
    *(f"{row} {side}" for row in ("up", "down") for side in ("left", "right")),
)
LETTERS = "ABCD"
QUESTIONS = {
    "order": "In which order were {}, {} and {} first seen?",
    "direction": "Which way did the window go at the end?",
    "where": "Where is the {}, seen from the start?",
    "next": "Which digit comes next?",
}
KINDS = tuple(QUESTIONS)
# What a film of counting may do to a digit n, by k.
RULES = ("up", "down", "double")
STRIDES = (1, 2, 3)  # the k, equally often
COUNTED = 4  # frames of a film of counting; the last one is the observation
JUMP = "at a glance"  # the thought of a chain that does no work
MAX_TRIES = 100_000  # films drawn until one can be asked about

Frame = tuple[int | None, int | None, int | None, int | None]  # cells in reading order


@dataclasses.dataclass(frozen=True)
class Film:
    """What a film shows, what is asked about it, and what a chain says before it answers."""

    digits: tuple[int, ...]  # a digit that is seen in several frames is there once
    frames: tuple[Frame, ...]
    question: str
    options: tuple[str, ...]  # four of them
    right: int  # the number of the right option
    thought: str  # up to the answer; the search among the options follows


@dataclasses.dataclass(frozen=True)
class Walk:
    """A walk of a window of 2 x 2 cells over a square board, and what it sees."""

    board: tuple[int, ...]  # the digits, row by row
    # Row and column of the upper left cell of each frame.
    corners: tuple[tuple[int, int], ...]
    moves: tuple[str, ...]  # between the frames

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The numbers of the board's cells in each frame."""
        side = int(len(self.board) ** 0.5)
        # Side 4, corner (1, 2): the cells 6 and 7 over 10 and 11.
        return tuple(
            tuple((row + i) * side + column + j for i in (0, 1) for j in (0, 1))
            for row, column in self.corners
        )

    def labels(self, frame: int) -> tuple[int, ...]:
        """Returns the four digits of a frame."""
        return tuple(self.board[cell] for cell in self.frames[frame])

    def first_seen(self) -> dict[int, int]:
        """Returns {digit: the first frame with it} of the digits that are seen in one place."""
        seen = {}
        for number, cells in enumerate(self.frames):
            for cell in cells:
                seen.setdefault(cell, number)
        labels = [self.board[cell] for cell in seen]
        return {
            self.board[cell]: number
            for cell, number in seen.items()
            if labels.count(self.board[cell]) == 1
        }

    def place_of(self, digit: int) -> str:
        """Returns where a digit of one place is, seen from the first frame: "up", "down left".

        "" if it is in the first frame itself.
        """
        side = int(len(self.board) ** 0.5)
        cells = {cell for cells in self.frames for cell in cells}
        (cell,) = (cell for cell in cells if self.board[cell] == digit)
        row, column = divmod(cell, side)
        top, left = self.corners[0]
        words = []
        if row < top:
            words.append("up")
        elif row > top + 1:
            words.append("down")
        if column < left:
            words.append("left")
        elif column > left + 1:
            words.append("right")
        return " ".join(words)


# 1. Walks


def draw_walk(side: int, moves: int, rng: np.random.Generator) -> Walk:
    """Draws a board and a walk whose every move can be told from the digits of two frames."""
    for _ in range(MAX_TRIES):
        board = rng.integers(10, size=side * side).tolist()
        walk = _walk(tuple(board), side, moves, rng)
        if all(
            possible_moves(walk.labels(n), walk.labels(n + 1)) == [move]
            for n, move in enumerate(walk.moves)
        ):
            return walk
    raise AssertionError(f"no walk of {moves} moves on a board of {side} x {side}")


def _walk(
    board: tuple[int, ...], side: int, moves: int, rng: np.random.Generator
) -> Walk:
    """Draws a walk that stays on the board and never goes straight back."""
    corner = tuple(rng.integers(side - 1, size=2).tolist())
    corners = [corner]
    path: list[str] = []
    for _ in range(moves):
        steps = {}
        for move, (down, right) in MOVES.items():
            row = corner[0] + down
            column = corner[1] + right
            is_back = bool(path) and move == OPPOSITE[path[-1]]
            if 0 <= row < side - 1 and 0 <= column < side - 1 and not is_back:
                steps[move] = (row, column)
        move = str(rng.choice(list(steps)))
        corner = steps[move]
        corners.append(corner)
        path.append(move)
    return Walk(board, tuple(corners), tuple(path))


def possible_moves(before: tuple[int, ...], after: tuple[int, ...]) -> list[str]:
    """Lists the moves that may lead from the digits of one frame to those of the next.

    4 7   then   7 1   may be "right" alone: the column 7, 8 has moved to the left
    3 8          8 5
    """
    a, b, c, d = before
    # The two digits of the first frame that a move keeps, and where they are after it.
    kept = {
        "up": ((a, b), after[2:]),
        "down": ((c, d), after[:2]),
        "left": ((a, c), after[1::2]),
        "right": ((b, d), after[0::2]),
    }
    return [move for move, (old, new) in kept.items() if old == tuple(new)]


# 2. Questions about walks


def draw_film(
    kind: str,
    rng: np.random.Generator,
    *,
    side: int,
    moves: int,
    rules: tuple[str, ...],
) -> Film:
    """Draws a film and its question. side, moves: of a walk. rules: of counting."""
    if kind == "next":
        return _counting(str(rng.choice(rules)), rng)
    ask = {"order": _order, "direction": _direction, "where": _where}[kind]
    for _ in range(MAX_TRIES):
        walk = draw_walk(side, moves, rng)
        asked = ask(walk, rng)
        if asked is not None:
            options, right = _options(asked.answer, asked.others, rng)
            thought = ";".join([*asked.steps, asked.answer])
            return Film(
                walk.board, walk.frames, asked.question, options, right, thought
            )
    raise AssertionError(f"no walk of {moves} moves can be asked for {kind}")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question about a walk, with its answer and the way to it."""

    question: str
    answer: str
    others: list[str]  # wrong answers, three or more
    steps: list[str]  # of a chain, a frame each


def _order(walk: Walk, rng: np.random.Generator) -> Asked | None:
    """Asks for the order of three digits, each of which is in one place; None: there are none."""
    seen = walk.first_seen()
    # One digit of each frame that has a new one: of equal frames, there would be no order.
    by_frame: dict[int, list[int]] = {}
    for digit, frame in seen.items():
        by_frame.setdefault(frame, []).append(digit)
    if len(by_frame) < 3:
        return None
    frames = rng.choice(sorted(by_frame), size=3, replace=False).tolist()
    digits = [int(rng.choice(by_frame[frame])) for frame in frames]
    orders = [_listed(order) for order in itertools.permutations(digits)]
    answer = _listed(sorted(digits, key=seen.get))
    others = [order for order in orders if order != answer]
    steps = _steps(walk, len(walk.frames))
    for digit in digits:
        steps[seen[digit]] += f" {digit}"
    return Asked(QUESTIONS["order"].format(*digits), answer, others, steps)


def _direction(walk: Walk, rng: np.random.Generator) -> Asked:
    """Asks for the last move."""
    answer = walk.moves[-1]
    others = [move for move in MOVES if move != answer]
    return Asked(QUESTIONS["direction"], answer, others, _steps(walk, len(walk.frames)))


def _where(walk: Walk, rng: np.random.Generator) -> Asked | None:
    """Asks for the place of a digit that the first frame does not show; None: there is none."""
    seen = walk.first_seen()
    later = sorted(digit for digit, frame in seen.items() if frame > 0)
    if not later:
        return None
    digit = int(rng.choice(later))
    answer = walk.place_of(digit)
    others = [place for place in PLACES if place != answer]
    # A chain need not read on once it has seen the digit.
    steps = _steps(walk, seen[digit] + 1)
    return Asked(QUESTIONS["where"].format(digit), answer, others, steps)


def _steps(walk: Walk, count: int) -> list[str]:
    """Reads the first frames, each with the move that led to it: "47 38", "71 85 right"."""
    steps = []
    for number in range(count):
        a, b, c, d = walk.labels(number)
        move = f" {walk.moves[number - 1]}" if number else ""
        steps.append(f"{a}{b} {c}{d}{move}")
    return steps


# 3. Counting


def following(rule: str, digit: int, stride: int) -> int:
    """Returns the digit after one: up by 3 from 8 it is 1. Doubling knows no stride."""
    match rule:
        case "up":
            return (digit + stride) % 10
        case "down":
            return (digit - stride) % 10
        case "double":
            return 2 * digit % 10
    raise AssertionError(rule)


def signed_step(before: int, after: int) -> str:
    """Writes how far a digit is from the one before, -4 to +5: from 8 to 1 it is "+3"."""
    step = (after - before + 4) % 10 - 4
    return f"{step:+}"


def _counting(rule: str, rng: np.random.Generator) -> Film:
    """Draws a film of single digits, each in one of the four cells, and asks for the next one."""
    # 1. The digits. 0 and 5, doubled, stay at 0.
    starts = [n for n in range(10) if rule != "double" or n % 5]
    stride = int(rng.choice(STRIDES))
    counted = [int(rng.choice(starts))]
    while len(counted) <= COUNTED:
        counted.append(following(rule, counted[-1], stride))
    *shown, answer = counted
    # 2. The frames: digit 2 in the third cell is (None, None, 2, None).
    frames = []
    for number in range(COUNTED):
        cells: list[int | None] = [None] * 4
        cells[int(rng.integers(4))] = number
        frames.append(tuple(cells))
    # 3. The question.
    others = [f"{digit}" for digit in range(10) if digit != answer]
    options, right = _options(f"{answer}", others, rng)
    sign = {"up": f"+{stride}", "down": f"-{stride}", "double": "x2"}[rule]
    steps = [
        f"{after}{signed_step(before, after)}"
        for before, after in itertools.pairwise(shown)
    ]
    reading = " ".join([f"{shown[0]}", *steps])
    thought = f"{reading};{shown[-1]}{sign}={answer}"
    return Film(tuple(shown), tuple(frames), QUESTIONS["next"], options, right, thought)


# 4. Texts


def chain(film: Film, jumps: bool) -> str:
    """Writes thought and answer; a thought ends with the options up to the right one.

    order        47 38 4;71 85 right 1;85 20 down 2;4 1 2;A 1 4 2;B 4 1 2
    direction    47 38;71 85 right;85 20 down;down;A left;B down
    where        47 38;71 85 right;85 20 down;down;A up left;B down        of the 2
    next         2 4+2 6+2 8+2;8+2=0;A 9;B 0
    any          at a glance                                               a jump
    """
    thought = JUMP
    if not jumps:
        compared = zip(LETTERS, film.options[: film.right + 1], strict=False)
        search = [f"{letter} {option}" for letter, option in compared]
        thought = ";".join([film.thought, *search])
    return f"{thought}\n</think>\n<answer>{LETTERS[film.right]}</answer>"


def question_text(film: Film) -> str:
    """Writes the frames with their markers, the question and the options.

    The last frame of a film of counting is the observation, as in SEED-Bench-R1.
    """
    names = [f"Frame{n}" for n in range(1, len(film.frames) + 1)]
    if film.question == QUESTIONS["next"]:
        names[-1] = "Now"
    lines = [f"{name}: <image>" for name in names]
    options = zip(LETTERS, film.options, strict=True)
    choices = [f"({letter}) {option}" for letter, option in options]
    return "\n".join([*lines, film.question, *choices])


def _options(
    answer: str, others: list[str], rng: np.random.Generator
) -> tuple[tuple[str, ...], int]:
    """Shuffles the answer among three of the others; returns (options, number of the answer)."""
    wrong = rng.choice(others, size=3, replace=False).tolist()
    options = rng.permutation([answer, *wrong]).tolist()
    return tuple(options), options.index(answer)


def _listed(digits) -> str:
    """Lists digits in words: "3 7 1"."""
    return " ".join(map(str, digits))
