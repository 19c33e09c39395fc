"""Entropy where a critical word begins."""

import numpy as np

from r1v3_jax.processing.tokenizer import Tokenizer
from r1v3_jax.rollout.group import Group


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


def entropies(
    groups: list[Group], sequences: list[list[int]], high: float
) -> dict[str, float]:
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
            at = np.flatnonzero(
                critical_mask(group.completions.tokens[g, :size], sequences)
            )
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
        "critical_entropy_next": float(np.nanmean(following))
        if critical
        else float("nan"),
        "critical_count": count,
    }
