"""One token: the choice written out, statistics of the draws, bans, penalties and budgets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sampling_cases import VOCAB
from transformers import (
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from r1v3_jax.config import TINY, ModelConfig
from r1v3_jax.models.attention import NEVER
from r1v3_jax.sampling import next_token
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import Completions, append

# --- one choice, written out -------------------------------------------------------------------

#        token       0    1    2    3
LOGITS = jnp.log(jnp.array([[0.1, 0.5, 0.3, 0.1]]))


def drawn(**settings):
    """Share of each token among 4,000 draws, in two columns."""
    keys = jax.random.split(jax.random.key(7), 4000)
    logits = jnp.broadcast_to(LOGITS, (4000, 4))
    tokens = next_token.choose(
        logits, keys, SamplingParams(max_tokens=1, **settings), (8, 2)
    )
    assert tokens.dtype == jnp.int32
    return np.bincount(tokens, minlength=4) / 4000


# Five standard deviations of a share of 4,000 draws: 5 * sqrt(1/4 / 4,000).
SHARE = 0.04


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [0.1, 0.5, 0.3, 0.1]),
        ({"temperature": 0.5}, [1 / 36, 25 / 36, 9 / 36, 1 / 36]),  # p^2, normalised
        ({"temperature": 2.0}, [0.168, 0.375, 0.290, 0.168]),  # sqrt(p), normalised
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 5 / 8, 3 / 8, 0]),
        ({"top_k": 99}, [0.1, 0.5, 0.3, 0.1]),
        ({"top_p": 0.4}, [0, 1, 0, 0]),
        ({"top_p": 0.7}, [0, 5 / 8, 3 / 8, 0]),
        ({"banned": (1,)}, [0.2, 0, 0.6, 0.2]),
        ({"banned": (1,), "top_k": 1}, [0, 0, 1, 0]),
        ({"banned": (1, 2)}, [0.5, 0, 0, 0.5]),
        # .5 of the .7 that remain reach it.
        ({"banned": (2,), "top_p": 0.7}, [0, 1, 0, 0]),
    ],
    ids=str,
)
def test_choices(settings, expected):
    shares = drawn(**settings)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=SHARE)
    # Nothing that is excluded is ever drawn.
    assert np.all((shares > 0) == (np.array(expected) > 0))


def test_greedy_takes_the_highest_that_is_not_banned():
    logits = jnp.array([[0.0, 9.0, 2.0, 1.0], [5.0, 9.0, 2.0, 9.0]])
    keys = jax.random.split(jax.random.key(0), 2)

    def choose(**settings):
        settings = SamplingParams(max_tokens=1, temperature=0.0, **settings)
        return next_token.choose(logits, keys, settings, (1, 1)).tolist()

    assert choose() == [1, 1]
    assert choose(banned=(1,)) == [2, 3]
    assert choose(banned=(1, 3)) == [2, 0]
    assert choose(top_k=1, top_p=0.5) == [1, 1]


def test_what_is_banned_is_never_drawn_however_low_the_rest():
    logits = jnp.array([[90.0, -300.0, -400.0]] * 100)
    keys = jax.random.split(jax.random.key(0), 100)
    for temperature in (0.0, 0.5, 1.0, 100.0):
        settings = SamplingParams(max_tokens=1, temperature=temperature, banned=(0,))
        assert 0 not in np.asarray(next_token.choose(logits, keys, settings, (1, 1)))


def test_pad_rows_of_the_vocabulary_are_never_drawn():
    logits = jnp.array([[0.0, 0.0, NEVER, NEVER]] * 1000)
    keys = jax.random.split(jax.random.key(0), 1000)
    for temperature in (0.1, 1.0, 100.0):
        settings = SamplingParams(max_tokens=1, temperature=temperature, banned=(0,))
        tokens = next_token.choose(logits, keys, settings, (1, 2))
        assert np.all(np.asarray(tokens) == 1)


@pytest.mark.parametrize(
    "tile", [(1, 1), (8, 1), (1, 2), (4, 2), (8, 4), (8, 8)], ids=str
)
def test_a_draw_by_columns_is_a_draw_from_all(tile):
    """A flat column, and one with a peak: their shares are sums, not maxima."""
    p = jnp.array([0.1, 0.3, 0.1, 0.15, 0.1, 0.1, 0.1, 0.05])
    keys = jax.random.split(jax.random.key(3), 20_000)
    tokens = next_token.draw(jnp.tile(jnp.log(p), (20_000, 1)), keys, tile)
    share = np.bincount(tokens, minlength=8) / 20_000
    five_deviations = 5 * np.sqrt(p * (1 - p) / 20_000)
    assert np.all(np.abs(share - p) <= five_deviations)


def test_nucleus_floor_written_out():
    p = jnp.array(
        [
            [0.5, 0.3, 0.1, 0.1],
            [0.1, 0.1, 0.3, 0.5],
            [0.25, 0.25, 0.25, 0.25],
        ]
    )
    cases = {
        0.01: [0.5, 0.5, 0.25],
        0.49: [0.5, 0.5, 0.25],
        0.7: [0.3, 0.3, 0.25],
        0.85: [0.1, 0.1, 0.25],
    }
    for top_p, expected in cases.items():
        floors = jnp.exp(next_token.nucleus_floor(jnp.log(p), top_p))
        np.testing.assert_allclose(floors[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"top_k": 5}, {"top_p": 0.3}, {"top_p": 0.95}], ids=str
)
def test_what_is_cut_equals_transformers(settings):
    logits = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32) * 2
    if "top_k" in settings:
        warper = TopKLogitsWarper(5)
    else:
        warper = TopPLogitsWarper(settings["top_p"])
    theirs = torch.isfinite(warper(None, torch.from_numpy(logits))).numpy()
    # 20,000 draws a row: also what is kept with a probability of 1e-3 comes up.
    keys = jax.random.split(jax.random.key(0), 20_000)
    settings = SamplingParams(max_tokens=1, **settings)
    for row in range(8):
        copies = jnp.tile(logits[row], (20_000, 1))
        tokens = next_token.choose(copies, keys, settings, (8, 2))
        assert np.array_equal(np.unique(tokens), np.flatnonzero(theirs[row]))


# --- the other parts, written out --------------------------------------------------------------


def completions(tokens, lengths, ended):
    shape = np.shape(tokens)
    zeros = jnp.zeros(shape, jnp.float32)
    return Completions(
        tokens=jnp.array(tokens),
        logprobs=zeros,
        entropies=zeros,
        chosen=jnp.zeros(shape, bool),
        lengths=jnp.array(lengths),
        ended=jnp.array(ended),
    )


def test_append_written_out():
    # Three samples at step 1: one goes on, one ends now (end token 2), one has ended before.
    before = completions(
        [[5, 0, 0], [6, 0, 0], [2, 0, 0]], [1, 1, 1], [False, False, True]
    )
    after = append(
        before,
        jnp.array([True, True, False]),
        jnp.array([7, 2, 9]),
        jnp.array([-1.0, -2.0, -3.0]),
        jnp.array([0.1, 0.2, 0.3]),
        jnp.array([True, False, True]),
        2,
    )
    assert after.tokens.tolist() == [[5, 7, 0], [6, 2, 0], [2, 0, 0]]
    assert after.logprobs.tolist() == [[0, -1, 0], [0, -2, 0], [0, 0, 0]]
    np.testing.assert_allclose(after.entropies[:, 1], [0.1, 0.2, 0])
    assert after.chosen[:, 1].tolist() == [True, False, False]
    assert after.lengths.tolist() == [2, 2, 1]
    assert after.ended.tolist() == [False, True, True]


def test_measure_is_the_log_softmax_and_its_entropy():
    logits = jnp.array([[1.0, 2.0, 4.0, NEVER], [0.0, 0.0, 0.0, 0.0]])
    for temperature in (1.0, 0.5):
        logprob, entropy = next_token.measure(logits, jnp.array([2, 0]), temperature)
        p = np.exp(np.array([1.0, 2.0, 4.0]) / temperature)
        p /= p.sum()
        np.testing.assert_allclose(logprob, [np.log(p[2]), -np.log(4)], atol=1e-6)
        entropies = [-np.sum(p * np.log(p)), np.log(4)]
        np.testing.assert_allclose(entropy, entropies, atol=1e-6)


def test_repetition_penalty_equals_transformers():
    logits = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32) * 3
    tokens = [[3, 5, 3, 0], [7, 0, 0, 0], [0, 0, 0, 0]]
    lengths = [3, 1, 0]
    settings = SamplingParams(max_tokens=4, repetition_penalty=1.3)
    state = completions(tokens, lengths, [False] * 3)
    ours = next_token.penalised(jnp.asarray(logits), state, settings)
    penalty = RepetitionPenaltyLogitsProcessor(1.3)
    # What is not written yet (0) is not penalised.
    for row, length in enumerate(lengths):
        ids = torch.tensor([tokens[row][:length]], dtype=torch.long)
        theirs = penalty(ids, torch.from_numpy(logits[row : row + 1]))
        np.testing.assert_allclose(ours[row], theirs[0], rtol=1e-6)
    neutral = SamplingParams(max_tokens=4)
    untouched = next_token.penalised(jnp.asarray(logits), state, neutral)
    assert np.array_equal(untouched, logits)


def test_banned_sequences_equal_transformers():
    """Ends of one, two and three tokens of a sequence, another's beginning, and no token at all."""
    rng = np.random.default_rng(1)
    sequences = ((5, 6), (5, 7, 8), (7, 7), (1, 2, 3, 4))
    tokens = rng.choice([1, 2, 3, 5, 7], (400, 4))
    tokens[:3] = [[5, 0, 0, 0], [9, 5, 7, 0], [1, 2, 3, 0]]
    lengths = rng.integers(0, 4, 400)
    lengths[:3] = [1, 3, 3]
    logits = rng.normal(size=(400, 12)).astype(np.float32)
    settings = SamplingParams(max_tokens=4, banned_sequences=sequences)
    state = completions(tokens, lengths, [False] * 400)
    ours = np.asarray(
        next_token.without_sequences(jnp.asarray(logits), state, settings)
    )
    bans = NoBadWordsLogitsProcessor([list(sequence) for sequence in sequences], 11)
    for row, length in enumerate(lengths):
        ids = torch.from_numpy(tokens[row : row + 1, :length])
        theirs = bans(ids, torch.from_numpy(logits[row : row + 1]))[0].numpy()
        np.testing.assert_array_equal(ours[row] == NEVER, np.isneginf(theirs))
    assert [np.flatnonzero(row == NEVER).tolist() for row in ours[:3]] == [
        [6],
        [7, 8],
        [4],
    ]
    neutral = SamplingParams(max_tokens=4)
    same = next_token.without_sequences(jnp.asarray(logits), state, neutral)
    assert np.array_equal(same, logits)


