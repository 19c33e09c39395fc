"""Products with weights in bfloat16, whose results are float32 before they are rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1v3_jax.config import Compute
from r1v3_jax.models.products import product, project

WIDE = Compute(dtype="bfloat16", products="wide")
# Whole numbers up to 4: bfloat16 holds them, and float32 their sums of 48 products, without error.
rng = np.random.default_rng(0)
X = rng.integers(-4, 5, (2, 3, 48)).astype(np.float32)
W = rng.integers(-4, 5, (48, 2, 5)).astype(np.float32)
EQUATION = "btd,dkh->btkh"


def low(x) -> jax.Array:
    return jnp.asarray(x, jnp.bfloat16)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_wide_product_is_the_exact_one_rounded_once(dtype):
    exact = np.einsum(EQUATION, X, W)
    found = product(EQUATION, low(X), low(W), WIDE, dtype=dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, jnp.asarray(exact, dtype))


def test_gradients_of_a_wide_product_are_the_exact_ones_rounded_once():
    dy = rng.integers(-4, 5, (2, 3, 2, 5)).astype(np.float32)
    out, back = jax.vjp(lambda x, w: product(EQUATION, x, w, WIDE), low(X), low(W))
    dx, dw = back(low(dy))
    assert out.dtype == dx.dtype == dw.dtype == jnp.bfloat16
    np.testing.assert_array_equal(dx, low(np.einsum("btkh,dkh->btd", dy, W)))
    np.testing.assert_array_equal(dw, low(np.einsum("btd,btkh->dkh", X, dy)))


def test_the_gradient_of_logits_is_rounded_before_it_is_multiplied():
    # 257 is no bfloat16: 256 is the nearest even one.
    def logits(x):
        return product("btd,vd->btv", x, low([[1.0], [3.0]]), WIDE, dtype=jnp.float32)

    _, back = jax.vjp(logits, low([[[2.0]]]))
    (dx,) = back(jnp.array([[[257.0, 1.0]]]))
    assert dx == low(256 + 3)


def test_in_float32_both_ways_are_the_same_bits():
    x = rng.standard_normal((2, 3, 48)).astype(np.float32)
    w = rng.standard_normal((48, 96)).astype(np.float32)
    narrow, wide = Compute(), Compute(products="wide")

    def value_and_gradients(compute):
        out, back = jax.vjp(lambda x, w: project(x, w, compute), x, w)
        return out, *back(out)

    pairs = zip(value_and_gradients(narrow), value_and_gradients(wide), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=0, atol=0)
