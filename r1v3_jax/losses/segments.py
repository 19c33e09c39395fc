"""Sums and means over the tokens of each sample in packed rows.

Without loops over samples and without scatters: a row may hold one long sample or many short ones.
"""

import jax
import jax.numpy as jnp


def segment_sum(x: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Returns at each token the sum of `x` over its segment, float32[B, T].

    x            [ 1  2  3 | 4  5 | 0 ]
    segment_ids  [ 1  1  1   2  2   0 ]
    sum          [ 6  6  6   9  9   0 ]

    The sum up to a token (from the left) plus the sum from it on (from the right) counts the token
    itself twice. Sums begin anew in each segment, so that no small sum is a difference of large
    ones. O(T log T).
    """
    from_left = _sums(x, _begins(segment_ids), reverse=False)
    from_right = _sums(x, _ends(segment_ids), reverse=True)
    return from_left + from_right - x


def segment_mean(
    x: jax.Array, is_counted: jax.Array, segment_ids: jax.Array
) -> jax.Array:
    """Returns at each token the mean of `x` over the counted tokens of its segment, float32[B, T].

    is_counted: bool[B, T]; the others may hold anything. 0 in a segment without a counted token.
    """
    counts = segment_sum(is_counted.astype(x.dtype), segment_ids)
    sums = segment_sum(jnp.where(is_counted, x, 0.0), segment_ids)
    return sums / jnp.maximum(counts, 1)


def _begins(segment_ids: jax.Array) -> jax.Array:
    """Returns bool[B, T]: whether a segment begins at the token."""
    before = jnp.roll(segment_ids, 1, axis=1)
    return (segment_ids != before).at[:, 0].set(True)


def _ends(segment_ids: jax.Array) -> jax.Array:
    """Returns bool[B, T]: whether a segment ends at the token."""
    after = jnp.roll(segment_ids, -1, axis=1)
    return (segment_ids != after).at[:, -1].set(True)


def _sums(x: jax.Array, starts: jax.Array, *, reverse: bool) -> jax.Array:
    """Returns running sums that begin anew wherever `starts` says."""

    def combine(earlier, later):
        sum_earlier, _ = earlier
        sum_later, starts_later = later
        # What lies before a start does not count any more.
        total = jnp.where(starts_later, sum_later, sum_earlier + sum_later)
        return total, earlier[1] | starts_later

    sums, _ = jax.lax.associative_scan(combine, (x, starts), axis=1, reverse=reverse)
    return sums
