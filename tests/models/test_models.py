"""The model against transformers, module by module and whole; and against itself: cache, packing,
chunks, rematerialisation, number formats, kernels.
"""

import copy
import dataclasses
import functools
import math
import re
import time
from collections import Counter
from types import SimpleNamespace

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from flax import nnx
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from r1v3_jax import hf
from r1v3_jax.config import PRESETS, R1V3_38B, TINY, Compute, TextConfig
from r1v3_jax.models import build, internvit, qwen2, r1v3
from r1v3_jax.models.attention import NEVER, attention, causal_mask, splash_attention
from r1v3_jax.models.flops import num_params
from r1v3_jax.models.layers import layer_norm, rms_norm, rope_angles, rope_base
from r1v3_jax.run.weights import load_weights, save_weights
from r1v3_jax.sharding import make_mesh, shardings

QWEN2, QWEN3 = {}, {"qwen3": True, "head_dim": 16}
CASES = {  # tower, language model, its layers, whether the head is the embedding
    "rms qwen2": (reference.rms_vision, QWEN2, 2, False),
    "layer_norm qwen3 tied": (reference.layer_norm_vision, QWEN3, 3, True),
    "rms qwen3": (reference.rms_vision, QWEN3, 3, False),
    "layer_norm qwen2 tied": (reference.layer_norm_vision, QWEN2, 2, True),
}
MAIN_CASES = list(CASES)[:2]  # between them they have every part
VOCAB, IMAGE, END = reference.VOCAB, reference.IMAGE_TOKEN, reference.END_TOKEN


def image(*tiles):
    """The places of an image in a prompt, 4 a tile: -1 - (row of the flattened embeddings)."""
    return [-1 - (4 * tile + i) for tile in tiles for i in range(4)]


# Two images of three tiles and of one, out of these four tiles.
TILES = reference.rng_tiles(4)
PROMPT = [5, 7, *image(0, 1, 2), 8, 6, *image(3), 11, 200, 300, 4]
SHORT = [5, *image(1), 8]
ROWS, LENGTH = (
    6,
    64,
)  # the shape of nearly every batch below, so that programs are shared

# Less optimisation by LLVM: these programs run once, and half of the time goes into compiling.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
    },
)


@functools.cache
def their_model(name):
    vision, text, layers, tie = CASES[name]
    text = reference.text_config(num_hidden_layers=layers, **text)
    return reference.internvl(text, vision(), tie=tie)


@pytest.fixture(scope="module")
def load_case(tmp_path_factory):
    """A checkpoint by name: as transformers runs it, as we load it, and its directory."""

    @functools.cache
    def load(name):
        directory = tmp_path_factory.mktemp("checkpoint")
        reference.save_hf(their_model(name), directory)
        return SimpleNamespace(
            theirs=their_model(name), ours=hf.load(directory), directory=directory
        )

    return load


@pytest.fixture(scope="module", params=MAIN_CASES)
def case(request, load_case):
    return load_case(request.param)


@pytest.fixture(scope="module")
def model(load_case):
    return load_case("rms qwen2").ours


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    reference.save_hf(reference.language_model(seed=1), directory)
    return hf.load(directory)


def with_compute(model, **changes):
    """The same weights, run differently."""
    compute = dataclasses.replace(model.compute, **changes)
    graph, _ = nnx.split(build.abstract(model.config, compute))
    return nnx.merge(graph, nnx.state(model))


def batch(*rows, shape=(ROWS, LENGTH)):
    """Rows of segments, each a list of ids -> tokens, positions, segment_ids, image_index."""
    ids, positions, segments = np.zeros((3, *shape), np.int32)
    for row, ids_of_segments in enumerate(rows):
        start = 0
        for number, segment in enumerate(ids_of_segments, start=1):
            stop = start + len(segment)
            ids[row, start:stop] = segment
            positions[row, start:stop] = np.arange(len(segment))
            segments[row, start:stop] = number
            start = stop
    return (
        np.where(ids < 0, IMAGE, ids),
        positions,
        segments,
        np.where(ids < 0, -1 - ids, -1),
    )


def prompts(*prompts, length=32):
    """Prompts padded on the right -> tokens, lengths, image_index."""
    tokens, _, segments, index = batch(
        *([p] for p in prompts), shape=(len(prompts), length)
    )
    return tokens, segments.sum(axis=1, dtype=np.int32), index


