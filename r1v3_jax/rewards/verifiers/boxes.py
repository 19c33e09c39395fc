r"""Finds the answer of a completion: the last balanced \boxed{...} of its summary, or <answer>.

A prompt ends in "<think>\n", so a completion is "reasoning</think>summary". Only the summary is
searched. The value of a reference answer is found here too. This file does not know which answers
are right.
"""

import re
from collections.abc import Callable

from r1v3_jax.rewards.verifiers.spelling import MAX_ANSWER, MAX_PARTS, normalise
from r1v3_jax.rewards.verifiers.verdict import NO_ANSWER, SEVERAL

# A summary -> the answers in it, in order, and whether one is never closed.
FindAnswers = Callable[[str], tuple[list[str], bool]]


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


_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def find_tagged(text: str) -> tuple[list[str], bool]:
    r"""Returns the contents of each <answer>...</answer>, and whether one is never closed.

    Boxes inside give their contents: "<answer>\boxed{1}, \boxed{7}</answer> <answer>" ->
    ["1", "7"], True.
    """
    answers = []
    tagged = _TAGGED.findall(text)
    unfinished = not text.count("<answer>") == text.count("</answer>") == len(tagged)
    for content in tagged:
        boxes, has_open_box = find_boxes(content)
        answers += boxes or [content.strip()]
        unfinished |= has_open_box
    return answers, unfinished


# The answer is 72.   **Final answer:** 72   答案是72。   解：x=72
_STATED = re.compile(
    r"(?i:\banswers?[ *]*(?:is|are|[:：=])(?![A-Za-z]))[ :：*]*"
    r"|(?:答案(?:是|为|[:：])|(?m:^)[答解][:：])[:：]?\s*"
)
_NEXT_SENTENCE = re.compile(r"\.\s+(?=[A-Z])")


# Verifiers that compare a value. To the others a text is what it is: "Answer: 72" off an image.
OF_VALUES = frozenset(["mathematics", "choice", "number", "set", "model"])


def unboxed(text: str, verifier: str = "") -> str:
    r"""Returns the value that a reference answer gives, without what stands around it.

    <answer>72</answer> and \boxed{72} -> 72. Under a verifier that compares values also
    "24+48=72\n#### 72" and "The answer is 72." -> 72.

    Boxes that differ, and sentences with no such words, stay as they are: `golds` refuses them.
    """
    tagged = _TAGGED.search(text)
    if tagged is not None:
        text = tagged[1]
    rules = {rule.split()[0] for rule in verifier.split("|") if rule.strip()}
    has_value = rules <= OF_VALUES
    if has_value:
        text = _behind_hashes(text)
    contents, _ = find_boxes(text)
    if contents:
        return text.strip() if differ(contents) else contents[-1]
    return _stated(text.strip()) if has_value else text.strip()


def _behind_hashes(text: str) -> str:
    """Returns what GSM8K writes behind ####; the text itself if that is no single value.

    The value may stand below a heading: "#### Answer", then 72 in the next line.
    """
    working, hashes, value = text.rpartition("####")
    heading, _, below = value.strip().partition("\n")
    if heading.strip(" :").lower() in ("answer", "final answer"):
        heading = below.strip()
        below = ""
    is_single = hashes and "####" not in working and not below
    return heading if is_single and heading and "\n" not in heading else text


def _stated(text: str) -> str:
    """Returns what a text says that the answer is; the text itself if it does not say so."""
    matches = list(_STATED.finditer(text))
    if not matches:
        return text
    value = text[matches[-1].end() :].strip()
    # "The answer is not unique" is left to `golds`, and so is a value on several lines.
    if not value or "\n" in value or value.lower().startswith("not "):
        return text
    # "$72$. I hope it is correct." Not "Mt. Everest": no digit is in the word before the full stop.
    for match in _NEXT_SENTENCE.finditer(value[:MAX_ANSWER]):
        before = value[: match.start()]
        if re.search("[0-9]", before.split()[-1] if before.strip() else ""):
            value = before
            break
    return value.strip(" *").rstrip(".。").rstrip(" *")


def extract(completion: str, *, thinking: bool = True) -> str | None:
    r"""Returns the inside of the last balanced \boxed{...} of the summary; None if it has none.

    With thinking False (NoThink) a completion without </think> is all summary.
    """
    boxes = summary_boxes(completion, thinking=thinking)
    return boxes[-1] if boxes else None


def summary_boxes(
    completion: str, *, thinking: bool = True, find: FindAnswers = find_boxes
) -> list[str]:
    """Returns the contents of all boxes of the summary, in their order; or what `find` finds."""
    text = summary(completion, thinking)
    return [] if text is None else find(text)[0]


def only_box(boxes: list[str]) -> tuple[str | None, str]:
    """Returns the last box, and "" or the reason why it is no answer.

    The reason is NO_ANSWER (there is no box, and None is returned for it) or SEVERAL (there are
    boxes that differ in more than spelling).
    """
    if not boxes:
        return None, NO_ANSWER
    return boxes[-1], SEVERAL if differ(boxes) else ""


def differ(boxes: list[str]) -> bool:
    """Returns whether boxes differ in more than spelling."""
    different = sorted(set(boxes), key=len)
    if len(different) == 1:
        return False
    # Spelling is compared only for a few short boxes: a completion may hold thousands, or one of
    # 100,000 characters, and no such text is an answer.
    if len(different) > MAX_PARTS or len(different[-1]) > MAX_ANSWER:
        return True
    return len({normalise(box) for box in different}) > 1
