"""Asks the helpers of a reward about the samples of a step, and adds what they say.

Every process calls `with_helpers` at the same moment with the same groups: a frozen checkpoint
answers on all devices of the run. What it answered is verified, and an endpoint is asked, by the
process whose block of samples it is; the numbers are then exchanged.
"""

import dataclasses
import re
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1v3_jax.losses.schedules import Number, value
from r1v3_jax.rewards import asking
from r1v3_jax.rewards.helpers import Consistent, Endpoint
from r1v3_jax.rewards.reward import Score, name_of, total
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.boxes import summary_boxes
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import verify_all
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.scoring import own_block
from r1v3_jax.run import watchdog
from r1v3_jax.types import Example, StepInfo

# How the numbers of a term travel between processes.
SILENT = np.nan
FAILED = np.inf

# The texts of (question, thoughts) -> the helper's answer to each, or why there is none.
Answers = Callable[[list[tuple[Example, str]]], list[tuple[str, str]]]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A term that asks a helper, with its weight and with the helper at hand."""

    term: Consistent
    weight: Number
    answer: Answers
    verify: Verify
    # Whether every process must call `answer`, and with the same questions.
    is_collective: bool


def with_helpers(
    groups: list[Group], helpers: tuple[Asked, ...], info: StepInfo
) -> list[Group]:
    """Returns the groups with what helpers say of each sample in its reward."""
    for asked in helpers:
        said = iter(consistency(groups, asked, info))
        name = name_of(asked.term)
        weight = value(asked.weight, info.progress)
        groups = [
            dataclasses.replace(
                group,
                scores=[_add(s, name, weight, *next(said)) for s in group.scores],
            )
            for group in groups
        ]
    return groups


def _add(score: Score, name: str, weight: float, part: float, problem: str) -> Score:
    """Returns a score with one more term; one without a reward stays without."""
    if score.total is None or np.isnan(part):
        return score
    if np.isinf(part):
        return dataclasses.replace(score, total=None, failed=name, problem=problem)
    parts = {**score.parts, name: float(part)}
    weights = {**score.weights, name: weight}
    reward = total(parts, weights)
    return dataclasses.replace(score, total=reward, parts=parts, weights=weights)


def consistency(
    groups: list[Group], asked: Asked, info: StepInfo
) -> list[tuple[float, str]]:
    """Returns what `Consistent` says of each sample in order: 1, 0, SILENT or FAILED, and why.

    Why a sample of another process failed is not known here.
    """
    # 1. The right ones are asked about: (number of the sample, its question, its thoughts).
    samples = [
        (group.example, text, score)
        for group in groups
        for text, score in zip(group.texts, group.scores, strict=True)
    ]
    rows = [
        (i, example, text.rpartition("</think>")[0])
        for i, (example, text, score) in enumerate(samples)
        if score.total is not None and score.verdict is Verdict.RIGHT
    ]
    block = own_block(len(samples))
    own = [row for row in rows if row[0] in block]

    # 2. The helper answers: all of them, or those of this process.
    to_ask = rows if asked.is_collective else own
    answers = asked.answer([(example, thoughts) for _, example, thoughts in to_ask])
    answer_of = dict(zip([row[0] for row in to_ask], answers, strict=True))

    # 3. Each process verifies its own.
    table = np.full(-(-len(samples) // jax.process_count()), SILENT)
    problems = {}
    with watchdog.own_work():
        answered = [row for row in own if not answer_of[row[0]][1]]
        checks = verify_all(
            [f"</think>{_boxed(answer_of[i][0], asked)}" for i, _, _ in answered],
            [example.answer for _, example, _ in answered],
            verifiers=[example.verifier for _, example, _ in answered],
            questions=[example.question for _, example, _ in answered],
            progress=info.progress,
            verify=asked.verify,
        )
    for i, _, _ in own:
        table[i - block.start] = FAILED
        problems[i] = answer_of[i][1]
    for (i, _, _), check in zip(answered, checks, strict=True):
        if check.verdict is Verdict.ERROR:
            problems[i] = check.reason
        else:
            table[i - block.start] = float(check.verdict is Verdict.RIGHT)

    # 4. All processes have all numbers.
    if jax.process_count() > 1:
        # The devices have no float64: each number travels as two whole ones.
        words = multihost_utils.process_allgather(table.view(np.uint32), tiled=True)
        table = np.ascontiguousarray(words).view(np.float64)
    return [(float(table[i]), problems.get(i, "")) for i in range(len(samples))]


def _boxed(answer: str, asked: Asked) -> str:
    r"""Returns the answer of an endpoint in a box, unless it brings one: "B." -> "\boxed{B.}"."""
    find = asked.verify.answer
    if asked.is_collective or summary_boxes(f"</think>{answer}", find=find):
        return answer
    # In both forms that an answer is looked for in.
    return f"\\boxed{{{answer}}}<answer>{answer}</answer>"


def endpoint_answers(term: Consistent, settings: Endpoint) -> Answers:
    """Returns a function that asks an endpoint what thoughts lead to."""
    asker = asking.get(settings)

    def answer(rows: list[tuple[Example, str]]) -> list[tuple[str, str]]:
        prompts = [
            _fill(settings.prompt, words_alone(example).question, thoughts)
            for example, thoughts in rows
        ]
        return asker.ask_all(prompts, term.max_tokens)

    return answer


def _fill(prompt: str, question: str, thoughts: str) -> str:
    """Puts question and thoughts into a prompt; what they hold is left as it is."""
    head, _, rest = prompt.partition("{question}")
    if "{thoughts}" in head:
        return _fill_one(head, thoughts) + question + rest
    return head + question + _fill_one(rest, thoughts)


def _fill_one(text: str, thoughts: str) -> str:
    before, _, behind = text.partition("{thoughts}")
    return before + thoughts + behind


def words_alone(example: Example) -> Example:
    """Returns a question without its images and their markers."""
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


_MARKERS = re.compile(r"<(?:image|video)>\n?")
