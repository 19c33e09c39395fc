"""Attention by cuDNN, called without it ("xla"), against the reference; and lowered for a GPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from model_cases import (
    PROMPT,
    SHORT,
    TILES,
    batch,
    difference,
    differences,
    forward,
    prompts,
    quick_jit,
    with_compute,
)

from r1v3_jax.models import internvit, qwen2
from r1v3_jax.models.attention import (
    attention,
    attention_after_prompt,
    causal_mask,
)
from r1v3_jax.models.attention_cudnn import (
    cudnn_after_prompt,
    cudnn_packed,
    cudnn_prompts,
    cudnn_tiles,
)
from r1v3_jax.sharding import DECODE, TRAIN, each_shard, make_mesh

# Both are one softmax over the same numbers, added up in another order: float32 rounding, at
# numbers of size one to ten.
CLOSE = 2e-5


def without_cudnn(function):
    return functools.partial(function, implementation="xla")


def heads(*shape, seed):
    """Returns q [B, T, K, Q, H], k and v [B, T, K, H], and weights of an objective like q."""
    B, T, K, Q, H = shape
    rng = np.random.default_rng(seed)
    q, weights = rng.normal(size=(2, B, T, K, Q, H)).astype(np.float32)
    k, v = rng.normal(size=(2, B, T, K, H)).astype(np.float32)
    return q, k, v, weights


def context_and_gradients(attend, weights, *arrays):
    """Returns attend(*arrays), and the gradients of its sum times `weights`."""

    def objective(*arrays):
        context = attend(*arrays)
        return jnp.sum(weights * context), context

    numbers = tuple(range(len(arrays)))
    objective = jax.value_and_grad(objective, argnums=numbers, has_aux=True)
    (_, context), gradients = quick_jit(objective)(*arrays)
    return context * (weights != 0), *gradients


def check_equal(ours, theirs, weights, *arrays):
    actual = context_and_gradients(ours, weights, *arrays)
    expected = context_and_gradients(theirs, weights, *arrays)
    for mine, wanted in zip(actual, expected, strict=True):
        assert np.all(np.isfinite(mine))
        assert difference(mine, wanted) <= CLOSE


# --- against the reference ---------------------------------------------------------------------

# rows, tokens, kv heads, queries a kv head, head_dim; lengths that are even and odd
SHAPES = [(3, 24, 2, 3, 16), (2, 33, 1, 2, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=["even", "odd"])
def test_prompts_of_different_lengths(shape):
    q, k, v, weights = heads(*shape, seed=1)
    B, T = shape[:2]
    lengths = jnp.asarray([T, 5, 0][:B], jnp.int32)
    is_used = jnp.arange(T) < lengths[:, None]
    weights = weights * np.asarray(is_used)[:, :, None, None, None]
    mask = causal_mask(is_used.astype(jnp.int32))
    check_equal(
        lambda q, k, v: without_cudnn(cudnn_prompts)(q, k, v, lengths),
        lambda q, k, v: attention(q, k, v, mask),
        weights,
        q,
        k,
        v,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=["even", "odd"])
def test_tiles(shape):
    q, k, v, weights = heads(*shape, seed=2)
    check_equal(
        without_cudnn(cudnn_tiles),
        lambda q, k, v: attention(q, k, v, None),
        weights,
        q,
        k,
        v,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=["even", "odd"])
def test_packed_rows(shape):
    q, k, v, weights = heads(*shape, seed=3)
    B, T = shape[:2]
    segments = np.ones((B, T), np.int32)
    segments[:, T // 3 :] = 2
    segments[0, T // 2 :] = 3
    segments[1, -9:] = 0
    segments = jnp.asarray(segments)
    check_equal(
        lambda q, k, v: without_cudnn(cudnn_packed)(q, k, v, segments),
        lambda q, k, v: attention(q, k, v, causal_mask(segments)),
        weights,
        q,
        k,
        v,
    )


@pytest.mark.parametrize("slots", [10, 13], ids=["even slots", "odd slots"])
@pytest.mark.parametrize("length", [24, 33], ids=["even", "odd"])
def test_rows_after_prompts_of_different_lengths(slots, length):
    """Six rows of three prompts, of which one fills its slots and one has a single token."""
    B, J, K, Q, H = 6, 3, 2, 3, 8
    q, k, v, weights = heads(B, length, K, Q, H, seed=4)
    rng = np.random.default_rng(5)
    prompt_k, prompt_v = rng.normal(size=(2, J, K, slots, H)).astype(np.float32)
    used = jnp.asarray([slots, 1, slots // 2], jnp.int32)
    segments = np.zeros((B, length), np.int32)
    segments[:, : length // 3] = 1
    segments[:, length // 3 : length // 2] = 2
    segments[::2, length // 2 : -5] = 3
    weights = weights * (segments > 0)[:, :, None, None, None]
    segments = jnp.asarray(segments)

    def by(attend):
        return lambda *arrays: attend(*arrays, segments, used)

    arrays = (q, k, v, prompt_k, prompt_v)
    ours = by(without_cudnn(cudnn_after_prompt))
    check_equal(ours, by(attention_after_prompt), weights, *arrays)


@pytest.mark.parametrize("rules", [TRAIN, DECODE], ids=["train", "decode"])
def test_on_a_mesh_every_device_attends_for_its_own_rows_and_heads(rules):
    B, T, K, Q, H, J, slots = 8, 12, 4, 2, 8, 4, 10
    q, k, v, _ = heads(B, T, K, Q, H, seed=7)
    rng = np.random.default_rng(8)
    prompt_k, prompt_v = rng.normal(size=(2, J, K, slots, H)).astype(np.float32)
    segments = np.ones((B, T), np.int32)
    segments[:, 5:] = 2
    used = np.asarray([10, 3, 7, 1], np.int32)
    arrays = (q, k, v, prompt_k, prompt_v, segments, used)
    expected = attention_after_prompt(*map(jnp.asarray, arrays))
    mesh = make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        row = rules.spec("batch", None, "kv_heads", None, None)
        prompt = rules.spec("batch", "kv_heads", None, None)
        specs = [row, *2 * [PartitionSpec(*row[:4])], prompt, prompt]
        specs += [PartitionSpec(row[0], None), PartitionSpec(row[0])]
        placed = [
            jax.device_put(x, NamedSharding(mesh, spec))
            for x, spec in zip(arrays, specs, strict=True)
        ]

        @quick_jit
        def attend(q, *others):
            return each_shard(without_cudnn(cudnn_after_prompt), q, *others, like=q)

        context = attend(*placed)
        assert jax.typeof(context).sharding.spec == row
    assert difference(context, expected) <= CLOSE


# --- the model ---------------------------------------------------------------------------------


@pytest.fixture
def cudnn_model(model, monkeypatch):
    """The model that calls cuDNN's functions, without cuDNN."""
    for module, function in (
        (internvit, cudnn_tiles),
        (qwen2, cudnn_packed),
        (qwen2, cudnn_prompts),
        (qwen2, cudnn_after_prompt),
    ):
        monkeypatch.setattr(module, function.__name__, without_cudnn(function))
    return with_compute(model, attention="cudnn")


