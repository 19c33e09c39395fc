"""How PhyX's answers are read: as VLMEvalKit 0.2 does without a judge, or as Skywork did."""

import re

from r1v3_jax.benchmarks.letters import Finder, find_letter, find_letter_anywhere
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.benchmarks.rules import OPEN, Ruling

_SAYING = re.compile(r"\b(?:[Cc]orrect|[Aa]nswer|[Oo]ption)\b")
_LETTER = re.compile(r"[A-D]")
_LISTED = re.compile(r"([A-D]):")


def phyx(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """PhyX: right if the answer is named, as the version of the rule reads it.

    VLMEvalKit 0.2: the first capital A to D behind the first "answer", "option" or "correct" is it,
    or the answer stands as B: or **B or B** anywhere. The older copy: boxed{B} is in the text.
    """
    answer = question.answer
    if not answer:
        return OPEN
    if find is find_letter_anywhere:
        return Ruling(True, answer) if f"boxed{{{answer}}}" in text else OPEN
    text = text.strip()
    said = _letter_of(text)
    is_listed = any(
        form in text for form in (f"{answer}:", f"{answer}**", f"**{answer}")
    )
    if said.lower() == answer.strip().lower() or is_listed:
        return Ruling(True, answer)
    return OPEN


def _letter_of(text: str) -> str:
    """Returns the letter behind the first saying; without one the last that has a colon."""
    saying = _SAYING.search(text)
    letter = _LETTER.search(text, saying.end()) if saying else None
    if letter:
        return letter[0]
    listed = _LISTED.findall(text)
    return listed[-1] if listed else ""
