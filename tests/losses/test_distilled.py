"""On-policy distillation against its formula in float64, and against the divergence itself."""

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.losses import Distilled

# Two packed rows: samples of 3 and 2 tokens, of 4 and 1; the second token was forced.
SEGMENTS = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 1, 0]])
WEIGHTS = np.array([[0.3, 0.0, 0.3, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1, 0.0]])


def test_value_and_gradient_are_those_of_the_formula():
    """Token by token: -w r (ref - logp), and the same again as its gradient, r = p / p_old."""
    rng = np.random.default_rng(0)
    logprobs, old, ref = rng.normal(-1.5, 0.5, (3, *SEGMENTS.shape))
    terms = [
        -WEIGHTS[place]
        * np.exp(logprobs[place] - old[place])
        * (ref[place] - logprobs[place])
        for place in np.ndindex(SEGMENTS.shape)
    ]
    with jax.enable_x64(True):
        # Padding and forced tokens may hold anything.
        logprobs, old, ref = (
            jnp.asarray(np.where(WEIGHTS > 0, x, np.nan)) for x in (logprobs, old, ref)
        )
        value, gradient = jax.value_and_grad(
            lambda x: Distilled()(x, old, ref, jnp.asarray(WEIGHTS), SEGMENTS)[0]
        )(logprobs)
    np.testing.assert_allclose(value, np.sum(terms), rtol=1e-12)
    np.testing.assert_allclose(
        gradient, np.reshape(terms, SEGMENTS.shape), rtol=1e-12, atol=1e-15
    )


def test_on_average_over_samples_it_is_the_gradient_of_the_reverse_divergence():
    """All tokens of a vocabulary of 5, each as often as an older policy samples it."""
    rng = np.random.default_rng(1)
    logits, old_logits, ref_logits = rng.normal(size=(3, 5))
    with jax.enable_x64(True):
        old = jax.nn.log_softmax(jnp.asarray(old_logits))
        ref = jax.nn.log_softmax(jnp.asarray(ref_logits))

        def divergence(logits):
            logp = jax.nn.log_softmax(logits)
            return jnp.sum(jnp.exp(logp) * (logp - ref))

        def loss(logits):
            logp = jax.nn.log_softmax(logits)
            return Distilled()(logp, old, ref, jnp.exp(old), None)[0]

        wanted = jax.value_and_grad(divergence)(jnp.asarray(logits))
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    np.testing.assert_allclose(value, wanted[0], rtol=1e-12)
    np.testing.assert_allclose(gradient, wanted[1], rtol=1e-10)
