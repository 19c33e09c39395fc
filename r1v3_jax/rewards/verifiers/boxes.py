r"""Where the answer of a completion stands: in the last balanced \boxed{...} of its summary.

A prompt ends in "<think>\n", so a completion is "reasoning</think>summary"; nothing but the summary
is looked at.
"""

import re

from r1v3_jax.rewards.verifiers.spelling import MAX_ANSWER, MAX_PARTS, normalise

NO_ANSWER, SEVERAL = "no answer", "several answers"


def summary(completion: str, thinking: bool) -> str | None:
    _, end, rest = completion.rpartition("</think>")
    return rest if end or not thinking else None


def find_boxes(text: str) -> tuple[list[str], bool]:
    r"""Contents of the balanced \boxed{...}, outermost only, and whether one is never closed.

    "\boxed{\frac{1}{2}}, \boxed{3"  ->  ["\frac{1}{2}"], True.    One pass over the text.
    """
    open_braces: list[int | None] = []  # for a box, where its content begins; else None
    spans: list[tuple[int, int]] = []
    for match in re.finditer(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]", text):
        token = match[0]
        if token == "{" or token.startswith(r"\boxed"):
            open_braces.append(None if token == "{" else match.end())
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is not None:
                while spans and spans[-1][0] > start:  # a box within this one
                    spans.pop()
                spans.append((start, match.start()))
    unfinished = any(start is not None for start in open_braces)
    return [text[start:end].strip() for start, end in spans], unfinished


_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def unboxed(text: str) -> str:
    """A reference answer without <answer> tags and the box around it."""
    if (tagged := _ANSWER.search(text)) is not None:
        text = tagged[1]
    found = set(find_boxes(text)[0])
    return (found.pop() if len(found) == 1 else text).strip()


def extract(completion: str, *, thinking: bool = True) -> str | None:
    r"""The inside of the last balanced \boxed{...} after the last </think>; None if there is none.

    thinking False (NoThink): a completion without </think> is all summary.
    """
    text = summary(completion, thinking)
    found = [] if text is None else find_boxes(text)[0]
    return found[-1] if found else None


def only_box(completion: str, *, thinking: bool = True) -> tuple[str | None, str]:
    """The last box, and why it is no answer: NO_ANSWER, SEVERAL (boxes that differ in more than
    spelling), or "" if it is one.
    """
    text = summary(completion, thinking)
    found = [] if text is None else find_boxes(text)[0]
    if not found:
        return None, NO_ANSWER
    different = sorted(set(found), key=len)
    if len(different) > 1 and (
        len(different) > MAX_PARTS
        or len(different[-1]) > MAX_ANSWER
        or len({normalise(box) for box in different}) > 1
    ):
        return found[-1], SEVERAL
    return found[-1], ""
