"""Looks for turns of phrase in a chain of thought: second thoughts, and an image that is not seen.

Counting words says how a model writes, not whether it is right.
"""

import re

# One with any of these thinks again (V-Triune, arXiv 2505.18129, its reflection ratio).
REFLECTION_WORDS = (
    "re-check",
    "re-evaluate",
    "re-examine",
    "re-think",
    "recheck",
    "reevaluate",
    "reexamine",
    "reevaluation",
    "rethink",
    "check again",
    "think again",
    "try again",
    "verify",
    "wait",
    "yet",
)
# Both patterns read lower case, which is faster than re.IGNORECASE: a step has megabytes of text.
_REFLECTION = re.compile(rf"\b(?:{'|'.join(REFLECTION_WORDS)})\b")

# A picture, as chains call it.
_PICTURE_WORDS = (
    "image",
    "picture",
    "figure",
    "photo",
    "diagram",
    "graph",
    "chart",
    "drawing",
)
_PICTURE = rf"(?:{'|'.join(_PICTURE_WORDS)})"
# I cannot see / don't have access to / was not given ...
_NOT_SEEN = re.compile(
    rf"\b(?:can(?:no|'|\u2019)?t|can not|unable to|not able to|no way to|couldn['\u2019]t) "
    rf"(?:\w+ )?(?:see|view|access|look at|open|display) (?:\w+ ){{0,3}}{_PICTURE}"
    rf"|\b(?:don['\u2019]t|do not) (?:\w+ )?(?:have(?: access to)?|see) (?:the|an?|any|this|that) "
    rf"(?:\w+ )?{_PICTURE}"
    rf"|\b(?:no|without (?:the|an?)) {_PICTURE} (?:is |was |has been )?"
    rf"(?:provided|given|attached|shown|available|here)"
    rf"|\b{_PICTURE} (?:is|was|has)(?:n['\u2019]t| not) (?:been )?"
    rf"(?:provided|given|attached|shown|visible|available|here)"
    rf"|\bwithout (?:actually )?(?:seeing|being able to see|having|access to) "
    rf"(?:the|an?|this|that) (?:\w+ )?{_PICTURE}"
)


def reflects(text: str) -> bool:
    """Whether a text has any of the REFLECTION_WORDS, whole."""
    return _REFLECTION.search(text.lower()) is not None


def cannot_see(text: str) -> bool:
    """Whether a text says that its image is not there, or cannot be seen.

    Skywork-R1V3's chains do so now and then, and are then right less often (report, table 5). The
    report prints no list of phrases; these are ours.
    """
    lower = text.lower()
    # Every phrase names a picture; a text that names none is read faster so.
    if not any(word in lower for word in _PICTURE_WORDS):
        return False
    return _NOT_SEEN.search(lower) is not None
