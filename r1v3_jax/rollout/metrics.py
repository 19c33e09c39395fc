"""Means over the samples of a step, by source too, and what no update may learn from."""

import dataclasses

import numpy as np

from r1v3_jax.rewards.phrases import cannot_see, reflects
from r1v3_jax.rewards.reward import Score
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group


def not_finite(groups: list[Group]) -> str:
    """Names the first reward or sampler log-probability that is not finite; "" if all are.

    Such samples must never reach an update. (A failed verification has no reward: it is masked.)
    """
    for group in groups:
        totals = [score.total for score in group.scores if score.total is not None]
        if not np.all(np.isfinite(totals)):
            return f"a reward of {group.example.id} is"
        logprobs = group.completions.logprobs
        # Slots behind the end of a sample may hold anything.
        slots = np.arange(logprobs.shape[1])
        is_sampled = slots < group.completions.lengths[:, None]
        if not np.isfinite(logprobs[is_sampled]).all():
            return f"a log-probability of the sampler, {group.example.id}, is"
    return ""


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What is counted of one sample."""

    source: str  # of its question
    score: Score
    length: int  # tokens
    ended: bool
    reflects: bool  # see `rewards.phrases`
    cannot_see: bool


def statistics(groups: list[Group], token_limit: int) -> dict[str, float]:
    """Returns means over the samples of a step, under the names that users of TRL know.

    `reward/NAME` is the mean of a term of the reward, before its weight, over the samples that it
    has something to say about. With several sources there are also the numbers of each.
    """
    samples = [sampled for group in groups for sampled in samples_of(group)]
    # A failed verification has no reward; it is counted and has no other part here.
    known = [s.score for s in samples if s.score.total is not None]
    lengths = np.asarray([sample.length for sample in samples])
    # Where every verification failed, the means are 0.
    reward = np.asarray([score.total for score in known] or [0.0])
    accuracy = [score.accuracy for score in known] or [0.0]
    form = [score.format for score in known] or [0.0]
    errors = [sample.score.verdict is Verdict.ERROR for sample in samples]
    return {
        "reward": float(reward.mean()),
        "reward_std": float(reward.std()),
        "accuracy": float(np.mean(accuracy)),
        "format": float(np.mean(form)),
        "verifier_errors": sum(errors),
        **failed_terms(samples),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(
            1 - np.mean([sample.ended for sample in samples])
        ),
        "slots/busy": float(np.mean([group.busy_slots for group in groups])),
        "length_limit": token_limit,
        **means(samples, ""),
        **by_source(samples),
    }


def mean_entropy(groups: list[Group]) -> float:
    """Returns the policy's mean entropy over the tokens that it sampled, in nats."""
    entropies = []
    for group in groups:
        completions = group.completions
        is_sampled = (
            np.arange(completions.tokens.shape[1]) < completions.lengths[:, None]
        )
        entropies.append(completions.entropies[is_sampled & completions.chosen])
    return float(np.mean(np.concatenate(entropies), dtype=np.float64))


def samples_of(group: Group) -> list[Sampled]:
    """Returns what is counted of each sample of a group."""
    completions = group.completions
    return [
        Sampled(
            source=group.example.source,
            score=score,
            length=int(completions.lengths[g]),
            ended=bool(completions.ended[g]),
            reflects=reflects(text),
            cannot_see=cannot_see(text),
        )
        for g, (text, score) in enumerate(zip(group.texts, group.scores, strict=True))
    ]


def failed_terms(samples: list[Sampled]) -> dict[str, int]:
    """Returns {"reward_errors/NAME": samples} of each term that failed; they are masked."""
    failed = [sample.score.failed for sample in samples if sample.score.failed]
    return {f"reward_errors/{name}": failed.count(name) for name in sorted(set(failed))}


def by_source(samples: list[Sampled]) -> dict[str, float]:
    """Returns {"accuracy/SOURCE": mean, "SOURCE/reward": ...} if there are several sources."""
    sources: dict[str, list[Sampled]] = {}
    for sample in samples:
        sources.setdefault(sample.source, []).append(sample)
    if len(sources) < 2:
        return {}
    out = {}
    for source, of_source in sources.items():
        known = [s.score for s in of_source if s.score.total is not None]
        if known:
            accuracy = float(np.mean([score.accuracy for score in known]))
            out[f"accuracy/{source}"] = accuracy
            out[f"{source}/reward"] = float(np.mean([score.total for score in known]))
        cut = [not sample.ended for sample in of_source]
        out[f"{source}/completions/clipped_ratio"] = float(np.mean(cut))
        out |= means(of_source, f"{source}/")
    return out


def means(samples: list[Sampled], prefix: str) -> dict[str, float]:
    """Returns the means of terms, lengths and phrases, each name behind `prefix`.

    A mean over no samples is left out: no right answer has no length.
    """
    parts: dict[str, list[float]] = {}
    for sample in samples:
        for name, part in sample.score.parts.items():
            parts.setdefault(f"reward/{name}", []).append(part)
    lengths = {"right": [], "wrong": [], "cut": []}
    for sample in samples:
        verdict = sample.score.verdict
        if not sample.ended:
            lengths["cut"].append(sample.length)
        if verdict is not Verdict.ERROR:
            lengths[verdict.value].append(sample.length)
    of_lengths = {
        f"completions/mean_length_{kind}": numbers for kind, numbers in lengths.items()
    }
    phrases = {
        "completions/reflecting": [sample.reflects for sample in samples],
        "completions/cannot_see": [sample.cannot_see for sample in samples],
    }
    collected = parts | of_lengths | phrases
    return {
        prefix + name: float(np.mean(numbers))
        for name, numbers in collected.items()
        if numbers
    }
