"""Completions -> verdicts -> rewards.

Knows text only: no tokens but for their numbers, no arrays, no images. What is right is for
`verifiers` to say; nothing that a model writes is executed.
"""

import dataclasses
from collections.abc import Sequence

from r1v3_jax.rewards.verifiers.boxes import find_boxes, summary
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict
from r1v3_jax.rewards.verify import verify, verify_all


@dataclasses.dataclass(frozen=True)
class Score:
    """The reward of one completion, and what it is made of.

    total and accuracy are None after an ERROR: the caller masks the sample out of its group.
    accuracy: 1 if the answer is right and 0 if not, or by degrees where its rule knows them.
    penalty: what `shaped` has taken off the total.
    """

    total: float | None
    accuracy: float | None
    format: float
    verdict: Verdict
    extracted: str | None
    reason: str
    penalty: float = 0.0


# Rewards


def format_score(completion: str, *, ended: bool, thinking: bool = True) -> float:
    r"""1.0 if a completion follows the chat template, else 0.0 (Skywork-R1V3 report, section 3.1).

    That is: it ended by itself, has exactly one </think> and no <think> (the prompt has it), does
    not leave the reasoning before it blank, and holds exactly one \boxed{...}, closed and filled,
    after it. With thinking False there must be neither tag.
    """
    text = summary(completion, thinking)
    if not ended or text is None or "<think>" in completion:
        return 0.0
    if completion.count("</think>") != int(thinking):
        return 0.0
    if thinking and not completion.partition("</think>")[0].strip():
        return 0.0
    boxes, unfinished = find_boxes(text)
    return float(len(boxes) == 1 and bool(boxes[0]) and not unfinished)


def score(
    completion: str,
    answer: str,
    *,
    ended: bool,
    thinking: bool = True,
    accuracy_weight: float = 0.8,
    verifier: str = "",
) -> Score:
    """w accuracy + (1 - w) format, as in the report, section 3.1; by `verify`."""
    check = verify(completion, answer, thinking=thinking, verifier=verifier)
    form = format_score(completion, ended=ended, thinking=thinking)
    return scored(check, form, accuracy_weight)


def scored(check: Check, form: float, accuracy_weight: float) -> Score:
    """The Score that a verdict and a format score make."""
    total = accuracy = None
    if check.verdict is not Verdict.ERROR:
        accuracy = (
            float(check.verdict is Verdict.RIGHT)
            if check.credit is None
            else check.credit
        )
        total = accuracy_weight * accuracy + (1 - accuracy_weight) * form
    return Score(total, accuracy, form, check.verdict, check.extracted, check.reason)


def score_all(
    completions: Sequence[str],
    answers: Sequence[str],
    ended: Sequence[bool],
    *,
    thinking: bool = True,
    accuracy_weight: float | Sequence[float] = 0.8,
    **options,
) -> list[Score]:
    """`score` of each, in order, the verdicts by `verify_all`; options are its own.

    accuracy_weight: of all, or of each.
    """
    checks = verify_all(completions, answers, thinking=thinking, **options)
    if not isinstance(accuracy_weight, Sequence):
        accuracy_weight = [accuracy_weight] * len(checks)
    out = []
    for completion, end, check, weight in zip(
        completions, ended, checks, accuracy_weight, strict=True
    ):
        form = format_score(completion, ended=bool(end), thinking=thinking)
        out.append(scored(check, form, weight))
    return out


# Shaping: what is taken off a reward besides


def shaped(score: Score, penalty: float) -> Score:
    """The Score less a penalty; an ERROR stays without a total."""
    total = None if score.total is None else score.total - penalty
    return dataclasses.replace(score, total=total, penalty=penalty)
