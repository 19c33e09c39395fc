"""Near misses: plausible slips of a model, written by hand, none of which may be rewarded."""

import json
from collections import Counter
from pathlib import Path

import pytest
from labelled_answers import boxed

from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import check_gold, verify

FILE = Path(__file__).parent / "near_misses.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]
KINDS = Counter(row["kind"] for row in ROWS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_near_miss_is_right(kind):
    """Proves: a slip of this kind is wrong. An error would not be: it counts for nothing."""
    verdicts = [
        (row["answer"], row["box"], check.verdict.value, check.reason)
        for row in ROWS
        if row["kind"] == kind
        for check in [
            verify(boxed(row["box"]), row["answer"], verifier=row["verifier"])
        ]
        if check.verdict is not Verdict.WRONG
    ]
    assert verdicts == []


def test_golds_of_near_misses_are_kept():
    """Proves: a near miss is wrong because it differs, and not because its gold is no answer."""
    golds = {(row["answer"], row["verifier"]) for row in ROWS}
    problems = {gold: check_gold(*gold) for gold in golds}
    assert {gold: problem for gold, problem in problems.items() if problem} == {}


def test_there_are_enough_near_misses():
    """Proves: the file holds what it is said to hold, each pair once."""
    pairs = {(row["answer"], row["box"], row["verifier"]) for row in ROWS}
    assert len(pairs) == len(ROWS) >= 300
    assert len(KINDS) >= 20 and min(KINDS.values()) >= 10
