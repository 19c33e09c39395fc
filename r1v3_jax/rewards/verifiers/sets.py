r"""Sets: the same elements in any order and any brackets, each compared as mathematics compares it.

gold               right                                wrong
red, blue, green   green, blue and red   \{red,...\}     red, blue   red or blue or green
1, \sqrt{2}        [\frac{2}{\sqrt{2}}, 1]   1;1;√2      1
"""

import re

from r1v3_jax.rewards.verifiers import mathematics
from r1v3_jax.rewards.verifiers.spelling import (
    MAX_ANSWER,
    MAX_PARTS,
    normalise,
    read_number,
    take_apart,
)

MAX_TEXT = 4 * MAX_ANSWER  # characters
MAX_ELEMENTS = 100


def difference(answer: str, box: str) -> str | None:
    """What is wrong with a box; None if it is right. ValueError, or what `mathematics` raises, if
    `answer` cannot be compared with it.
    """
    gold = _elements(answer)
    if not gold or len(answer) > MAX_TEXT or len(gold) > MAX_ELEMENTS:
        raise ValueError(f"the answer must have 1 to {MAX_ELEMENTS} elements")
    found = _elements(box) if len(box) <= MAX_TEXT else []
    if not found or len(found) > MAX_ELEMENTS:
        return "no set, or too long"
    # Twice the same element is one; what is spelled alike needs no comparison.
    missing, extra = list(dict.fromkeys(gold)), list(dict.fromkeys(found))
    alike = set(missing) & set(extra)
    missing = [element for element in missing if element not in alike]
    extra = [element for element in extra if element not in alike]
    if not missing and not extra:
        return None
    if max(len(missing), len(extra)) > MAX_PARTS:
        return "other elements"
    for wanted, others in (
        (missing, extra + list(alike)),
        (extra, missing + list(alike)),
    ):
        for element in wanted:
            if all(_differ(element, other, wanted is missing) for other in others):
                return "other elements"
    return None


def _differ(element: str, other: str, element_is_gold: bool) -> bool:
    gold, box = (element, other) if element_is_gold else (other, element)
    return mathematics.difference(gold, box) is not None


def _elements(text: str) -> list[str]:
    text = re.sub(r"\s*\n\s*", ", ", text.strip())
    text = re.sub(r",?[ ~]*(?:\band\b|和|与)[ ~]*", ";", normalise(text))
    if read_number(text):  # 1,234
        return [text]
    kind, parts = take_apart(text)
    if kind == "cup":
        return [text]
    return [part for one in parts if (part := one.strip(" ~").casefold())]
