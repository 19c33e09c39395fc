r"""How an answer is read without a judge, each rule as VLMEvalKit 0.2 (ms-vlmeval 0.0.20) has it.

A rule is a function (question, text) -> Ruling. It decides, or it leaves the answer open. The rules
are stated anew; nothing that a model or a file says is executed. They agree with the kit's on
generated predictions, except that an answer in which a model declines to answer is open here and
wrong there.
"""

import dataclasses
import re

from r1v3_jax.benchmarks.cells import parse_list
from r1v3_jax.benchmarks.question import BadCell, Question

# Version of the rules, which a result's protocol names.
VERSION = "vlmeval-0.2"


@dataclasses.dataclass(frozen=True)
class Ruling:
    """What a rule says of an answer."""

    right: bool | None  # None: it cannot tell
    extracted: str = ""  # what it takes for the answer


OPEN = Ruling(None)


# -------------------------------------------------------------------------------------------------
# 1. Letters

_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def find_letter(text: str, options: dict[str, str]) -> str:
    r"""Returns the option that a text chooses, "Z" for none of them, or "" if it is not clear.

    One letter alone stands among the words, and among the last four: "so it is \boxed{B}". If not,
    the text of one option alone is in a short answer.
    """
    words = text.translate(_MARKS).split()
    present = [letter for letter in options if letter in words]
    # The first place of the letter counts: "A dog is it, so A" has it too far in front.
    if len(present) == 1 and words.index(present[0]) > len(words) - 5:
        return present[0]
    if not present and "Z" in words:
        return "Z"
    return _option_in(text, options)


def _option_in(text: str, options: dict[str, str]) -> str:
    """Returns the letter of the one option whose text is in a short answer, or ""."""
    if len(text) > 2 * sum(map(len, options.values())):
        return ""
    lowered = text.lower()
    inside = [letter for letter, option in options.items() if option.lower() in lowered]
    return inside[0] if len(inside) == 1 else ""


def option(question: Question, text: str) -> Ruling:
    """Multiple choice. A question without options has two: its answer, and any other one."""
    options, gold = options_of(question)
    letter = find_letter(text, options)
    return Ruling(letter == gold, letter) if letter else OPEN


def options_of(question: Question) -> tuple[dict[str, str], str]:
    """Returns the options of a question and the right letter; of an open one as MMMU does it."""
    if question.options:
        return question.options, question.answer.strip()
    return {"A": question.answer, "B": "Other Answers"}, "A"


_BOX_TO_BRACE = re.compile(r"\\boxed\{(.*?)\}")
_NOISE = re.compile(r"\$|\\[a-z]+|\s+")


def option_or_box(question: Question, text: str) -> Ruling:
    r"""MMMU: multiple choice, and right too if the last \boxed{...} is the answer.

    The box only adds, as in Skywork-R1V3's evaluation. It ends at the first brace: \boxed{\text{B}}
    holds "\text{B", which is read as "b".
    """
    boxes = _BOX_TO_BRACE.findall(text)
    if boxes:
        box = boxes[-1].strip()
        answer = question.answer.strip()
        if box == answer or _plain(box) == _plain(answer):
            return Ruling(True, box)
    return option(question, text)


def _plain(text: str) -> str:
    return re.sub(r"^\{|\}$", "", _NOISE.sub("", text)).lower()


# -------------------------------------------------------------------------------------------------
# 2. Yes and no

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
FULL_STOPS = 32  # so many are taken away, and no more


def yes_no(question: Question, text: str) -> Ruling:
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


def mathvista(question: Question, text: str) -> Ruling:
    """MathVista: an option, or the whole text as the number that is asked for."""
    kind = question.fields.get("answer_type", "")
    if question.fields.get("question_type") == "multi_choice":
        options = _listed_options(question)
        letter = find_letter(text, options)
        gold = question.fields.get("answer_option", "").strip()
        return Ruling(letter == gold, letter) if letter else OPEN
    read = {"integer": int, "float": float}.get(kind)
    try:
        is_right = read is not None and read(text) == read(question.answer)
    except ValueError:
        return OPEN
    return Ruling(True, text.strip()) if is_right else OPEN


def mathvision(question: Question, text: str) -> Ruling:
    """MathVision: an option, or a text or number that equals the answer to 1e-6."""
    options = _listed_options(question)
    if options:
        letter = find_letter(text, options)
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
    try:
        return abs(float(a) - float(b)) < 1e-6
    except ValueError:
        return False


def _listed_options(question: Question) -> dict[str, str]:
    """Returns the options of the column `choices`, ['3/11', '8/11'], by letter."""
    try:
        listed = parse_list(question.fields.get("choices") or "[]")
    except BadCell:
        return {}
    return {chr(ord("A") + i): text for i, text in enumerate(listed[:26])}


def box_text(question: Question, text: str) -> Ruling:
    """PhyX: right if boxed{B} is anywhere in the text, B the answer."""
    if question.answer and f"boxed{{{question.answer}}}" in text:
        return Ruling(True, question.answer)
    return OPEN


def nothing(question: Question, text: str) -> Ruling:
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


def visual_logic(question: Question, text: str) -> Ruling:
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