@quick_jit
def forward(model, tokens, positions, segment_ids, index, tiles):
    hidden = model(tokens, positions, segment_ids, model.encode_images(tiles), index)
    return model.logits(hidden)


def difference(ours, theirs) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)))


def relative(ours, theirs) -> float:
    """|ours - theirs| / |theirs|, of all numbers at once."""
    return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))


def weights(model) -> dict[str, jax.Array]:
    flat = nnx.to_flat_state(nnx.state(model))
    return {".".join(path): variable.get_value() for path, variable in flat}


def worst(ours, theirs, measure=difference) -> dict[str, float]:
    """The difference of each weight of two models (or of two gradients)."""
    theirs = weights(theirs)
    return {name: measure(value, theirs[name]) for name, value in weights(ours).items()}


# --- transformers ------------------------------------------------------------------------------


def torch_inputs(ids):
    """A prompt that has the images in order, as transformers takes it."""
    ids = torch.tensor([[IMAGE if i < 0 else i for i in ids]])
    return dict(input_ids=ids, pixel_values=reference.to_pixel_values(TILES))


def torch_logits(theirs, ids):
    with torch.no_grad():
        return theirs(**torch_inputs(ids)).logits[0].numpy()


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers(name, load_case):
    case = load_case(name)
    logits = forward(case.ours, *batch([PROMPT]), TILES)
    assert logits.dtype == jnp.float32
    got = logits[0, : len(PROMPT), :VOCAB]
    # Float32 sums in another order, through five or six blocks, at logits of size ten.
    assert difference(got, torch_logits(case.theirs, PROMPT)) <= 1e-4


def test_swapped_images_give_other_logits(case):
    # Guards the test above: the logits depend on which picture is where.
    swapped = forward(case.ours, *batch([PROMPT]), TILES[[3, 1, 2, 0]])
    last = len(PROMPT) - 1
    expected = torch_logits(case.theirs, PROMPT)[last]
    assert difference(swapped[0, last, :VOCAB], expected) > 0.01


VISION, TEXT = "model.vision_tower", "model.language_model"
HOOKED = [
    VISION,
    f"{VISION}.embeddings",
    f"{VISION}.encoder.layer.1",
    f"{VISION}.encoder.layer.1.layernorm_before",
    f"{VISION}.encoder.layer.1.attention",
    "model.multi_modal_projector",
    "model.multi_modal_projector.layer_norm",
    f"{TEXT}.embed_tokens",
    f"{TEXT}.layers.1",
    f"{TEXT}.layers.1.input_layernorm",
    f"{TEXT}.norm",
    "lm_head",
]


@quick_jit
def our_modules(model, given):
    """The output of each of our modules for the input that transformers' had."""
    vision, text, config = model.vision, model.language, model.config
    vision_block = jax.tree.map(lambda w: w[1], vision.blocks)
    text_block = jax.tree.map(lambda w: w[1], text.blocks)
    bias = vision_block.norm1_bias
    tiles = einops.rearrange(given[VISION], "i a r c -> i r c a")
    ones = jnp.ones((1, len(PROMPT)), jnp.int32)
    angles = rope_angles(jnp.arange(len(PROMPT))[None], config.text)
    return {
        # Blocks that add nothing leave the embeddings; the class token is not in the output.
        f"{VISION}.embeddings": zeroed(vision, "scale1", "scale2")(tiles),
        f"{VISION}.encoder.layer.1.layernorm_before": vision_block.norm(
            given[f"{VISION}.encoder.layer.1.layernorm_before"],
            vision_block.norm1[...],
            None if bias is None else bias[...],
        ),
        f"{VISION}.encoder.layer.1.attention": vision_block.attend(
            given[f"{VISION}.encoder.layer.1.attention"]
        ),
        f"{VISION}.encoder.layer.1": vision_block(given[f"{VISION}.encoder.layer.1"]),
        VISION: vision(tiles),
        "model.multi_modal_projector.layer_norm": layer_norm(
            given["model.multi_modal_projector.layer_norm"],
            model.connector.norm[...],
            model.connector.norm_bias[...],
            1e-5,
        ),
        "model.multi_modal_projector": model.connector(
            given["model.multi_modal_projector"]
        ),
        f"{TEXT}.embed_tokens": text.embed(given[f"{TEXT}.embed_tokens"]),
        f"{TEXT}.layers.1.input_layernorm": rms_norm(
            given[f"{TEXT}.layers.1.input_layernorm"],
            text_block.norm1[...],
            config.text.norm_eps,
        ),
        f"{TEXT}.layers.1": text_block(
            given[f"{TEXT}.layers.1"], angles, text.self_attention(ones)
        ),
        f"{TEXT}.norm": text.last_norm(given[f"{TEXT}.norm"]),
        "lm_head": model.logits(given["lm_head"])[..., :VOCAB],
    }


