"""Scores plain texts, as the tests of rewards and verifiers write them."""

from r1v3_jax.rewards.answered import Answered, Sample
from r1v3_jax.rewards.score import score_all
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict
from r1v3_jax.types import Example


def score_texts(texts, answers, ended, *, verifiers=None, weights=None, **options):
    """Returns `score_all` of completions with their reference answers.

    weights: `Example.accuracy_weight` of each.
    """
    count = len(texts)
    rows = zip(
        texts,
        answers,
        ended,
        verifiers or [""] * count,
        weights or [None] * count,
        strict=True,
    )
    samples = [
        Sample(text, example(answer, verifier=verifier, weight=weight), has_ended)
        for text, answer, has_ended, verifier, weight in rows
    ]
    return score_all(samples, **options)


def example(answer="7", *, question="", verifier="", weight=None, **metadata):
    return Example(
        id="row",
        images=(),
        question=question,
        answer=answer,
        verifier=verifier,
        accuracy_weight=weight,
        metadata=metadata,
    )


def answered(
    text="", *, verdict=Verdict.RIGHT, extracted="7", reason="", credit=None, **fields
):
    """Returns an Answered with a verdict; fields: of `Answered`, and `example`."""
    check = Check(verdict, extracted, reason, credit)
    fields = {"example": example(), "ended": True} | fields
    return Answered(text, check=check, **fields)
