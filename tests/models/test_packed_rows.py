"""Packed rows: segments and padding, and log-probabilities computed in chunks."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from model_cases import (
    PROMPT,
    SHORT,
    TILES,
    VOCAB,
    batch,
    difference,
    differences,
    forward,
    image,
    quick_jit,
    with_compute,
)

from r1v3_jax.models.attention import NEVER

# --- packing -----------------------------------------------------------------------------------


def test_packed_segments_equal_the_segments_alone(case):
    shared = [33, *image(0), 34]
    segments = [
        [5, *image(0), 7, 8],
        [6, *image(1, 2, 3), 20, 21],
        [30, 31, 32],
        shared,
    ]
    packed = forward(case.ours, *batch(segments[:2], segments[2:]), TILES)
    single_rows = [[segment] for segment in segments]
    alone = forward(case.ours, *batch(*single_rows), TILES)
    places = [(0, 0), (0, len(segments[0])), (1, 0), (1, len(segments[2]))]
    for number, (row, start) in enumerate(places):
        length = len(segments[number])
        ours = packed[row, start : start + length]
        # A masked score adds an exact zero; only the order of the sums differs.
        assert difference(ours, alone[number, :length]) <= 1e-5


def test_padding_of_any_kind_changes_nothing(model):
    tokens, positions, segments, index = batch([PROMPT], [SHORT])
    padding = segments == 0
    junk = np.random.default_rng(0).integers(0, VOCAB, tokens.shape)
    inputs = (
        np.where(padding, junk, tokens).astype(np.int32),
        np.where(padding, 3, positions).astype(np.int32),
        segments,
        np.where(padding, 5, index).astype(np.int32),
    )
    expected = forward(model, tokens, positions, segments, index, TILES)
    actual = forward(model, *inputs, TILES)
    assert np.array_equal(np.asarray(actual)[~padding], np.asarray(expected)[~padding])


def test_tiles_that_no_token_points_at_change_nothing(model):
    padded = TILES.copy()
    padded[[0, 2, 3]] = 7.0
    inputs = batch([SHORT])
    expected = forward(model, *inputs, TILES)
    assert np.array_equal(forward(model, *inputs, padded)[0, :6], expected[0, :6])


# --- log-probabilities -------------------------------------------------------------------------

HIDDEN = np.random.default_rng(1).normal(size=(3, 40, 32)).astype(np.float32)
TARGETS = np.random.default_rng(2).integers(0, VOCAB, (3, 40)).astype(np.int32)
OBJECTIVE = np.random.default_rng(3).normal(size=(2, 3, 40)).astype(np.float32)


def chunked(model, hidden, targets, temperature):
    return model.logprobs(hidden, targets, temperature=temperature)


def direct(model, hidden, targets, temperature):
    """The definition, without pad rows and all at once."""
    head = model.language.head_weights()[:VOCAB]
    logprobs = jax.nn.log_softmax(hidden @ head.T / temperature)
    chosen = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)


def with_gradients(function):
    def objective(model, hidden, targets, temperature):
        pair = function(model, hidden, targets, temperature)
        return sum(jnp.sum(w * x) for w, x in zip(OBJECTIVE, pair, strict=True)), pair

    return quick_jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))


# Not dividing 40, dividing it, more than the row has.
@pytest.mark.parametrize("chunk", [7, 40, 512])
def test_logprobs_and_gradients_equal_the_definition(text_model, chunk):
    ours = with_gradients(chunked)
    definition = with_gradients(direct)
    model = with_compute(text_model, logprob_chunk=chunk)
    for temperature in (1.0, 0.6):
        inputs = (HIDDEN, TARGETS, temperature)
        (_, pair), (of_model, of_hidden) = ours(model, *inputs)
        (_, expected), (of_model_, of_hidden_) = definition(text_model, *inputs)
        for actual, wanted in zip(pair, expected, strict=True):
            assert actual.dtype == jnp.float32
            # Float32 sums over 331 of logits of size ten.
            assert difference(actual, wanted) <= 1e-5
        assert difference(of_hidden, of_hidden_) <= 1e-5
        # Sums of 120 tokens, each as above.
        assert max(differences(of_model, of_model_).values()) <= 1e-4


def test_the_gradient_of_a_bfloat16_head_is_added_up_in_float32(text_model):
    """512 chunks against one. Added up in bfloat16, a sum stops growing at 256 times its parts."""
    hidden = jnp.asarray(np.tile(HIDDEN[:1, :4], (1, 512, 1)), jnp.bfloat16)
    targets = np.tile(TARGETS[:1, :4], (1, 512))

    @quick_jit
    @jax.grad
    def gradient(model):
        return jnp.sum(model.logprobs(hidden, targets)[0])

    def of_head(chunk):
        model = with_compute(text_model, dtype="bfloat16", logprob_chunk=chunk)
        return gradient(model).language.head[...]

    by_chunks = of_head(4)
    at_once = of_head(4096)
    assert by_chunks.dtype == jnp.float32
    # Each chunk's part is rounded to bfloat16, 2^-9 of it.
    assert difference(by_chunks, at_once) <= 2**-8 * float(jnp.abs(at_once).max())


def test_pad_rows_of_the_vocabulary_do_nothing(text_model):
    def loss(model, tokens, positions, segments, _):
        logprobs, entropy = model.logprobs(model(tokens, positions, segments), tokens)
        return jnp.sum(logprobs - entropy), (logprobs, entropy)

    run = quick_jit(jax.value_and_grad(loss, has_aux=True))
    inputs = batch([[5, 6, 330, 7], [8, 9]], [list(range(3, 33))])
    (_, expected), gradients = run(text_model, *inputs)

    rows = np.arange(text_model.config.text.padded_vocab)[:, None]
    assert len(rows) == 1024
    language = text_model.language
    for gradient in (gradients.language.embedding, gradients.language.head):
        assert np.all(np.asarray(gradient)[VOCAB:] == 0)
        assert np.any(np.asarray(gradient)[:VOCAB])

    def spoiled(weight):
        return nnx.Param(jnp.where(rows < VOCAB, weight[...], 1e3), axes=weight.axes)

    spoilt = nnx.merge(*nnx.split(text_model))
    spoilt.language.embedding = spoiled(language.embedding)
    spoilt.language.head = spoiled(language.head)
    (_, actual), _ = run(spoilt, *inputs)
    assert all(np.array_equal(x, y) for x, y in zip(actual, expected, strict=True))
    logits = spoilt.logits(jnp.asarray(HIDDEN))
    assert np.all(logits[..., VOCAB:] == NEVER)


def largest_array(text) -> int:
    """Elements of the largest array of a printed program: `f32[3,40,384]` has 46,080."""
    shapes = re.findall(r"\b(?:f32|bf16|pred|s32|i32|u32|bool)\[([\d,]+)\]", text)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def test_no_array_of_all_logits_exists(text_model):
    rows, length, vocab, width = 3, 40, 1024, 32

    def program(chunk):
        model = with_compute(text_model, logprob_chunk=chunk)
        traced = with_gradients(chunked).trace(model, HIDDEN, TARGETS, 1.0)
        compiled = traced.lower().compile()
        return largest_array(str(traced.jaxpr)), largest_array(compiled.as_text())

    # Forward and backward pass hold the head, or the logits of one chunk, whichever is more.
    head = vocab * width
    assert program(7) == (head, head)  # does not divide 40
    chunk = rows * 20 * vocab
    assert program(20) == (chunk, chunk)
    everything = rows * length * vocab
    assert program(40) == (everything, everything)  # the test would see it
