"""The entropy of the policy where a critical word, such as "Wait", begins.

Knows tokens and entropies of samples; no model.
"""

import numpy as np

from r1v3_jax.processing.tokenizer import Tokenizer
from r1v3_jax.rollout.group import Group


def critical_sequences(
    tokenizer: Tokenizer, words: tuple[str, ...]
) -> list[tuple[int, ...]]:
    """Returns the token ids of every form of the words, sorted.

    Forms: as it is, after a space, after a newline, and all three in lower case.
    """
    forms = set()
    for word in words:
        for letters in (word, word.lower()):
            forms |= {letters, f" {letters}", f"\n{letters}"}
    return sorted({tuple(tokenizer.encode_text(form)) for form in forms})


def critical_tokens(tokenizer: Tokenizer, words: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the tokens that are a whole critical word.

    A word of several tokens is not among them: its first token begins other words too.
    """
    sequences = critical_sequences(tokenizer, words)
    return tuple(sequence[0] for sequence in sequences if len(sequence) == 1)


def critical_mask(ids: np.ndarray, sequences: list[tuple[int, ...]]) -> np.ndarray:
    """Returns bool[T]: whether one of the id sequences begins at each of int32[T] ids.

    ids [5 7 8 2 7], sequences [7 8]   ->   [0 1 0 0 0]
    """
    mask = np.zeros(len(ids), bool)
    for sequence in sequences:
        if len(sequence) > len(ids):
            continue
        # All places at once, one token of the sequence after the other: the devices wait, and a
        # loop over all tokens of a step's samples would take seconds.
        begins = np.ones(len(ids) - len(sequence) + 1, bool)
        for i, token in enumerate(sequence):
            begins &= ids[i : i + len(begins)] == token
        mask[: len(begins)] |= begins
    return mask


def entropies(
    groups: list[Group], sequences: list[tuple[int, ...]], high: float
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
    every = []
    critical = []
    following = []
    count = 0
    for group in groups:
        completions = group.completions
        for g, length in enumerate(completions.lengths):
            entropy = completions.entropies[g, :length]
            every.append(entropy)
            mask = critical_mask(completions.tokens[g, :length], sequences)
            positions = np.flatnonzero(mask)
            if not len(positions):
                continue
            count += len(positions)
            critical.append(entropy[positions].mean())
            # A sample may end with a critical word: then there is no next token.
            following_positions = positions[positions + 1 < length] + 1
            has_next = len(following_positions) > 0
            following.append(
                entropy[following_positions].mean() if has_next else np.nan
            )
    every = np.concatenate(every)
    nan = float("nan")
    return {
        "entropy": float(every.mean()),
        "high_entropy_fraction": float((every > high).mean()),
        "critical_entropy": float(np.mean(critical)) if critical else nan,
        "critical_entropy_next": float(np.nanmean(following)) if critical else nan,
        "critical_count": count,
    }
