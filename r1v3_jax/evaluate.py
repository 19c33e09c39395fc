"""Held-out accuracy with its interval, the entropy of critical tokens, and the choice of a
checkpoint.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from r1v3_jax.processing.tokenizer import Tokenizer
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import Sampler, sample
from r1v3_jax.run.metrics import rank_correlation, wilson
from r1v3_jax.types import Example


def sample_groups(
    sampler: Sampler, model, source: Callable[[int], Example], count: int, batch: int, key
) -> list[Group]:
    """Samples for the first `count` good rows of a source, `batch` prompts at a time; without their
    pictures, which in a large set would fill the memory.
    """
    groups = (group for _, group in sample(sampler, model, source, count, batch, key))
    return [
        dataclasses.replace(
            group, prompt=None, example=dataclasses.replace(group.example, images=())
        )
        for group in groups
    ]


def accuracy(groups: list[Group]) -> dict[str, float]:
    """{mean, low, high, n}: the share of right answers with its 95% interval (Wilson).

    A failed verification is not an answer: it leaves n. Right is a verdict: what a rule by degrees
    gives for an answer that is not counts in rewards, and not here.
    """
    scores = [s for group in groups for s in group.scores if s.total is not None]
    mean, low, high = wilson(sum(s.verdict is Verdict.RIGHT for s in scores), len(scores))
    return {"mean": mean, "low": low, "high": high, "n": len(scores)}


def critical_sequences(tokenizer: Tokenizer, words: tuple[str, ...]) -> list[list[int]]:
    """The ids that each critical word can begin with: as it stands, after a space, after a newline,
    in lower case.
    """
    forms = {
        form
        for word in words
        for base in (word, word.lower())
        for form in (base, f" {base}", f"\n{base}")
    }
    return sorted({tuple(tokenizer.encode_text(form)) for form in forms})


def critical_tokens(tokenizer: Tokenizer, words: tuple[str, ...]) -> tuple[int, ...]:
    """The single tokens that are a critical word. A word of several tokens begins as others do, and
    is not among them.
    """
    return tuple(s[0] for s in critical_sequences(tokenizer, words) if len(s) == 1)


def critical_mask(ids: np.ndarray, sequences: list[list[int]]) -> np.ndarray:
    """bool[T]: true where one of the id sequences begins in int32[T] ids.

    ids [5 7 8 2 7], sequences [7 8]   ->   [0 1 0 0 0]
    """
    mask = np.zeros(len(ids), bool)
    for sequence in sequences:
        # Every place at once: the devices wait, for as many tokens as a step has sampled.
        if len(sequence) > len(ids):
            continue
        begins = np.ones(len(ids) - len(sequence) + 1, bool)
        for i, token in enumerate(sequence):
            begins &= ids[i : i + len(begins)] == token
        mask[: len(begins)] |= begins
    return mask


def entropies(groups: list[Group], sequences: list[list[int]], high: float) -> dict[str, float]:
    """Token entropies of the policy over samples, in nats, at the sampling temperature.

    critical_entropy: the mean entropy of the distributions that emitted the first token of a
    critical word, over the positions of a sample, then over the samples that have any (a decision:
    the report, section 5.1, gives no formula). critical_entropy_next: of the distribution after it.
    nan where no critical word was sampled.
    """
    every, critical, following, count = [], [], [], 0
    for group in groups:
        for g, size in enumerate(group.completions.lengths):
            entropy = group.completions.entropies[g, :size]
            at = np.flatnonzero(critical_mask(group.completions.tokens[g, :size], sequences))
            every.append(entropy)
            if len(at):
                count += len(at)
                critical.append(entropy[at].mean())
                after = at[at + 1 < size] + 1
                following.append(entropy[after].mean() if len(after) else np.nan)
    every = np.concatenate(every)
    return {
        "entropy": float(every.mean()),
        "high_entropy_fraction": float((every > high).mean()),
        "critical_entropy": float(np.mean(critical)) if critical else float("nan"),
        "critical_entropy_next": float(np.nanmean(following)) if critical else float("nan"),
        "critical_count": count,
    }


def select(checkpoints: list[dict], by: str) -> tuple[dict, str]:
    """The chosen one of [{step, critical_entropy, accuracy: {mean, low, high, n}}], and why, in a
    sentence.

    critical_entropy, accuracy: the highest. both: the highest critical-token entropy among the
    checkpoints whose accuracy is not clearly below the best (their intervals overlap).
    """
    if not checkpoints:
        raise ValueError("no checkpoint to choose from; set grpo.evaluate_every")

    best = max(checkpoints, key=lambda c: c["accuracy"]["mean"])
    if by == "accuracy":
        return (
            best,
            f"step {best['step']}: the highest held-out accuracy, {best['accuracy']['mean']:.3f}",
        )
    pool = checkpoints
    if by == "both":
        pool = [c for c in checkpoints if c["accuracy"]["high"] >= best["accuracy"]["low"]]
    chosen = max(pool, key=lambda c: (_entropy(c), c["accuracy"]["mean"]))
    among = f", of the {len(pool)} not clearly below the best in accuracy" if by == "both" else ""
    return chosen, (
        f"step {chosen['step']}: the highest critical-token entropy, "
        f"{chosen['critical_entropy']:.3f} nats{among}"
    )


def selectable(checkpoints: list[dict]) -> set[int]:
    """Steps that `select` might still choose, whatever is measured later: those that no other one
    beats both in accuracy and in critical-token entropy.
    """

    def beaten(c):
        return any(
            _entropy(d) > _entropy(c)
            and d["accuracy"]["mean"] > c["accuracy"]["mean"]
            and d["accuracy"]["high"] >= c["accuracy"]["high"]
            for d in checkpoints
        )

    return {c["step"] for c in checkpoints if not beaten(c)}


def _entropy(checkpoint: dict) -> float:
    value = checkpoint["critical_entropy"]
    return -1.0 if np.isnan(value) else value


def correlation(checkpoints: list[dict]) -> float:
    """Rank correlation of critical-token entropy and held-out accuracy over the checkpoints; nan if
    undefined.
    """
    pairs = [
        (c["critical_entropy"], c["accuracy"]["mean"])
        for c in checkpoints
        if not np.isnan(c["critical_entropy"])
    ]
    return rank_correlation(*zip(*pairs, strict=True)) if len(pairs) > 1 else float("nan")
