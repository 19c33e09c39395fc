r"""Mathematics, by rule: whether a box holds the reference answer, which is called gold below.

    gold                     the box is right if it holds
    B, (B)                   the same letter, in either case, in brackets or not
    Yes, 等腰三角形, AB, 3:2   the same text; case and spaces do not count
    5, 1,234                 that integer: 5 05 +5 5.0 x=5 5\text{ cm}, not 10/2, 2+3 or 500%
    14, XIV, fourteen        the same whole number in any of the three spellings
    0.5, \frac{1}{2}, 50%    a number in digits of exactly that value: .5 \frac{2}{4} 50%
    52_8                     the same digits in that base, or without a base
    12 kJ                    the number in that unit, in one that converts, or without a unit
    (1,7)  [1,7)  1,7        the same brackets and equal parts, in order; 1,7 is a set: 7,1
    x=1, y=2                 y=2, x=1, or the values alone in this order
    x>1, 1<x<7, x\ne2        that relation or the same set of numbers
    2\sqrt{3}, y=2x+1        an expression of the same values, an equivalent equation
    \sqrt{17}\approx4.12     one of the two, or both
    matrices, cases          equal entries in their places; equal pairs of value and condition

A number may carry a unit or a name (x=) that gold lacks, or lack gold's, but not have another one.
Refused, because a policy would learn to exploit it: boxes that differ, "7 or 8", 10 for 10%, 1,7
for (1,7), 0.3333 for 1/3, an expression that still has to be computed where gold is a number.

How text becomes a value: `spelling` gives it one spelling (`characters`, `commands`, `plain_text`),
`relations` turns relations and words into sets, `units` and `names` take off what stands around the
value, `digits` and `numerals` read numbers, `structure` takes lists and matrices apart. Then
`expressions` and `reals` compare what is left by its values, not by proofs, so no time limit is
needed here; text that could take long is refused before it is read. Nothing that a model writes is
executed.
"""

import functools
import re
from fractions import Fraction

from r1v3_jax.rewards.verifiers import names, numerals, strings, units
from r1v3_jax.rewards.verifiers.digits import (
    Number,
    read_number,
    same_in_base,
)
from r1v3_jax.rewards.verifiers.relations import as_sets, without_words
from r1v3_jax.rewards.verifiers.spelling import (
    MAX_ANSWER,
    MAX_DEPTH,
    MAX_PARTS,
    normalise,
)
from r1v3_jax.rewards.verifiers.structure import (
    DIFFERENCE,
    INTERSECTION,
    UNION,
    UNORDERED,
    nesting,
    take_apart,
)

# sympy is slow to import, and most runs start without it: `expressions` and `reals`, which bring
# it, are imported where they are used.


def difference(answer: str, box: str) -> str | None:
    """Returns in a few words how a box differs from `answer`; None if it is right.

    ValueError, or what sympy raises, if `answer` cannot be compared with it.
    """
    # One character more than allowed: a longer text is refused below without being read whole.
    gold = without_words(normalise(answer[: MAX_ANSWER + 1]))
    spelled = without_words(normalise(box[: MAX_ANSWER + 1]))
    if not gold or len(answer) > MAX_ANSWER or nesting(gold) > MAX_DEPTH:
        raise ValueError(
            f"the answer must have 1 to {MAX_ANSWER} characters and at most {MAX_DEPTH} brackets "
            "in each other"
        )
    if strings.is_text(gold):
        text_difference = strings.text_difference(gold, spelled)
        gold_in_digits = numerals.in_digits(gold)
        if text_difference is None or gold_in_digits == gold:
            return text_difference
        gold = gold_in_digits
    if len(box) > MAX_ANSWER or nesting(spelled) > MAX_DEPTH:
        return "too long or too deep"
    return _difference(as_sets(gold), as_sets(numerals.in_digits(spelled)))