def zeroed(module, *names):
    graph, state = nnx.split(module)

    def replace(path, variable):
        value = variable.get_value()
        return variable.replace(jnp.zeros_like(value) if path[-1] in names else value)

    return nnx.merge(graph, nnx.map_state(replace, state))


def test_each_module_equals_transformers(case):
    seen = reference.captured(case.theirs, HOOKED, **torch_inputs(PROMPT))
    theirs = {name: output for name, (_, output) in seen.items()}
    for name in (
        VISION,
        f"{VISION}.embeddings",
    ):  # ours drops the class token at the end
        theirs[name] = theirs[name][:, 1:]
    ours = our_modules(case.ours, {name: given for name, (given, _) in seen.items()})
    assert set(ours) == set(HOOKED)
    differences = {name: difference(ours[name], theirs[name]) for name in HOOKED}
    # One module is a dozen float32 operations on numbers of size one to ten; the tower is three.
    assert all(d <= 2e-5 for d in differences.values()), differences


def test_every_epsilon_equals_transformers(case):
    seen = reference.captured(case.theirs, HOOKED, **torch_inputs(PROMPT))
    modules = dict(case.theirs.named_modules())
    given = {name: given for name, (given, _) in seen.items()}
    names = [
        "model.multi_modal_projector",
        f"{VISION}.encoder.layer.1.layernorm_before",
        f"{VISION}.encoder.layer.1.attention",  # its norms of q and k
        f"{TEXT}.layers.1.input_layernorm",
        f"{TEXT}.norm",
    ]
    for (
        name
    ) in names:  # to size 1e-3: then the mean square is 1e-6, what the epsilons are
        given[name] = 1e-3 * given[name] / np.std(given[name])
    ours = our_modules(case.ours, given)
    for name in names:
        with torch.no_grad():
            theirs = modules[name](torch.from_numpy(given[name]))
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        # An epsilon of 1e-5 for 1e-6 would be off by a third.
        assert difference(ours[name], theirs.numpy()) <= 2e-5, name


def test_gradients_equal_transformers(case, tmp_path):
    # A second checkpoint whose weights are torch's gradients, loaded like any other, is the tree
    # that jax.grad must give: every parameter is compared, pad rows of the vocabulary (0) too.
    inputs, directory = torch_inputs(PROMPT), tmp_path / "gradients"
    gradients = reference.gradients(
        case.theirs, lambda m: m(**inputs, labels=inputs["input_ids"]).loss
    )
    reference.save_hf(gradients, directory)

    def loss(model):
        tokens, positions, segments, index = batch([PROMPT], shape=(1, len(PROMPT)))
        hidden = model(tokens, positions, segments, model.encode_images(TILES), index)
        logprobs, _ = model.logprobs(hidden[:, :-1], tokens[:, 1:])
        return -jnp.mean(logprobs)

    found = worst(quick_jit(jax.grad(loss))(case.ours), hf.load(directory))
    assert len(found) == len(jax.tree.leaves(case.ours))
    # Gradients are of size one at most; as for the logits.
    assert max(found.values()) <= 1e-5, found


# --- decoding through the cache ----------------------------------------------------------------


@quick_jit
def through_the_cache(model, tokens, lengths, index, tiles, forced):
    """Logits after each prompt and after each of the tokens [B, n] that follow: [B, n + 1, V]."""
    logits, prompt = model.prefill(tokens, lengths, model.encode_images(tiles), index)
    group = forced.shape[0] // tokens.shape[0]
    cache = model.new_cache(prompt, group_size=group, max_tokens=forced.shape[1])

    def step(cache, token):
        logits, cache = model.decode(token, cache)
        return cache, logits

    _, rest = jax.lax.scan(step, cache, forced.T)
    return jnp.concatenate(
        [jnp.repeat(logits, group, axis=0)[:, None], rest.swapaxes(0, 1)], axis=1
    )


