"""Samples for the questions of a set, and the share of right answers with its interval."""

import dataclasses
from collections.abc import Callable

from r1v3_jax.evaluate.statistics import share_interval, wilson
from r1v3_jax.rewards import phrases
from r1v3_jax.rewards.score import Score
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import GroupSampler, sample
from r1v3_jax.types import Example


def sample_groups(
    sampler: GroupSampler,
    model,
    source: Callable[[int], Example],
    count: int,
    batch: int,
    key,
    *,
    temperature: float | None = None,
    whole: int = 0,
) -> list[Group]:
    """Samples answers to the first `count` good rows of a source, `batch` prompts at a time.

    temperature: in place of the sampler's, without another program. The groups come without their
    images, which would fill the memory if the set is large; except the first `whole` of them.
    """
    groups = []
    # Bad rows are skipped by `sample`, so the row numbers it yields do not matter here.
    answers = sample(sampler, model, source, count, batch, key, temperature=temperature)
    for _, group in answers:
        if len(groups) < whole:
            groups.append(group)
            continue
        example = dataclasses.replace(group.example, images=())
        groups.append(dataclasses.replace(group, prompt=None, example=example))
    return groups


def verdicts(groups: list[Group]) -> list[dict]:
    """Returns {id, right, credit} of each question, lists with an entry for each answer.

    right: whether it is; None if it was not verified. credit: what it is worth, 0 to 1, which is
    more than right or wrong where the verifier grades.
    """
    return [
        {
            "id": group.example.id,
            "right": [is_right(score) for score in group.scores],
            "credit": [score.accuracy for score in group.scores],
        }
        for group in groups
    ]


def is_right(score: Score) -> bool | None:
    """Whether an answer is right; None if its verifier ended or hung."""
    return None if score.total is None else score.verdict is Verdict.RIGHT


def accuracy(groups: list[Group]) -> dict[str, float]:
    """Returns {mean, low, high, n}: the share of right answers with its 95% interval.

    With several answers a question it is avg@k, the interval is over questions, and there are also
    {samples, pass, pass_low, pass_high}: pass@k, the share of questions with a right answer among
    k. n counts answers, or questions where there are several.

    Answers whose verification failed are not counted. Only the verdict RIGHT counts as correct:
    partial credit affects rewards, not accuracy.
    """
    # Whether each verified answer to each question is right.
    questions = [
        [right for score in group.scores if (right := is_right(score)) is not None]
        for group in groups
    ]
    answered = [answers for answers in questions if answers]
    shares = [sum(answers) / len(answers) for answers in answered]
    mean, low, high = share_interval(shares)
    measured = {"mean": mean, "low": low, "high": high, "n": len(answered)}
    samples = max((len(group.scores) for group in groups), default=1)
    if samples == 1:
        return measured
    passed, pass_low, pass_high = wilson(sum(map(any, answered)), len(answered))
    return {
        **measured,
        "samples": samples,
        "pass": passed,
        "pass_low": pass_low,
        "pass_high": pass_high,
    }


def unseen(groups: list[Group]) -> dict[str, float]:
    """Returns {cannot_see}: the share of chains that say they cannot see the image.

    If there are any, also {accuracy_cannot_see}: how often those are right. Skywork-R1V3's report
    has both (table 5): 47 of 900 chains, 51.1 against 77.3.
    """
    answers = [
        (text, is_right(score))
        for group in groups
        for text, score in zip(group.texts, group.scores, strict=True)
        if score.total is not None
    ]
    share, right = cannot_see(answers)
    seen = {"cannot_see": share}
    return seen if right is None else {**seen, "accuracy_cannot_see": right}


def cannot_see(answers: list[tuple[str, bool | None]]) -> tuple[float, float | None]:
    """Returns the share of chains that say they cannot see the image, and the accuracy of those.

    answers: (text, whether it is right, None if that is not known). None: no such chain is known.
    """
    says = [
        (phrases.cannot_see(text.partition("</think>")[0]), right)
        for text, right in answers
    ]
    known = [right for says_so, right in says if says_so and right is not None]
    share = sum(says_so for says_so, _ in says) / max(1, len(says))
    return share, sum(known) / len(known) if known else None
