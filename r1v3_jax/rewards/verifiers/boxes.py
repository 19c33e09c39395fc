r"""Finds the answer of a completion: the last balanced \boxed{...} of its summary.

A prompt ends in "<think>\n", so a completion is "reasoning</think>summary". Only the summary is
searched. This file does not know which answers are right.
"""

import re

from r1v3_jax.rewards.verifiers.spelling import MAX_ANSWER, MAX_PARTS, normalise

NO_ANSWER = "no answer"
SEVERAL = "several answers"


def summary(completion: str, thinking: bool) -> str | None:
    """Returns the text behind the last </think>; None if a thinking completion has no such tag.

    With thinking False (NoThink) a completion without </think> is all summary.
    """
    # Without a tag, rpartition returns ("", "", text), so that `text` is the whole completion.
    _, tag, text = completion.rpartition("</think>")
    return text if tag or not thinking else None


# Escaped characters are tokens of their own: the brace of "\{" opens nothing, and "\\" escapes
# nothing behind it. Only in "\\boxed{", which some prompts write, the second backslash counts.
_TOKENS = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")


def find_boxes(text: str) -> tuple[list[str], bool]:
    r"""Returns the contents of the outermost balanced \boxed{...}, and whether one is never closed.

    "\boxed{\frac{1}{2}}, \boxed{3"  ->  ["\frac{1}{2}"], True.    Takes one pass over the text.
    """
    open_braces: list[int | None] = []  # a box: where its content begins; else None
    spans: list[tuple[int, int]] = []
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token.startswith(r"\boxed"):
            open_braces.append(match.end())
        elif token == "{":
            open_braces.append(None)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is not None:
                # \boxed{1 \boxed{2}}: the inner box was closed before, and gives way.
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, match.start()))
    unfinished = any(start is not None for start in open_braces)
    return [text[start:end].strip() for start, end in spans], unfinished


_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def unboxed(text: str) -> str:
    """Returns a reference answer without <answer> tags and without the box around it."""
    tagged = _ANSWER.search(text)
    if tagged is not None:
        text = tagged[1]
    boxes, _ = find_boxes(text)
    # Boxes that differ are no wrapping: the text stays as it is.
    contents = set(boxes)
    return (contents.pop() if len(contents) == 1 else text).strip()


def extract(completion: str, *, thinking: bool = True) -> str | None:
    r"""Returns the inside of the last balanced \boxed{...} of the summary; None if it has none.

    With thinking False (NoThink) a completion without </think> is all summary.
    """
    boxes = _summary_boxes(completion, thinking)
    return boxes[-1] if boxes else None


def only_box(completion: str, *, thinking: bool = True) -> tuple[str | None, str]:
    """Returns the last box, and "" or the reason why it is no answer.

    The reason is NO_ANSWER (there is no box, and None is returned for it) or SEVERAL (there are
    boxes that differ in more than spelling).
    """
    boxes = _summary_boxes(completion, thinking)
    if not boxes:
        return None, NO_ANSWER
    return boxes[-1], SEVERAL if _differ(boxes) else ""


def _summary_boxes(completion: str, thinking: bool) -> list[str]:
    text = summary(completion, thinking)
    return [] if text is None else find_boxes(text)[0]


def _differ(boxes: list[str]) -> bool:
    different = sorted(set(boxes), key=len)
    if len(different) == 1:
        return False
    # Spelling is compared only for a few short boxes: a completion may hold thousands, or one of
    # 100,000 characters, and no such text is an answer.
    if len(different) > MAX_PARTS or len(different[-1]) > MAX_ANSWER:
        return True
    return len({normalise(box) for box in different}) > 1