def test_greedy_decoding_equals_transformers_generate(case):
    with torch.no_grad():
        generated = case.theirs.generate(
            **torch_inputs(PROMPT), do_sample=False, max_new_tokens=32, pad_token_id=0
        )
    theirs = generated[0, len(PROMPT) :].tolist()
    assert (
        len(theirs) == 32 and END not in theirs and len(set(theirs)) >= 5
    )  # not all the same
    forced = np.array([theirs], np.int32)
    logits = through_the_cache(case.ours, *prompts(PROMPT), TILES, forced)[0]
    # Given their tokens up to n, ours is the same token n + 1: by induction the same 32 tokens.
    assert np.argmax(logits[:-1], axis=-1).tolist() == theirs
    whole = torch_logits(case.theirs, PROMPT + theirs)[len(PROMPT) - 1 :]
    assert difference(logits[:, :VOCAB], whole) <= 1e-4  # as for the forward pass


def test_cached_logits_equal_the_full_forward_pass(case):
    # Two prompts of 24 and 6 tokens, three samples each, all with different continuations.
    forced = np.random.default_rng(0).integers(10, VOCAB, (6, 12)).astype(np.int32)
    inputs = prompts(PROMPT, SHORT)
    cached = through_the_cache(case.ours, *inputs, TILES, forced)
    owners = [PROMPT] * 3 + [SHORT] * 3
    rows = [[prompt + list(tail)] for prompt, tail in zip(owners, forced, strict=True)]
    whole = forward(case.ours, *batch(*rows), TILES)
    for sample, prompt in enumerate(owners):
        expected = whole[sample, len(prompt) - 1 : len(prompt) + 12]
        assert difference(cached[sample], expected) <= 1e-4  # as against transformers
        # Nor does a sample notice its neighbours: the same numbers, in sums of the same order.
        own = [x[sample // 3 : sample // 3 + 1] for x in inputs]
        alone = through_the_cache(case.ours, *own, TILES, forced[sample : sample + 1])
        assert difference(cached[sample], alone[0]) <= 1e-5


def test_a_full_cache_takes_no_more_tokens(text_model):
    tokens = np.array([20, 21], np.int32)

    @quick_jit
    def run(model, prompt_tokens, lengths):
        _, prompt = model.prefill(prompt_tokens, lengths)
        cache = model.new_cache(prompt, group_size=2, max_tokens=1)
        _, full = model.decode(tokens, cache)
        return full, full.positions, model.decode(tokens + 5, full)[1]

    full, positions, after = run(text_model, *prompts([5, 6, 7])[:2])
    assert positions.tolist() == [4, 4] and full.lengths.tolist() == [1, 1]
    assert np.array_equal(after.k, full.k) and np.array_equal(after.v, full.v)
    assert np.any(full.k)


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
    alone = forward(case.ours, *batch(*([s] for s in segments)), TILES)
    places = [(0, 0), (0, len(segments[0])), (1, 0), (1, len(segments[2]))]
    for number, (row, start) in enumerate(places):
        length = len(segments[number])
        # A masked score adds an exact zero; only the order of the sums differs.
        assert (
            difference(packed[row, start : start + length], alone[number, :length])
            <= 1e-5
        )


def test_padding_of_any_kind_changes_nothing(model):
    tokens, positions, segments, index = batch([PROMPT], [SHORT])
    padding = segments == 0
    junk = np.random.default_rng(0).integers(0, VOCAB, tokens.shape)
    other = (
        np.where(padding, junk, tokens).astype(np.int32),
        np.where(padding, 3, positions).astype(np.int32),
        segments,
        np.where(padding, 5, index).astype(np.int32),
    )
    expected = forward(model, tokens, positions, segments, index, TILES)
    got = forward(model, *other, TILES)
    assert np.array_equal(np.asarray(got)[~padding], np.asarray(expected)[~padding])


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


@pytest.mark.parametrize(
    "chunk", [7, 40, 512]
)  # not dividing 40, dividing it, more than there is
def test_logprobs_and_gradients_equal_the_definition(text_model, chunk):
    ours, definition = with_gradients(chunked), with_gradients(direct)
    model = with_compute(text_model, logprob_chunk=chunk)
    for temperature in (1.0, 0.6):
        inputs = (HIDDEN, TARGETS, temperature)
        (_, pair), (of_model, of_hidden) = ours(model, *inputs)
        (_, expected), (of_model_, of_hidden_) = definition(text_model, *inputs)
        for got, want in zip(pair, expected, strict=True):
            assert got.dtype == jnp.float32
            assert (
                difference(got, want) <= 1e-5
            )  # float32 sums over 331 of logits of size ten
        assert difference(of_hidden, of_hidden_) <= 1e-5
        # Sums of 120 tokens, each as above.
        assert max(worst(of_model, of_model_).values()) <= 1e-4


def test_the_gradient_of_a_bfloat16_head_is_added_up_in_float32(text_model):
    """512 chunks against one. Added up in bfloat16, a sum stops growing at 256 times its parts."""
    hidden = jnp.asarray(np.tile(HIDDEN[:1, :4], (1, 512, 1)), jnp.bfloat16)
    targets = np.tile(TARGETS[:1, :4], (1, 512))

    @quick_jit
    @jax.grad
    def gradient(model):
        return jnp.sum(model.logprobs(hidden, targets)[0])

    many, one = (
        gradient(
            with_compute(text_model, dtype="bfloat16", logprob_chunk=chunk)
        ).language.head[...]
        for chunk in (4, 4096)
    )
    assert many.dtype == jnp.float32
    # Each chunk's part is rounded to bfloat16, 2^-9 of it.
    assert difference(many, one) <= 2**-8 * float(jnp.abs(one).max())


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
        assert np.all(np.asarray(gradient)[VOCAB:] == 0) and np.any(
            np.asarray(gradient)[:VOCAB]
        )

    def spoiled(weight):
        return nnx.Param(jnp.where(rows < VOCAB, weight[...], 1e3), axes=weight.axes)

    spoilt = nnx.merge(*nnx.split(text_model))
    spoilt.language.embedding = spoiled(language.embedding)
    spoilt.language.head = spoiled(language.head)
    (_, got), _ = run(spoilt, *inputs)
    assert all(np.array_equal(x, y) for x, y in zip(got, expected, strict=True))
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
        return largest_array(str(traced.jaxpr)), largest_array(
            traced.lower().compile().as_text()
        )

    # Forward and backward pass hold the head, or the logits of one chunk, whichever is more.
    assert program(7) == (vocab * width, vocab * width)  # does not divide 40
    assert program(20) == (rows * 20 * vocab, rows * 20 * vocab)
    assert program(40) == (
        rows * length * vocab,
        rows * length * vocab,
    )  # the test would see it


# --- rematerialisation -------------------------------------------------------------------------


def row_loss(model, tokens, positions, segments, index, tiles):
    hidden = model(tokens, positions, segments, model.encode_images(tiles), index)
    logprobs, entropy = model.logprobs(hidden, tokens)
    used = segments > 0
    return jnp.sum(jnp.where(used, logprobs - entropy, 0)) / jnp.sum(used)


@functools.cache
def loss_and_gradients(**jit_options):
    return quick_jit(jax.value_and_grad(row_loss), **jit_options)


@pytest.mark.parametrize("policy", ["dots", "attention", "full"])
def test_rematerialisation_changes_no_number(model, policy):
    inputs = (*batch([PROMPT], [SHORT, SHORT]), TILES)
    loss, gradients = loss_and_gradients()(model, *inputs)
    loss_, gradients_ = loss_and_gradients()(with_compute(model, remat=policy), *inputs)
    # The same operations on the same numbers, some of them twice; gradients here are below one.
    assert abs(loss - loss_) <= 1e-6
    assert max(worst(gradients, gradients_).values()) <= 1e-6


def test_what_each_policy_keeps_for_the_backward_pass():
    B, T, I, P = 6, 48, 4, 17  # rows, tokens; tiles, patches and the class token of one
    integers, tiles = jnp.zeros((B, T), jnp.int32), jnp.zeros((I, 28, 28, 3))

    def kept(policy):
        """Shape of activations kept per layer -> how many."""
        model = build.abstract(TINY, Compute(remat=policy))

        def backward(model):
            return jax.vjp(lambda m: row_loss(m, *[integers] * 4, tiles), model)[1]

        leaves = jax.tree.leaves(jax.eval_shape(backward, model))
        return Counter(
            x.shape[1:] for x in leaves if x.shape[:3] in ((2, B, T), (2, I, P))
        )

    # K 4, Q 2, H 8, D 32, F 64; in the tower N 5, H 8, C 40, F 80; two layers each.
    layer_input = Counter({(B, T, 32): 1, (I, P, 40): 1})
    q_k_v_context = Counter(
        {(B, T, 4, 2, 8): 2, (B, T, 4, 8): 2, (I, P, 5, 1, 8): 2, (I, P, 5, 8): 2}
    )
    middle_gate_up = Counter({(B, T, 32): 1, (B, T, 64): 2, (I, P, 80): 1})
    assert kept("full") == layer_input
    assert kept("attention") == layer_input + q_k_v_context
    assert kept("dots") == layer_input + q_k_v_context + middle_gate_up
    assert kept("none").total() > 2 * kept("dots").total()


# --- bfloat16 ----------------------------------------------------------------------------------


def test_bfloat16_is_as_close_as_transformers_in_bfloat16(case):
    exact = torch_logits(case.theirs, PROMPT)
    low = copy.deepcopy(case.theirs).to(torch.bfloat16)
    inputs = torch_inputs(PROMPT)
    with torch.no_grad():
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        theirs = low(**inputs).logits[0].float().numpy()

    model = with_compute(case.ours, dtype="bfloat16", param_dtype="bfloat16")
    model = jax.tree.map(lambda w: w.astype(jnp.bfloat16), model)

    @quick_jit
    def run(model, tokens, positions, segments, index):
        hidden = model(tokens, positions, segments, model.encode_images(TILES), index)
        return hidden, model.logits(hidden), model.logprobs(hidden, tokens)

    hidden, logits, pair = run(model, *batch([PROMPT]))
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in pair)

    def error(x):
        return np.sqrt(np.mean(np.square(x - exact)) / np.mean(np.square(exact)))

    ours = np.asarray(logits)[0, : len(PROMPT), :VOCAB]
    # Each rounding to 8 bits is 2^-9 off at most; some 100 of them in a row through the model,
    # independent of each other, make ten times that, 2%. Where ours rounds is where torch does.
    assert error(ours) <= 0.02
    assert error(ours) <= 1.25 * error(theirs)


def test_bfloat16_computation_over_float32_weights(model):
    inputs = (*batch([PROMPT], [SHORT, SHORT]), TILES)
    _, exact = loss_and_gradients()(model, *inputs)
    _, gradients = loss_and_gradients()(with_compute(model, dtype="bfloat16"), *inputs)
    assert {g.dtype.name for g in jax.tree.leaves(gradients)} == {"float32"}
    got, want = (
        np.concatenate([np.ravel(w) for w in weights(g).values()])
        for g in (gradients, exact)
    )
    # As above, through the backward pass too: twice the roundings, at most twice the error.
    assert relative(got, want) <= 0.04


def test_the_gradient_of_a_frequent_token_does_not_stagnate(text_model):
    # In bfloat16 256 + 1 is 256: a sum of thousands of equal terms stops growing on its way.
    model = with_compute(text_model, dtype="bfloat16")
    tokens = np.full((8, 1024), 7, np.int32)

    def total(model):
        return jnp.sum(model.embed(tokens).astype(jnp.float32))

    gradient = quick_jit(jax.grad(total))(model).language.embedding
    assert np.all(np.asarray(gradient)[7] == 8 * 1024)


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
            q, k, v, jnp.asarray(segments),
            causal=causal, q_spec=None, block=block, interpret=True,
        )  # fmt: skip

    def both(attend):
        def objective(q, k, v):
            out = attend(q, k, v)
            return jnp.sum(weights * out), out

        (_, out), gradients = quick_jit(
            jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True)
        )(q, k, v)
        return out, *gradients

    for got, want in zip(
        both(kernel), both(lambda q, k, v: attention(q, k, v, mask)), strict=True
    ):
        # The softmax is built up block by block: float32 rounding, at numbers of size one to ten.
        assert difference(got, want) <= 2e-5


