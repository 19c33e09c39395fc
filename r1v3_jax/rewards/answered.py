r"""One sampled answer, as the terms of a reward see it: text, tokens, question, verdict.

A sample is first text with its question (`Sample`); what its answer is, and whether it is right,
makes it an `Answered`.
"""

import dataclasses
from collections.abc import Sequence

from r1v3_jax.rewards.verifiers.verdict import Check
from r1v3_jax.types import Example


@dataclasses.dataclass(frozen=True)
class Sample:
    """A completion and the question that it answers."""

    text: str  # behind the prompt, which ends in <think>
    example: Example
    ended: bool  # by itself; False: it was cut at the length limit
    ids: Sequence[int] = ()  # the sampled tokens
    limit: int = 0  # how many tokens it may have


@dataclasses.dataclass(frozen=True)
class Answered(Sample):
    """A sample with the verdict on its answer: all that a term of a reward may look at."""

    check: Check | None = None
    answers: tuple[str, ...] = ()  # of the summary: what its boxes, or its tags, hold
    unfinished: bool = False  # whether a box or a tag of the summary is never closed
    thinking: bool = True  # whether it must think first, and close that with </think>
    progress: float = 1.0  # of the stage, 0 to 1
