r"""Boxes on an image: as many as gold has, each on one of gold's, with its label.

Both are JSON: [x1, y1, x2, y2], a list of such, or a list of {"bbox_2d": [x1, y1, x2, y2], "label":
"cat"}, as Qwen2.5-VL and V-Triune write them, also with Python's quotes or in ```json fences. Two
boxes match if the labels are equal (where gold
has one) and intersection over union is at least `iou`; a box is given once however often it is
written.

`difference` is all or nothing. `overlap` is by degrees, as V-Triune's reward is (arXiv 2505.18129,
its reward_server/verify.py), but that it pairs the closest boxes first and not in gold's order: of
many boxes, nobody finds all at once.
"""

import json
import re

MAX_TEXT = 20_000  # characters
MAX_BOXES = 200
NO_BOXES = "no boxes"

Found = tuple[tuple[float, ...], str]


def schedule(progress: float) -> float:
    """V-Triune's threshold over a run, `progress` in 0..1: lenient at first, then near to exact."""
    return 0.85 if progress <= 0.10 else 0.95 if progress <= 0.25 else 0.99


def difference(answer: str, box: str, *, iou: float = 0.5) -> str | None:
    """What is wrong with a box; None if it is right. ValueError if `answer` holds no boxes."""
    if len(answer) > MAX_TEXT or not (gold := read(answer)):
        raise ValueError(
            f"the answer {answer[:100]!r} has no boxes, such as [10, 20, 30, 40]"
        )
    found = read(box) if len(box) <= MAX_TEXT else None
    if not found:
        return NO_BOXES
    if len(found) != len(gold):
        return f"{len(found)} boxes for {len(gold)}"
    fits = [
        [g for g, (place, label) in enumerate(gold) if label in ("", other)
         and intersection_over_union(place, where) >= iou]
        for where, other in found
    ]  # fmt: skip
    return None if _each_has_its_own(fits) else f"not every box matches at {iou:g}"


def overlap(
    answer: str, box: str, *, iou: float = 0.5, completeness: float = 0.0
) -> tuple[str | None, float]:
    """What is wrong with a box, as `difference` says it, and what it is worth, 0 to 1.

        ((1 - c) * sum of the pairs' IoU / gold's boxes + c * (recall + precision) / 2)
        * 0.6 ** (how many boxes too many or too few)

    c: `completeness`. Pairs are made one to one, the closest first, of equal labels, at `iou` or
    more. ValueError if `answer` holds no boxes, or c is above 1.
    """
    if completeness > 1:
        raise ValueError(f"completeness={completeness:g}: wanted 0 to 1")
    wrong = difference(answer, box, iou=iou)
    if wrong == NO_BOXES:
        return wrong, 0.0
    gold, found = read(answer), read(box)
    near = sorted(
        (-intersection_over_union(place, where), g, f)
        for g, (place, label) in enumerate(gold)
        for f, (where, other) in enumerate(found)
        if label in ("", other)
    )
    pairs: dict[int, int] = {}
    total = 0.0
    for negative, g, f in near:
        if -negative >= iou and g not in pairs and f not in pairs.values():
            pairs[g] = f
            total -= negative
    complete = (len(pairs) / len(gold) + len(pairs) / len(found)) / 2
    worth = (1 - completeness) * total / len(gold) + completeness * complete
    return wrong, round(worth * 0.6 ** abs(len(found) - len(gold)), 6)


def read(text: str) -> list[Found] | None:
    """((x1, y1, x2, y2), label or "") of each box; None if the text is anything else."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = json.loads(_STRINGS.sub(_requoted, text))
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict) or (
        isinstance(value, list) and value and _is_number(value[0])
    ):
        value = [value]
    if not isinstance(value, list) or len(value) > MAX_BOXES:
        return None
    boxes = [_read_one(one) for one in value]
    return None if None in boxes else list(dict.fromkeys(boxes))


# The last may be open, so that none is looked for from every quote to the end.
_STRINGS = re.compile(
    r""" "(?:[^"\\]|\\.)*"? | '(?:[^'\\]|\\.)*'? """, re.VERBOSE | re.DOTALL
)


def _requoted(match: re.Match) -> str:
    """A string in single quotes, as Python prints them, in JSON's; one in JSON's as it is."""
    text = match[0]
    return text if text[0] == '"' else json.dumps(text[1:-1].replace("\\'", "'"))


def _read_one(value) -> Found | None:
    label = ""
    if isinstance(value, dict):
        label = value.get("label", "")
        value = next(
            (value[key] for key in ("bbox_2d", "bbox", "box") if key in value), None
        )
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(map(_is_number, value))
    ):
        return None
    x1, y1, x2, y2 = value
    if not (isinstance(label, str) and x1 < x2 and y1 < y2):
        return None
    return tuple(map(float, value)), " ".join(label.casefold().split())


def _is_number(value) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e9  # False for nan


def intersection_over_union(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Of two boxes (x1, y1, x2, y2)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return both / (sum(areas) - both)


def _each_has_its_own(fits: list[list[int]]) -> bool:
    """Whether everyone can have one of those that fit, no two the same: augmenting paths."""
    taken: dict[int, int] = {}

    def place(one: int, tried: set[int]) -> bool:
        for g in fits[one]:
            if g not in tried:
                tried.add(g)
                if g not in taken or place(taken[g], tried):
                    taken[g] = one
                    return True
        return False

    return all(place(one, set()) for one in range(len(fits)))