def is_quick(answer: str, box: str) -> bool:
    """Returns whether `box` needs no parser: `answer` is text, or a number in digits."""
    kind = _quick_kind(answer)
    if kind != "number":
        return kind == "text"
    # An exact value beside a rounded one is computed.
    return r"\approx" not in without_words(normalise(box[: MAX_ANSWER + 1]))


@functools.lru_cache(maxsize=4096)  # the samples of a group share their answer
def _quick_kind(answer: str) -> str:
    gold = without_words(normalise(answer[: MAX_ANSWER + 1]))
    if strings.is_text(gold):
        return "number" if numerals.in_digits(gold) != gold else "text"
    # With a name it is none: the box may be an equation, which needs the parser.
    body, _ = units.split(as_sets(gold).strip(" ~"))
    return "number" if read_number(body) is not None else ""


# 1. One value


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
    gold_name, gold_value = names.split(gold)
    box_name, box_value = names.split(box)
    gold = gold if gold_name else gold_value
    box = box if box_name else box_value
    if gold_name and box_name:
        if names.are_same(gold_name, box_name):
            return _difference(as_sets(gold_value), as_sets(box_value))
        # y=x/2 may be x=2y; but x=(1,7), AB=5, f(2)=5 and x\approx1.4 are no equations.
        is_equation = names.are_variables(gold_name, box_name) and not (
            take_apart(gold_value)[0] or _ROUNDED.search(gold + box)
        )
        if not is_equation:
            return "another name"
    elif gold_name and "=" not in box:
        return _difference(as_sets(gold_value), box)
    elif gold_name and (
        take_apart(gold_value)[0] or not names.are_variables(gold_name)
    ):
        return "an equation"
    elif box_name and "=" not in gold:
        return _difference(gold, as_sets(box_value))

    # 3. Numbers in digits: no parser.
    gold_number = read_number(gold)
    box_number = read_number(box)
    if gold_number and box_number:
        return _number_difference(gold_number, box_number)
    if "_{" in gold or "_{" in box:
        is_same_number = same_in_base(gold, box)
        if is_same_number is not None:
            return None if is_same_number else "another number or base"

    # 4. An exact value with the same one rounded beside it.
    gold_values = _alternatives(gold)
    box_values = _alternatives(box)
    if len(gold_values) > 1 or len(box_values) > 1:
        return _rounded_difference(gold_values, box_values)

    # 5. Lists, sets, intervals, expressions, equations.
    return _structure_difference(gold, box, gold_number)


def _converted_difference(
    gold: str, gold_unit: str, box: str, box_unit: str
) -> str | None:
    """Compares numbers in two units: 50 mm is 5 cm."""
    factor = units.factor(box_unit, gold_unit)
    gold_number = read_number(names.split(gold)[1])
    box_number = read_number(names.split(box)[1])
    if factor is None or not gold_number or not box_number:
        return "another unit"
    if box_number.value * factor == gold_number.value:
        return None
    return "another number"


def _number_difference(gold: Number, box: Number) -> str | None:
    if gold.value != box.value:
        return "another number"
    # 14/2 for 7 still has to be computed, and 700% is not how 7 is written.
    is_integer = gold.plain and gold.value.denominator == 1
    return "not written as an integer" if is_integer and not box.plain else None


# 2. An exact value and the same one rounded

_ROUNDED = re.compile(r"(?<![ ~,;(])[ ~,;]*(\()?\\approx(?![A-Za-z])[ ~]*")
_MAX_VALUE = 100  # characters of a value that is computed
_AGREEMENT = Fraction(1, 100)


def _alternatives(text: str) -> list[str]:
    r"""Returns the ways in which a text writes one value.

    \sqrt{17}\approx4.12 -> [\sqrt{17}, 4.12]
    Also \sqrt{17}(\approx4.12) and \sqrt{17} or about 4.12; a text of one value is returned whole.
    """
    match = _ROUNDED.search(text)
    if match is None or match.start() == 0:
        return [text]
    if match[1] and text.endswith(")"):
        text = text[:-1]
    pieces = [text[: match.start()], text[match.end() :]]
    # A third value would be one more guess.
    return [text] if _ROUNDED.search(pieces[1]) or not all(pieces) else pieces


