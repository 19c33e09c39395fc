"""Finds the loop in which a completion ends, as CAMPO (MiroMind-M1, arXiv 2507.14683) does.

Knows token ids alone.
"""

from collections.abc import Sequence


def looped_share(ids: Sequence[int]) -> float:
    """Returns the share of a token sequence that its final loop takes, 0 to 1.

    A loop is a block of L tokens that stands at the end at least twice in a row. Of several L the
    largest counts, also where a smaller one reaches further back: so does the released code,
    `find_infinite_loop_start` with min_repeats = 2. A loop that was left again is none.

        9 1 2 1 2      the block 1 2 twice                        4 of 5 tokens: 0.8
        0 4 4 4 4 4    the block 4 4 twice, not 4 five times      4 of 6 tokens: 0.67

    The time is linear in the number of tokens, whatever they are.
    """
    # Read from the end, the block of L tokens is repeated if the text agrees with itself, shifted
    # by L, for L tokens. It is repeated k times more if it agrees for k L tokens.
    # Example: 2 1 2 1 9 shifted by 2 is 2 1 9: they agree for 2 tokens, so 2 1 stands twice.
    backwards = [int(i) for i in reversed(ids)]
    count = len(backwards)
    agreements = self_agreements(backwards)
    for length in range(count // 2, 0, -1):
        repeats = agreements[length] // length
        if repeats:
            return (repeats + 1) * length / count
    return 0.0


def self_agreements(items: Sequence[int]) -> list[int]:
    """Computes for each shift how many items agree with the items shifted by it (the Z-function).

        2 1 2 1 9   ->   5 0 2 0 0

    Gusfield, Algorithms on Strings, Trees and Sequences, section 1.4: linear in time.
    """
    count = len(items)
    agreements = [count] * count
    # Of the stretches seen so far that repeat the beginning, the one that reaches furthest.
    start = 0
    end = 0
    for shift in range(1, count):
        agreement = 0
        if shift < end:
            # Inside the stretch everything stands as at the beginning.
            agreement = min(end - shift, agreements[shift - start])
        while (
            shift + agreement < count and items[agreement] == items[shift + agreement]
        ):
            agreement += 1
        agreements[shift] = agreement
        if shift + agreement > end:
            start = shift
            end = shift + agreement
    return agreements
