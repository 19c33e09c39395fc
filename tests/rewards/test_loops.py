"""The loop score of CAMPO: written out, against a direct transcription, and fast enough."""

import time

import numpy as np
import pytest

from r1v3_jax.rewards.loops import looped_share, self_agreements

# Token ids, and how many of them the final loop takes.
WRITTEN_OUT = {
    "nothing": ([], 0),
    "one token": ([5], 0),
    "no loop": ([1, 2, 3, 4], 0),
    "two equal tokens": ([7, 7], 2),
    "a loop of one token": ([1, 2, 3, 3], 2),
    "a loop of two tokens": ([9, 1, 2, 1, 2], 4),
    "half a block in front is not in the loop": ([9, 2, 1, 2, 1, 2], 4),
    "all one token": ([4, 4, 4, 4, 4, 4], 6),
    "a longer block replaces a longer run": ([0, 4, 4, 4, 4, 4], 4),
    "a longer block replaces a shorter run": ([3, 1, 2, 2, 1, 2, 2], 6),
    "a loop that was left again": ([1, 2, 1, 2, 1, 2, 9], 0),
    "the beginning returns once, without a block": ([1, 2, 3, 1], 0),
    "three blocks": ([8, 5, 6, 7, 5, 6, 7, 5, 6, 7], 9),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_loops_written_out(name):
    """Proves: the share is that of the tokens counted by hand."""
    ids, looped = WRITTEN_OUT[name]
    expected = looped / len(ids) if ids else 0.0
    assert looped_share(ids) == expected
    assert looped_share(np.array(ids, np.int32)) == expected
    assert released_code(ids) == expected


def released_code(ids: list[int]) -> float:
    """`find_infinite_loop_start` of MiroMind-M1's verl, min_repeats = 2, step by step."""
    n = len(ids)
    start = n
    for length in range(1, n // 2 + 1):
        count = 1
        right = n - length
        while right - length >= 0:
            if ids[right - length : right] != ids[right : right + length]:
                break
            count += 1
            right -= length
        if count >= 2:
            start = right
    return (n - start) / n if start < n else 0.0


def random_sequences(seed: int) -> list[list[int]]:
    """Random token ids of few kinds, most with a loop at the end that may be broken."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(500):
        kinds = rng.integers(1, 5)
        head = rng.integers(0, kinds, rng.integers(0, 12))
        block = rng.integers(0, kinds, rng.integers(1, 7))
        tail = np.tile(block, rng.integers(0, 5))
        if len(tail) and rng.random() < 0.3:
            tail[rng.integers(len(tail))] = kinds
        sequences.append([*head.tolist(), *tail.tolist()])
    return sequences


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_sequences_have_the_score_of_the_released_code(seed):
    """Proves: the linear search finds what the quadratic one finds, on loops of every kind."""
    sequences = random_sequences(seed)
    scores = [looped_share(ids) for ids in sequences]
    assert scores == [released_code(ids) for ids in sequences]
    # There are samples of each kind.
    assert 0.0 in scores and 1.0 in scores and len(set(scores)) > 50


def test_self_agreements_are_counted_one_by_one():
    """Proves: the Z-function agrees with its definition."""
    assert self_agreements([2, 1, 2, 1, 9]) == [5, 0, 2, 0, 0]
    for ids in random_sequences(3)[:100]:
        counted = []
        for shift in range(len(ids)):
            pairs = zip(ids, ids[shift:], strict=False)
            differing = [i for i, (a, b) in enumerate(pairs) if a != b]
            counted.append(differing[0] if differing else len(ids) - shift)
        assert self_agreements(ids) == counted


LONG = 32_768
LONG_SEQUENCES = {
    "one token": np.zeros(LONG, np.int32),
    "no loop": np.arange(LONG),
    "two kinds": np.random.default_rng(0).integers(0, 2, LONG),
    "a block of half the length": np.tile(np.arange(LONG // 2), 2),
    "blocks of 100": np.arange(LONG) % 100,
    "almost one token": np.r_[1, np.zeros(LONG - 1, np.int32)],
}


@pytest.mark.parametrize("name", LONG_SEQUENCES)
def test_time_is_linear_for_the_longest_completions(name):
    """Proves: no sequence of 32,768 tokens takes more than a second, which is 50 times its due."""
    ids = LONG_SEQUENCES[name]
    started = time.process_time()
    looped_share(ids)
    assert time.process_time() - started < 1.0
