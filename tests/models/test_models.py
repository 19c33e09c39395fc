"""The model against transformers: module by module, whole, and decoding through the cache."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from flax import nnx
from model_cases import (
    CASES,
    END,
    PROMPT,
    SHORT,
    TILES,
    VOCAB,
    batch,
    difference,
    differences,
    forward,
    prompts,
    quick_jit,
    torch_inputs,
    torch_logits,
)

from r1v3_jax import hf
from r1v3_jax.models.layers import layer_norm, rms_norm, rope_angles

# --- transformers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers(name, load_case):
    case = load_case(name)
    logits = forward(case.ours, *batch([PROMPT]), TILES)
    assert logits.dtype == jnp.float32
    ours = logits[0, : len(PROMPT), :VOCAB]
    # Float32 sums in another order, through five or six blocks, at logits of size ten.
    assert difference(ours, torch_logits(case.theirs, PROMPT)) <= 1e-4


def test_swapped_images_give_other_logits(case):
    # Guards the test above: the logits depend on which picture is where.
    swapped = forward(case.ours, *batch([PROMPT]), TILES[[3, 1, 2, 0]])
    last = len(PROMPT) - 1
    expected = torch_logits(case.theirs, PROMPT)[last]
    assert difference(swapped[0, last, :VOCAB], expected) > 0.01


VISION = "model.vision_tower"
TEXT = "model.language_model"
VISION_LAYER = f"{VISION}.encoder.layer.1"
TEXT_LAYER = f"{TEXT}.layers.1"
CONNECTOR = "model.multi_modal_projector"
HOOKED = [
    VISION,
    f"{VISION}.embeddings",
    VISION_LAYER,
    f"{VISION_LAYER}.layernorm_before",
    f"{VISION_LAYER}.attention",
    CONNECTOR,
    f"{CONNECTOR}.layer_norm",
    f"{TEXT}.embed_tokens",
    TEXT_LAYER,
    f"{TEXT_LAYER}.input_layernorm",
    f"{TEXT}.norm",
    "lm_head",
]


@quick_jit
def our_modules(model, inputs):
    """The output of each of our modules for the input that transformers' module had."""
    return vision_modules(model, inputs) | text_modules(model, inputs)


def vision_modules(model, inputs):
    vision = model.vision
    connector = model.connector
    layer = jax.tree.map(lambda w: w[1], vision.blocks)
    bias = layer.norm1_bias
    tiles = einops.rearrange(inputs[VISION], "i a r c -> i r c a")
    return {
        # Blocks that add nothing leave the embeddings; the class token is not in the output.
        f"{VISION}.embeddings": zeroed(vision, "scale1", "scale2")(tiles),
        f"{VISION_LAYER}.layernorm_before": layer.norm(
            inputs[f"{VISION_LAYER}.layernorm_before"],
            layer.norm1[...],
            None if bias is None else bias[...],
        ),
        f"{VISION_LAYER}.attention": layer.attend(inputs[f"{VISION_LAYER}.attention"]),
        VISION_LAYER: layer(inputs[VISION_LAYER]),
        VISION: vision(tiles),
        f"{CONNECTOR}.layer_norm": layer_norm(
            inputs[f"{CONNECTOR}.layer_norm"],
            connector.norm[...],
            connector.norm_bias[...],
            1e-5,
        ),
        CONNECTOR: connector(inputs[CONNECTOR]),
    }


def text_modules(model, inputs):
    text = model.language
    layer = jax.tree.map(lambda w: w[1], text.blocks)
    segment_ids = jnp.ones((1, len(PROMPT)), jnp.int32)
    angles = rope_angles(jnp.arange(len(PROMPT))[None], model.config.text)
    attend = text.self_attention(segment_ids)
    return {
        f"{TEXT}.embed_tokens": text.embed(inputs[f"{TEXT}.embed_tokens"]),
        f"{TEXT_LAYER}.input_layernorm": rms_norm(
            inputs[f"{TEXT_LAYER}.input_layernorm"],
            layer.norm1[...],
            model.config.text.norm_eps,
        ),
        TEXT_LAYER: layer(inputs[TEXT_LAYER], angles, attend),
        f"{TEXT}.norm": text.last_norm(inputs[f"{TEXT}.norm"]),
        "lm_head": model.logits(inputs["lm_head"])[..., :VOCAB],
    }


def zeroed(module, *names):
    graph, state = nnx.split(module)

    def replace(path, variable):
        value = variable.get_value()
        return variable.replace(jnp.zeros_like(value) if path[-1] in names else value)

    return nnx.merge(graph, nnx.map_state(replace, state))


