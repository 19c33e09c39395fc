"""The entropy of the policy where a critical word, such as "Wait", begins.

Knows tokens and entropies of samples; no model.
"""

from collections.abc import Iterator

import numpy as np

from r1v3_jax.processing.tokenizer import Tokenizer
from r1v3_jax.rollout.group import Group

# Token ids of the critical words, in all their forms.
Sequences = list[tuple[int, ...]]


def critical_sequences(tokenizer: Tokenizer, words: tuple[str, ...]) -> Sequences:
    """Returns the token ids of every form of the words, sorted.

    Forms: as it is, after a space, after a newline, and all three in lower case.
    """
    forms = set()
    for word in words:
        for letters in (word, word.lower()):
            forms.add(letters)
            forms.add(f" {letters}")
            forms.add(f"\n{letters}")
    # Two forms may have the same ids: a tokenizer may drop a space.
    sequences = set()
    for form in forms:
        ids = tokenizer.encode_text(form)
        sequences.add(tuple(ids))
    return sorted(sequences)


def critical_mask(ids: np.ndarray, sequences: Sequences) -> np.ndarray:
    """Returns bool[T]: whether one of the id sequences begins at each of int32[T] ids.

    ids [5 7 8 2 7], sequences [7 8]   ->   [0 1 0 0 0]
    """
    length = len(ids)
    mask = np.zeros(length, bool)
    for sequence in sequences:
        if len(sequence) > length:
            continue
        # All places at once, one token of the sequence after the other: the devices wait, and a
        # loop over all tokens of a step's samples would take seconds. Among 5 ids a sequence of 2
        # has 4 places.
        places = length - len(sequence) + 1
        begins = np.ones(places, bool)
        for i, token in enumerate(sequence):
            shifted = ids[i : i + places]
            begins &= shifted == token
        mask[:places] |= begins
    return mask


def entropies(
    groups: list[Group], sequences: Sequences, high: float
) -> dict[str, float]:
    """Returns token entropies of the policy over samples, in nats, at the sampling temperature.

    entropy: the mean over all tokens.
    high_entropy_fraction: the share of tokens above `high`.
    critical_entropy: of the distributions that emitted the first token of a critical word, the mean
        over a sample's positions, then over the samples that have any (a decision: the report,
        section 5.1, gives no formula). nan if no critical word was sampled.
    critical_entropy_next: the same of the distributions one token later.
    critical_count: critical words in all samples.
    """
    all_entropies = []  # of each sample's tokens
    critical = []  # of each sample with a critical word: the mean where one begins
    following = []  # of the same samples: the mean one token later
    count = 0
    for tokens, entropy in _samples(groups):
        all_entropies.append(entropy)
        mask = critical_mask(tokens, sequences)
        positions = np.flatnonzero(mask)
        # A sample without a critical word has no value: it does not count as 0.
        if not len(positions):
            continue
        count += len(positions)
        values = entropy[positions]
        critical.append(values.mean())
        following.append(_mean_after(entropy, positions))
    token_entropies = np.concatenate(all_entropies)
    is_high = token_entropies > high
    mean = float("nan")
    mean_next = float("nan")
    if critical:
        mean = float(np.mean(critical))
        mean_next = float(np.nanmean(following))
    return {
        "entropy": float(token_entropies.mean()),
        "high_entropy_fraction": float(is_high.mean()),
        "critical_entropy": mean,
        "critical_entropy_next": mean_next,
        "critical_count": count,
    }


def _samples(groups: list[Group]) -> Iterator[tuple]:
    """Yields (int32[T] token ids, float32[T] entropies) of each sample, without the padding."""
    for group in groups:
        completions = group.completions
        for g, length in enumerate(completions.lengths):
            tokens = completions.tokens[g, :length]
            entropy = completions.entropies[g, :length]
            yield tokens, entropy


def _mean_after(entropy: np.ndarray, positions: np.ndarray) -> float:
    """Returns the mean of float32[T] entropy one token after each position; nan if there is none.

    A sample may end with a critical word. T = 5, positions [1 4]: the entropy at 2.
    """
    positions = positions + 1
    inside = positions < len(entropy)
    if not inside.any():
        return np.nan
    values = entropy[positions[inside]]
    return values.mean()
