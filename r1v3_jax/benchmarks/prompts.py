r"""What a benchmark's questions are asked with, in words of our own.

Every prompt asks for the final answer in \boxed{}, where every rule can find it. `place` puts the
images: before the text, as vLLM does for a chat template that takes strings, or where the markers
<image 1> stand.
"""

import dataclasses
import re
from typing import Literal

from r1v3_jax.benchmarks.question import Question

Placement = Literal["front", "interleaved"]

# <image 1> of MMMU, <image_1> of EMMA.
MARKER = re.compile(r"<image[ _](\d{1,2})>")

LETTER = r"Answer with the letter of the correct option inside \boxed{}."
WORDS = r"Put only the final answer inside \boxed{}."


def plain(question: Question) -> str:
    """Asks with the question and its options as the file has them, and nothing else."""
    return _lines([question.text, _options(question)])


def choice(question: Question) -> str:
    """Asks for one of the options; for the answer itself where a question has none."""
    hint = question.fields.get("hint", "")
    lines = [hint, question.text, _options(question)]
    lines.append(LETTER if question.options else WORDS)
    return _lines(lines)


def stated_choice(question: Question) -> str:
    """Asks for a letter where the question's own text lists the options."""
    return _lines([question.text, LETTER])


def answer(question: Question) -> str:
    """Asks for a value, or for a letter where the text of the question lists options."""
    return _lines([question.text, WORDS])


def yes_no(question: Question) -> str:
    """Asks a question whose answer is yes or no."""
    return _lines([question.text, r"Answer with yes or no inside \boxed{}."])


def visual_logic(question: Question) -> str:
    """Asks VisuLogic's questions, whose options are in the picture."""
    return _lines(
        [question.text, "Reason about the figures step by step first.", LETTER]
    )


def emma(question: Question) -> str:
    """Asks EMMA's questions: context, question and options, with a chain of thought."""
    context = question.fields.get("context", "")
    wanted = (
        LETTER if question.options else r"Put a single word or phrase inside \boxed{}."
    )
    steps = "Solve the problem step by step."
    return _lines([context, question.text, _options(question), steps, wanted])


def physics(question: Question) -> str:
    """Asks SeePhys's questions, of which some stand in the picture alone."""
    text = question.text or "Answer the question in the image."
    figures = question.fields.get("sig_figs", "")
    precision = ""
    # Numbers come as 3 or 3.0.
    if re.fullmatch(r"[1-9](\.0)?", figures):
        precision = f"Give {figures[0]} significant figures."
    return _lines([text, precision, WORDS])


# How the solutions of MME-Reasoning's puzzles are written, by the end of their `function_id`.
_SOLUTIONS = {
    "hashi": 'a JSON list of bridges, [{"start": "a1", "end": "a3", "number": 2}]',
    "skyscraper": "a JSON list of the rows, [[1, 2], [2, 1]]",
    "sudoku_4": "a JSON list of the rows, [[1, 2], [2, 1]]",
    "sudoku_6": "a JSON list of the rows, [[1, 2], [2, 1]]",
    "yinyang": "a JSON list of the rows, 1 for black and 0 for white, [[0, 1], [1, 0]]",
    "coordinate_function": 'a JSON list of places, [{"row": "A", "column": 1}]',
    "multiple_match_function": 'a JSON list, ["A", "C"]',
    "24points_function": "one expression with the numbers of the cards, 2*(3+4)-1",
}
_PAIRS = 'JSON, {"A": 1, "B": 2}'


def puzzle(question: Question) -> str:
    """Asks MME-Reasoning's questions, and for the solution of a puzzle in a form to be read."""
    name = question.fields.get("function_id", "")
    if not name or name == "choice_function" or name.startswith(("open", "compare")):
        return answer(question)
    forms = [form for end, form in _SOLUTIONS.items() if name.endswith(end)]
    form = forms[0] if forms else _PAIRS
    return _lines([question.text, rf"Put the solution inside \boxed{{}} as {form}."])


def _options(question: Question) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in question.options.items())


def _lines(parts: list[str]) -> str:
    return "\n".join(part for part in parts if part)


# -------------------------------------------------------------------------------------------------
# images


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question as it is sent: texts, and numbers of its images, in order."""

    parts: tuple[str | int, ...]  # ("Which of ", 0, " and ", 1, " is larger?")

    @property
    def text(self) -> str:
        """The texts without the images."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[int]:
        """The numbers of the images, in the order in which they are shown."""
        return [part for part in self.parts if isinstance(part, int)]


def place(text: str, count: int, placement: Placement) -> Asked:
    """Puts `count` images into a text; ValueError if a marker names another one.

    interleaved: "Is <image 2> it?" with two images   ->   0, "Is ", 1, " it?"
    front: the same                                   ->   0, 1, "Is \\n it?"

    An image without a marker comes first. In front, the pieces of text are joined by line ends, as
    vLLM joins the parts of a message.
    """
    pieces = MARKER.split(text)  # text, number, text, number, text
    texts = pieces[::2]
    shown = [int(number) - 1 for number in pieces[1::2]]
    wrong = [number for number in shown if not 0 <= number < count]
    if wrong:
        raise ValueError(f"<image {wrong[0] + 1}> in a question with {count} images")
    unmarked = [number for number in range(count) if number not in shown]
    if placement == "front":
        joined = "\n".join(piece for piece in texts if piece)
        return Asked((*unmarked, *shown, joined))
    parts: list[str | int] = [*unmarked, texts[0]]
    for number, piece in zip(shown, texts[1:], strict=True):
        parts += [number, piece]
    return Asked(tuple(part for part in parts if part != ""))
