r"""Sets: the same elements in any order and any brackets, each compared as mathematics compares it.

gold               right                                wrong
red, blue, green   green, blue and red   \{red,...\}     red, blue   red or blue or green
1, \sqrt{2}        [\frac{2}{\sqrt{2}}, 1]   1;1;√2      1
"""

import re

from r1v3_jax.rewards.verifiers import mathematics, names
from r1v3_jax.rewards.verifiers.digits import read_number
from r1v3_jax.rewards.verifiers.spelling import MAX_ANSWER, MAX_PARTS, normalise
from r1v3_jax.rewards.verifiers.structure import UNION, take_apart

MAX_TEXT = 4 * MAX_ANSWER  # characters
MAX_ELEMENTS = 100


def difference(answer: str, box: str) -> str | None:
    """Returns what differs between the set in a box and that of `answer`; None if they are equal.

    ValueError, or what `mathematics` raises, if `answer` cannot be compared with it.
    """
    gold = _elements(answer)
    if not gold or len(answer) > MAX_TEXT or len(gold) > MAX_ELEMENTS:
        raise ValueError(f"the answer must have 1 to {MAX_ELEMENTS} elements")
    elements = _elements(box) if len(box) <= MAX_TEXT else []
    if not elements or len(elements) > MAX_ELEMENTS:
        return "no set, or too long"

    # The values of different things have an order: x=1, y=2 is not 2, 1.
    has_names = all(names.split(element)[0] for element in elements)
    if names.of_different_things(gold) and not has_names:
        return "values without names"

    # 1. Elements with the same spelling are equal. An element written twice counts once.
    shared = set(gold) & set(elements)
    missing = [element for element in dict.fromkeys(gold) if element not in shared]
    extra = [element for element in dict.fromkeys(elements) if element not in shared]
    if not missing and not extra:
        return None
    # Comparisons grow with the product of the two lengths, and each may need the parser.
    if max(len(missing), len(extra)) > MAX_PARTS:
        return "other elements"

    # 2. Each element that is left must equal one of the other set. Example: 1, 2/4 and 0.5, 1, 1.0
    # share 1; 2/4 is looked for in 0.5, 1.0, 1, then 0.5 and 1.0 are looked for in 2/4, 1.
    for element in missing:
        if not any(_are_equal(element, candidate) for candidate in [*extra, *shared]):
            return "other elements"
    for element in extra:
        if not any(_are_equal(candidate, element) for candidate in [*missing, *shared]):
            return "other elements"
    return None


def _are_equal(gold: str, box: str) -> bool:
    return mathematics.difference(gold, box) is None


def _elements(text: str) -> list[str]:
    """Returns the elements that a text lists; the whole text if it lists nothing."""
    text = re.sub(r"\s*\n\s*", ", ", text.strip())
    text = re.sub(r"(?<![ ~,;])[ ~,;]*(?:\band\b|和|与)[ ~]*", ";", normalise(text))
    if read_number(text):  # 1,234 is one number
        return [text]
    kind, parts = take_apart(text)
    # A union of intervals is one element.
    if kind == UNION:
        return [text]
    elements = (part.strip(" ~").casefold() for part in parts)
    return [element for element in elements if element]
