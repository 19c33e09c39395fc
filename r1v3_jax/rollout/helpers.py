"""Asks the helpers of a reward about the samples of a step, and adds what they say.

Every process calls `with_helpers` at the same moment with the same groups: a frozen checkpoint
answers on all devices of the run. What it answered is verified, and an endpoint is asked, by the
process whose block of samples it is; the numbers are then exchanged.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1v3_jax.data.reworded import words_alone
from r1v3_jax.losses.schedules import Number, value
from r1v3_jax.rewards import asking
from r1v3_jax.rewards.helpers import Consistent, Endpoint, StepScores
from r1v3_jax.rewards.reward import Score, name_of, total
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.scoring import own_block
from r1v3_jax.run import watchdog
from r1v3_jax.types import Example, StepInfo

# How the numbers of a term travel between processes.
SILENT = np.nan
FAILED = np.inf

# (question, thoughts) of samples -> what the helper says of each, or why it says nothing. What it
# says is a text, of `Consistent`; of `StepScores` a list of numbers.
Answers = Callable[[list[tuple[Example, str]]], list[tuple[object, str]]]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A term that asks a helper, with its weight and with the helper at hand."""

    term: Consistent | StepScores
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
        said = iter(say(groups, asked, info))
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


def say(groups: list[Group], asked: Asked, info: StepInfo) -> list[tuple[float, str]]:
    """Returns what a term says of each sample in order: a number, SILENT or FAILED, and why.

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
    questions = [(example, thoughts) for _, example, thoughts in to_ask]
    if asked.is_collective:
        answers = asked.answer(questions)
    else:
        # The others wait for it.
        with watchdog.own_work():
            answers = asked.answer(questions)
    answer_of = dict(zip([row[0] for row in to_ask], answers, strict=True))

    # 3. Each process grades its own: an answer may have to be verified.
    table = np.full(-(-len(samples) // jax.process_count()), SILENT)
    problems = {}
    answered = []
    for i, example, _ in own:
        said, problem = answer_of[i]
        if problem:
            table[i - block.start] = FAILED
            problems[i] = problem
        else:
            answered.append((i, example, said))
    with watchdog.own_work():
        graded = asked.term.grade(
            [(example, said) for _, example, said in answered],
            asked.verify,
            info.progress,
        )
    for (i, _, _), (number, problem) in zip(answered, graded, strict=True):
        table[i - block.start] = FAILED if problem else number
        problems[i] = problem

    # 4. All processes have all numbers.
    if jax.process_count() > 1:
        # The devices have no float64: each number travels as two whole ones.
        words = multihost_utils.process_allgather(table.view(np.uint32), tiled=True)
        table = np.ascontiguousarray(words).view(np.float64)
    return [(float(table[i]), problems.get(i, "")) for i in range(len(samples))]


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
