"""The likelihood of answers under the reference, as a part of the reward: written out."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from r1v3_jax.config import GRPO
from r1v3_jax.losses import Distilled
from r1v3_jax.rewards.helpers import Likely
from r1v3_jax.rewards.reward import Reward, Score
from r1v3_jax.rewards.terms import correct
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.sharding import make_mesh
from r1v3_jax.train.likelihood import likelihood, with_likelihood
from r1v3_jax.train.policy_batch import pack


def source(index):
    return None


CONFIG = GRPO(
    source,
    prompts=1,
    group_size=5,
    max_completion_tokens=6,
    reward=Reward(((1.0, correct), (0.5, Likely()))),
)
# </think> is the tokens 5 6 7, of which the last may have a newline: 8. 0 ends a turn.
CLOSING = ((5,), (6,), (7, 8))


@pytest.mark.parametrize(
    ("accuracies", "likelihoods", "term", "said"),
    [
        ([1, 1, 1, 0], [0.9, 0.5, 0.99, 0.99], Likely(), [1, 0, 1, None]),
        # All above the cap: all are as likely as their mean, .95 or .9999.
        ([1, 1, 0], [0.99, 0.96, 0.1], Likely(), [1, 1, None]),
        ([1, 1, 0], [0.99, 0.96, 0.1], Likely(cap=1.0), [1, 0, None]),
        ([1, 1, 0], [0.50, 0.49, 0.1], Likely(margin=0.01), [1, 1, None]),
        # Partial credit: the mean is .5, and .4 is below it. Paid is the credit.
        ([0.7, 0.4, 0.4], [0.3, 0.9, 0.9], Likely(), [0.7, None, None]),
        # One alone is as likely as itself; nobody is right; one has no reward.
        ([1, 0, 0], [0.001, 0.9, 0.9], Likely(), [1, None, None]),
        ([0, 0], [0.9, 0.8], Likely(), [None, None]),
        ([None, 1, 1], [0.9, 0.2, 0.4], Likely(), [None, 0, 1]),
    ],
)
def test_right_answers_that_are_likely_written_out(accuracies, likelihoods, term, said):
    assert term.compare(accuracies, likelihoods) == said


def test_the_mean_of_equal_likelihoods_is_reached():
    """The sum of three tenths is rounded up."""
    assert (0.1 + 0.1 + 0.1) / 3 > 0.1
    assert Likely().compare([1, 1, 1], [0.1, 0.1, 0.1]) == [1, 1, 1]
    # The same answer, read in another place of a row.
    assert Likely().compare([1, 1], [0.1, 0.1000001]) == [1, 1]


def test_the_tokens_behind_the_last_closing_written_out():
    pattern = [set(choices) for choices in CLOSING]
    ids = np.array([5, 6, 7, 1, 5, 6, 8, 2, 3, 0])
    logprobs = np.log([1, 1, 1, 0.1, 1, 1, 1, 0.8, 0.2, 0.01])
    found = likelihood(ids, logprobs, pattern, end=0)
    assert found == pytest.approx(0.4)  # of 2 and 3: the root of .8 x .2
    assert likelihood(ids[:7], logprobs[:7], pattern, end=0) == 0.0  # nothing behind it
    assert likelihood(ids[:2], logprobs[:2], pattern, end=0) == 0.0  # never closed


@dataclasses.dataclass(frozen=True)
class Group:
    completions: SimpleNamespace
    scores: list


def test_what_it_adds_to_rewards():
    """Likelihoods .9, .1 and .9 of right answers, .9 of a wrong one; the last has no reward."""
    tokens = np.array([[5, 6, 7, 1, 0, 0]] * 5)
    lengths = np.array([5] * 5)  # the sixth is padding
    right = Score(
        1.0, 1.0, 1.0, Verdict.RIGHT, "7", "equal", {"correct": 1.0}, {"correct": 1.0}
    )
    wrong = dataclasses.replace(
        right, total=0.0, accuracy=0.0, verdict=Verdict.WRONG, parts={"correct": 0.0}
    )
    failed = dataclasses.replace(right, total=None, parts={}, weights={})
    completions = SimpleNamespace(tokens=tokens, lengths=lengths)
    group = Group(completions, [right, right, right, wrong, failed])
    tokenizer = SimpleNamespace(closing=lambda text: CLOSING, end_token_id=0)
    with jax.set_mesh(make_mesh((1, 1, 1))):
        plan = pack(lengths[None], CONFIG)
        ref = np.full(plan.shape, -9.0, np.float32)
        for g, likely in enumerate((0.9, 0.1, 0.9, 0.9, 0.9)):
            n, b, start, _ = plan.places[0, g]
            ref[n, b, start + 3] = np.log(likely)
        batch = SimpleNamespace(rows=SimpleNamespace(ref_logprobs=ref))
        (scored,) = with_likelihood([group], batch, CONFIG, tokenizer, progress=0.5)
    assert [score.total for score in scored.scores] == [1.5, 1.0, 1.5, 0.0, None]
    assert [score.parts.get("likely") for score in scored.scores] == [
        1,
        0,
        1,
        None,
        None,
    ]
    likely = [score.parts.get("likelihood") for score in scored.scores]
    assert likely[:4] == pytest.approx([0.9, 0.1, 0.9, 0.9]) and likely[4] is None


def test_it_needs_a_reference_that_may_follow():
    assert CONFIG.needs_reference() and not CONFIG.follows
    assert dataclasses.replace(CONFIG, reference_decay=0.995).follows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reference_decay": 0.9, "reward": Reward()},
            r"GRPO.reference_decay is 0.9 beside kl_coef = 0.0 and loss Clipped",
        ),
        (
            {"reference_decay": 0.9, "loss": Distilled(), "reference": "dir"},
            "GRPO.reference_decay is 0.9 .*and no teacher",
        ),
        ({"reference_decay": 1.5}, "it must be between 0 and 1"),
        ({"refills": 1}, "GRPO.refills is 1 by reward, and the reward has Likely"),
    ],
)
def test_a_reference_that_nobody_reads_does_not_follow(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