def test_each_module_equals_transformers(case):
    inputs, theirs = reference.captured(case.theirs, HOOKED, **torch_inputs(PROMPT))
    # Ours drops the class token at the end.
    for name in (VISION, f"{VISION}.embeddings"):
        theirs[name] = theirs[name][:, 1:]
    ours = our_modules(case.ours, inputs)
    assert set(ours) == set(HOOKED)
    errors = {name: difference(ours[name], theirs[name]) for name in HOOKED}
    # One module is a dozen float32 operations on numbers of size one to ten; the tower is three.
    assert all(error <= 2e-5 for error in errors.values()), errors


def test_every_epsilon_equals_transformers(case):
    inputs, _ = reference.captured(case.theirs, HOOKED, **torch_inputs(PROMPT))
    modules = dict(case.theirs.named_modules())
    names = [
        CONNECTOR,
        f"{VISION_LAYER}.layernorm_before",
        f"{VISION_LAYER}.attention",  # its norms of q and k
        f"{TEXT_LAYER}.input_layernorm",
        f"{TEXT}.norm",
    ]
    # To size 1e-3: then the mean square is 1e-6, what the epsilons are.
    for name in names:
        inputs[name] = 1e-3 * inputs[name] / np.std(inputs[name])
    ours = our_modules(case.ours, inputs)
    for name in names:
        with torch.no_grad():
            theirs = modules[name](torch.from_numpy(inputs[name]))
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        # An epsilon of 1e-5 for 1e-6 would be off by a third.
        assert difference(ours[name], theirs.numpy()) <= 2e-5, name


def test_gradients_equal_transformers(case, tmp_path):
    # A second checkpoint whose weights are torch's gradients, loaded like any other, is the tree
    # that jax.grad must give: every parameter is compared, pad rows of the vocabulary (0) too.
    inputs = torch_inputs(PROMPT)
    directory = tmp_path / "gradients"
    gradients = reference.gradients(
        case.theirs, lambda m: m(**inputs, labels=inputs["input_ids"]).loss
    )
    reference.save_hf(gradients, directory)

    def loss(model):
        tokens, positions, segments, index = batch([PROMPT], shape=(1, len(PROMPT)))
        hidden = model(tokens, positions, segments, model.encode_images(TILES), index)
        logprobs, _ = model.logprobs(hidden[:, :-1], tokens[:, 1:])
        return -jnp.mean(logprobs)

    ours = quick_jit(jax.grad(loss))(case.ours)
    errors = differences(ours, hf.load(directory))
    assert len(errors) == len(jax.tree.leaves(case.ours))
    # Gradients are of size one at most; as for the logits.
    assert max(errors.values()) <= 1e-5, errors


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

    _, after_tokens = jax.lax.scan(step, cache, forced.T)
    after_prompt = jnp.repeat(logits, group, axis=0)[:, None]
    return jnp.concatenate([after_prompt, after_tokens.swapaxes(0, 1)], axis=1)


def test_greedy_decoding_equals_transformers_generate(case):
    with torch.no_grad():
        generated = case.theirs.generate(
            **torch_inputs(PROMPT), do_sample=False, max_new_tokens=32, pad_token_id=0
        )
    theirs = generated[0, len(PROMPT) :].tolist()
    assert len(theirs) == 32 and END not in theirs
    assert len(set(theirs)) >= 5  # not all the same
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
    prompt_of_sample = [PROMPT] * 3 + [SHORT] * 3
    pairs = zip(prompt_of_sample, forced, strict=True)
    rows = [[prompt + list(tail)] for prompt, tail in pairs]
    whole = forward(case.ours, *batch(*rows), TILES)
    for sample, prompt in enumerate(prompt_of_sample):
        expected = whole[sample, len(prompt) - 1 : len(prompt) + 12]
        assert difference(cached[sample], expected) <= 1e-4  # as against transformers
        # Nor does a sample notice its neighbours: the same numbers, in sums of the same order.
        own_inputs = [x[sample // 3 : sample // 3 + 1] for x in inputs]
        own_forced = forced[sample : sample + 1]
        alone = through_the_cache(case.ours, *own_inputs, TILES, own_forced)
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
    assert positions.tolist() == [4, 4]
    assert full.lengths.tolist() == [1, 1]
    assert np.array_equal(after.k, full.k)
    assert np.array_equal(after.v, full.v)
    assert np.any(full.k)
