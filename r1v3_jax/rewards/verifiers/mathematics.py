r"""Mathematics, by rule: whether a box holds the reference answer, which is called gold below.

    gold                     the box is right if it holds
    B, (B)                   the same letter, in either case, in brackets or not
    Yes, 等腰三角形, AB, 3:2   the same text but for case and spaces
    5, 1,234                 that integer: 5 05 +5 5.0 x=5 5\text{ cm}, not 10/2, 2+3 or 500%
    0.5, \frac{1}{2}, 50%    a number in digits of exactly that value: .5 \frac{2}{4} 50%
    (1,7)  [1,7)  1,7        the same brackets and equal parts, in order; 1,7 is a set: 7,1
    x>1, 1<x<7               that relation or its interval
    2\sqrt{3}, y=2x+1        an expression of the same values, an equivalent equation

A number may carry a unit or a name (x=) that gold lacks, or lack gold's, but not another one. Not
accepted, as a policy would learn to exploit it: boxes that differ, "7 or 8", 10 for 10%, 1,7 for
(1,7), 0.3333 for 1/3, an expression that still has to be computed where gold is a number.

Values decide, not proofs (`expressions`), so nothing in here needs a time limit; what could take
long is refused before it is read. Nothing that a model writes is executed.
"""

import functools
import re

from r1v3_jax.rewards.verifiers import strings, units
from r1v3_jax.rewards.verifiers.spelling import (
    MAX_ANSWER,
    MAX_DEPTH,
    MAX_PARTS,
    NAMED,
    as_sets,
    nesting,
    normalise,
    read_number,
    take_apart,
)


def difference(answer: str, box: str) -> str | None:
    """What is wrong with a box, in a few words; None if it is right.

    ValueError, or what sympy raises, if `answer` cannot be compared with it.
    """
    gold, spelled = (
        normalise(answer[: MAX_ANSWER + 1]),
        normalise(box[: MAX_ANSWER + 1]),
    )
    if not gold or len(answer) > MAX_ANSWER or nesting(gold) > MAX_DEPTH:
        raise ValueError(
            f"the answer must have 1 to {MAX_ANSWER} characters and at most {MAX_DEPTH} brackets "
            "in each other"
        )
    if strings.is_text(gold):
        return strings.text_difference(gold, spelled)
    if len(box) > MAX_ANSWER or nesting(spelled) > MAX_DEPTH:
        return "too long or too deep"
    return _difference(as_sets(gold), as_sets(spelled))


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def is_quick(answer: str) -> bool:
    """Whether no box needs the parser: `answer` is text, or a number in digits."""
    gold = normalise(answer[: MAX_ANSWER + 1])
    body, _ = units.split(as_sets(gold).strip(" ~"))
    return strings.is_text(gold) or read_number(body) is not None


def _difference(gold: str, box: str) -> str | None:
    """What is wrong with a box, both normalised; None if it is right."""
    same_letters = re.sub("[ ~]", "", gold) == re.sub("[ ~]", "", box)
    (gold, gold_unit), (box, box_unit) = (
        units.split(text.strip(" ~")) for text in (gold, box)
    )
    if gold_unit != box_unit and same_letters:  # 5 m and 5m
        return None
    if gold_unit and box_unit and gold_unit != box_unit:
        return _converted_difference(gold, gold_unit, box, box_unit)
    gold_named, box_named = NAMED.fullmatch(gold), NAMED.fullmatch(box)
    if gold_named and box_named and _same_name(gold_named[1], box_named[1]):
        return _difference(gold_named[2], box_named[2])
    if gold_named and not box_named and "=" not in box:
        return _difference(gold_named[2], box)
    if box_named and not gold_named and "=" not in gold:
        return _difference(gold, box_named[2])

    gold_number, box_number = read_number(gold), read_number(box)
    if gold_number and not gold_unit and not box_number:
        box_number = read_number(units.without_noun(box))
    if gold_number and box_number:
        if gold_number[0] != box_number[0]:
            return "another number"
        is_integer = gold_number[1] and gold_number[0].denominator == 1
        return "not written as an integer" if is_integer and not box_number[1] else None

    gold_kind, gold_parts = (
        ("", [gold]) if gold_number else take_apart(gold)
    )  # 1,234 is one number
    box_kind, box_parts = take_apart(box)
    if not gold_kind and not box_kind:
        if [gold, box] != gold_parts + box_parts:  # brackets around it all
            return _difference(*gold_parts, *box_parts)
        if gold_named and take_apart(gold_named[2])[0]:  # x=(1,7) is no equation
            return "another name"
        if gold_number:
            return "not a plain number"
        from r1v3_jax.rewards.verifiers import (
            expressions,  # sympy: most runs start without it
        )

        return expressions.difference(gold, box)
    if gold_kind != box_kind or len(gold_parts) != len(box_parts):
        return "put together otherwise"
    if len(gold_parts) > MAX_PARTS:
        raise ValueError(
            f"the answer has {len(gold_parts)} parts, at most {MAX_PARTS} are compared"
        )
    if gold_kind not in ("{}", "cup"):
        return next(filter(None, map(_difference, gold_parts, box_parts)), None)
    for part in gold_parts:
        match = next(
            (i for i, b in enumerate(box_parts) if not _difference(part, b)), None
        )
        if match is None:
            return "other elements"
        box_parts.pop(match)
    return None


def _converted_difference(
    gold: str, gold_unit: str, box: str, box_unit: str
) -> str | None:
    """Numbers in two units: 50 mm is 5 cm."""
    factor = units.factor(box_unit, gold_unit)
    gold_number, box_number = read_number(gold), read_number(box)
    if factor is None or not gold_number or not box_number:
        return "another unit"
    return None if box_number[0] * factor == gold_number[0] else "another number"


def _same_name(gold: str, box: str) -> bool:
    """Whether two names before an equals sign may be of the same thing: x and x_{1}, y and f(x)."""
    if gold == box or {gold, box} == {"y", "f(x)"}:
        return True
    bare = [re.sub(r"_\{[0-9]+\}", "", name) for name in (gold, box)]
    return (
        bare[0] == bare[1]
        and bare != [gold, box]
        and (bare[0] == gold or bare[1] == box)
    )
