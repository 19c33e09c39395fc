"""Whole completions: against transformers, the trainer's log-probabilities, and other batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from sampling_cases import (
    BUDGET,
    EIGHT,
    END,
    HOT,
    IMAGE,
    LAYOUTS,
    PAD,
    PROMPTS,
    TILES,
    VOCAB,
    assert_same,
    batch,
    on_a_mesh,
    quick_jit,
    rows,
    with_end_token,
)

from r1v3_jax.models import qwen2
from r1v3_jax.models.caches import Cache
from r1v3_jax.models.joined_cache import JoinedCache
from r1v3_jax.sampling import loop
from r1v3_jax.sampling.params import SamplingParams

GREEDY = {"max_tokens": 32, "temperature": 0.0}


def their_completion(theirs, number, **settings):
    """What transformers generates greedily, without the prompt."""
    inputs = {"input_ids": torch.tensor([PROMPTS[number]])}
    tiles = {0: TILES[:1], 2: TILES[1:3]}.get(number)
    if tiles is not None:
        inputs["pixel_values"] = reference.to_pixel_values(tiles)
    with torch.no_grad():
        out = theirs.generate(
            **inputs, do_sample=False, max_new_tokens=32, pad_token_id=PAD, **settings
        )
    return out[0, len(PROMPTS[number]) :].tolist()


def test_greedy_completions_equal_transformers(checkpoint, sample):
    # Four prompts of different lengths at once, two of them with images.
    ours = sample(0, 1, 2, 3, **GREEDY)
    theirs = [their_completion(checkpoint.theirs, number) for number in range(4)]
    assert ours.tokens.tolist() == theirs
    assert len(set(map(tuple, theirs))) == 4
    assert ours.lengths.tolist() == [32] * 4
    assert not ours.ended.any()


@pytest.mark.filterwarnings("ignore:Passing .repetition_penalty.")
def test_greedy_with_a_repetition_penalty_equals_transformers(checkpoint, sample):
    # Given embeddings, transformers' penalty sees the completion only, as ours does.
    embeddings = checkpoint.theirs.get_input_embeddings()(torch.tensor([PROMPTS[1]]))
    with torch.no_grad():
        theirs = checkpoint.theirs.generate(
            inputs_embeds=embeddings.detach(),
            attention_mask=torch.ones(1, 3),
            do_sample=False,
            max_new_tokens=32,
            pad_token_id=PAD,
            repetition_penalty=1.2,
        )
    ours = sample(1, **GREEDY, repetition_penalty=1.2)
    assert ours.tokens[0].tolist() == theirs[0].tolist()
    assert ours.tokens[0].tolist() != their_completion(checkpoint.theirs, 1)


def test_samples_end_at_the_end_token_or_at_the_limit(checkpoint, sample):
    free = sample(0, 1, 2, 3, **GREEDY)
    sample_0 = free.tokens[0]
    places = {int(t): int(np.argmax(sample_0 == t)) for t in sample_0}
    # A token that sample 0 first has after a while.
    end, place = next((t, i) for t, i in places.items() if i >= 3)
    ours = sample(0, 1, 2, 3, model=with_end_token(checkpoint.model, end), **GREEDY)
    ends = [np.flatnonzero(row == end) for row in free.tokens]
    lengths = [int(steps[0]) + 1 if len(steps) else 32 for steps in ends]
    assert ours.lengths.tolist() == lengths
    assert ours.lengths[0] == place + 1
    assert ours.ended.tolist() == [len(steps) > 0 for steps in ends]
    assert set(ours.ended.tolist()) == {True, False}  # both kinds in one batch
    written = np.arange(32) < ours.lengths[:, None]
    assert np.array_equal(ours.tokens, np.where(written, free.tokens, PAD))
    assert np.array_equal(ours.chosen, written)
    for name in ("logprobs", "entropies"):
        expected = np.where(written, getattr(free, name), 0)
        np.testing.assert_allclose(getattr(ours, name), expected, rtol=0, atol=1e-5)


def test_a_limit_cuts_the_same_completions_short(sample):
    whole = sample(0, 1, **HOT)
    cut = sample(0, 1, limit=5, **HOT)
    assert cut.lengths.tolist() == [5, 5]
    assert not cut.ended.any()
    assert np.array_equal(cut.tokens[:, :5], whole.tokens[:, :5])
    assert np.all(cut.tokens[:, 5:] == PAD) and np.all(cut.logprobs[:, 5:] == 0)


def test_the_same_key_gives_the_same_completions(sample):
    sampled = sample(0, 1, key=3, **HOT)
    repeated = sample(0, 1, key=3, **HOT)
    different = sample(0, 1, key=4, **HOT)
    assert_same(sampled, repeated)
    assert not np.array_equal(sampled.tokens, different.tokens)


def test_a_sample_depends_neither_on_its_batch_nor_on_its_group(sample):
    group = sample(0, 1, group_size=3, **HOT)
    assert len({tuple(row) for row in group.tokens}) == 6  # the mates differ
    # Alone; with its mates but no other prompt; as three prompts instead of one with three samples.
    assert_same(rows(group, slice(0, 1)), sample(0, **HOT))
    assert_same(rows(group, slice(0, 3)), sample(0, group_size=3, **HOT))
    assert_same(group, sample(0, 0, 0, 1, 1, 1, **HOT))


def test_log_probabilities_are_the_trainers(checkpoint, sample):
    """Those of the whole policy at the temperature, whatever top-p, top-k and ban cut away."""
    ours = sample(0, 1, 2, group_size=2, **HOT)
    tokens, lengths, index = (np.repeat(x, 2, axis=0) for x in batch(0, 1, 2))
    steps = np.arange(16 + 12)
    total = (lengths + ours.lengths)[:, None]
    rows = np.pad(tokens, ((0, 0), (0, 12)))
    for row, length in enumerate(lengths):
        rows[row, length : length + 12] = ours.tokens[row]
    positions = np.broadcast_to(steps, rows.shape)
    index = np.pad(index, ((0, 0), (0, 12)), constant_values=-1)

    @quick_jit
    def score(model, rows, positions, segments, index, images):
        hidden = model(rows, positions, segments, images, index)
        temperature = HOT["temperature"]
        return model.logprobs(hidden[:, :-1], rows[:, 1:], temperature=temperature)

    segments = (positions < total).astype(np.int32)
    inputs = (rows, positions, segments, index, checkpoint.images)
    logprobs, entropy = score(checkpoint.model, *inputs)
    for row, length in enumerate(lengths):
        size = ours.lengths[row]
        places = slice(length - 1, length - 1 + size)
        # Two programs for one function; as cached logits against the full forward pass.
        sampled = ours.logprobs[row, :size]
        np.testing.assert_allclose(sampled, logprobs[row, places], atol=1e-4)
        sampled = ours.entropies[row, :size]
        np.testing.assert_allclose(sampled, entropy[row, places], atol=1e-4)
    assert not np.any(ours.tokens == IMAGE)
    assert np.all(ours.chosen == (ours.logprobs != 0))


def test_first_tokens_follow_the_distribution(checkpoint, sample):
    size = 2000
    ours = sample(1, group_size=size, max_tokens=1, temperature=1.5)
    hidden = torch.tensor([PROMPTS[1]])
    with torch.no_grad():
        logits = checkpoint.theirs(input_ids=hidden).logits[0, -1] / 1.5
    p = torch.softmax(logits, dim=-1).numpy()
    shares = np.bincount(ours.tokens[:, 0], minlength=VOCAB) / size
    # Five standard deviations of each share, and one draw for those that are hardly ever drawn.
    bound = 5 * np.sqrt(p * (1 - p) / size) + 1 / size
    assert np.all(np.abs(shares - p) <= bound)
    assert np.sum(p > 0.01) > 5  # a distribution worth the test
    expected = np.log(p)[ours.tokens[:, 0]]
    np.testing.assert_allclose(ours.logprobs[:, 0], expected, atol=1e-4)


def test_every_step_of_every_sample_is_drawn_anew(sample):
    # So hot that every token is as likely as any other, at every step of every sample; and none
    # ends, or its padding would be equal.
    settings = dict(max_tokens=8, temperature=1e6, banned=(END,))
    tokens = sample(1, group_size=200, **settings).tokens
    # Five standard deviations of a share of 1/330 among 1,400 draws and more.
    share = 1 / (VOCAB - 1)
    bound = 5 * np.sqrt(share / 1400)
    assert abs(np.mean(tokens[:, 1:] == tokens[:, :-1]) - share) <= bound  # steps
    assert abs(np.mean(tokens[1:] == tokens[:-1]) - share) <= bound  # samples


def test_a_thinking_budget_closes_the_thinking(sample):
    ours = sample(0, 1, **HOT, **BUDGET)
    free = sample(0, 1, **HOT)
    assert np.array_equal(ours.tokens[:, :4], free.tokens[:, :4])
    assert ours.tokens[:, 4:7].tolist() == [[50, 51, 52]] * 2
    forced = (np.arange(12) >= 4) & (np.arange(12) < 7)
    assert np.array_equal(ours.chosen, np.broadcast_to(~forced, (2, 12)))
    # The policy's own log-probabilities, of tokens it did not choose.
    assert np.all(ours.logprobs[:, 4:7] < 0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_eight_devices_sample_what_one_does(checkpoint, sample, name):
    shape, rules, placed, further = LAYOUTS[name]
    settings = {**HOT, **further}
    expected = sample(*EIGHT, group_size=2, **settings)
    assert_same(on_a_mesh(checkpoint.model, shape, rules, placed, settings), expected)


@pytest.mark.parametrize("calls", [1, 3])
def test_a_joined_cache_samples_what_a_shared_one_does(checkpoint, monkeypatch, calls):
    settings = SamplingParams(70, temperature=0.9, banned=(IMAGE,))
    tokens, lengths, index = batch(*EIGHT)

    def run():
        arrays = (checkpoint.model, tokens, lengths, checkpoint.images, index)
        # A new function each time, which is traced anew.
        prefill = functools.partial(
            loop.prefill.__wrapped__, group_size=2, sampling=settings
        )
        state = quick_jit(prefill)(*arrays)
        layout = type(state.cache)
        limit = jnp.int32(settings.max_tokens)
        # Several calls, as of a rollout whose first samples are scored while others are sampled.
        for call in range(1, calls + 1):
            until = jnp.int32(16 * call // calls)
            key = jax.random.key(5)
            state = loop.decode(
                checkpoint.model, state, key, limit, until, sampling=settings
            )
        return layout, jax.device_get(state.completions)

    layout, joined = run()
    assert layout is JoinedCache
    monkeypatch.setattr(qwen2, "is_joined", lambda *args: False)
    layout, shared = run()
    assert layout is Cache
    # Two sections, of 35 slots each, and samples that end in both.
    assert min(joined.lengths) < 35 < max(joined.lengths)
    assert_same(joined, shared)


@pytest.mark.parametrize("calls", [1, 3])
def test_blocks_of_a_gpu_sample_what_single_tokens_do(checkpoint, monkeypatch, calls):
    """On a GPU 16 tokens are sampled between two looks; run here, the tokens are the same."""
    settings = SamplingParams(70, temperature=0.9, banned=(IMAGE,))
    tokens, lengths, index = batch(*EIGHT)
    monkeypatch.setattr(qwen2, "is_joined", lambda *args: False)

    def run(is_on_gpu: bool):
        monkeypatch.setattr(loop, "is_on_gpu", lambda: is_on_gpu)
        arrays = (checkpoint.model, tokens, lengths, checkpoint.images, index)
        prefill = functools.partial(
            loop.prefill.__wrapped__, group_size=2, sampling=settings
        )
        decode = functools.partial(loop.decode.__wrapped__, sampling=settings)
        decode = quick_jit(decode)  # traced anew
        state = quick_jit(prefill)(*arrays)
        # A limit within a block, and several calls.
        limit = jnp.int32(67)
        for call in range(1, calls + 1):
            until = jnp.int32(16 * call // calls)
            state = decode(checkpoint.model, state, jax.random.key(5), limit, until)
        return jax.device_get(state.completions), int(state.step)

    single, steps = run(is_on_gpu=False)
    blocks, block_steps = run(is_on_gpu=True)
    assert_same(single, blocks)
    assert max(single.lengths) > 48
    assert steps <= block_steps <= -(-steps // loop.BLOCK) * loop.BLOCK


def test_the_loops_of_a_gpu_have_no_choice_in_a_layer(checkpoint, monkeypatch):
    """No `cond` is left for the host to decide: each loop reads its own number of slots."""
    settings = SamplingParams(100, temperature=0.9, banned=(IMAGE,))
    tokens, lengths, index = batch(*EIGHT)
    monkeypatch.setattr(qwen2, "is_joined", lambda *args: False)
    state = jax.eval_shape(
        functools.partial(loop.prefill.__wrapped__, group_size=2, sampling=settings),
        *(checkpoint.model, tokens, lengths, checkpoint.images, index),
    )
    numbers = (jax.random.key(5), jnp.int32(100), jnp.int32(16))

    def program(is_on_gpu: bool) -> str:
        monkeypatch.setattr(loop, "is_on_gpu", lambda: is_on_gpu)
        decode = functools.partial(loop.decode.__wrapped__, sampling=settings)
        return str(jax.make_jaxpr(decode)(checkpoint.model, state, *numbers))

    assert "cond[" in program(is_on_gpu=False)
    on_gpu = program(is_on_gpu=True)
    assert "cond[" not in on_gpu
    heads = checkpoint.model.config.text.kv_heads
    for slots in (32, 64, 80, 100):
        assert f"1,16,{heads},{slots}," in on_gpu.replace(" ", "")
