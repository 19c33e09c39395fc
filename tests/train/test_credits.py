"""What a config chooses reaches the update: how often samples count, which tokens are pushed."""

from types import SimpleNamespace

import numpy as np
import pytest

from r1v3_jax.config import GRPO
from r1v3_jax.losses import K2, HighEntropy, WithoutCut
from r1v3_jax.train import policy_batch, policy_gradient
from r1v3_jax.train.strengths import strengths


def source(index):
    return None


def stage(**changes):
    sizes = {"prompts": 1, "group_size": 2, "max_completion_tokens": 4}
    return GRPO(train=source, **sizes, **changes)


def credits(config):
    """Advantages and weights of two samples of 4 and 2 tokens; the second was cut."""
    completions = SimpleNamespace(
        chosen=np.ones((2, 4), bool),
        ended=np.array([True, False]),
        entropies=np.array([[0.1, 0.9, 0.2, 0.3], [0.8, 0.0, 9.0, 9.0]], np.float32),
    )
    scores = [
        SimpleNamespace(parts=parts, weights=dict.fromkeys(parts, 0.5))
        for parts in ({"correct": 1.0, "well_formed": 1.0}, {"correct": 0.0})
    ]
    group = SimpleNamespace(
        completions=completions, rewards=np.array([1.0, 0.0]), scores=scores
    )
    lengths = np.array([[4, 2]])
    return policy_batch.credits([group], lengths, config, np.random.default_rng(0))


def test_only_the_tokens_that_are_least_sure_are_pushed():
    pushes, weights = credits(stage(tokens=HighEntropy(0.3)))
    assert (pushes[0, :, :2] != 0).tolist() == [[False, True], [True, False]]
    assert not pushes[0, 0, 2:].any()
    # The others stay in the mean, and in a KL term.
    np.testing.assert_array_equal(weights, credits(stage())[1])


def test_a_sample_that_was_cut_counts_nothing():
    _, weights = credits(stage(sample_weight=WithoutCut()))
    np.testing.assert_allclose(weights[0], [[0.25] * 4, [0] * 4])


def test_the_parts_of_the_rewards_reach_the_advantage():
    """Terms in the order of the reward; where one said nothing there is nan, without weight."""
    seen = {}

    def advantage(rewards, valid, lengths, parts):
        seen["parts"] = parts
        return np.zeros(rewards.shape, np.float32)

    credits(stage(advantage=advantage))
    correct, well_formed = seen["parts"]
    np.testing.assert_array_equal(correct.said, [[1.0, 0.0]])
    np.testing.assert_array_equal(well_formed.said, [[1.0, np.nan]])
    np.testing.assert_array_equal(well_formed.weights, [[0.5, 0.0]])


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_entropy_makes_the_loss_smaller(monkeypatch, coefficient):
    entropy = np.array([[1.0, 3.0]], np.float32)
    zeros = np.zeros((1, 2), np.float32)
    rows = SimpleNamespace(
        loss_weights=np.array([[0.5, 0.5]], np.float32),
        advantages=zeros,
        old_logprobs=zeros,
        ref_logprobs=None,
        sampler_logprobs=zeros,
        segment_ids=np.ones((1, 2), np.int32),
    )
    monkeypatch.setattr(
        policy_gradient, "sample_logprobs", lambda *args, **kwargs: (zeros, entropy)
    )
    config = stage(entropy_coef=coefficient)
    loss, _ = policy_gradient.policy_loss(
        None, None, rows, config, strengths(config, {})
    )
    assert float(loss) == pytest.approx(-coefficient * 2.0)


@pytest.mark.parametrize(("kl_in", "loss"), [("loss", 0.5 * 2.0), ("reward", 0.0)])
def test_a_kl_in_the_reward_is_not_in_the_loss_too(monkeypatch, kl_in, loss):
    """K2 of log-ratios 2 and 2 is 2 a token; the coefficient is 0.5."""
    zeros = np.zeros((1, 2), np.float32)
    rows = SimpleNamespace(
        loss_weights=np.array([[0.5, 0.5]], np.float32),
        advantages=zeros,
        old_logprobs=zeros,
        ref_logprobs=zeros - 2.0,
        sampler_logprobs=zeros,
        segment_ids=np.ones((1, 2), np.int32),
    )
    monkeypatch.setattr(
        policy_gradient, "sample_logprobs", lambda *args, **kwargs: (zeros, zeros)
    )
    config = stage(kl_coef=0.5, kl_estimator=K2(), kl_in=kl_in)
    found, metrics = policy_gradient.policy_loss(
        None, None, rows, config, strengths(config, {})
    )
    assert float(found) == pytest.approx(loss)
    assert ("kl" in metrics) == (kl_in == "loss")
