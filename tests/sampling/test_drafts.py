"""Several tokens a pass: whatever is guessed, samples are what they are without guesses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_reference as reference
from flax import nnx
from quick_compile import quick_jit
from sampling_cases import (
    BUDGET,
    HOT,
    IMAGE,
    LAYOUTS,
    PAD,
    VOCAB,
    assert_same,
    on_a_mesh,
)

from r1v3_jax.models.draft_head import DraftHead
from r1v3_jax.sampling import drafts, loop
from r1v3_jax.sampling.params import SamplingParams

PLAIN = {"max_tokens": 20}
RULES = {"repetition_penalty": 1.2, "banned_sequences": ((5, 6), (7, 8, 9))}
SETTINGS = {
    "plain": PLAIN,
    "greedy": PLAIN | {"temperature": 0.0},
    "cuts, penalty, banned sequences, thinking budget": HOT | RULES | BUDGET,
}


@pytest.fixture(scope="module")
def head(checkpoint):
    """Makes a draft head of random weights: head(4) for passes of four tokens."""
    model = checkpoint.model

    def make(tokens):
        return DraftHead(model.config.text, model.compute, nnx.Rngs(1), tokens)

    return make


def ragged(count: int):
    """Prompts of 1 to 16 tokens, every second with an image -> tokens, lengths, index."""
    random = np.random.default_rng(0)
    tokens = np.full((count, 16), PAD, np.int32)
    index = np.full((count, 16), -1, np.int32)
    lengths = random.integers(6, 17, count).astype(np.int32)
    lengths[1::2] = random.integers(1, 17, len(lengths[1::2]))
    for row, length in enumerate(lengths):
        tokens[row, :length] = random.integers(20, VOCAB, length)
        if row % 2 == 0:
            tokens[row, 1:5] = IMAGE
            index[row, 1:5] = 4 * (row // 2 % 4) + np.arange(4)
    return tokens, lengths, index


def state_of(model, images, prompts, drafter, settings):
    """Decodes prompts to the end: the state, with its completions and its number of passes."""
    tokens, lengths, index = prompts
    sampling = SamplingParams(**settings)

    def run(model, images, drafter):
        has_drafts = drafter is not None
        rules = {"group_size": 1, "sampling": sampling, "drafts": has_drafts}
        state = loop.prefill(model, tokens, lengths, images, index, **rules)
        bounds = (jnp.int32(sampling.max_tokens), jnp.int32(len(tokens)), None)
        key = jax.random.key(3)
        return loop.decode(model, state, key, *bounds, drafter, sampling=sampling)

    return jax.device_get(quick_jit(run)(model, images, drafter))


@pytest.mark.parametrize(("tokens", "slots"), [(2, 0), (4, 5)])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_head_that_knows_nothing_changes_no_sample(
    sample, head, settings, tokens, slots
):
    same = {"key": 3, "group_size": 4, "slots": slots, **settings}
    plain = sample(0, 1, 2, 3, **same)
    assert_same(sample(0, 1, 2, 3, drafter=head(tokens), **same), plain)


@pytest.mark.parametrize(("name", "slots"), [("decode", 0), ("penalty", 8)])
def test_eight_devices_with_guesses_sample_what_they_do_without(
    checkpoint, head, name, slots
):
    mesh, rules, placed, further = LAYOUTS[name]
    layout = (mesh, rules, placed, HOT | further)
    model = checkpoint.model
    plain = on_a_mesh(model, *layout, slots=slots)
    guessed = on_a_mesh(model, *layout, slots=slots, drafter=head(3))
    assert_same(guessed, plain)


def test_two_slices_with_guesses_sample_what_one_does(checkpoint, head):
    layout = ((4, 1, 2), LAYOUTS["decode"][1], True, HOT)
    plain = on_a_mesh(checkpoint.model, *layout)
    guessed = on_a_mesh(checkpoint.model, *layout, slices=2, drafter=head(2))
    assert_same(guessed, plain)


@pytest.mark.parametrize("tokens", [2, 4])
def test_200_ragged_prompts_with_images_whatever_is_guessed(
    checkpoint, head, monkeypatch, tokens
):
    prompts = ragged(200)
    model = checkpoint.model
    images = model.encode_images(reference.rng_tiles(4))
    plain = state_of(model, images, prompts, None, PLAIN)
    known = np.asarray(plain.completions.tokens)
    longest = int(plain.completions.lengths.max())
    assert len(set(plain.completions.lengths.tolist())) > 5  # ragged, some ended early

    # What comes after token `lengths` - 1 of each sample, all right or all wrong.
    def guess_with(change):
        table = np.pad(change(known), ((0, 0), (0, tokens)))

        def draft(decoding, keys, state, lengths, token):
            rows = jnp.arange(len(table))
            columns = jnp.minimum(lengths, known.shape[1])
            return [jnp.asarray(table)[rows, columns + i] for i in range(tokens - 1)]

        return draft

    perfect = guess_with(lambda table: table)
    wrong = guess_with(lambda table: (table + 1) % VOCAB)
    passes = {}
    for name, draft in (("perfect", perfect), ("wrong", wrong), ("head", drafts.draft)):
        monkeypatch.setattr(drafts, "draft", draft)
        jax.clear_caches()  # `decode` is jitted: it would not see another function
        state = state_of(model, images, prompts, head(tokens), PLAIN)
        assert_same(state.completions, plain.completions)
        passes[name] = int(state.step)
        # The head goes on from the hidden state that the logits are of, however many were kept.
        of_hidden = model.logits(state.hidden[:, None])[:, 0]
        np.testing.assert_allclose(of_hidden, state.logits, atol=1e-5)
    # All right: T tokens a pass. All wrong: one.
    assert passes["perfect"] == -(-longest // tokens)
    assert passes["wrong"] == longest
    assert passes["perfect"] <= passes["head"] <= passes["wrong"]
    assert state.passes.sum() >= state.completions.lengths.sum() / tokens