def _rounded_difference(gold_values: list[str], box_values: list[str]) -> str | None:
    """Compares values that are written in several ways: any way of gold's will do."""
    if len(box_values) > 1 and not _agree(box_values):
        return "two values"
    differences = [_difference(gold, box) for gold in gold_values for box in box_values]
    return None if None in differences else differences[0]


def _agree(values: list[str]) -> bool:
    r"""Returns whether the second of two numbers may be the first one, rounded.

    \sqrt{17} and 4.12 are within 1%. 4.1231 and 4.12 are too, but 101 and 100 are two guesses: of
    two numbers in digits the second must be the first with fewer decimals.
    """
    exact, rounded = (
        units.split(names.split(text)[1].strip(" ~"))[0] for text in values
    )
    exact_value = _value(exact)
    rounded_value = _value(rounded)
    if exact_value is None or rounded_value is None:
        return False
    decimals = [_DECIMALS.fullmatch(text) for text in (exact, rounded)]
    if all(decimals):
        long, short = (len(match[1]) for match in decimals)
        half = Fraction(1, 2 * 10**short)
        return long > short and abs(exact_value - rounded_value) <= half
    return abs(rounded_value - exact_value) <= _AGREEMENT * abs(exact_value)


_DECIMALS = re.compile(r"[+-]?[0-9, ]*\.?([0-9]*)")


def _value(text: str) -> Fraction | None:
    """Returns the value of a number or of an expression without variables; None for others."""
    number = read_number(text)
    if number:
        return number.value
    if len(text) > _MAX_VALUE:
        return None
    from r1v3_jax.rewards.verifiers import expressions

    return expressions.constant(text)


# 3. Values of several parts


def _structure_difference(
    gold: str, box: str, gold_number: Number | None
) -> str | None:
    """Compares texts part by part; the parts of a set or union in any order."""
    # 1,234 is one number and not two.
    gold_kind, gold_parts = ("", [gold]) if gold_number else take_apart(gold)
    box_kind, box_parts = take_apart(box)
    if not gold_kind and not box_kind:
        if [gold, box] != gold_parts + box_parts:  # brackets around one of them
            return _difference(*gold_parts, *box_parts)
        if gold_number:
            return "not a plain number"
        from r1v3_jax.rewards.verifiers import expressions

        return expressions.difference(gold, box)
    if not gold_number and {gold_kind, box_kind} & {UNION, INTERSECTION, DIFFERENCE}:
        from r1v3_jax.rewards.verifiers import reals

        is_same_set = reals.are_equal(gold, box)
        if is_same_set is not None:
            return None if is_same_set else "another set"
    if gold_kind != box_kind or len(gold_parts) != len(box_parts):
        return "put together otherwise"
    if len(gold_parts) > MAX_PARTS:
        raise ValueError(
            f"the answer has {len(gold_parts)} parts, at most {MAX_PARTS} are compared"
        )
    # A part may be a relation: 1<x is x>1.
    gold_parts = [as_sets(part) for part in gold_parts]
    box_parts = [as_sets(part) for part in box_parts]
    if gold_kind in UNORDERED and not _have_an_order(gold_parts, box_parts):
        return _unordered_difference(gold_parts, box_parts)
    differences = map(_difference, gold_parts, box_parts)
    return next(filter(None, differences), None)


def _have_an_order(gold_parts: list[str], box_parts: list[str]) -> bool:
    """Returns whether one list names different things, x=1, y=2, and the other leaves names out.

    If both have all names, the names say what belongs together: y=2, x=1.
    """
    if not names.of_different_things(gold_parts) and not names.of_different_things(
        box_parts
    ):
        return False
    return not all(names.split(part)[0] for part in gold_parts + box_parts)


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