def test_the_model_hands_the_kernel_what_the_reference_gets(
    text_model, model, monkeypatch
):
    # On a CPU the kernel only runs interpreted; nothing else of it is changed.
    interpreted = functools.partial(splash_attention, interpret=True)
    for module in (qwen2, internvit):
        monkeypatch.setattr(module, "splash_attention", interpreted)
    inputs = (*batch([PROMPT], [SHORT, SHORT]), TILES)
    padding = inputs[2] == 0
    expected = np.asarray(forward(model, *inputs))
    got = np.asarray(forward(with_compute(model, attention="splash"), *inputs))
    assert (
        difference(got[~padding], expected[~padding]) <= 1e-4
    )  # as against transformers


# --- sizes, shapes, programs -------------------------------------------------------------------

# Counted by transformers over the same dimensions (its InternVL on the meta device); the
# published model cards round them to 0.9, 2.1, 7.9, 15.1, 38.4 and 78.4 billion.
PARAMETERS = {
    "r1v3_38b": 38_388_164_992,
    "internvl3_1b": 938_193_024,
    "internvl3_2b": 2_088_957_440,
    "internvl3_8b": 7_944_373_760,
    "internvl3_14b": 15_117_256_704,
    "internvl3_38b": 38_388_164_992,
    "internvl3_78b": 78_408_318_336,
    "tiny": 85_744,
    "tiny_300m": 149_552,
}


