"""Settings of each row: the tokens of the same settings for all rows, whatever the others have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1v3_jax.sampling import next_token
from r1v3_jax.sampling.params import RowParams, SamplingParams
from r1v3_jax.sampling.state import Completions

B = 16
V = 64
NO_LIMIT = np.iinfo(np.int32).max
SETTINGS = {
    "as it is": {},
    "greedy": {"temperature": 0.0},
    "cold": {"temperature": 0.5},
    "top k": {"top_k": 5},
    "more than all": {"top_k": 1000},
    "nucleus": {"top_p": 0.4},
    "both, hot": {"temperature": 1.7, "top_k": 9, "top_p": 0.7},
    "greedy, cut": {"temperature": 0.0, "top_k": 2, "top_p": 0.5},
    "penalty": {"repetition_penalty": 1.5},
    "reward": {"repetition_penalty": 0.6, "temperature": 0.0},
    "sequences": {"banned_sequences": ((7, 8), (5, 6, 9), (40, 41))},
    "budget": {"thinking_tokens": 3},
}


def row_params(many: list[SamplingParams]) -> RowParams:
    """The same settings as arrays; sequences have up to four tokens."""
    sequences = np.full((len(many), 3, 4), -1, np.int32)
    for table, sampling in zip(sequences, many, strict=True):
        for row, sequence in zip(table, sampling.banned_sequences, strict=False):
            row[4 - len(sequence) :] = sequence
    return RowParams(
        temperature=jnp.array([x.temperature for x in many], jnp.float32),
        top_k=jnp.array([x.top_k for x in many], jnp.int32),
        top_p=jnp.array([x.top_p for x in many], jnp.float32),
        repetition_penalty=jnp.array([x.repetition_penalty for x in many]),
        thinking_tokens=jnp.array([x.thinking_tokens or NO_LIMIT for x in many]),
        banned_sequences=jnp.asarray(sequences),
        banned=many[0].banned,
        think_end=many[0].think_end,
    )


def sampling_of(name: str) -> SamplingParams:
    end = ((50,), (51,), (52,))
    return SamplingParams(8, banned=(3,), think_end=end, **SETTINGS[name])


@jax.jit(static_argnames="sampling")
def static_tokens(sampling, logits, keys, record, closed):
    return tokens(sampling, logits, keys, record, closed)


@jax.jit
def own_tokens(sampling, logits, keys, record, closed):
    return tokens(sampling, logits, keys, record, closed)


def tokens(sampling, logits, keys, record, closed):
    """A step of `sampling.advance.advance`, up to the token."""
    allowed = next_token.penalised(logits, record, sampling)
    allowed = next_token.without_sequences(allowed, record, sampling)
    token = next_token.choose(allowed, keys, sampling, (8, 16))
    token, chosen, closed = next_token.close_thinking(
        token, record.lengths, record.tokens, closed, sampling
    )
    return token, chosen, closed


@pytest.fixture(scope="module")
def step():
    """Logits, keys and what was sampled before: rows that end in the beginnings of sequences."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 3, (B, V)), jnp.float32)
    # Sequences would otherwise never come to their last token.
    logits = logits.at[:, jnp.array([8, 9, 41])].add(6)
    written = rng.integers(4, V, (B, 8)).astype(np.int32)
    written[0:4, 4] = 7
    written[4:8, 3:5] = (5, 6)
    written[8:12, 4] = 40
    lengths = np.full(B, 5, np.int32)
    lengths[12:] = (0, 1, 2, 4)
    zeros = jnp.zeros((B, 8))
    record = Completions(
        tokens=jnp.asarray(written),
        logprobs=zeros,
        entropies=zeros,
        chosen=zeros.astype(bool),
        lengths=jnp.asarray(lengths),
        ended=jnp.zeros(B, bool),
    )
    keys = jax.random.split(jax.random.key(1), B)
    closed = jnp.arange(B) % 3 == 0
    return logits, keys, record, closed


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_for_all_rows(step, name):
    sampling = sampling_of(name)
    static = static_tokens(sampling, *step)
    own = own_tokens(row_params([sampling] * B), *step)
    for ours, theirs in zip(own, static, strict=True):
        assert np.array_equal(ours, theirs)


def test_rows_do_not_see_each_other(step):
    """Each row has another setting, and the token that all rows with this setting have there."""
    names = [list(SETTINGS)[i % len(SETTINGS)] for i in range(B)]
    for turn in range(len(SETTINGS)):
        turned = names[turn:] + names[:turn]
        mixed = own_tokens(row_params([sampling_of(name) for name in turned]), *step)
        for row, name in enumerate(turned):
            alone = own_tokens(row_params([sampling_of(name)] * B), *step)
            for ours, theirs in zip(mixed, alone, strict=True):
                assert np.array_equal(ours[row], theirs[row]), name


def test_a_row_that_keeps_all_tokens_loses_none():
    """The sum of 64 equal probabilities is rounded, and may reach 1 before the last of them."""
    off = dataclasses.replace(sampling_of("as it is"), banned=())
    both = row_params([off, dataclasses.replace(off, top_p=0.5)])
    floors = next_token.nucleus_floor(jnp.zeros((2, V)), both.top_p)
    assert floors[0, 0] == -jnp.inf
    assert next_token.top_k_floor(jnp.zeros((2, V)), both.top_k)[0, 0] == -jnp.inf
