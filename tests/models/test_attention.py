"""Attention: the mask written out, and the splash kernel against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import (
    PROMPT,
    SHORT,
    TILES,
    batch,
    difference,
    forward,
    quick_jit,
    with_compute,
)

from r1v3_jax.models import internvit, qwen2
from r1v3_jax.models.attention import attention, causal_mask, splash_attention


def test_causal_mask_written_out():
    # fmt: off
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    # fmt: on
    assert np.array_equal(causal_mask(jnp.array([[1, 1, 2, 2, 0]]))[0], expected)


# --- the kernel --------------------------------------------------------------------------------

SPLASH = {  # rows, length, kv heads, queries a kv head, head_dim, causal, block
    "grouped queries, two blocks, ragged length": (2, 200, 2, 2, 16, True, 128),
    "128 wide, one block": (1, 128, 2, 1, 128, True, 1024),
    "vision": (2, 145, 3, 1, 16, False, 128),
}


@pytest.mark.parametrize("shape", SPLASH)
def test_splash_attention_equals_the_reference(shape):
    B, T, K, Q, H, causal, block = SPLASH[shape]
    rng = np.random.default_rng(0)
    q, weights = rng.normal(size=(2, B, T, K, Q, H)).astype(np.float32)
    k, v = rng.normal(size=(2, B, T, K, H)).astype(np.float32)
    segments = np.ones((B, T), np.int32)
    if causal:
        segments[:, T // 3 :], segments[0, -9:] = 2, 0
    mask = causal_mask(jnp.asarray(segments)) if causal else None

    def kernel(q, k, v):
        return splash_attention(
            q,
            k,
            v,
            jnp.asarray(segments),
            causal=causal,
            q_spec=None,
            block=block,
            interpret=True,
        )

    def by_reference(q, k, v):
        return attention(q, k, v, mask)

    def context_and_gradients(attend):
        def objective(q, k, v):
            context = attend(q, k, v)
            return jnp.sum(weights * context), context

        objective = jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)
        (_, context), gradients = quick_jit(objective)(q, k, v)
        return context, *gradients

    actual = context_and_gradients(kernel)
    expected = context_and_gradients(by_reference)
    for ours, wanted in zip(actual, expected, strict=True):
        # The softmax is built up block by block: float32 rounding, at numbers of size one to ten.
        assert difference(ours, wanted) <= 2e-5


def test_the_model_hands_the_kernel_what_the_reference_gets(model, monkeypatch):
    # On a CPU the kernel only runs interpreted; nothing else of it is changed.
    interpreted = functools.partial(splash_attention, interpret=True)
    for module in (qwen2, internvit):
        monkeypatch.setattr(module, "splash_attention", interpreted)
    inputs = (*batch([PROMPT], [SHORT, SHORT]), TILES)
    padding = inputs[2] == 0
    expected = np.asarray(forward(model, *inputs))
    actual = np.asarray(forward(with_compute(model, attention="splash"), *inputs))
    # As against transformers.
    assert difference(actual[~padding], expected[~padding]) <= 1e-4
