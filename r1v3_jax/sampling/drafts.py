"""One pass for several tokens of every sample: those that a draft head has guessed.

A guess is kept where it is the token that the policy draws there with the key that it always has.
So a sample is the same, token for token, whatever is guessed and whoever guesses; guesses decide
only how many passes it takes (speculative decoding; with a test of equality in place of one of
ratios, a sample is not merely as probable as without it, but the same). Up to rounding: the sums of
a pass of several tokens are taken in another order, and a near tie may be decided otherwise.
"""

import dataclasses

import jax
import jax.numpy as jnp

from r1v3_jax.sampling.advance import (
    Decoding,
    next_tokens,
    with_whole_rows,
    written,
)
from r1v3_jax.sampling.next_token import choose
from r1v3_jax.sampling.state import DecodeState


def advance_several(
    decoding: Decoding, sample_keys: jax.Array, state: DecodeState
) -> DecodeState:
    """Does `advance`, and samples up to T - 1 more tokens: those that the draft head has guessed.

    One pass through the model reads T tokens a sample, the new one and the guesses behind it. A
    guess stays where it is the token that the policy draws there, with the key it always has; the
    first that differs, and all behind it, are forgotten. So every sample is what it is without
    guesses. With T = 4, where the policy continues a b c d e:

        drawn a, guessed b c x     read a b c x     drawn b c d     d is not x: now a b c
        drawn d (again) ...
    """
    model = decoding.model
    record = state.record
    closed = state.closed

    # 1. The token after the last pass, as `advance` has it.
    live = ~state.idle
    new = next_tokens(decoding, sample_keys, record, state.logits, closed)
    record = written(decoding, record, live, new)
    idle = state.idle | record.ended | (record.lengths >= decoding.limit)
    closed = new.closed

    # 2. Guesses, and one pass through all of them.
    guesses = draft(decoding, sample_keys, state, record.lengths, new.token)
    tokens = jnp.stack([new.token, *guesses], axis=1)
    logits, hidden, cache = model.decode_several(tokens, state.cache)

    # 3. Keep the guesses that the policy draws too.
    follows = live & ~idle
    accepted = jnp.zeros_like(record.lengths)
    for i, guess in enumerate(guesses):
        new = next_tokens(decoding, sample_keys, record, logits[:, i], closed)
        follows = follows & (new.token == guess)
        record = written(decoding, record, follows, new)
        closed = jnp.where(follows, new.closed, closed)
        accepted = accepted + follows
        idle = idle | record.ended | (record.lengths >= decoding.limit)
        follows = follows & ~idle

    # 4. Go on behind the last that stays. Keys of others are overwritten.
    lengths = cache.lengths + 1 + accepted
    return dataclasses.replace(
        state,
        step=state.step + 1,
        logits=entry_of_rows(logits, accepted),
        closed=closed,
        idle=idle,
        cache=dataclasses.replace(cache, lengths=jnp.where(idle, 0, lengths)),
        record=record,
        hidden=entry_of_rows(hidden, accepted),
        passes=state.passes + live,
    )


def draft(
    decoding: Decoding,
    sample_keys: jax.Array,
    state: DecodeState,
    lengths: jax.Array,
    token: jax.Array,
) -> list[jax.Array]:
    """Guesses the T - 1 tokens behind `token`, int32[B] each, by the draft head.

    lengths: int32[B], tokens of each sample, `token` among them. A guess is drawn from the head's
    distribution with the key of the policy's own draw: where the two distributions are alike, so
    are the draws (arXiv 2408.07978).
    """
    model = decoding.model
    drafter = decoding.drafter
    hidden = state.hidden[:, None]
    seen = ()
    guesses = []
    for i in range(drafter.tokens - 1):
        embedded = model.language.embed(token[:, None])
        hidden, seen = drafter(hidden, embedded, seen)
        logits = with_whole_rows(decoding, model.logits(hidden)[:, 0])
        keys = jax.vmap(jax.random.fold_in)(sample_keys, lengths + i)
        rule = (decoding.sampling, decoding.tile, decoding.temperature)
        token = choose(logits, keys, *rule)
        guesses.append(token)
    return guesses


def entry_of_rows(table: jax.Array, entry: jax.Array) -> jax.Array:
    """Returns entry[b] of each row b of [B, T, N]: [B, N]."""
    is_entry = jnp.arange(table.shape[1]) == entry[:, None]
    return jnp.sum(jnp.where(is_entry[..., None], table, 0), axis=1)
