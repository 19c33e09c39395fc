"""Turns completions into rewards: the verdict on the answer, and the format of the text.

Knows text only: of tokens only how many there are, no arrays, no images. Whether an answer is right
is decided in `verifiers`. Nothing that a model writes is executed.
"""

import dataclasses
from collections.abc import Sequence

from r1v3_jax.rewards.verifiers.boxes import find_boxes, summary
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict
from r1v3_jax.rewards.verify import verify, verify_all


@dataclasses.dataclass(frozen=True)
class Score:
    """The reward of one completion, and its parts."""

    # None after an ERROR: the caller masks the sample out of its group.
    total: float | None
    accuracy: float | None  # 1 right, 0 wrong; between by a rule with partial credit
    format: float  # 1 if the completion follows the chat template, else 0
    verdict: Verdict
    extracted: str | None  # the text inside the last box; None: there is no box
    reason: str  # of the verdict, in a few words
    penalty: float = 0.0  # taken off the total by `shaped`


# 1. Rewards


def format_score(completion: str, *, ended: bool, thinking: bool = True) -> float:
    r"""Returns 1.0 if a completion follows the chat template, else 0.0.

    As in the Skywork-R1V3 report, section 3.1. The completion must end by itself, have exactly one
    </think> and no <think> (the prompt has it), have some reasoning before </think>, and hold
    exactly one \boxed{...}, closed and filled, after it. With thinking False there must be neither
    tag.
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
    """Returns the reward of one completion: w accuracy + (1 - w) format (report, section 3.1).

    ended: whether the completion ended by itself. The answer is checked by `verify`.
    """
    check = verify(completion, answer, thinking=thinking, verifier=verifier)
    form = format_score(completion, ended=ended, thinking=thinking)
    return scored(check, form, accuracy_weight)


def scored(check: Check, form: float, accuracy_weight: float) -> Score:
    """Returns the Score that a verdict and a format score make.

    RIGHT, form 0.0, weight 0.8   ->   accuracy 1.0, total 0.8 * 1.0 + 0.2 * 0.0 = 0.8
    """
    if check.verdict is Verdict.ERROR:
        total = None
        accuracy = None
    else:
        accuracy = check.credit
        if accuracy is None:
            accuracy = float(check.verdict is Verdict.RIGHT)
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
    """Returns `score` of each completion, in order; answers are checked by `verify_all`.

    accuracy_weight: one for all, or one for each. options: further ones of `verify_all`.
    """
    checks = verify_all(completions, answers, thinking=thinking, **options)
    if not isinstance(accuracy_weight, Sequence):
        accuracy_weight = [accuracy_weight] * len(checks)
    scores = []
    rows = zip(completions, ended, checks, accuracy_weight, strict=True)
    for completion, has_ended, check, weight in rows:
        form = format_score(completion, ended=bool(has_ended), thinking=thinking)
        scores.append(scored(check, form, weight))
    return scores


# 2. Shaping: taken off a reward for other reasons than its answer


def shaped(score: Score, penalty: float) -> Score:
    """Returns the Score less a penalty; an ERROR stays without a total."""
    total = None if score.total is None else score.total - penalty
    return dataclasses.replace(score, total=total, penalty=penalty)
