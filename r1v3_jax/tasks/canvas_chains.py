"""Questions about digits on a canvas, and chains of thought to them, written by a program.

A chain reads the digits row by row, works, and puts the answer between tags. Some chains
skip the work, and some boxes are loose: what a cold start teaches and reinforcement can better.
Knows nothing of images or tokens.
"""

import dataclasses
import json
import random
from collections.abc import Sequence

# The wordings of each kind of question, equally often. {} is a digit that may be there or not.
QUESTIONS = {
    "detection": (
        "Detect all digits.",
        "Give the box and the label of each digit.",
    ),
    "counting": (
        "How many digits are there?",
        "Count the digits.",
        "How many {}s are there?",
        "Count the {}s.",
    ),
    "mathematics": (
        "Add all digits.",
        "What is the sum of the digits?",
    ),
}
JUMP = "at a glance"  # the thought of a chain that does no work
MAX_SLACK = 1  # units by which each side of a loose box may stand off


@dataclasses.dataclass(frozen=True)
class Digit:
    """A digit on the canvas, and the smallest box on the coordinate grid that holds its ink."""

    label: int
    box: tuple[
        int, int, int, int
    ]  # x1, y1, x2, y2 in units, from the upper left corner


def answer(kind: str, digits: Sequence[Digit], target: int | None) -> str:
    """Writes the answer to a kind of question.

    target: the digit that is counted; None if all are, and for the other kinds.
    """
    match kind:
        case "detection":
            return write_boxes(digits)
        case "counting":
            return f"{_count(digits, target)}"
        case "mathematics":
            return f"{sum(digit.label for digit in digits)}"
    raise AssertionError(kind)


def chain(
    kind: str,
    digits: Sequence[Digit],
    target: int | None,
    *,
    jumps: bool,
    slack: random.Random | None,
    size: int,
) -> str:
    """Writes thought and answer; `digits` are in reading order.

    jumps: skips the work. slack: draws how far the sides of the boxes stand off; None: not at all.
    size: units a side of the canvas, which no box leaves.

    detection     7 3
    counting      7 3 7;2                     the two 7s
    mathematics   7 3 9 7+3=10;10+9=19
    any           at a glance                 a jump
    """
    thought = JUMP if jumps else _work(kind, digits, target)
    if kind == "detection" and slack is not None:
        digits = [_loosen(digit, slack, size) for digit in digits]
    result = answer(kind, digits, target)
    return f"{thought}\n</think>\n<answer>{result}</answer>"


def write_boxes(digits: Sequence[Digit]) -> str:
    """Writes boxes and labels as Qwen2.5-VL and V-Triune do, without spaces."""
    rows = [{"bbox_2d": digit.box, "label": f"{digit.label}"} for digit in digits]
    return json.dumps(rows, separators=(",", ":"))


def _work(kind: str, digits: Sequence[Digit], target: int | None) -> str:
    """Writes what is read and computed on the way to the answer."""
    labels = [digit.label for digit in digits]
    reading = " ".join(map(str, labels))
    if kind == "counting":
        return f"{reading};{_count(digits, target)}"
    if kind == "mathematics" and len(labels) > 1:
        steps = []
        total = labels[0]
        for label in labels[1:]:
            steps.append(f"{total}+{label}={total + label}")
            total += label
        work = ";".join(steps)
        return f"{reading} {work}"
    return reading


def _count(digits: Sequence[Digit], target: int | None) -> int:
    if target is None:
        return len(digits)
    return sum(digit.label == target for digit in digits)


def _loosen(digit: Digit, slack: random.Random, size: int) -> Digit:
    """Moves each side of a box outward by up to MAX_SLACK units, not over the edge."""
    x1, y1, x2, y2 = digit.box
    left, top, right, bottom = (slack.randint(0, MAX_SLACK) for _ in range(4))
    box = (
        max(x1 - left, 0),
        max(y1 - top, 0),
        min(x2 + right, size),
        min(y2 + bottom, size),
    )
    return Digit(digit.label, box)