def test_every_preset_is_counted():
    assert set(PARAMETERS) == set(PRESETS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    config = PRESETS[name]
    assert num_params(config) == PARAMETERS[name]
    leaves = sum(x.size for x in jax.tree.leaves(build.abstract(config, Compute())))
    text = config.text
    pad_rows = (text.padded_vocab - text.vocab_size) * (1 if text.tie_embeddings else 2)
    assert leaves - pad_rows * text.embed == PARAMETERS[name]


def test_parameters_of_38b_by_hand():
    # D 5120, 40 query and 8 kv heads of 128, F 27648, 64 layers; V 151,674.
    layer = (
        5120 * 5120 + 5120  # q and its bias
        + 2 * (5120 * 1024 + 1024)  # k, v
        + 5120 * 5120  # out
        + 3 * 5120 * 27648  # gate, up, down
        + 2 * 5120  # norms
    )  # fmt: skip
    language = 64 * layer + 5120 + 2 * 151674 * 5120
    # C 3200, F 12800, 45 layers, 32 x 32 patches of 14 x 14 x 3.
    block = (
        4 * 3200**2 + 3200 + 2 * 3200 * 12800 + 12800 + 3200 + 6 * 3200
    )  # 2 norms, q/k, scales
    vision = 45 * block + 588 * 3200 + 3200 + 3200 + 1025 * 3200
    connector = 2 * 12800 + 12800 * 5120 + 5120 + 5120 * 5120 + 5120
    assert (language, vision, connector) == (32_759_882_752, 5_536_496_000, 91_786_240)
    assert num_params(R1V3_38B) == language + vision + connector


def test_38b_without_its_numbers_takes_no_time():
    start = time.process_time()
    build.abstract(R1V3_38B, Compute())
    assert time.process_time() - start < 2


def test_tiles_of_another_size_are_refused(model):
    with pytest.raises(
        ValueError, match=r"\(2, 14, 14, 3\); this model takes \[I, 28, 28, 3\]"
    ):
        model.encode_images(np.zeros((2, 14, 14, 3), np.float32))
    with pytest.raises(ValueError, match="takes"):  # channels first, as torch has them
        model.encode_images(np.zeros((2, 3, 28, 28), np.float32))


def test_one_program_a_shape_wherever_the_weights_come_from(tmp_path):
    reference.save_hf(reference.language_model(seed=1), tmp_path / "hf")
    mesh = make_mesh((1, 1, 1))

    @quick_jit
    def run(model, tokens):
        return model.logits(model(tokens, tokens, jnp.ones_like(tokens)))

    with jax.set_mesh(mesh):
        loaded = hf.load(tmp_path / "hf", mesh=mesh)
        graph, state = nnx.split(loaded)
        save_weights(tmp_path / "weights", loaded)
        models = [
            loaded,
            load_weights(tmp_path / "weights", mesh=mesh),
            quick_jit(lambda: r1v3.R1V3(loaded.config, loaded.compute, nnx.Rngs(0)))(),
            jax.tree.map(lambda w: w * 0.5, loaded),  # an update
            nnx.merge(
                graph,
                jax.device_put(state, shardings(loaded, loaded.compute.rules, mesh)),
            ),
        ]
        for seed, model in enumerate(models):
            tokens = (
                np.random.default_rng(seed).integers(0, VOCAB, (2, 16)).astype(np.int32)
            )
            run(model, tokens)
            run(model, tokens)
        assert run._cache_size() == 1
        run(loaded, np.zeros((2, 17), np.int32))
        assert run._cache_size() == 2


# --- parts, written out ------------------------------------------------------------------------


def test_pixel_shuffle_is_the_written_out_formula():
    side, channels = 6, 3
    x = (
        np.random.default_rng(0)
        .normal(size=(2, side, side, channels))
        .astype(np.float32)
    )
    expected = np.zeros((2, side // 2, side // 2, 4 * channels), np.float32)
    for i in range(side // 2):
        for j in range(side // 2):
            merged = [x[:, 2 * i + a, 2 * j + b] for a in (0, 1) for b in (0, 1)]
            expected[:, i, j] = np.concatenate(merged, axis=-1)
    ours = r1v3.pixel_shuffle(x.reshape(2, side * side, channels))
    assert np.array_equal(ours, expected.reshape(2, -1, 4 * channels))
    theirs = their_model("rms qwen2").model.pixel_shuffle(
        torch.from_numpy(x), scale_factor=0.5
    )
    assert np.array_equal(ours, theirs.numpy().reshape(2, -1, 4 * channels))


def test_patches_come_in_reading_order_each_row_column_channel():
    tile = np.arange(4 * 4 * 3).reshape(1, 4, 4, 3)
    #  pixel    0  1 | 2  3      patch 0: pixels 0 1 4 5, each r g b
    #           4  5 | 6  7      patch 1: pixels 2 3 6 7
    #          -------------
    #           8  9 | ...
    pixels = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    expected = [
        [3 * p + colour for p in patch for colour in range(3)] for patch in pixels
    ]
    assert np.array_equal(internvit.patches(jnp.asarray(tile), 2)[0], expected)


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


def test_rope_angles_equal_transformers_to_the_last_position():
    # Dynamic scaling of factor 2, as in every InternVL3: with rope_impl "hf" it changes nothing.
    positions = np.array([[0, 1, 2, 255, 256, 257, 4095, 8191, 32767]], np.int32)
    ours = rope_angles(jnp.asarray(positions), TextConfig(rope_factor=2.0))
    for kind in ({"rope_type": "default"}, {"rope_type": "dynamic", "factor": 2.0}):
        config = Qwen2Config(
            hidden_size=256, num_attention_heads=2, head_dim=128, max_position_embeddings=32768,
            rope_parameters={"rope_theta": 1e6, **kind},
        )  # fmt: skip
        theirs = Qwen2RotaryEmbedding(config)(
            torch.zeros(1, 9, 256), torch.from_numpy(positions)
        )
        for mine, its in zip(ours, theirs, strict=True):
            # torch's powers differ between CPUs, by a unit in the last place of a frequency: of an
            # angle of 32,767 that is 4e-3. All else rounds the same.
            angle = positions[..., None] * 1e6 ** (-np.arange(64) / 64)
            for half in (its[..., :64], its[..., 64:]):
                off = np.abs(np.asarray(mine) - half.numpy())
                assert np.all(off <= 1e-5 + angle * 2**-23)


def test_rope_base_of_vllm():
    config = TextConfig(head_dim=128, rope_theta=1e6, rope_factor=2.0)
    assert rope_base(config) == 1e6
    static = dataclasses.replace(config, rope_impl="vllm_static")
    assert round(rope_base(static)) == 3_052_774
    unscaled = dataclasses.replace(static, rope_factor=1.0)
    assert rope_base(unscaled) == 1e6


def test_rope_angles_use_the_base():
    static = TextConfig(head_dim=128, rope_factor=2.0, rope_impl="vllm_static")
    cos, _ = rope_angles(jnp.array([[1000]]), static)
    expected = np.cos(1000 * 3_052_773.675 ** (-np.arange(0, 128, 2) / 128))
    assert (
        difference(cos[0, 0], expected) <= 1e-4
    )  # float32 angles of up to 1,000: 6e-5
