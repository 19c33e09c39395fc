"""Matrices in 8 bits: what they hold, and the samples that are drawn with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_model

from r1v3_jax.config import TINY, Compute
from r1v3_jax.models import build, int8, r1v3
from r1v3_jax.sampling import loop
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import TRAIN, make_mesh, shardings

MATRICES = {"q", "k", "v", "out", "gate", "up", "down"}
PROMPTS = np.random.default_rng(0).integers(10, 331, (2, 12)).astype(np.int32)
LENGTHS = np.asarray([12, 9], np.int32)


@pytest.fixture(scope="module")
def model():
    return random_model(TINY)


def rounded(model: r1v3.R1V3) -> r1v3.R1V3:
    """The model with its layers' matrices rounded to eight bits, computed by numpy."""
    graph, state = nnx.split(model)

    def round_(path, variable):
        w = np.asarray(variable.get_value())
        if path[:2] != ("language", "blocks") or path[-1] not in MATRICES:
            return variable
        outputs_last = path[-1] in ("out", "down")
        axes = tuple(range(1, w.ndim - 1)) if outputs_last else (1,)
        scale = np.abs(w).max(axes, keepdims=True) / np.float32(127)
        return variable.replace(jnp.asarray(np.round(w / scale) * scale))

    return nnx.merge(graph, nnx.map_state(round_, state))


def test_a_matrix_and_its_eight_bits():
    # One layer, two inputs, three outputs.
    w = jnp.asarray([[[1.0, 0.0, -4.0], [-2.0, 0.0, 1.01]]])
    matrix = int8.quantised(w, (None, "embed", "mlp"), "float32")
    np.testing.assert_array_equal(matrix.values, [[[64, 0, -127], [-127, 0, 32]]])
    np.testing.assert_allclose(matrix.scales, [[[2 / 127, 1, 4 / 127]]], rtol=1e-6)
    turned = int8.quantised(jnp.swapaxes(w, 1, 2), (None, "mlp", "embed"), "float32")
    np.testing.assert_allclose(turned.scales, [[[4 / 127, 2 / 127]]], rtol=1e-6)


def test_no_weight_moves_by_more_than_half_a_step(model):
    blocks = build.for_decoding(model, int8=True).language.blocks
    exact = nnx.state(model.language.blocks)
    names = set()
    for path, variable in nnx.to_flat_state(nnx.state(blocks)):
        if isinstance(variable.get_value(), int8.Int8):
            names.add(path[-1])
    assert names == MATRICES
    for name in sorted(MATRICES):
        matrix = getattr(blocks, name).get_value()
        wanted = exact[name].get_value()
        assert matrix.values.dtype == jnp.int8
        assert matrix.values.shape == wanted.shape
        gap = jnp.abs(int8.dequantised(matrix) - wanted)
        # 1e-6: the scale itself is rounded.
        bound = matrix.scales * 0.5 + 1e-6 * jnp.abs(wanted)
        assert bool(jnp.all(gap <= bound)), name


def test_in_bfloat16_no_output_is_off_by_a_share_of_its_own():
    """The scale is rounded before the weights are divided by it.

    A weight is off by half a step and by the rounding of bfloat16 (2^-9), but the weights of an
    output have no error in common.
    """
    exact = np.random.default_rng(0).normal(size=(1, 4096, 64))
    exact = jnp.asarray(exact, jnp.float32)
    matrix = int8.quantised(exact, (None, "embed", "mlp"), "bfloat16")
    assert matrix.scales.dtype == jnp.bfloat16
    back = int8.dequantised(matrix).astype(jnp.float32)
    step = matrix.scales.astype(jnp.float32)
    bound = 0.5 * step + 2**-8 * jnp.abs(exact)
    assert bool(jnp.all(jnp.abs(back - exact) <= bound))
    share = jnp.sum(back * exact, axis=1) / jnp.sum(exact * exact, axis=1) - 1
    # 3e-4; with a scale that is rounded afterwards 1.5e-3.
    assert float(jnp.sqrt(jnp.mean(share**2))) < 5e-4


def test_it_samples_as_the_model_with_rounded_weights(model):
    """Two ways: rounded by numpy beforehand, or multiplied out in each layer."""

    def sample(model, int8):
        return loop.generate(
            build.for_decoding(model, int8=int8),
            PROMPTS,
            LENGTHS,
            jax.random.key(3),
            group_size=4,
            sampling=SamplingParams(max_tokens=10),
        )

    actual = sample(model, int8=True)
    expected = sample(rounded(model), int8=False)
    exact = sample(model, int8=False)
    np.testing.assert_array_equal(actual.tokens, expected.tokens)
    # As cached logits.
    np.testing.assert_allclose(actual.logprobs, expected.logprobs, atol=1e-4)
    # And it is another policy.
    assert np.abs(np.asarray(actual.logprobs - exact.logprobs)).max() > 1e-2


def test_a_mesh_changes_nothing(model):
    mesh = make_mesh((2, 2, 2))
    graph, state = nnx.split(model)
    with jax.set_mesh(mesh):
        placed = jax.device_put(state, shardings(model, TRAIN, mesh))
        on_mesh = build.for_decoding(nnx.merge(graph, placed), int8=True)
        gate = on_mesh.language.blocks.gate.get_value()
        # The outputs of a matrix are in shards, and their scales with them.
        assert gate.values.sharding.spec[2] == ("tensor", "fsdp")
        assert gate.scales.sharding.spec[2] == ("tensor", "fsdp")
    alone = build.for_decoding(model, int8=True)
    for a, b in zip(jax.tree.leaves(on_mesh), jax.tree.leaves(alone), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_rest_has_the_dtype_of_the_computation():
    model = random_model(TINY, Compute(dtype="bfloat16"))
    half = build.for_decoding(model, int8=True)
    assert half.language.blocks.norm1.get_value().dtype == jnp.bfloat16
    assert half.language.embedding.get_value().dtype == jnp.bfloat16
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half)} == {"bfloat16", "int8"}
    logits, _ = half.prefill(PROMPTS, LENGTHS)
    assert logits.shape == (2, TINY.text.padded_vocab)
    assert bool(jnp.isfinite(logits).all())
