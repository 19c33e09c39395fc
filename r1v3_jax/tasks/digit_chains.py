"""Chains of thought about a grid of digits, written by a program.

A chain reads the digits, reasons in one of three styles and puts the answer into a box. Every
statement is true, except slips, which are corrected at once. Knows nothing of images or tokens.
"""

import dataclasses
import re
from collections.abc import Sequence

from r1v3_jax.tasks.digit_questions import Grid, answer, answer_text, choose

# What follows the digits in each style.
STYLES = {
    "direct": "",
    "worked": " stepwise:",
    "checked": " carefully:",
}
SLIP = 0.5  # of the checked chains make a mistake and correct it; the others look back at the end
CRITICAL_WORDS = ("Wait", "Hmm", "Alternatively")


@dataclasses.dataclass(frozen=True)
class Slip:
    """A mistake to make in a chain: "7+8=14 Wait," before the step 7+8=15."""

    position: int  # of the step, from 0
    mistake: str  # written before it
    word: str  # of doubt, between the two


def chain(kind: str, grid: Grid, style: str, numbers: Sequence[float]) -> str:
    """Writes reading, reasoning in a style, and answer, from three uniform numbers.

    direct    47 38
    worked    47 38 stepwise:7+8=15;4+3=7;7+1=8;85
    checked   47 38 carefully:7+8=14 Wait,7+8=15;4+3=7;7+1=8;85    a slip
              47 38 carefully:7+8=15;4+3=7;7+1=8;85 Wait,85-38=47 ok    a look back
    """
    a, b, c, d = grid
    steps = []
    look_back = ""
    if style != "direct":
        steps = _steps(kind, grid)
    if style == "checked" and numbers[0] < SLIP:
        slips = _slips(kind, grid, steps, numbers[1])
        slip = choose(slips, numbers[2])
        correct = steps[slip.position]
        steps[slip.position] = f"{slip.mistake} {slip.word},{correct}"
    elif style == "checked":
        ways = _looks_back(kind, grid)
        look_back = choose(ways, numbers[2])
    reading = f"{a}{b} {c}{d}"
    opening = STYLES[style]
    reasoning = ";".join(steps)
    thought = f"{reading}{opening}{reasoning}{look_back}"
    boxed = answer_text(kind, grid)
    return f"{thought}\n</think>\n\\boxed{{{boxed}}}"


def style_of(completion: str) -> str:
    """Recognises the style that a completion begins in.

    "other" if it does not begin with the digits or goes on in no style.
    """
    reading = re.match(r"\d\d \d\d", completion)
    if reading:
        rest = completion[reading.end() :]
        for style, opening in STYLES.items():
            # A direct chain has no word of its own; it ends at once.
            if rest.startswith(opening or "\n</think>"):
                return style
    return "other"


def _steps(kind: str, grid: Grid) -> list[str]:
    """Writes the steps to the answer, the final one with the answer as its result."""
    a, b, c, d = grid
    result = answer(kind, grid)
    match kind:
        case "spread":
            return [_minus(max(grid), min(grid))]
        case "even":
            evens = _digits_of_parity(grid, 0)
            return [evens, f"{result}"]
        case "rows":
            # 47 + 38: the ones, the tens, the carry if there is one, and the number read off.
            steps = [_plus(b, d)]
            steps.append(_plus(a, c))
            if b + d > 9:
                steps.append(_plus(a + c, 1))
            steps.append(f"{result}")
            return steps
        case "total":
            return [
                _plus(a, b),
                _plus(a + b, c),
                _plus(a + b + c, d),
            ]
    raise AssertionError(kind)


def _slips(kind: str, grid: Grid, steps: list[str], u: float) -> list[Slip]:
    """Lists the mistakes that a chain may make in its steps."""
    # Miscounts: the result of a step is one too small or too large.
    slips = []
    for position, step in enumerate(steps):
        statement, equals, result = step.rpartition("=")
        is_count = kind == "even" and position == 1  # a number without "="
        if equals or is_count:
            value = int(result)
            neighbours = [value + 1]
            if value > 0:
                neighbours = [value - 1, value + 1]
            miscounted = choose(neighbours, u)
            mistake = f"{statement}{equals}{miscounted}"
            slips.append(Slip(position, mistake, "Wait"))
    return slips + _misunderstandings(kind, grid)


def _misunderstandings(kind: str, grid: Grid) -> list[Slip]:
    """Lists mistakes that a kind of question invites, as `_slips` does; most have none."""
    ones = grid[1] + grid[3]
    evens = [digit for digit in grid if digit % 2 == 0]
    second = sorted(grid)[-2]
    # The second largest digit is taken for the largest.
    if kind == "spread" and second < max(grid):
        mistake = _minus(second, min(grid))
        return [Slip(0, mistake, "Hmm")]
    # One even digit is overlooked.
    if kind == "even" and len(evens) > 1:
        mistake = _digits_of_parity(evens[:-1], 0)
        return [Slip(0, mistake, "Hmm")]
    # The carry is forgotten: 47 + 38 = 75.
    if kind == "rows" and ones > 9:
        mistake = answer(kind, grid) - 10
        return [Slip(2, f"{mistake}", "Hmm")]
    return []


def _looks_back(kind: str, grid: Grid) -> tuple[str, ...]:
    """Lists ways to test an answer: backwards, or in another order."""
    a, b, c, d = grid
    result = answer(kind, grid)
    match kind:
        case "spread":
            backwards = _plus(min(grid), result)
            return (f" Wait,{backwards} ok",)
        case "even":
            odds = _digits_of_parity(grid, 1)
            complement = _minus(4, 4 - result)
            return (f" Alternatively,{odds};{complement}",)
        case "rows":
            tens = 10 * (a + c)
            ones = b + d
            backwards = f"{result}-{c}{d}={a}{b}"
            in_tens = f"{a}0+{c}0={tens}"
            whole = _plus(tens, ones)
            return (f" Wait,{backwards} ok", f" Alternatively,{in_tens};{whole}")
        case "total":
            backwards = _minus(result, d)
            bottom = _plus(c, d)
            whole = _plus(a + b, c + d)
            return (f" Wait,{backwards} ok", f" Alternatively,{bottom};{whole}")
    raise AssertionError(kind)


def _plus(x: int, y: int) -> str:
    total = x + y
    return f"{x}+{y}={total}"


def _minus(x: int, y: int) -> str:
    difference = x - y
    return f"{x}-{y}={difference}"


def _digits_of_parity(digits: Sequence[int], parity: int) -> str:
    """Lists the even (0) or odd (1) digits, as in "4,8"; "none" if there are none."""
    matching = [str(digit) for digit in digits if digit % 2 == parity]
    return ",".join(matching) or "none"
