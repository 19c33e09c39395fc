r"""Boxes on an image: as many as gold has, each on one of gold's, with its label.

Both texts are JSON: [x1, y1, x2, y2], a list of these, or a list of {"bbox_2d": [x1, y1, x2, y2],
"label": "cat"}, as Qwen2.5-VL and V-Triune write them. Python's quotes and ```json fences are read
too. Two boxes match if intersection over union (IoU) is at least `iou` and, where gold has labels,
the labels are equal. A box counts once however often it is written.

`difference` is all or nothing. `overlap` gives partial credit like V-Triune's reward (arXiv
2505.18129, its reward_server/verify.py), with one difference: boxes are paired by highest IoU
first, not in the order of the reference, because nobody finds many boxes all at once.
"""

import json
import re
from typing import NamedTuple

MAX_TEXT = 20_000  # characters
MAX_BOXES = 200
NO_BOXES = "no boxes"

Corners = tuple[float, ...]  # x1, y1, x2, y2


class LabelledBox(NamedTuple):
    """One box on an image."""

    corners: Corners
    label: str  # one spelling of it, "woman's bag"; "": none


def difference(answer: str, box: str, *, iou: float = 0.5) -> str | None:
    """Returns how the boxes in a box differ from those of `answer`; None if all match.

    ValueError if `answer` holds no boxes.
    """
    gold = read(answer) if len(answer) <= MAX_TEXT else None
    if not gold:
        raise ValueError(
            f"the answer {answer[:100]!r} has no boxes, such as [10, 20, 30, 40]"
        )
    boxes = read(box) if len(box) <= MAX_TEXT else None
    if not boxes:
        return NO_BOXES
    if len(boxes) != len(gold):
        return f"{len(boxes)} boxes for {len(gold)}"
    candidates = [
        [
            g
            for g, wanted in enumerate(gold)
            if wanted.label in ("", answered.label)
            and intersection_over_union(wanted.corners, answered.corners) >= iou
        ]
        for answered in boxes
    ]
    if _can_pair_all(candidates):
        return None
    return f"not every box matches at {iou:g}"


def _can_pair_all(candidates: list[list[int]]) -> bool:
    """Returns whether every box can have one of its candidates, no two the same.

    Augmenting paths: a box that finds a candidate taken asks its owner to take another one.
    Candidates [0, 1] and [0]: box 0 takes 0, box 1 wants it, so box 0 moves to 1.
    """
    owners: dict[int, int] = {}

    def pair(box: int, tried: set[int]) -> bool:
        for candidate in candidates[box]:
            if candidate in tried:
                continue
            tried.add(candidate)
            if candidate not in owners or pair(owners[candidate], tried):
                owners[candidate] = box
                return True
        return False

    return all(pair(box, set()) for box in range(len(candidates)))


def overlap(
    answer: str, box: str, *, iou: float = 0.5, completeness: float = 0.0
) -> tuple[str | None, float]:
    """Returns what `difference` returns, and the partial credit, 0 to 1.

        ((1 - c) * sum of the pairs' IoU / gold's boxes + c * (recall + precision) / 2)
        * 0.6 ** (how many boxes too many or too few)

    c is `completeness`. Pairs are made one to one, the closest first, of equal labels, with an IoU
    of `iou` or more. ValueError if `answer` holds no boxes, or c is above 1.
    """
    if completeness > 1:
        raise ValueError(f"completeness={completeness:g}: wanted 0 to 1")
    problem = difference(answer, box, iou=iou)
    if problem == NO_BOXES:
        return problem, 0.0
    gold = read(answer)
    boxes = read(box)
    pairs = _closest_pairs(gold, boxes, iou)
    recall = len(pairs) / len(gold)
    precision = len(pairs) / len(boxes)
    balance = (recall + precision) / 2
    worth = (1 - completeness) * sum(pairs) / len(gold) + completeness * balance
    surplus = abs(len(boxes) - len(gold))
    # Six digits: other processes learn the credit through float32, which holds no more.
    return problem, round(worth * 0.6**surplus, 6)


def recall(answer: str, box: str, *, iou: float) -> float:
    """Returns the share of the boxes of `answer` that a box has, with an IoU of `iou` or more.

    Pairs are made as in `overlap`.
    """
    gold = read(answer) if len(answer) <= MAX_TEXT else None
    boxes = read(box) if len(box) <= MAX_TEXT else None
    return len(_closest_pairs(gold, boxes, iou)) / len(gold) if gold and boxes else 0.0


def _closest_pairs(
    gold: list[LabelledBox], boxes: list[LabelledBox], threshold: float
) -> list[float]:
    """Returns the IoU of each pair, at least `threshold`; pairs are made the closest first."""
    # Negative, so that the largest IoU comes first, and of equal ones the first in gold's order.
    candidates = sorted(
        (-intersection_over_union(wanted.corners, answered.corners), g, b)
        for g, wanted in enumerate(gold)
        for b, answered in enumerate(boxes)
        if wanted.label in ("", answered.label)
    )
    paired_gold = set()
    paired_boxes = set()
    pairs = []
    for negative_iou, g, b in candidates:
        if -negative_iou < threshold or g in paired_gold or b in paired_boxes:
            continue
        paired_gold.add(g)
        paired_boxes.add(b)
        pairs.append(-negative_iou)
    return pairs


def read(text: str) -> list[LabelledBox] | None:
    """Returns the boxes that a text writes, each once; None if the text is anything else."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # Not JSON: perhaps it is what Python prints.
        try:
            value = json.loads(_STRINGS.sub(_requoted, text))
        except (ValueError, RecursionError):
            return None
    # One box without a list around it.
    is_list = isinstance(value, list)
    if isinstance(value, dict) or (is_list and value and _is_number(value[0])):
        value = [value]
    if not isinstance(value, list) or len(value) > MAX_BOXES:
        return None
    boxes = [_read_box(item) for item in value]
    return None if None in boxes else list(dict.fromkeys(boxes))


# The last string may be open; else its end would be searched for from every quote.
_STRINGS = re.compile(
    r""" "(?:[^"\\]|\\.)*"? | '(?:[^'\\]|\\.)*'? """, re.VERBOSE | re.DOTALL
)


def _requoted(match: re.Match) -> str:
    """Turns a string in single quotes, as Python prints it, into JSON's; leaves JSON's own."""
    text = match[0]
    return text if text[0] == '"' else json.dumps(text[1:-1].replace("\\'", "'"))


_KEYS = ("bbox_2d", "bbox", "box")  # of the corners; the first one counts


def _read_box(item) -> LabelledBox | None:
    label = ""
    corners = item
    if isinstance(item, dict):
        label = item.get("label", "")
        corners = next((item[key] for key in _KEYS if key in item), None)
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    if not all(_is_number(number) for number in corners):
        return None
    x1, y1, x2, y2 = corners
    if not (isinstance(label, str) and x1 < x2 and y1 < y2):
        return None
    corners = tuple(float(number) for number in corners)
    return LabelledBox(corners, " ".join(label.casefold().split()))


def _is_number(value) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e9  # False for nan


def intersection_over_union(a: Corners, b: Corners) -> float:
    """Returns the common area of two boxes over the area that they cover together.

    [0, 0, 10, 10] and [4, 0, 14, 10]: 60 / (100 + 100 - 60)
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    a_area = (a[2] - a[0]) * (a[3] - a[1])
    b_area = (b[2] - b[0]) * (b[3] - b[1])
    return common / (a_area + b_area - common)
