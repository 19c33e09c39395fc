r"""How an answer is read without a judge, each rule as VLMEvalKit 0.2 (ms-vlmeval 0.0.20) has it.

A rule is a function (question, text, find) -> Ruling. It decides, or it leaves the answer open.
`find` reads letters, see `letters`; rules without letters do not use it. The rules are stated anew;
nothing that a model or a file says is executed. They agree with the kit's on generated predictions
(tests/benchmarks/test_kit_rules.py), except that an answer in which a model declines to answer is
open here and wrong there.
"""

import dataclasses
import re
from fractions import Fraction

from r1v3_jax.benchmarks import arithmetic
from r1v3_jax.benchmarks.cells import parse_list
from r1v3_jax.benchmarks.letters import Finder, find_letter
from r1v3_jax.benchmarks.question import BadCell, Question


@dataclasses.dataclass(frozen=True)
class Ruling:
    """What a rule says of an answer."""

    right: bool | None  # None: it cannot tell
    extracted: str = ""  # what it takes for the answer


OPEN = Ruling(None)


# -------------------------------------------------------------------------------------------------
# 1. Letters


def option(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """Multiple choice. A question without options has two: its answer, and any other one."""
    options, gold = options_of(question)
    letter = find(text, options)
    return Ruling(letter == gold, letter) if letter else OPEN


def options_of(question: Question) -> tuple[dict[str, str], str]:
    """Returns the options of a question and the right letter; of an open one as MMMU does it."""
    if question.options:
        return question.options, question.answer.strip()
    return {"A": question.answer, "B": "Other Answers"}, "A"


_BOX = r"\boxed{"
_NOISE = re.compile(r"\$|\\[a-z]+|\s+")


def option_or_box(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    r"""MMMU: multiple choice, and right too if the last \boxed{...} is the answer.

    The box only adds, as in Skywork-R1V3's evaluation. It ends at the first brace: \boxed{\text{B}}
    holds "\text{B", which is read as "b".
    """
    ruling = last_box(question, text)
    return option(question, text, find) if ruling.right is None else ruling


def last_box(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """LogicVista: right if the last box is the answer, as in Skywork-R1V3's evaluation."""
    boxes = _boxes_to_brace(text)
    if boxes:
        box = boxes[-1].strip()
        answer = question.answer.strip()
        if box == answer or _plain(box) == _plain(answer):
            return Ruling(True, box)
    return OPEN


def _boxes_to_brace(text: str) -> list[str]:
    """Returns what stands between each box and the next closing brace of its line."""
    contents = []
    for line in text.split("\n"):
        start = line.find(_BOX)
        while start >= 0:
            end = line.find("}", start)
            if end < 0:
                break
            contents.append(line[start + len(_BOX) : end])
            start = line.find(_BOX, end)
    return contents


def _plain(text: str) -> str:
    return re.sub(r"^\{|\}$", "", _NOISE.sub("", text)).lower()


# -------------------------------------------------------------------------------------------------
# 2. Yes and no

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
FULL_STOPS = 32  # so many are taken away, and no more


def yes_no(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """HallusionBench: yes or no as a word, and not the other one."""
    lowered = text.lower()
    has_thousands = _THOUSANDS.search(lowered) is not None
    cleaned = lowered
    for mark in _PUNCTUATION:
        # Beside a space a mark vanishes; between two words it parts them.
        is_loose = f"{mark} " in lowered or f" {mark}" in lowered
        cleaned = cleaned.replace(mark, "" if is_loose or has_thousands else " ")
    words = _FULL_STOP.sub("", cleaned, count=FULL_STOPS).split()
    said = [word for word in ("yes", "no") if word in words]
    if len(said) != 1:
        return OPEN
    return Ruling(said[0] == question.answer.strip().lower(), said[0])


# -------------------------------------------------------------------------------------------------
# 3. Numbers and texts


def mathvista(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """MathVista: an option, or the whole text as the number that is asked for."""
    kind = question.fields.get("answer_type", "")
    if question.fields.get("question_type") == "multi_choice":
        options = _listed_options(question)
        letter = find(text, options)
        gold = question.fields.get("answer_option", "").strip()
        return Ruling(letter == gold, letter) if letter else OPEN
    read = {"integer": int, "float": float}.get(kind)
    try:
        is_right = read is not None and read(text) == read(question.answer)
    except ValueError:
        return OPEN
    return Ruling(True, text.strip()) if is_right else OPEN


MATHVISION_TOLERANCE = Fraction(1, 10**6)


def mathvision(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """MathVision: an option, or a text or number that equals the answer to 1e-6.

    Arithmetic is computed: 7+7 is 14. The kit runs it as a program; here it is read.
    """
    options = _listed_options(question)
    if options:
        letter = find(text, options)
        gold = question.answer.strip().lower()
        return Ruling(letter.lower() == gold, letter) if letter else OPEN
    said = text.lower().strip()
    answer = question.answer.lower().strip()
    return Ruling(True, said) if said == answer or _are_close(said, answer) else OPEN


def stated_options(question: Question) -> tuple[dict[str, str], str]:
    """Returns the options that a question has, in columns or in `choices`, and the right letter.

    No options: {}, "".
    """
    if question.options:
        return question.options, question.answer.strip()
    options = _listed_options(question)
    gold = question.fields.get("answer_option") or question.answer
    return (options, gold.strip()) if options else ({}, "")


def _are_close(a: str, b: str) -> bool:
    values = [arithmetic.value(a), arithmetic.value(b)]
    return None not in values and abs(values[0] - values[1]) < MATHVISION_TOLERANCE


def _listed_options(question: Question) -> dict[str, str]:
    """Returns the options of the column `choices`, ['3/11', '8/11'], by letter."""
    try:
        listed = parse_list(question.fields.get("choices") or "[]")
    except BadCell:
        return {}
    return {chr(ord("A") + i): text for i, text in enumerate(listed[:26])}


_TAGGED_DIGITS = re.compile(r"<answer>\s*(\d+)\s*</answer>")


def seephys(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """SeePhys: what a tag or a phrase names, or the whole text, is the answer or its value."""
    said = _seephys_answer(text)
    is_right = said == question.answer or _are_close(said, question.answer)
    return Ruling(True, said) if is_right else OPEN


def _seephys_answer(text: str) -> str:
    # In this order, which is the kit's.
    if match := _TAGGED_DIGITS.search(text):
        return match[1]
    for saying in ("the final answer is: ", "The answer is: "):
        for line in text.split("\n"):
            _, is_said, behind = line.partition(saying)
            end = behind.find(".", 1)
            if is_said and end > 0:
                return behind[:end]
    # A number as Python writes it: " 07 " -> "7".
    for read in (int, float):
        try:
            return str(read(text))
        except ValueError:
            continue
    return text


def nothing(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """Leaves every answer open: these benchmarks are judged."""
    return OPEN


# -------------------------------------------------------------------------------------------------
# 4. VisuLogic, whose rule leaves nothing open

_CHOICES = ("A", "B", "C", "D")
_SAYINGS = (
    "final answer is",
    "answer is option",
    "answer is",
    "correct answer is option",
    "correct answer is",
    "answer should be",
)
# In this order: what is behind one is searched for the next.
_LEADS = (
    "answer:",
    *(f"the {saying}:" for saying in _SAYINGS),
    *(f"the {saying}" for saying in _SAYINGS),
)
_BOX_OR_CLOSE = re.compile(r"\\boxed\{|[^\\]\}")


def visual_logic(question: Question, text: str, find: Finder = find_letter) -> Ruling:
    """VisuLogic: the last box if it is a letter, then a phrase that names one, else none."""
    boxed = _letter_box(text).strip()
    letter = boxed if boxed in _CHOICES else _named_letter(text)
    return Ruling(letter == question.answer.strip(), letter or "Z")


def _letter_box(text: str) -> str:
    """Returns the content of the last outermost box without commands; the text if it has none."""
    if len(text) < 3:
        return text
    starts = []
    content = ""
    for match in _BOX_OR_CLOSE.finditer(text):
        if match[0].endswith("{"):
            starts.append(match.end())
        elif starts:
            start = starts.pop()
            if not starts:
                content = text[start : match.start() + 1]
    for command in ("\\text{", "\\rm{", "\\mathbf{", "$", "}"):
        content = content.replace(command, "")
    is_letter = content and len(content) <= 2 and "or" not in content
    return content if is_letter else text


def _named_letter(text: str) -> str:
    """Returns the letter that a phrase names: "the answer is (B)." -> "" ; "... is B." -> "B"."""
    text = text.replace("<|endoftext|>", "")
    for letter in _CHOICES:
        ends = (f" {letter}.", f" ({letter}).")
        starts = (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if text.endswith(ends) or text.startswith(starts):
            return letter
    rest = text.lower()
    for lead in _LEADS:
        if lead in rest:
            rest = rest.split(lead)[-1].strip().split("\n")[0].split(".")[0]
            if rest.upper() in _CHOICES:
                return rest.upper()
    return text if text in _CHOICES else ""
