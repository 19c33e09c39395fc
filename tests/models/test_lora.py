"""Low-rank adapters: W + s A B in every pass, its gradient, meshes, decoding, 8-bit bases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lora_cases import copied, with_random_factors
from random_models import random_model

from r1v3_jax.config import TINY, Compute
from r1v3_jax.models import build, int8, lora
from r1v3_jax.models.lora import Adapters
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sampling import loop
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import TRAIN, make_mesh, shardings

BOTH = Adapters(rank=3, scale=2.0, parts=("language", "vision"))
TOKENS = np.random.default_rng(0).integers(10, 331, (2, 12)).astype(np.int32)
IMAGE_INDEX = np.full((2, 12), -1, np.int32)
TILES = np.random.default_rng(1).normal(size=(2, 28, 28, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return random_model(TINY)


@pytest.fixture(scope="module")
def adapted(model):
    return with_random_factors(model, BOTH)


def explicit(model: R1V3, adapters: Adapters) -> R1V3:
    """A plain model whose matrices are W + s A B, multiplied by numpy in float64."""
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    whole = {}
    for path, variable in flat.items():
        if "adapters" in path:
            continue
        w = np.asarray(int8.dequantised(variable.get_value()), np.float64)
        at = (*path[:-1], "adapters", path[-1])
        if (*at, "a") in flat:
            a = np.asarray(flat[*at, "a"].get_value(), np.float64)
            b = np.asarray(flat[*at, "b"].get_value(), np.float64)
            # Layer by layer; the tower's q, k and v share their inputs, on the second axis.
            products = np.stack(
                [np.tensordot(*pair, 1) for pair in zip(a, b, strict=True)]
            )
            if path == ("vision", "blocks", "qkv"):
                products = np.moveaxis(products, 1, 2)
            w = w + adapters.scale * products
        whole[path] = variable.replace(jnp.asarray(w, jnp.float32))
    graph = nnx.graphdef(build.abstract(model.config, model.compute))
    return nnx.merge(graph, nnx.from_flat_state(whole))


def loss(model: R1V3) -> jax.Array:
    """The mean log-probability of two rows with an image each."""
    image = model.encode_images(jnp.asarray(TILES))
    index = IMAGE_INDEX.copy()
    index[0, 2] = 0
    index[1, 4] = 1
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), TOKENS.shape)
    segments = np.ones_like(TOKENS)
    hidden = model(TOKENS, positions, segments, image, jnp.asarray(index))
    logprobs, _ = model.logprobs(hidden, TOKENS)
    return jnp.mean(logprobs)


def text_loss(model: R1V3) -> jax.Array:
    """The mean log-probability of two rows of text."""
    positions = jnp.broadcast_to(jnp.arange(12, dtype=jnp.int32), TOKENS.shape)
    hidden = model(jnp.asarray(TOKENS), positions, jnp.ones_like(TOKENS))
    logprobs, _ = model.logprobs(hidden, jnp.asarray(TOKENS))
    return jnp.mean(logprobs)


def relative(actual, expected) -> float:
    """The size of the difference as a share of the size of what is expected."""
    expected = np.asarray(expected, np.float64)
    difference = np.asarray(actual, np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def test_one_matrix_written_out():
    # Two inputs, three outputs, rank 1, s = 2: W + 2 [1 2]^T [1 0 -1].
    w = jnp.asarray([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    a = jnp.asarray([[1.0], [2.0]])
    b = jnp.asarray([[1.0, 0.0, -1.0]])
    reads = lora.add_product(w, (None, "embed", "mlp"), a, b, 2.0)
    np.testing.assert_array_equal(reads, [[3, 1, -1], [4, 0, -4]])
    # `down` ends in the model's width: its inputs are the MLP's.
    writes = lora.add_product(w, (None, "mlp", "embed"), a, b, 2.0)
    np.testing.assert_array_equal(writes, [[3, 1, -1], [4, 0, -4]])
    # All layers at once are each layer by itself.
    stacked = lora.add_product(
        jnp.stack([w, -w]),
        (None, "embed", "mlp"),
        jnp.stack([a, a]),
        jnp.stack([b, b]),
        2.0,
    )
    np.testing.assert_array_equal(stacked[1], np.asarray(reads) - 2 * np.asarray(w))


def test_inputs_and_outputs():
    heads = ("kv_heads", None, None)
    assert lora.split_axes((None, "embed", *heads)) == ((0,), (1, 2, 3))
    assert lora.split_axes((None, *heads, "embed")) == ((0, 1, 2), (3,))
    qkv = (None, None, "vision_embed", "vision_heads", None)
    assert lora.split_axes(qkv) == ((1,), (0, 2, 3))


def test_fresh_adapters_change_no_bit(model):
    fresh = build.with_adapters(copied(model), BOTH, seed=0)
    assert float(jax.jit(loss)(fresh)) == float(jax.jit(loss)(model))
    factors = fresh.language.blocks.adapters.gate
    inputs = TINY.text.embed
    # The variance of torch's fresh linear layer; 4 standard errors of a normal variance.
    numbers = np.asarray(factors.a[...])
    bound = 4 * np.sqrt(2 / numbers.size) / (3 * inputs)
    assert abs(numbers.var() - 1 / (3 * inputs)) < bound
    assert not np.asarray(factors.b[...]).any()


def test_forward_and_gradient_against_the_explicit_sum(adapted):
    actual = jax.jit(loss)(adapted)
    expected = jax.jit(loss)(explicit(adapted, BOTH))
    # float32 sums over 12 tokens and 331 words.
    np.testing.assert_allclose(actual, expected, rtol=1e-6)

    # dA = s dW B^T and dB = s A^T dW, layer by layer, with dW of the merged model.
    gradient = jax.jit(jax.grad(loss))(build.without_adapters(copied(adapted)))

    def learns(path, value):
        return "adapters" in path

    graph, factors, frozen = nnx.split(adapted, learns, ...)
    own = jax.jit(jax.grad(lambda f: loss(nnx.merge(graph, f, frozen))))(factors)
    own = dict(nnx.to_flat_state(own))
    checked = 0
    for part, stack in (("language", adapted.language), ("vision", adapted.vision)):
        of_part = getattr(gradient, part).blocks
        for name in lora.matrices(stack.blocks):
            pair = getattr(stack.blocks.adapters, name)
            dw = np.asarray(getattr(of_part, name)[...], np.float64)
            if name == "qkv":
                dw = np.moveaxis(dw, 2, 1)
            a = np.asarray(pair.a[...], np.float64)
            b = np.asarray(pair.b[...], np.float64)
            layers, rank = b.shape[:2]
            flat_a = a.reshape(layers, -1, rank)
            flat_b = b.reshape(layers, rank, -1)
            flat_w = dw.reshape(layers, flat_a.shape[1], -1)
            da = BOTH.scale * flat_w @ flat_b.swapaxes(1, 2)
            db = BOTH.scale * flat_a.swapaxes(1, 2) @ flat_w
            at = (part, "blocks", "adapters", name)
            # float32; the tower's gradients have come through twice as many layers.
            bound = {"language": 1e-6, "vision": 3e-6}[part]
            assert relative(own[*at, "a"].get_value(), da.reshape(a.shape)) < bound
            assert relative(own[*at, "b"].get_value(), db.reshape(b.shape)) < bound
            checked += 1
    assert checked == 7 + 4


def test_merged_is_unmerged(adapted):
    whole = build.without_adapters(copied(adapted))
    assert whole.adapters is None
    assert not any("adapters" in p for p, _ in nnx.to_flat_state(nnx.state(whole)))
    np.testing.assert_allclose(
        jax.jit(loss)(whole), jax.jit(loss)(adapted), rtol=0, atol=1e-5
    )


def test_samples_are_those_of_the_explicit_sum(adapted):
    def sample(model):
        return loop.generate(
            build.for_decoding(model),
            TOKENS,
            np.asarray([12, 9], np.int32),
            jax.random.key(3),
            group_size=4,
            sampling=SamplingParams(max_tokens=10),
        )

    actual = sample(adapted)
    expected = sample(explicit(adapted, BOTH))
    np.testing.assert_array_equal(actual.tokens, expected.tokens)
    # As cached logits.
    np.testing.assert_allclose(actual.logprobs, expected.logprobs, atol=1e-4)


def test_a_mesh_changes_nothing(adapted):
    mesh = make_mesh((2, 2, 2))
    graph, state = nnx.split(adapted)
    with jax.set_mesh(mesh):
        placed = nnx.merge(
            graph, jax.device_put(state, shardings(adapted, TRAIN, mesh))
        )
        factors = placed.language.blocks.adapters.gate
        # A is in shards along the model's width, B along the MLP's.
        assert factors.a[...].sharding.spec[1] == ("data", "fsdp")
        assert factors.b[...].sharding.spec[2] == "tensor"
        decoding = build.for_decoding(placed)
        whole = build.without_adapters(jax.tree.map(jnp.copy, placed))
    alone = build.without_adapters(copied(adapted))
    for other in (decoding, whole):
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(alone), strict=True):
            # One product of three terms and a sum, whatever the shards.
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)


def test_a_mesh_has_the_same_gradients(adapted):
    def learns(path, value):
        return "adapters" in path

    def gradients(model):
        graph, factors, frozen = nnx.split(model, learns, ...)
        return jax.jit(jax.grad(lambda f: text_loss(nnx.merge(graph, f, frozen))))(
            factors
        )

    mesh = make_mesh((1, 2, 2))
    graph, state = nnx.split(adapted)
    with jax.set_mesh(mesh):
        placed = jax.device_put(state, shardings(adapted, TRAIN, mesh))
        on_mesh = gradients(nnx.merge(graph, placed))
    alone = dict(nnx.to_flat_state(gradients(adapted)))
    compared = 0
    for path, variable in nnx.to_flat_state(on_mesh):
        if path[0] == "language":
            # Sums over four devices, in float32.
            assert relative(variable.get_value(), alone[path].get_value()) < 1e-5
            compared += 1
    assert compared == 14


def test_a_base_in_eight_bits(model):
    adapters = Adapters(rank=3, scale=2.0, parts=("language",))
    small = with_random_factors(model, adapters, base_int8=True)
    gate = small.language.blocks.gate.get_value()
    assert gate.values.dtype == jnp.int8
    # Two ways: multiplied out in each layer, or by numpy beforehand.
    whole = explicit(small, adapters)
    np.testing.assert_allclose(jax.jit(loss)(small), jax.jit(loss)(whole), rtol=1e-6)
    merged = build.without_adapters(copied(small))
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(whole), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)


def test_factors_are_float32_beside_weights_in_bfloat16():
    half = random_model(TINY, Compute(dtype="bfloat16", param_dtype="bfloat16"))
    adapted = build.with_adapters(copied(half), BOTH, seed=0)
    assert adapted.language.blocks.adapters.q.a[...].dtype == jnp.float32
    assert adapted.language.blocks.q[...].dtype == jnp.bfloat16
    merged = build.without_adapters(adapted)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(merged)} == {"bfloat16"}
