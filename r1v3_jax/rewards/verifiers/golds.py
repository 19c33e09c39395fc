r"""Reference answers, called golds: which of them no box can match, and which are lists.

A gold is what `boxes.unboxed` leaves of an answer.

    gold                                    kept?
    72, 3\sqrt{5}, Yes, isosceles triangle  yes
    She has 72 apples left.                 no under `mathematics`, a sentence; yes under `string`
    Since AB = AC, it is 72                 no, a reason
    \boxed{1} or \boxed{2}                  no, boxes that differ
"""

import re

from r1v3_jax.rewards.verifiers import choice
from r1v3_jax.rewards.verifiers.boxes import OF_VALUES, differ, find_boxes
from r1v3_jax.rewards.verifiers.digits import read_number
from r1v3_jax.rewards.verifiers.relations import as_sets
from r1v3_jax.rewards.verifiers.spelling import MAX_ANSWER, MAX_PARTS, normalise
from r1v3_jax.rewards.verifiers.structure import SET, take_apart

# 1. Golds that no box can match


def problem(answer: str, rules: list[str]) -> str | None:
    """Returns why a gold must not be rewarded by rules of these names; None if it may."""
    shown = repr(answer[:100])
    boxes, _ = find_boxes(answer)
    if boxes and differ(boxes):
        return f"{shown} has boxes that differ; give one value, such as 72"
    if set(rules) <= OF_VALUES and _LIST_OF_TEXTS.fullmatch(answer.strip()):
        return (
            f"{shown} is a list in quotes, which no box repeats: of several wordings give one, and "
            "write several values as 1, 2"
        )
    if set(rules) == {"mathematics"} and is_prose(answer):
        return (
            f"{shown} is a sentence, and `mathematics` compares values: give the value alone, such "
            "as 72, or name the verifier `string`, which wants the same words"
        )
    return None


# ['3', 'three'], as MMMU has it. [1, 2] is an interval.
_LIST_OF_TEXTS = re.compile(r"""\[\s*(["']).*\1\s*\]""", re.DOTALL)
MAX_WORDS = 8  # of a text that a model may write in the same words
MAX_CHARACTERS = 20  # of a Chinese one
_FRAME = re.compile(r"\\(?:text|math)[a-z]*\s*\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]+")
_REASON = re.compile(
    r"(?i)\b(?:because|since|therefore|thus|hence|so)\b|因为|因此|所以|由于"
)
_VERB = re.compile(
    r"(?i)\b(?:it's|that's|is|are|was|were|am|has|have|had|equals?|becomes?|will|can|must|needs?"
    r"|costs?|takes?|makes?|gives?|gets?|earns?|sold|spent)\b|.(?:等于|需要?|[是有为共])(?= ?[0-9])"
)
_CAPTION = re.compile(r"[A-Za-z]{2}[A-Za-z ]*[:：] *[$(-]?[0-9\\]")  # Total: 72
_NEXT_SENTENCE = re.compile(r"[.!?]\s+[A-Z][a-z]|[。！？，；][一-鿿]")
_CHINESE = re.compile("[一-鿿]")


def is_prose(answer: str) -> bool:
    """Returns whether a gold is a sentence, so that its value is hidden among words.

    A name, a few words or a number with its unit is none.
    """
    # The conditions of cases are sentences: \text{if } n \text{ is even}.
    if r"\begin" in answer:
        return False
    if "####" in answer:  # more than one, or unboxed would have found the value
        return True
    text = answer[: 4 * MAX_ANSWER]
    while (unwrapped := _FRAME.sub(r" \1 ", text)) != text:
        text = unwrapped
    text = re.sub(r"\\[A-Za-z]+|\$", " ", text).strip()
    words = _WORD.findall(text)
    characters = _CHINESE.findall(text)
    if len(words) > MAX_WORDS or len(characters) > MAX_CHARACTERS:
        return True
    has_number = re.search(r"[0-9=]", text)
    if _REASON.search(text) and (has_number or len(words) > 2 or len(characters) > 5):
        return True
    # "There are 72 apples" hides 72; "They are equal" hides nothing.
    if has_number and (_VERB.search(text) or _CAPTION.match(text)):
        return True
    if len(words) > 5 or len(characters) > 7:
        return bool(_NEXT_SENTENCE.search(text))
    return False


# 2. Golds that are lists: one box a value


def pair_boxes(
    answer: str, boxes: list[str], rules: list[str]
) -> list[tuple[str, str]]:
    r"""Pairs each value of a gold that is a list with the box at its place.

    1, 7 and \boxed{1}, \boxed{7} -> [(1, 1), (7, 7)]. [] if the gold is one value, or if there are
    more or fewer boxes than values: boxes are never several attempts at one value.
    """
    if len(boxes) < 2 or len(rules) != 1:
        return []
    wanted = values(answer, rules[0])
    # A box that holds a list itself repeats the whole answer.
    if len(wanted) != len(boxes) or any(values(box, rules[0]) for box in boxes):
        return []
    return list(zip(wanted, boxes, strict=True))


def values(text: str, rule: str) -> list[str]:
    r"""Returns the values of a list in its order; [] for a single value.

    "1, 7", \{1,7\} and "x=1 and y=7" have two; (1,7), [1,7) and 1,234 are single.
    """
    if len(text) > MAX_ANSWER:
        return []
    if rule == "choice":
        letters = sorted(choice.read(text) or ())
        return letters if len(letters) > 1 else []
    if rule not in ("mathematics", "set"):
        return []
    spelled = as_sets(normalise(text))
    if read_number(spelled):  # 1,234
        return []
    kind, parts = take_apart(spelled)
    return parts if kind == SET and 1 < len(parts) <= MAX_PARTS else []
