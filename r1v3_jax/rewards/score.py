"""Turns completions into rewards: first the verdicts on their answers, then the terms.

Knows no arrays and no images. Whether an answer is right is decided in `verifiers`. Nothing that a
model writes is executed.
"""

from collections.abc import Sequence

from r1v3_jax.rewards.answered import Answered, Sample
from r1v3_jax.rewards.reward import Reward, Score
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.rewards.verifiers.boxes import summary
from r1v3_jax.rewards.verifiers.verdict import Check
from r1v3_jax.rewards.verify import verify, verify_all
from r1v3_jax.types import Example

# One object for all calls: it is checked once.
DEFAULT = Reward()


def score(
    completion: str,
    answer: str,
    *,
    ended: bool,
    thinking: bool = True,
    verifier: str = "",
    reward: Reward = DEFAULT,
) -> Score:
    """Returns the score of one completion: 0.8 accuracy + 0.2 format (report, section 3.1).

    ended: whether the completion ended by itself. The answer is checked by `verify`.
    """
    example = Example(id="", images=(), question="", answer=answer, verifier=verifier)
    check = verify(completion, answer, thinking=thinking, verifier=verifier)
    return reward(
        _answered(Sample(completion, example, ended), check, Verify(), thinking)
    )


def score_all(
    samples: Sequence[Sample],
    *,
    reward: Reward = DEFAULT,
    verify: Verify | None = None,
    thinking: bool = True,
    progress: float = 1.0,
) -> list[Score]:
    """Returns the score of each sample, in order; answers are checked by `verify_all`.

    progress: of the stage, 0 to 1, for weights and verifiers that move with it.
    """
    verify = verify or Verify()
    checks = verify_all(
        [sample.text for sample in samples],
        [sample.example.answer for sample in samples],
        verifiers=[sample.example.verifier for sample in samples],
        questions=[sample.example.question for sample in samples],
        thinking=thinking,
        progress=progress,
        verify=verify,
    )
    return [
        reward(_answered(sample, check, verify, thinking, progress))
        for sample, check in zip(samples, checks, strict=True)
    ]


def _answered(
    sample: Sample,
    check: Check,
    verify: Verify,
    thinking: bool,
    progress: float = 1.0,
) -> Answered:
    """Returns a sample with its verdict and what stands where its answer is looked for."""
    text = summary(sample.text, thinking)
    answers, unfinished = verify.answer(text or "")
    return Answered(
        text=sample.text,
        example=sample.example,
        ended=bool(sample.ended),
        ids=sample.ids,
        limit=sample.limit,
        check=check,
        answers=tuple(answers),
        unfinished=unfinished,
        thinking=thinking,
        progress=progress,
    )
