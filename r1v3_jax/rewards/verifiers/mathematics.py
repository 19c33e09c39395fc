r"""Mathematics, by rule: whether a box holds the reference answer, which is called gold below.

    gold                     the box is right if it holds
    B, (B)                   the same letter, in either case, in brackets or not
    Yes, 等腰三角形, AB, 3:2   the same text; case and spaces do not count
    5, 1,234                 that integer: 5 05 +5 5.0 x=5 5\text{ cm}, not 10/2, 2+3 or 500%
    0.5, \frac{1}{2}, 50%    a number in digits of exactly that value: .5 \frac{2}{4} 50%
    (1,7)  [1,7)  1,7        the same brackets and equal parts, in order; 1,7 is a set: 7,1
    x>1, 1<x<7               that relation or its interval
    2\sqrt{3}, y=2x+1        an expression of the same values, an equivalent equation

A number may carry a unit or a name (x=) that gold lacks, or lack gold's, but not have another one.
Refused, because a policy would learn to exploit it: boxes that differ, "7 or 8", 10 for 10%, 1,7
for (1,7), 0.3333 for 1/3, an expression that still has to be computed where gold is a number.

Expressions are compared by their values (`expressions`), not by proofs, so no time limit is needed
here; text that could take long is refused before it is read. Nothing that a model writes is
executed.
"""

import functools
import re

from r1v3_jax.rewards.verifiers import strings, units
from r1v3_jax.rewards.verifiers.spelling import (
    MAX_ANSWER,
    MAX_DEPTH,
    MAX_PARTS,
    NAMED,
    SET,
    UNION,
    Number,
    as_sets,
    nesting,
    normalise,
    read_number,
    take_apart,
)


def difference(answer: str, box: str) -> str | None:
    """Returns in a few words how a box differs from `answer`; None if it is right.

    ValueError, or what sympy raises, if `answer` cannot be compared with it.
    """
    # One character more than allowed: a longer text is refused below without being read whole.
    gold = normalise(answer[: MAX_ANSWER + 1])
    spelled = normalise(box[: MAX_ANSWER + 1])
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
    """Returns whether no box needs the parser: `answer` is text, or a number in digits."""
    gold = normalise(answer[: MAX_ANSWER + 1])
    body, _ = units.split(as_sets(gold).strip(" ~"))
    return strings.is_text(gold) or read_number(body) is not None


def _difference(gold: str, box: str) -> str | None:
    """Returns the difference between two normalised texts; None if the box is right."""
    # 1. Units. "5 m" is a length and "5m" a product, but who writes the one may mean the other.
    same_letters = re.sub("[ ~]", "", gold) == re.sub("[ ~]", "", box)
    gold, gold_unit = units.split(gold.strip(" ~"))
    box, box_unit = units.split(box.strip(" ~"))
    if gold_unit != box_unit and same_letters:
        return None
    if gold_unit and box_unit and gold_unit != box_unit:
        return _converted_difference(gold, gold_unit, box, box_unit)

    # 2. Names. x=5 is compared as 5 with x=5 and with 5; with y=5 as an equation.
    gold_named = NAMED.fullmatch(gold)
    box_named = NAMED.fullmatch(box)
    if gold_named and box_named and _same_name(gold_named[1], box_named[1]):
        return _difference(gold_named[2], box_named[2])
    if gold_named and not box_named and "=" not in box:
        return _difference(gold_named[2], box)
    if box_named and not gold_named and "=" not in gold:
        return _difference(gold, box_named[2])

    # 3. Numbers in digits: no parser. 24 is 24 apples too.
    gold_number = read_number(gold)
    box_number = read_number(box)
    if gold_number and not gold_unit and not box_number:
        box_number = read_number(units.without_noun(box))
    if gold_number and box_number:
        return _number_difference(gold_number, box_number)

    # 4. Lists, sets, intervals, expressions, equations.
    return _structure_difference(gold, box, gold_named, gold_number)


def _converted_difference(
    gold: str, gold_unit: str, box: str, box_unit: str
) -> str | None:
    """Compares numbers in two units: 50 mm is 5 cm."""
    factor = units.factor(box_unit, gold_unit)
    gold_number = read_number(gold)
    box_number = read_number(box)
    if factor is None or not gold_number or not box_number:
        return "another unit"
    if box_number.value * factor == gold_number.value:
        return None
    return "another number"


def _same_name(gold: str, box: str) -> bool:
    """Returns whether two names may be of the same thing: x and x_{1}, y and f(x)."""
    if gold == box or {gold, box} == {"y", "f(x)"}:
        return True
    gold_bare = re.sub(r"_\{[0-9]+\}", "", gold)
    box_bare = re.sub(r"_\{[0-9]+\}", "", box)
    # Equal without indices, and one of the two has none: x_{1} and x_{2} are two things.
    return gold_bare == box_bare and (gold_bare == gold or box_bare == box)


def _number_difference(gold: Number, box: Number) -> str | None:
    if gold.value != box.value:
        return "another number"
    # 14/2 for 7 still has to be computed, and 700% is not how 7 is written.
    is_integer = gold.plain and gold.value.denominator == 1
    return "not written as an integer" if is_integer and not box.plain else None


def _structure_difference(
    gold: str, box: str, gold_named: re.Match | None, gold_number: Number | None
) -> str | None:
    """Compares texts part by part; the parts of a set or union in any order."""
    # 1,234 is one number and not two.
    gold_kind, gold_parts = ("", [gold]) if gold_number else take_apart(gold)
    box_kind, box_parts = take_apart(box)
    if not gold_kind and not box_kind:
        if [gold, box] != gold_parts + box_parts:  # brackets around one of them
            return _difference(*gold_parts, *box_parts)
        if gold_named and take_apart(gold_named[2])[0]:  # x=(1,7) is no equation
            return "another name"
        if gold_number:
            return "not a plain number"
        # Imported here: sympy is slow to import, and most runs start without it.
        from r1v3_jax.rewards.verifiers import expressions

        return expressions.difference(gold, box)
    if gold_kind != box_kind or len(gold_parts) != len(box_parts):
        return "put together otherwise"
    if len(gold_parts) > MAX_PARTS:
        raise ValueError(
            f"the answer has {len(gold_parts)} parts, at most {MAX_PARTS} are compared"
        )
    if gold_kind in (SET, UNION):
        return _unordered_difference(gold_parts, box_parts)
    differences = map(_difference, gold_parts, box_parts)
    return next(filter(None, differences), None)


def _unordered_difference(gold_parts: list[str], box_parts: list[str]) -> str | None:
    """Pairs each part of gold with one of the box: 1,1,7 and 7,1,1 are equal, 1,7,7 is not."""
    remaining = list(box_parts)
    for part in gold_parts:
        for i, candidate in enumerate(remaining):
            if not _difference(part, candidate):
                remaining.pop(i)
                break
        else:
            return "other elements"
    return None
