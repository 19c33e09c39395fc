"""What is kept of the answers to a question, each way on a group written out."""

import numpy as np
import pytest
from test_distill import FAILED, RIGHT, SHAPELESS, WRONG, group

from r1v3_jax.distill import keeps
from r1v3_jax.distill.filter import Filter
from r1v3_jax.distill.keeps import (
    Best,
    Longest,
    Pairs,
    Rates,
    Right,
    Said,
    Shortest,
    Wrong,
)
from r1v3_jax.rewards.terms import equations_hold
from r1v3_jax.rewards.verifiers.verdict import Verdict


def scored(score, **parts):
    return score.__class__(**{**vars(score), "parts": parts})


# Right answers of 3, 2, 4 and 2 tokens, a wrong one, and one that was cut.
GROUP = group(
    7,
    [
        ([1, 2, 3], True, RIGHT),
        ([4, 5], True, RIGHT),
        ([6], True, WRONG),
        ([7, 8, 9, 1], True, RIGHT),
        ([2, 3], True, RIGHT),
        ([5], False, RIGHT),
    ],
)


@pytest.mark.parametrize(
    "keep, chains",
    [
        (Shortest(), ["4 5"]),
        (Shortest(3), ["4 5", "2 3", "1 2 3"]),  # of equal ones the one sampled before
        (Longest(2), ["7 8 9 1", "1 2 3"]),
        (Right(2), ["1 2 3", "4 5"]),
        (Shortest(9, filter=Filter(max_tokens=2)), ["4 5", "2 3"]),
    ],
    ids=str,
)
def test_chains(keep, chains):
    kept = keep(GROUP)
    assert kept.rows == [{"id": "q7", "chain": chain} for chain in chains]
    assert kept.verdicts.count("kept") == len(chains)
    assert kept.verdicts[2] == "wrong" and kept.verdicts[5] == "too long"
    assert keep.MAKES == "chains"


def test_the_chains_that_a_scorer_likes_best():
    """Of the right ones; one of which the scorer says nothing comes last."""
    samples = [
        ([1], True, scored(RIGHT, equations_hold=0.0)),
        ([2], True, RIGHT),
        ([3], True, scored(WRONG, equations_hold=1.0)),
        ([4], True, scored(RIGHT, equations_hold=1.0)),
    ]
    kept = Best(equations_hold, 2)(group(0, samples))
    assert [row["chain"] for row in kept.rows] == ["4", "1"]
    assert kept.verdicts == [
        "kept",
        "others of its question were better",
        "wrong",
        "kept",
    ]


@pytest.mark.parametrize(
    "text, cut",
    [
        ("7+8=15; Wait, 14\n</think>\n15", "7+8=15;\n</think>\n15"),
        ("7+8=15\n</think>\nWait, 15", "7+8=15\n</think>\nWait, 15"),  # in the answer
        ("Hmm so Wait 3</think>3", None),  # nothing is left
        ("a Hmm b Wait</think>3", "a</think>3"),  # the first of the words
    ],
)
def test_chains_are_cut_at_words_of_reflection(text, cut):
    assert keeps.before_reflection(text, ("Wait", "Hmm")) == cut


def test_a_chain_that_begins_with_reflection_is_no_chain():
    samples = group(0, [([1], True, RIGHT), ([2, 3], True, RIGHT)])
    samples.texts[:] = ["Wait 1</think>", "2 Wait</think>3"]
    kept = Shortest(2, cut=("Wait",))(samples)
    assert [row["chain"] for row in kept.rows] == ["2</think>3"]
    assert kept.verdicts[0] == "begins with a word of reflection"


def test_pairs_of_right_and_wrong_answers():
    """In the order they were sampled, none in two pairs; what has no form is neither."""
    shapeless_wrong = scored(WRONG)
    shapeless_wrong = shapeless_wrong.__class__(**{**vars(WRONG), "format": 0.0})
    samples = [
        ([0], True, RIGHT),
        ([1], True, WRONG),
        ([2], True, WRONG),
        ([3], True, RIGHT),
        ([4], True, WRONG),
        ([5], True, shapeless_wrong),
        ([6], False, WRONG),
        ([7], True, FAILED),
        ([8], True, SHAPELESS),
    ]
    kept = Pairs(2)(group(3, samples))
    assert kept.rows == [
        {"id": "q3", "chosen": "0", "rejected": "1"},
        {"id": "q3", "chosen": "3", "rejected": "2"},
    ]
    assert kept.verdicts == [
        *["kept"] * 4,
        "wrong, without a right answer beside it",
        "wrong",
        "too long",
        "verifier failed",
        "format",
    ]
    one = Pairs()(group(3, samples[:4]))
    assert [row["chosen"] for row in one.rows] == ["0"]
    assert one.verdicts == ["kept", "kept", *["in a pair beyond `most`"] * 2]
    alone = Pairs()(group(3, [samples[0], samples[1], samples[3]]))
    assert alone.verdicts[2] == "right, without a wrong answer beside it"
    assert not Pairs()(group(3, samples[1:3])).rows


def test_answers_as_texts():
    rows = Said(2)(GROUP).rows
    assert rows == [
        {"id": "q7", "said": "1 2 3", "right": True},
        {"id": "q7", "said": "4 5", "right": True},
    ]
    assert Wrong(2)(GROUP).rows == [{"id": "q7", "said": "6", "right": False}]
    assert Said.MAKES == Wrong.MAKES == "said"


def test_how_often_a_question_is_solved():
    verified = [RIGHT.total] * 5 + [WRONG.total]
    assert Rates()(GROUP).rows == [
        {
            "id": "q7",
            "source": "set",
            "pass_rate": 5 / 6,
            "reward_std": np.std(verified),
            "samples": 6,
        }
    ]


def test_reward_pass():
    """A right answer among the two that the scorer likes best: in the first group, not in the
    second; the third was not verified.
    """

    def of(*samples):
        scores = [
            scored(RIGHT if is_right else WRONG, equations_hold=value)
            for is_right, value in samples
        ]
        return group(0, [([i], True, score) for i, score in enumerate(scores)])

    groups = [
        of((False, 1.0), (True, 0.9), (False, 0.1)),
        of((False, 1.0), (True, 0.1), (False, 0.9)),
        group(0, [([1], True, FAILED)]),
    ]
    assert keeps.reward_pass(groups, Best(equations_hold, 2)) == 0.5
    assert keeps.reward_pass(groups, Best(equations_hold, 3)) == 1.0
    assert keeps.reward_pass(groups[2:], Best(equations_hold, 3)) == 0.0
    assert groups[2].scores[0].verdict is Verdict.ERROR
