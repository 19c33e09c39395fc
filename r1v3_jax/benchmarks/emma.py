r"""How EMMA's answers are read: as the fast evaluation of its authors, and of Skywork-R1V3, does.

Their order: a letter alone, a number alone, the last box, a phrase. Unlike there, what is not the
answer is left open: the box may say the same in other words.
"""

import re
from fractions import Fraction

from r1v3_jax.benchmarks import arithmetic
from r1v3_jax.benchmarks.letters import Finder, find_letter
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.rules import OPEN, Ruling
from r1v3_jax.rewards.verifiers.boxes import find_boxes

_SAYINGS = (
    "final answer is",
    "correct answer is",
    "answer should be",
    "answer is",
    "answer:",
)
_TEXT = re.compile(r"\\text{(.*?)}")


def emma(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """Right if an answer is the letter, the text of that option, or the value to 2 decimals."""
    said = read_answer(text)
    golds = [question.answer, question.options.get(question.answer.strip(), "")]
    is_right = any(_is_same(said, gold) for gold in golds if gold)
    return Ruling(True, said) if is_right else OPEN


def read_answer(text: str) -> str:
    r"""Returns what a text answers: "B." -> B, "... \boxed{\text{cat}}" -> cat; "" for nothing."""
    text = text.strip()
    for letter in "ABCDEFGH":
        if text.upper() == letter or text.startswith((f"{letter}:", f"{letter}.")):
            return letter
    if _is_number(text):
        return text
    boxes = find_boxes(text)[0]
    if boxes:
        inside = _TEXT.findall(boxes[-1])
        return (inside or boxes)[-1].strip()
    lowered = text.lower()
    for saying in _SAYINGS:
        if saying in lowered:
            return lowered.split(saying)[-1].strip().split("\n")[0].split(".")[0]
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_same(said: str, gold: str) -> bool:
    if said.lower().strip() == gold.lower().strip():
        return True
    values = [arithmetic.value(said.lower()), arithmetic.value(gold.lower())]
    return None not in values and _hundredths(values[0]) == _hundredths(values[1])


def _hundredths(value: Fraction) -> float:
    return round(float(value), 2)