# think_end is 7 or 17, 8, 9 or 19; after three tokens it is forced.
BUDGETS = {  # what the policy wants, what it gets, which of these tokens are its own
    "cut": ("1 2 3 4 5 6 1 2", "1 2 3 7 8 9 1 2", "11100011"),
    "about to close": ("1 7 8 4 5 6 1 2", "1 7 8 9 5 6 1 2", "11101111"),
    "closed in time": ("7 8 9 4 5 6 1 2", "7 8 9 4 5 6 1 2", "11111111"),
    "a false start": ("7 7 8 4 5 6 1 2", "7 7 8 9 5 6 1 2", "11101111"),
    "its own, but forced": ("7 8 1 7 8 9 1 2", "7 8 1 7 8 9 1 2", "11100011"),
    "merged at its ends": ("17 8 19 4 5 6 1 2", "17 8 19 4 5 6 1 2", "11111111"),
    "begun merged": ("1 2 17 4 5 6 1 2", "1 2 17 8 9 6 1 2", "11100111"),
    "only its end": ("1 8 9 4 5 6 1 2", "1 8 9 7 8 9 1 2", "11100011"),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_thinking_budget_written_out(name):
    wanted, expected, chosen = BUDGETS[name]
    tokens, own = close(ids(wanted), ((7, 17), (8,), (9, 19)))
    assert tokens == ids(expected)
    assert own == [flag == "1" for flag in chosen]


def ids(text):
    return [int(token) for token in text.split()]


def test_an_end_of_thinking_that_overlaps_itself():
    # 7 7 8 after 7 7 7 8: its first two are the second and third 7.
    assert close([7, 7, 7, 8, 5, 6], ((7,), (7,), (8,)))[0] == [7, 7, 7, 8, 5, 6]
    assert close([1, 7, 7, 7, 5, 6], ((7,), (7,), (8,)))[0] == [1, 7, 7, 8, 5, 6]


def close(wanted, think_end):
    """What a policy that wants these tokens gets under a budget of three, and which are its own."""
    settings = SamplingParams(max_tokens=8, thinking_tokens=3, think_end=think_end)
    tokens = np.zeros((1, len(wanted)), np.int32)
    closed = jnp.zeros(1, bool)
    own = []
    for step, token in enumerate(wanted):
        token, chosen, closed = next_token.close_thinking(
            jnp.array([token]),
            jnp.array([step]),
            jnp.asarray(tokens),
            closed,
            settings,
        )
        tokens[0, step] = token[0]
        own.append(bool(chosen[0]))
    return tokens[0].tolist(), own


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_tokens": 0}, "max_tokens 0 must be at least 1"),
        ({"temperature": -0.1}, "must not be negative; 0 is greedy"),
        ({"top_p": 0.0}, r"top_p 0.0 must lie in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p 1.5 must lie in \(0, 1\]"),
        ({"top_k": -1}, "top_k -1 must not be negative"),
        ({"repetition_penalty": 0.0}, "must be positive"),
        ({"banned_sequences": ((3,),)}, "two or more tokens"),
        ({"thinking_tokens": 5}, "needs think_end"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**{"max_tokens": 4, **settings})


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"max_tokens": 30},
            "prompts of 3 tokens and completions of 30 exceed the model's 32",
        ),
        ({"banned": (1, 400)}, "banned: token 400 is outside the vocabulary of 331"),
        ({"think_end": ((5,), (-1,))}, "think_end: token -1 is outside"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_model_are_refused(settings, message):
    text = dataclasses.replace(TINY.text, vocab_size=VOCAB, max_positions=32)
    config = ModelConfig(text, None, None, 0, 0)
    sampling = SamplingParams(**{"max_tokens": 4, **settings})
    with pytest.raises(ValueError, match=message):
        sampling.check(config, 3)
