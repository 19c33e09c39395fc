"""A joined cache: where there is one, what it shows, and that it gives what a shared one gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import prompts
from quick_compile import quick_jit

from r1v3_jax.config import Compute
from r1v3_jax.models import qwen2
from r1v3_jax.models.caches import PromptCache, empty_cache
from r1v3_jax.models.joined_cache import (
    COPY_BYTES,
    JoinedCache,
    is_joined,
    join,
    refilled,
)
from r1v3_jax.sampling import loop
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import abstract_mesh, make_mesh


def prompt_cache(layers=3, prompts=2, slots=6, heads=2, dim=4) -> PromptCache:
    shape = (layers, prompts, heads, slots, dim)
    k = jax.random.normal(jax.random.key(0), shape)
    v = jax.random.normal(jax.random.key(1), shape)
    return PromptCache(k=k, v=v, lengths=jnp.array([4, 2, 3], jnp.int32)[:prompts])


def drawing(cache: JoinedCache) -> list[str]:
    """A line for each sample, with an x for each slot that its next token sees."""
    return ["".join(" x"[int(used)] for used in row) for row in cache.used()]


def test_the_slots_that_a_token_sees_written_out():
    cache = join(prompt_cache(), Compute(), group_size=2, max_tokens=5)
    # Three tokens are written; the fourth sample has ended.
    lengths = jnp.array([3, 3, 3, 0], jnp.int32)
    cache = dataclasses.replace(cache, step=jnp.int32(3), lengths=lengths)
    assert drawing(cache) == [
        "xxxx  xxxx ",
        "xxxx  xxxx ",
        "xx    xxxx ",
        "xx       x ",
    ]
    assert cache.positions.tolist() == [7, 7, 5, 2]


def test_a_ring_written_out():
    """Five slots, of which 1 is written next; the second sample has ended."""
    rows = jnp.array([0, 0, 1, 2], jnp.int32)
    cache = join(prompt_cache(prompts=3), Compute(), rows=rows, max_tokens=5)
    lengths = jnp.array([4, 0, 2, 3], jnp.int32)
    cache = dataclasses.replace(cache, step=jnp.int32(1), lengths=lengths)
    assert drawing(cache) == [
        "xxxx  xxxxx",
        "xxxx   x   ",
        "xx    xx  x",
        "xxx   xx xx",
    ]
    after = cache.stepped(cache.k, cache.v)
    assert [int(cache.step), int(after.step)] == [1, 2]
    last = dataclasses.replace(cache, step=jnp.int32(4))
    assert int(last.stepped(cache.k, cache.v).step) == 0


def test_a_sample_that_follows_has_its_own_prompt():
    prompt = prompt_cache(prompts=3)
    rows = jnp.array([0, 0, 1], jnp.int32)
    cache = join(prompt, Compute(), rows=rows, max_tokens=5)
    cache = dataclasses.replace(
        cache,
        k=jax.tree.map(lambda x: x.at[..., 6:].set(7), cache.k),
        v=jax.tree.map(lambda x: x.at[:, :, 6:].set(7), cache.v),
        step=jnp.int32(3),
        lengths=jnp.array([2, 0, 0], jnp.int32),
        rows=jnp.array([0, 2, 1], jnp.int32),
    )
    after = refilled(cache, jnp.array([False, True, False]))
    for layer in range(3):
        for sample, row in enumerate([0, 2, 1]):
            keys = np.swapaxes(after.k[layer][sample, ..., :6], 1, 2)
            assert np.array_equal(keys, prompt.k[layer, row])
            values = after.v[layer][sample, :, :6]
            assert np.array_equal(values, prompt.v[layer, row])
        # The ring stays as it is.
        assert np.all(after.k[layer][..., 6:] == 7)
        assert np.all(after.v[layer][:, :, 6:] == 7)
    assert after.prompt_lengths.tolist() == [4, 3, 2]
    assert int(after.step) == 3
    # Nothing is under way: the ring begins anew.
    none = dataclasses.replace(cache, lengths=jnp.zeros(3, jnp.int32))
    assert int(refilled(none, jnp.array([True, True, False])).step) == 0


def test_sections_written_out():
    def sections(max_tokens):
        return join(prompt_cache(), Compute(), max_tokens=max_tokens).sections

    assert sections(1) == (1,)
    assert sections(52) == (52,)
    assert sections(100) == (34, 67, 100)
    assert sections(128) == (32, 64, 96, 128)
    assert sections(1000) == (250, 500, 750, 1000)


def test_a_section_comes_back_into_the_whole():
    cache = join(prompt_cache(), Compute(), group_size=2, max_tokens=5)
    whole = jax.tree.map(lambda x: x + 1, cache)
    part = jax.tree.map(lambda x: x + 1, whole.first(2))
    assert part.v[0].shape == (4, 2, 6 + 2, 4)
    merged = whole.with_first(part)
    # 0 where nothing was; 1 of the whole behind the section, 2 within it.
    assert np.all(merged.v[0][:, :, 6:8] == 2)
    assert np.all(merged.v[0][:, :, 8:] == 1)
    assert np.all(merged.k[2][..., 8:] == 1)
    assert merged.step == part.step


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        (True, {}),
        # 2 x 4 KiB a slot of all samples and a layer: 4 MiB are 512 slots.
        (True, {"slots": 512, "dim": 256}),
        (False, {"slots": 513, "dim": 256}),
        (True, {"layers": 8}),
        (False, {"layers": 9}),
    ],
)
def test_small_copies_are_made(wanted, changes):
    assert is_joined(prompt_cache(**changes), Compute(), samples=2) == wanted


def test_a_long_ring_is_not_made():
    assert is_joined(prompt_cache(), Compute(), 2, ring_slots=2048)
    assert not is_joined(prompt_cache(), Compute(), 2, ring_slots=2049)


def test_only_the_samples_in_slots_have_copies(text_model):
    """A slot for each sample: all have copies. With fewer slots: only as many as there are."""
    text = text_model.config.text
    # 32 tokens, k and v.
    row = 32 * 2 * text.kv_heads * text.head_dim * 4
    shape = (text.layers, 2, text.kv_heads, 32, text.head_dim)
    keys = jnp.zeros(shape)
    prompt = PromptCache(keys, keys, jnp.ones(2, jnp.int32))
    most = COPY_BYTES // row

    def is_made(**sizes) -> bool:
        sizes = {"max_tokens": 4} | sizes
        new = functools.partial(text_model.new_cache, **sizes)
        return isinstance(jax.eval_shape(new, prompt), JoinedCache)

    assert is_made(group_size=most // 2)
    assert not is_made(group_size=most // 2 + 1)
    for samples in (most, most + 1):
        rows = jnp.zeros(samples, jnp.int32)
        assert is_made(group_size=most, rows=rows) == (samples == most)
    # Slots that are read section by section may be many, those of a ring may not.
    assert is_made(max_tokens=2049)
    assert is_made(max_tokens=2048, rows=rows[:2])
    assert not is_made(max_tokens=2049, rows=rows[:2])


def test_only_one_cpu_without_kernels_has_copies():
    prompt = prompt_cache()
    for attention in ("splash", "cudnn"):
        dtype = "bfloat16" if attention == "cudnn" else "float32"
        assert not is_joined(prompt, Compute(attention=attention, dtype=dtype), 2)
    with jax.set_mesh(make_mesh((1, 1, 1))):
        assert is_joined(prompt, Compute(), 2)
    with jax.set_mesh(make_mesh((2, 1, 1))):
        assert not is_joined(prompt, Compute(), 2)
    # A mesh that does not say what its devices are.
    with jax.sharding.use_abstract_mesh(abstract_mesh((1, 1, 1))):
        assert not is_joined(prompt, Compute(), 2)


@quick_jit
def logits_of_both(model, tokens, lengths, forced):
    """Logits after each of the tokens [B, n], from a joined cache and from a shared one."""
    _, prompt = model.prefill(tokens, lengths)
    sizes = {"group_size": len(forced) // len(tokens), "max_tokens": forced.shape[1]}
    joined = model.new_cache(prompt, **sizes)
    shared = empty_cache(prompt, model.compute, **sizes)
    assert isinstance(joined, JoinedCache)

    def step(cache, token):
        logits, cache = model.decode(token, cache)
        return cache, logits

    return [jax.lax.scan(step, cache, forced.T)[1] for cache in (joined, shared)]


def test_a_joined_cache_gives_the_logits_of_a_shared_one(text_model):
    forced = np.random.default_rng(0).integers(10, 60, (6, 5)).astype(np.int32)
    inputs = prompts([5, 6, 7, 8, 9, 10, 11], [20, 21])[:2]
    joined, shared = logits_of_both(text_model, *inputs, forced)
    # The same sums in another order.
    np.testing.assert_allclose(joined, shared, rtol=0, atol=1e-5)


def test_a_sample_that_has_ended_sees_nothing_of_its_own(text_model):
    inputs = prompts([5, 6, 7])[:2]

    @quick_jit
    def run(model, tokens, lengths):
        _, prompt = model.prefill(tokens, lengths)
        cache = model.new_cache(prompt, group_size=2, max_tokens=4)
        first = jnp.array([20, 21], jnp.int32)
        second = jnp.array([30, 30], jnp.int32)
        fresh, _ = model.decode(second, cache)
        _, cache = model.decode(first, cache)
        cache = dataclasses.replace(cache, lengths=jnp.array([1, 0], jnp.int32))
        return fresh, model.decode(second, cache)[0]

    fresh, after = run(text_model, *inputs)
    np.testing.assert_allclose(after[1], fresh[1], rtol=0, atol=1e-5)
    assert np.max(np.abs(after[0] - fresh[0])) > 1e-3


def test_samples_that_follow_others_are_those_of_a_shared_cache(
    text_model, monkeypatch
):
    """Samples of uneven lengths in fewer slots, twice as many tokens as a ring has slots."""
    inputs = prompts([5, 6, 7, 8, 9, 10, 11], [20, 21], [30, 31, 32], [40])[:2]
    # Five tokens are left, one of which ends a sample.
    left = {text_model.config.end_token_id, 20, 21, 22, 23}
    banned = set(range(text_model.config.text.vocab_size)) - left
    sampling = SamplingParams(max_tokens=9, banned=tuple(sorted(banned)))
    settings = {"group_size": 3, "slots": 4, "sampling": sampling}

    def sample(is_small: bool):
        with monkeypatch.context() as patch:
            if not is_small:
                patch.setattr(qwen2, "is_joined", lambda *args: False)

            @jax.jit
            def run(model, tokens, lengths, key):
                arrays = (tokens, lengths, None, None)
                state = loop.prefill.__wrapped__(model, *arrays, **settings)
                assert isinstance(state.cache, JoinedCache) == is_small
                bounds = (key, jnp.int32(9), jnp.int32(12))
                return loop.decode.__wrapped__(model, state, *bounds, sampling=sampling)

            return jax.device_get(run(text_model, *inputs, jax.random.key(3)))

    joined = sample(True)
    shared = sample(False)
    # One at least fills the whole ring, and not all do.
    lengths = set(joined.completions.lengths.tolist())
    assert len(lengths) > 2
    assert max(lengths) == 9
    assert joined.step > 2 * 9
    assert np.array_equal(joined.completions.tokens, shared.completions.tokens)
    # The same sums in another order.
    np.testing.assert_allclose(
        joined.completions.logprobs, shared.completions.logprobs, rtol=0, atol=1e-5
    )