def test_the_model_hands_packed_rows_and_tiles_on(model, cudnn_model):
    inputs = (*batch([PROMPT], [SHORT, SHORT]), TILES)
    is_token = inputs[2] > 0
    expected = np.asarray(forward(model, *inputs))
    actual = np.asarray(forward(cudnn_model, *inputs))
    # As against transformers.
    assert difference(actual[is_token], expected[is_token]) <= 1e-4


def test_the_model_hands_prompts_and_their_samples_on(model, cudnn_model):
    """Prefill and two samples behind each prompt: hidden states, and gradients of the weights."""
    tokens, lengths, index = map(jnp.asarray, prompts(PROMPT, SHORT))
    sampled = np.asarray([[40, 41, 42, 60, 61, 0], [50, 51, 70, 71, 72, 73]], np.int32)
    segments = np.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 2]], np.int32)
    own = np.asarray([[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3]], np.int32)
    positions = own + lengths[:, None]
    weights = np.random.default_rng(6).normal(size=sampled.shape).astype(np.float32)
    weights = weights * (segments > 0)

    @quick_jit
    def loss_and_gradients(model):
        def loss(model):
            images = model.encode_images(TILES)
            last, cache = model.encode_prompts(tokens, lengths, images, index)
            rows = jnp.arange(2)
            hidden = model.extend(sampled, positions, segments, cache, rows)
            logprobs, _ = model.logprobs(hidden, sampled)
            return jnp.sum(weights * logprobs) + jnp.sum(last)

        return jax.value_and_grad(loss)(model)

    loss, gradients = loss_and_gradients(cudnn_model)
    wanted_loss, wanted = loss_and_gradients(model)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    # As in `test_train`: gradients of size one, through two towers.
    assert max(differences(gradients, wanted).values()) <= 1e-3


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="there is no GPU here: cuDNN was not run"
)
@pytest.mark.parametrize("length", [32, 33], ids=["even", "odd"])
def test_cudnn_itself(length):
    """In 16 bits against the reference in float32, with the same rounded numbers."""
    B, J, K, Q, H, slots = 4, 2, 2, 7, 64, 21
    q, k, v, weights = heads(B, length, K, Q, H, seed=9)
    rng = np.random.default_rng(10)
    prompt_k, prompt_v = rng.normal(size=(2, J, K, slots, H)).astype(np.float32)
    lengths = jnp.asarray([length, 5, 1, length // 2], jnp.int32)
    is_used = jnp.arange(length) < lengths[:, None]
    segments = jnp.asarray(np.arange(length) // 9 + 1, jnp.int32) * is_used
    used = jnp.asarray([slots, 3], jnp.int32)
    weights = weights * np.asarray(is_used)[:, :, None, None, None]
    row = (q, k, v)

    def masked(mask):
        return lambda *x: attention(*x, mask)

    def after_prompt(attend):
        return lambda *x: attend(*x, segments, used)

    of_prompts = masked(causal_mask(is_used))
    of_rows = masked(causal_mask(segments))
    behind = (after_prompt(cudnn_after_prompt), after_prompt(attention_after_prompt))
    for ours, theirs, arrays in (
        (lambda *x: cudnn_prompts(*x, lengths), of_prompts, row),
        (cudnn_tiles, masked(None), row),
        (lambda *x: cudnn_packed(*x, segments), of_rows, row),
        (*behind, (*row, prompt_k, prompt_v)),
    ):
        half = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
        actual = context_and_gradients(ours, weights, *half)
        exact = [x.astype(jnp.float32) for x in half]
        expected = context_and_gradients(theirs, weights, *exact)
        for mine, wanted in zip(actual, expected, strict=True):
            # 8 bits of a number, in products and in what is written: 1% of the largest.
            limit = 0.01 * float(jnp.max(jnp.abs(wanted)))
            assert difference(mine.astype(jnp.float32), wanted) <= limit


# --- lowered for a GPU -------------------------------------------------------------------------


def calls_on_a_gpu(function, *shapes):
    """Returns the cuDNN calls of a function and its gradient, lowered without a GPU."""

    def loss(*arrays):
        return jnp.sum(function(*arrays).astype(jnp.float32))

    floats = tuple(i for i, x in enumerate(shapes) if x.dtype == jnp.bfloat16)
    traced = jax.jit(jax.grad(loss, argnums=floats)).trace(*shapes)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    return sorted(re.findall(r"@__cudnn\$fmha(\w+)\(", text))


def test_cudnn_is_called_forward_and_backward(monkeypatch):
    """Traced and lowered for CUDA: jax accepts shapes, dtypes and masks. Nothing is compiled."""
    from jax._src.cudnn import fused_attention_stablehlo

    # Where there is no cuDNN jax would refuse before it looks at anything else.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    B, T, K, Q, H, J, slots = 4, 33, 2, 7, 64, 2, 11

    def half(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    def whole(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    row = (half(B, T, K, Q, H), half(B, T, K, H), half(B, T, K, H))
    prompt = (half(J, K, slots, H), half(J, K, slots, H))
    plain = ["Softmax", "SoftmaxBackward"]
    masked = ["ScaleBiasSoftmax", "ScaleBiasSoftmaxBackward"]
    assert calls_on_a_gpu(cudnn_prompts, *row, whole(B)) == plain
    assert calls_on_a_gpu(cudnn_tiles, *row) == plain
    assert calls_on_a_gpu(cudnn_packed, *row, whole(B, T)) == masked
    inputs = (*row, *prompt, whole(B, T), whole(J))
    assert calls_on_a_gpu(cudnn_after_prompt, *inputs) == masked
