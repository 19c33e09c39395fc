"""The loss of preferences is the formula of the papers, in float64 and by hand."""

import jax
import numpy as np
import pytest

from r1v3_jax.losses import Mpo
from r1v3_jax.losses.preference import RunningMean


def formula(mpo: Mpo, chosen, rejected, shift, generation) -> float:
    """InternVL's equation, with a mean over pairs; float64."""

    def log_sigmoid(x):
        return -np.log1p(np.exp(-x))

    dpo = -log_sigmoid(chosen - rejected)
    bco = -log_sigmoid(chosen - shift) - log_sigmoid(-(rejected - shift))
    pairs = mpo.preference * dpo + mpo.quality * bco
    return pairs.mean() + mpo.generation * generation


def test_one_pair_by_hand():
    """log(1 + e) = 1.3132617 is -log s(-1); log 2 = .6931472 is -log s(0)."""
    chosen, rejected = np.float32([0.5]), np.float32([1.5])
    loss, terms = Mpo()(chosen, rejected, np.float32(0.5), 1.0, np.float32(2.0))
    assert terms["loss/preference"] == pytest.approx(1.3132617)  # r_c - r_r = -1
    # The chosen one is at the shift, the rejected one 1 above it.
    assert terms["loss/quality"] == pytest.approx(0.6931472 + 1.3132617)
    assert terms["loss/generation"] == 2.0
    assert loss == pytest.approx(0.8 * 1.3132617 + 0.2 * 2.0064089 + 2.0)


@pytest.mark.parametrize("mpo", [Mpo(), Mpo(1.0, 0.0, 0.0), Mpo(1.0, 0.0, 1.0)])
def test_loss_and_gradient_are_those_of_the_formula(mpo):
    """Rewards of up to 30: a margin that the logistic function no longer tells from 1."""
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(0, 10, (2, 7)).astype(np.float32)
    shift, generation = np.float32(0.3), np.float32(1.7)

    def loss(chosen, rejected):
        return mpo(chosen, rejected, shift, 1 / 7, generation)[0]

    got, slopes = jax.value_and_grad(loss, argnums=(0, 1))(chosen, rejected)
    c, r = chosen.astype(np.float64), rejected.astype(np.float64)
    want = formula(mpo, c, r, float(shift), float(generation))
    np.testing.assert_allclose(got, want, rtol=1e-6)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    of_dpo = mpo.preference * sigmoid(r - c)
    of_chosen = -of_dpo - mpo.quality * sigmoid(float(shift) - c)
    of_rejected = of_dpo + mpo.quality * sigmoid(r - float(shift))
    # float32 knows 1 - 1e-7 from 1, and no less: a sum of two slopes has that much of the larger.
    for slope, wanted in zip(slopes, (of_chosen, of_rejected), strict=True):
        np.testing.assert_allclose(slope, wanted / 7, rtol=1e-6, atol=1e-9)


def test_rewards_of_any_size_have_a_finite_loss():
    far = np.float32([1e4, -1e4])
    loss, _ = Mpo()(far, -far, np.float32(0), 0.5, np.float32(0))
    # The second pair is wrong by 2e4; its answers are each wrong by 1e4.
    assert loss == pytest.approx(0.5 * (0.8 * 2e4 + 0.2 * 2e4))


def test_the_shift_is_the_mean_of_the_steps_before():
    means = [RunningMean()]
    for step_mean in (0.2, 0.4, -0.3):
        means.append(means[-1].followed_by(step_mean))
    assert [mean.mean for mean in means] == pytest.approx([0.0, 0.2, 0.3, 0.1])
    assert means[-1].steps == 3
