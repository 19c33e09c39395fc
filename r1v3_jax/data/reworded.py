"""Sources in other words: what a prompt says besides its question, in training alone or anywhere.

`Reworded(source, how)` is the source with `how(example) -> example` applied to each row. Only the
source that it stands around changes: in `GRPO.train` it holds in training, and the held-out sets of
`Evaluate` are asked as they are. Old, reference and current log-probabilities are all of the
prompts that were sampled from, so they see the same words.

Each `how` here is a pure function of the example, made by a function of its settings: those are
written down with a run, which goes on only if they are unchanged.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping

import numpy as np

from r1v3_jax.data.mixtures import Source, check_source, fingerprint_of
from r1v3_jax.types import DroppedRow, Example

Rewording = Callable[[Example], Example]


@dataclasses.dataclass(frozen=True)
class Reworded:
    """The rows of a source in the same order, each changed by `how`.

    It has an end, a fingerprint and checks if the source has. A row that is dropped stays dropped.

        Reworded(rows, told("Scores: right 2, wrong -1.5."))(7)
            ->  rows(7) with a system turn that says so
    """

    source: Source
    how: Rewording

    def __call__(self, index: int) -> Example:
        return self.how(self.source(index))

    @property
    def __len__(self) -> Callable[[], int]:
        """The length of the source. AttributeError, as for the source itself, if it has no end.

        A property: `hasattr(reworded, "__len__")` says whether there is an end.
        """
        return self.source.__len__

    def __bool__(self) -> bool:
        # Else Python would ask for the length, which an endless source does not have.
        return True

    def check(self) -> None:
        """Calls the `check` of the source."""
        check_source(self.source)

    def fingerprint(self) -> str:
        """Returns the fingerprint of the source; see `sources.Rows`."""
        return fingerprint_of(self.source)


# 1. The system turn


def told(rules: str, system: str = "") -> Rewording:
    """Tells the model the rules of its reward, in the system turn (MeRF, arXiv 2506.18485).

    They stand behind the row's own system turn. system: what stands in front of them in a row that
    has none, `Run.system`, because a run gives its own only to rows without a system turn.

        told("Right: 1.", system="Be brief.")   ->   ("system", "Be brief.\n\nRight: 1.")
    """
    return functools.partial(_told, rules, system)


def _told(rules: str, system: str, example: Example) -> Example:
    before = example.before
    if before and before[0][0] == "system":
        system = before[0][1]
        before = before[1:]
    turn = ("system", _join(system, rules))
    return dataclasses.replace(example, before=(turn, *before))


# 2. Behind the question


def pooled(first: tuple[str, ...], second: tuple[str, ...], seed: int = 0) -> Rewording:
    """Adds a sentence of each pool behind the question (V-Triune, arXiv 2505.18129).

    Which ones is drawn from the seed and the row's id: the same in every pass and every process.

        pooled(("Think first.",), ("Box the answer.", "Use a box."))
            ->  "How many?\n\nThink first. Use a box."
    """
    if not first or not second:
        raise ValueError(
            f"pooled: got {len(first)} first and {len(second)} second sentences, wanted at least "
            'one of each; ("Think step by step.",) would do'
        )
    return functools.partial(_pooled, tuple(first), tuple(second), seed)


def _pooled(
    first: tuple[str, ...], second: tuple[str, ...], seed: int, example: Example
) -> Example:
    # A digest and not `hash`, which differs from process to process.
    name = f"{example.source}/{example.id}"
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    opening = first[rng.integers(len(first))]
    ending = second[rng.integers(len(second))]
    return _behind_question(example, f"{opening} {ending}")


CAPTION_REQUEST = (
    "First describe the image inside <caption> </caption>, then think, then answer."
)


def caption_first(example: Example) -> Example:
    """Asks for a caption in front of the thoughts (ComPABench's RL-Ground, arXiv 2505.19406).

    `rewards.terms.captioned` rewards it. A row without images stays as it is.
    """
    if not example.images and not example.videos:
        return example
    return _behind_question(example, CAPTION_REQUEST)


def described(heading: str = "What was seen:") -> Rewording:
    """Puts what a model said of the images or the film in their place, as text (Embodied-R).

    arXiv 2504.12680: a frozen model sees, and a language model reasons about its words. The words
    are those that a stage of collecting left, `Made(stage, over)` with `Said()`: what stands behind
    </think>, or in its box if it is a box alone. DroppedRow if that is nothing.

        "Frame1: <image>\nFrame2: <image>\nWhich way?"
            ->  "What was seen:\nA lamp, then a door.\n\nWhich way?"
    """
    return functools.partial(_described, heading)


def _described(heading: str, example: Example) -> Example:
    said = example.metadata.get("said")
    if said is None:
        raise ValueError(
            f"{example.id}: no metadata['said'] to put in place of its images; wanted the rows of "
            "a stage Collect(..., Said()), as Reworded(Made('perceived', rows), described())"
        )
    text = said.rpartition("</think>")[2].strip()
    text = re.sub(r"^\\boxed\{([^{}]*)\}$", r"\1", text).strip()
    # Without them nobody could answer.
    if not text:
        detail = f"nothing was said of its images: {said[:100]!r}"
        raise DroppedRow(example.source, example.id, "fields", detail)
    words = words_alone(example)
    seen = f"{heading}\n{text}" if heading else text
    return dataclasses.replace(words, question=_join(seen, words.question))


# A line of a frame, of which the last may be the present; or a marker where else it stands.
_MARKERS = re.compile(r"(?m)^(?:Frame\d+|Now): <image>(?:\n|$)|<(?:image|video)>\n?")


def words_alone(example: Example) -> Example:
    """Returns an example without its images and films, and without their markers."""
    before = tuple((role, _MARKERS.sub("", text)) for role, text in example.before)
    return dataclasses.replace(
        example,
        images=(),
        videos=(),
        films=(),
        image_labels=(),
        question=_MARKERS.sub("", example.question).strip(),
        before=before,
    )


def given_answer(example: Example) -> Example:
    """Shows the answer and asks for the way to it (M-STAR's warm-up, arXiv 2412.17451).

    For a model that has not reasoned before: its chains that end in the answer are its cold start.
    DroppedRow for a row that has no answer.
    """
    if not example.answer:
        raise DroppedRow(
            example.source, example.id, "no_answer", "there is none to show"
        )
    request = (
        f"The answer is {example.answer}. Write down the reasoning that leads to it, and then the "
        "answer."
    )
    return _behind_question(example, request)


def hinted(hints: Mapping[str, str]) -> Rewording:
    """Adds a hint behind the questions that have one, {id: hint} (Keye-VL 1.5, arXiv 2509.01563).

    hinted({"7": "Count the corners."})   ->   row 7: "How many?\n\nHint: Count the corners."
    """
    return functools.partial(_hinted, dict(hints))


def _hinted(hints: dict[str, str], example: Example) -> Example:
    hint = hints.get(example.id, "")
    return _behind_question(example, f"Hint: {hint}") if hint else example


def _behind_question(example: Example, text: str) -> Example:
    """Returns the example with a text behind its question, after a blank line."""
    return dataclasses.replace(example, question=_join(example.question, text))


def _join(first: str, second: str) -> str:
    """Joins two texts with a blank line; one that is empty leaves no line behind."""
    return "\n\n".join(text for text in (first, second) if text)
