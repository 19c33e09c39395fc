"""Sampling: choices written out, statistics of the draws, and agreement with transformers, with the
trainer's log-probabilities, and of any batch with any other.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from flax import nnx
from jax.sharding import NamedSharding
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from r1v3_jax import hf
from r1v3_jax.config import TINY, Compute, ModelConfig
from r1v3_jax.models import build
from r1v3_jax.models.attention import NEVER
from r1v3_jax.sampling import loop, next_token
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import Completions, append
from r1v3_jax.sharding import DECODE, TRAIN, make_mesh, shardings

IMAGE, END, PAD, VOCAB = (
    reference.IMAGE_TOKEN,
    reference.END_TOKEN,
    reference.PAD_TOKEN,
    reference.VOCAB,
)
PROMPTS = [
    [5, *[IMAGE] * 4, 7, 8],
    [6, 20, 21],
    [30, *[IMAGE] * 8, 31, 32, 33, 34, 35],
    [40],
]
TILES = reference.rng_tiles(
    4
)  # the first prompt has the first, the third the second and third

# Compiling is nearly all the time of these tests: less of it.
OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
quick_jit = functools.partial(jax.jit, compiler_options=OPTIONS)
encode_images = quick_jit(lambda model: model.encode_images(TILES))
generate = quick_jit(loop.generate, static_argnames=("group_size", "slots", "sampling"))


def batch(*numbers):
    """The prompts of these numbers, padded on the right -> tokens, lengths, image_index."""
    tokens, index = np.full((len(numbers), 16), PAD), np.full((len(numbers), 16), -1)
    for row, number in enumerate(numbers):
        ids = np.array(PROMPTS[number])
        tokens[row, : len(ids)] = ids
        first = {0: 0, 2: 4}.get(number)
        places = np.flatnonzero(ids == IMAGE)
        index[row, places] = first + np.arange(len(places)) if len(places) else -1
    lengths = [len(PROMPTS[number]) for number in numbers]
    return tokens.astype(np.int32), np.array(lengths, np.int32), index.astype(np.int32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    theirs = reference.internvl(reference.text_config(), reference.rms_vision(), seed=2)
    directory = tmp_path_factory.mktemp("checkpoint")
    reference.save_hf(theirs, directory)
    ours = hf.load(directory)
    images = encode_images(ours)
    return SimpleNamespace(
        theirs=theirs, model=ours, images=images, directory=directory
    )


@pytest.fixture(scope="module")
def sample(checkpoint):
    """Completions of prompts by number."""

    def run(*numbers, key=0, limit=None, group_size=1, slots=0, model=None, **settings):
        tokens, lengths, index = batch(*numbers)
        limit = None if limit is None else jnp.int32(limit)
        return jax.device_get(
            generate(
                model or checkpoint.model, tokens, lengths, jax.random.key(key), checkpoint.images,
                index, limit, group_size=group_size, slots=slots, sampling=SamplingParams(**settings),
            )
        )  # fmt: skip

    return run


def rows(completions, chosen):
    return jax.tree.map(lambda x: x[chosen], completions)


def assert_same(a, b):
    """The same tokens, and log-probabilities to float32 rounding."""
    for name in ("tokens", "lengths", "ended", "chosen"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for name in ("logprobs", "entropies"):
        np.testing.assert_allclose(
            getattr(a, name), getattr(b, name), rtol=0, atol=1e-5
        )


# --- one choice, written out -------------------------------------------------------------------

#        token       0    1    2    3
LOGITS = jnp.log(jnp.array([[0.1, 0.5, 0.3, 0.1]]))


def drawn(**settings):
    """Share of each token among 4,000 draws, in two columns."""
    keys = jax.random.split(jax.random.key(7), 4000)
    logits = jnp.broadcast_to(LOGITS, (4000, 4))
    tokens = next_token.choose(
        logits, keys, SamplingParams(max_tokens=1, **settings), (8, 2)
    )
    assert tokens.dtype == jnp.int32
    return np.bincount(tokens, minlength=4) / 4000


# Five standard deviations of a share of 4,000 draws: 5 * sqrt(1/4 / 4,000).
SHARE = 0.04


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [0.1, 0.5, 0.3, 0.1]),
        ({"temperature": 0.5}, [1 / 36, 25 / 36, 9 / 36, 1 / 36]),  # p^2, normalised
        ({"temperature": 2.0}, [0.168, 0.375, 0.290, 0.168]),  # sqrt(p), normalised
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 5 / 8, 3 / 8, 0]),
        ({"top_k": 99}, [0.1, 0.5, 0.3, 0.1]),
        ({"top_p": 0.4}, [0, 1, 0, 0]),
        ({"top_p": 0.7}, [0, 5 / 8, 3 / 8, 0]),
        ({"banned": (1,)}, [0.2, 0, 0.6, 0.2]),
        ({"banned": (1,), "top_k": 1}, [0, 0, 1, 0]),
        ({"banned": (1, 2)}, [0.5, 0, 0, 0.5]),
        (
            {"banned": (2,), "top_p": 0.7},
            [0, 1, 0, 0],
        ),  # .5 of the .7 that are left reach it
    ],
    ids=str,
)
def test_choices(settings, expected):
    shares = drawn(**settings)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=SHARE)
    assert np.all(
        (shares > 0) == (np.array(expected) > 0)
    )  # nothing that is excluded, ever


def test_greedy_takes_the_highest_that_is_not_banned():
    logits = jnp.array([[0.0, 9.0, 2.0, 1.0], [5.0, 9.0, 2.0, 9.0]])
    keys = jax.random.split(jax.random.key(0), 2)

    def choose(**settings):
        settings = SamplingParams(max_tokens=1, temperature=0.0, **settings)
        return next_token.choose(logits, keys, settings, (1, 1)).tolist()

    assert choose() == [1, 1]
    assert choose(banned=(1,)) == [2, 3]
    assert choose(banned=(1, 3)) == [2, 0]
    assert choose(top_k=1, top_p=0.5) == [1, 1]


def test_what_is_banned_is_never_drawn_however_low_the_rest():
    logits = jnp.array([[90.0, -300.0, -400.0]] * 100)
    keys = jax.random.split(jax.random.key(0), 100)
    for temperature in (0.0, 0.5, 1.0, 100.0):
        settings = SamplingParams(max_tokens=1, temperature=temperature, banned=(0,))
        assert 0 not in np.asarray(next_token.choose(logits, keys, settings, (1, 1)))


def test_pad_rows_of_the_vocabulary_are_never_drawn():
    logits = jnp.array([[0.0, 0.0, NEVER, NEVER]] * 1000)
    keys = jax.random.split(jax.random.key(0), 1000)
    for temperature in (0.1, 1.0, 100.0):
        settings = SamplingParams(max_tokens=1, temperature=temperature, banned=(0,))
        assert np.all(
            np.asarray(next_token.choose(logits, keys, settings, (1, 2))) == 1
        )


@pytest.mark.parametrize(
    "tile", [(1, 1), (8, 1), (1, 2), (4, 2), (8, 4), (8, 8)], ids=str
)
def test_a_draw_by_columns_is_a_draw_from_all(tile):
    """A flat column, and one with a peak: their shares are sums, not maxima."""
    p = jnp.array([0.1, 0.3, 0.1, 0.15, 0.1, 0.1, 0.1, 0.05])
    keys = jax.random.split(jax.random.key(3), 20_000)
    tokens = next_token.draw(jnp.tile(jnp.log(p), (20_000, 1)), keys, tile)
    share = np.bincount(tokens, minlength=8) / 20_000
    assert np.all(
        np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / 20_000)
    )  # five deviations


def test_nucleus_floor_written_out():
    p = jnp.array(
        [[0.5, 0.3, 0.1, 0.1], [0.1, 0.1, 0.3, 0.5], [0.25, 0.25, 0.25, 0.25]]
    )
    for top_p, floors in (
        (0.01, [0.5, 0.5, 0.25]),
        (0.49, [0.5, 0.5, 0.25]),
        (0.7, [0.3, 0.3, 0.25]),
        (0.85, [0.1, 0.1, 0.25]),
    ):
        got = jnp.exp(next_token.nucleus_floor(jnp.log(p), top_p))
        np.testing.assert_allclose(got[:, 0], floors, rtol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"top_k": 5}, {"top_p": 0.3}, {"top_p": 0.95}], ids=str
)
def test_what_is_cut_equals_transformers(settings):
    logits = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32) * 2
    warper = (
        TopKLogitsWarper(5)
        if "top_k" in settings
        else TopPLogitsWarper(settings["top_p"])
    )
    theirs = torch.isfinite(warper(None, torch.from_numpy(logits))).numpy()
    # 20,000 draws a row: also what is kept with a probability of 1e-3 comes up.
    keys = jax.random.split(jax.random.key(0), 20_000)
    settings = SamplingParams(max_tokens=1, **settings)
    for row in range(8):
        tokens = next_token.choose(
            jnp.tile(logits[row], (20_000, 1)), keys, settings, (8, 2)
        )
        assert np.array_equal(np.unique(tokens), np.flatnonzero(theirs[row]))


# --- the other parts, written out --------------------------------------------------------------


def completions(tokens, lengths, ended):
    shape = np.shape(tokens)
    zeros = jnp.zeros(shape, jnp.float32)
    return Completions(
        tokens=jnp.array(tokens), logprobs=zeros, entropies=zeros, chosen=jnp.zeros(shape, bool),
        lengths=jnp.array(lengths), ended=jnp.array(ended),
    )  # fmt: skip


def test_append_written_out():
    # Three samples at step 1: one goes on, one ends now (end token 2), one has ended before.
    before = completions(
        [[5, 0, 0], [6, 0, 0], [2, 0, 0]], [1, 1, 1], [False, False, True]
    )
    after = append(
        before,
        jnp.array([True, True, False]),
        jnp.array([7, 2, 9]),
        jnp.array([-1.0, -2.0, -3.0]),
        jnp.array([0.1, 0.2, 0.3]),
        jnp.array([True, False, True]),
        2,
    )
    assert after.tokens.tolist() == [[5, 7, 0], [6, 2, 0], [2, 0, 0]]
    assert after.logprobs.tolist() == [[0, -1, 0], [0, -2, 0], [0, 0, 0]]
    np.testing.assert_allclose(after.entropies[:, 1], [0.1, 0.2, 0])
    assert after.chosen[:, 1].tolist() == [True, False, False]
    assert after.lengths.tolist() == [2, 2, 1]
    assert after.ended.tolist() == [False, True, True]


def test_measure_is_the_log_softmax_and_its_entropy():
    logits = jnp.array([[1.0, 2.0, 4.0, NEVER], [0.0, 0.0, 0.0, 0.0]])
    for temperature in (1.0, 0.5):
        logprob, entropy = next_token.measure(logits, jnp.array([2, 0]), temperature)
        p = np.exp(np.array([1.0, 2.0, 4.0]) / temperature)
        p /= p.sum()
        np.testing.assert_allclose(logprob, [np.log(p[2]), -np.log(4)], atol=1e-6)
        np.testing.assert_allclose(
            entropy, [-np.sum(p * np.log(p)), np.log(4)], atol=1e-6
        )


def test_repetition_penalty_equals_transformers():
    logits = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32) * 3
    tokens, lengths = [[3, 5, 3, 0], [7, 0, 0, 0], [0, 0, 0, 0]], [3, 1, 0]
    settings = SamplingParams(max_tokens=4, repetition_penalty=1.3)
    state = completions(tokens, lengths, [False] * 3)
    got = next_token.penalised(jnp.asarray(logits), state, settings)
    for row, length in enumerate(
        lengths
    ):  # what is not yet written (0) is not penalised
        ids = torch.tensor([tokens[row][:length]], dtype=torch.long)
        theirs = RepetitionPenaltyLogitsProcessor(1.3)(
            ids, torch.from_numpy(logits[row : row + 1])
        )
        np.testing.assert_allclose(got[row], theirs[0], rtol=1e-6)
    untouched = next_token.penalised(
        jnp.asarray(logits), state, SamplingParams(max_tokens=4)
    )
    assert np.array_equal(untouched, logits)


@pytest.mark.parametrize(
    "wanted, expected, chosen",
    [  # think_end is 7 or 17, 8, 9 or 19; after three tokens it is forced
        ([1, 2, 3, 4, 5, 6, 1, 2], [1, 2, 3, 7, 8, 9, 1, 2], "11100011"),
        (
            [1, 7, 8, 4, 5, 6, 1, 2],
            [1, 7, 8, 9, 5, 6, 1, 2],
            "11101111",
        ),  # was about to close
        (
            [7, 8, 9, 4, 5, 6, 1, 2],
            [7, 8, 9, 4, 5, 6, 1, 2],
            "11111111",
        ),  # closed in time
        (
            [7, 7, 8, 4, 5, 6, 1, 2],
            [7, 7, 8, 9, 5, 6, 1, 2],
            "11101111",
        ),  # a false start
        (
            [7, 8, 1, 7, 8, 9, 1, 2],
            [7, 8, 1, 7, 8, 9, 1, 2],
            "11100011",
        ),  # its own, but forced
        (
            [17, 8, 19, 4, 5, 6, 1, 2],
            [17, 8, 19, 4, 5, 6, 1, 2],
            "11111111",
        ),  # merged at its ends
        ([1, 2, 17, 4, 5, 6, 1, 2], [1, 2, 17, 8, 9, 6, 1, 2], "11100111"),  # begun so
        (
            [1, 8, 9, 4, 5, 6, 1, 2],
            [1, 8, 9, 7, 8, 9, 1, 2],
            "11100011",
        ),  # only its end
    ],
)
def test_a_thinking_budget_written_out(wanted, expected, chosen):
    assert close(wanted, ((7, 17), (8,), (9, 19))) == (
        expected,
        [c == "1" for c in chosen],
    )


def test_an_end_of_thinking_that_overlaps_itself():
    # 7 7 8 after 7 7 7 8: its first two are the second and third 7.
    assert close([7, 7, 7, 8, 5, 6], ((7,), (7,), (8,)))[0] == [7, 7, 7, 8, 5, 6]
    assert close([1, 7, 7, 7, 5, 6], ((7,), (7,), (8,)))[0] == [1, 7, 7, 8, 5, 6]


def close(wanted, think_end):
    """What a policy that wants these tokens gets under a budget of three, and which are its own."""
    settings = SamplingParams(max_tokens=8, thinking_tokens=3, think_end=think_end)
    tokens, closed = np.zeros((1, len(wanted)), np.int32), jnp.zeros(1, bool)
    own = []
    for step, token in enumerate(wanted):
        token, free, closed = next_token.close_thinking(
            jnp.array([token]), jnp.array([step]), jnp.asarray(tokens), closed, settings
        )
        tokens[0, step] = token[0]
        own.append(bool(free[0]))
    return tokens[0].tolist(), own


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_tokens": 0}, "max_tokens 0 must be at least 1"),
        ({"temperature": -0.1}, "must not be negative; 0 is greedy"),
        ({"top_p": 0.0}, r"top_p 0.0 must lie in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p 1.5 must lie in \(0, 1\]"),
        ({"top_k": -1}, "top_k -1 must not be negative"),
        ({"repetition_penalty": 0.0}, "must be positive"),
        ({"thinking_tokens": 5}, "needs think_end"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**{"max_tokens": 4, **settings})


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"max_tokens": 30},
            "prompts of 3 tokens and completions of 30 exceed the model's 32",
        ),
        ({"banned": (1, 400)}, "banned: token 400 is outside the vocabulary of 331"),
        ({"think_end": ((5,), (-1,))}, "think_end: token -1 is outside"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_model_are_refused(settings, message):
    text = dataclasses.replace(TINY.text, vocab_size=VOCAB, max_positions=32)
    with pytest.raises(ValueError, match=message):
        SamplingParams(**{"max_tokens": 4, **settings}).check(
            ModelConfig(text, None, None, 0, 0), 3
        )


# --- whole completions -------------------------------------------------------------------------

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
    assert ours.lengths.tolist() == [32] * 4 and not ours.ended.any()


@pytest.mark.filterwarnings("ignore:Passing .repetition_penalty.")
def test_greedy_with_a_repetition_penalty_equals_transformers(checkpoint, sample):
    # Given embeddings, transformers' penalty sees the completion only, as ours does.
    embeddings = checkpoint.theirs.get_input_embeddings()(torch.tensor([PROMPTS[1]]))
    with torch.no_grad():
        theirs = checkpoint.theirs.generate(
            inputs_embeds=embeddings.detach(), attention_mask=torch.ones(1, 3),
            do_sample=False, max_new_tokens=32, pad_token_id=PAD, repetition_penalty=1.2,
        )  # fmt: skip
    ours = sample(1, **GREEDY, repetition_penalty=1.2)
    assert ours.tokens[0].tolist() == theirs[0].tolist()
    assert ours.tokens[0].tolist() != their_completion(checkpoint.theirs, 1)


def with_end_token(model, token):
    config = dataclasses.replace(model.config, end_token_id=token)
    graph, _ = nnx.split(build.abstract(config, model.compute))
    return nnx.merge(graph, nnx.state(model))


def test_samples_end_at_the_end_token_or_at_the_limit(checkpoint, sample):
    free = sample(0, 1, 2, 3, **GREEDY)
    first = {int(t): int(np.argmax(free.tokens[0] == t)) for t in free.tokens[0]}
    end, at = next(
        (t, i) for t, i in first.items() if i >= 3
    )  # sample 0 says it after a while
    model = with_end_token(checkpoint.model, end)
    tokens, lengths, index = batch(0, 1, 2, 3)
    ours = jax.device_get(
        generate(
            model, tokens, lengths, jax.random.key(0), checkpoint.images, index,
            sampling=SamplingParams(**GREEDY),
        )
    )  # fmt: skip
    said = [np.flatnonzero(row == end) for row in free.tokens]
    assert ours.lengths.tolist() == [int(s[0]) + 1 if len(s) else 32 for s in said]
    assert ours.lengths[0] == at + 1 and ours.ended.tolist() == [
        len(s) > 0 for s in said
    ]
    assert set(ours.ended.tolist()) == {True, False}  # both kinds in one batch
    written = np.arange(32) < ours.lengths[:, None]
    assert np.array_equal(ours.tokens, np.where(written, free.tokens, PAD))
    assert np.array_equal(ours.chosen, written)
    for name in ("logprobs", "entropies"):
        expected = np.where(written, getattr(free, name), 0)
        np.testing.assert_allclose(getattr(ours, name), expected, rtol=0, atol=1e-5)


HOT = {
    "max_tokens": 12,
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 40,
    "banned": (IMAGE,),
}


def test_a_limit_cuts_the_same_completions_short(sample):
    whole, cut = sample(0, 1, **HOT), sample(0, 1, limit=5, **HOT)
    assert cut.lengths.tolist() == [5, 5] and not cut.ended.any()
    assert np.array_equal(cut.tokens[:, :5], whole.tokens[:, :5])
    assert np.all(cut.tokens[:, 5:] == PAD) and np.all(cut.logprobs[:, 5:] == 0)


def test_the_same_key_gives_the_same_completions(sample):
    one, again, other = (sample(0, 1, key=key, **HOT) for key in (3, 3, 4))
    assert_same(one, again)
    assert not np.array_equal(one.tokens, other.tokens)


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
        return model.logprobs(
            hidden[:, :-1], rows[:, 1:], temperature=HOT["temperature"]
        )

    segments = (positions < total).astype(np.int32)
    logprobs, entropy = score(
        checkpoint.model, rows, positions, segments, index, checkpoint.images
    )
    for row, length in enumerate(lengths):
        size = ours.lengths[row]
        where = slice(length - 1, length - 1 + size)
        # Two programs for one function; as cached logits against the full forward pass.
        np.testing.assert_allclose(
            ours.logprobs[row, :size], logprobs[row, where], atol=1e-4
        )
        np.testing.assert_allclose(
            ours.entropies[row, :size], entropy[row, where], atol=1e-4
        )
    assert not np.any(ours.tokens == IMAGE) and np.all(
        ours.chosen == (ours.logprobs != 0)
    )


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
    np.testing.assert_allclose(
        ours.logprobs[:, 0], np.log(p)[ours.tokens[:, 0]], atol=1e-4
    )


def test_every_step_of_every_sample_is_drawn_anew(sample):
    # So hot that every token is as likely as any other, at every step of every sample; and none
    # ends, or its padding would be equal.
    tokens = sample(
        1, group_size=200, max_tokens=8, temperature=1e6, banned=(END,)
    ).tokens
    for pair in ((tokens[:, 1:], tokens[:, :-1]), (tokens[1:], tokens[:-1])):
        # Five standard deviations of a share of 1/330 among 1,400 draws and more.
        share = 1 / (VOCAB - 1)
        assert abs(np.mean(pair[0] == pair[1]) - share) <= 5 * np.sqrt(share / 1400)


BUDGET = {"thinking_tokens": 4, "think_end": ((50,), (51,), (52,))}


def test_a_thinking_budget_closes_the_thinking(sample):
    ours = sample(0, 1, **HOT, **BUDGET)
    free = sample(0, 1, **HOT)
    assert np.array_equal(ours.tokens[:, :4], free.tokens[:, :4])
    assert ours.tokens[:, 4:7].tolist() == [[50, 51, 52]] * 2
    forced = (np.arange(12) >= 4) & (np.arange(12) < 7)
    assert np.array_equal(ours.chosen, np.broadcast_to(~forced, (2, 12)))
    assert np.all(
        ours.logprobs[:, 4:7] < 0
    )  # the policy's own, of tokens it did not choose


EIGHT = (0, 1, 2, 3, 2, 1, 0, 1)
LAYOUTS = {  # mesh, rules, whether the inputs lie on their devices already, further settings
    "decode": ((2, 2, 2), DECODE, True, {}),
    "train": ((2, 2, 2), TRAIN, True, {}),
    "host inputs": ((2, 2, 2), DECODE, False, {}),
    "penalty": ((2, 2, 2), DECODE, True, {"repetition_penalty": 1.1}),
    "thinking": (
        (2, 2, 2),
        DECODE,
        True,
        BUDGET,
    ),
}


def on_a_mesh(model, mesh_shape, rules, placed, settings, *, slots=0):
    """Two samples of each of eight prompts, on the host."""
    tokens, lengths, index = batch(*EIGHT)
    images, mesh = np.concatenate([encode_images(model)] * 2), make_mesh(mesh_shape)
    with jax.set_mesh(mesh):

        def put(x, *axes):
            return (
                jax.device_put(x, NamedSharding(mesh, rules.spec(*axes)))
                if placed
                else x
            )

        graph, _ = nnx.split(build.abstract(model.config, Compute(rules=rules)))
        placement = shardings(model, rules, mesh)
        there = nnx.merge(graph, jax.device_put(nnx.state(model), placement))
        got = generate(
            there, put(tokens, "batch", None), put(lengths, "batch"), jax.random.key(0),
            put(images, "tiles", None, None), put(index, "batch", None),
            group_size=2, slots=slots, sampling=SamplingParams(**settings),
        )  # fmt: skip
        assert got.tokens.sharding.spec == rules.spec("batch", None)
    return jax.device_get(got)


@pytest.mark.parametrize("name", LAYOUTS)
def test_eight_devices_sample_what_one_does(checkpoint, sample, name):
    shape, rules, placed, further = LAYOUTS[name]
    settings = {**HOT, **further}
    expected = sample(*EIGHT, group_size=2, **settings)
    assert_same(on_a_mesh(checkpoint.model, shape, rules, placed, settings), expected)


# --- more samples than slots -------------------------------------------------------------------

WARM = {"max_tokens": 24, "temperature": 0.8, "top_k": 12, "banned": (IMAGE,)}


@pytest.fixture(scope="module")
def ending(checkpoint, sample):
    """The model with the token for its end that is first said at the most different steps."""
    free = sample(*EIGHT, group_size=2, **WARM).tokens
    said = [free == token for token in range(VOCAB)]
    steps = [len(set(np.argmax(here, axis=1)[here.any(axis=1)])) for here in said]
    return with_end_token(checkpoint.model, int(np.argmax(steps)))


SLOTTED = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "penalty": {"repetition_penalty": 1.3},
    "thinking": BUDGET,
    "limit": {"limit": 9},
    "nucleus": {"top_p": 0.9},
}


@pytest.mark.parametrize("name", SLOTTED)
def test_samples_do_not_depend_on_the_slots_they_are_decoded_in(ending, sample, name):
    run = functools.partial(
        sample, *EIGHT, group_size=2, model=ending, **WARM | SLOTTED[name]
    )
    expected = run()
    limit, lengths = SLOTTED[name].get("limit", 24), 2 if name == "greedy" else 5
    assert len(set(expected.lengths.tolist())) >= lengths and {True, False} == set(
        expected.ended.tolist()
    )
    for slots in (3, 5, 8):
        got = run(slots=slots)
        assert_same(got, expected)
        assert np.array_equal(got.ended | (got.lengths == limit), np.ones(16, bool))
    # As many slots as samples: the program without a queue.
    assert_same(run(slots=16), expected)


def served(lengths, slots):
    """Which samples each slot decodes, and in how many steps all are done."""
    free, order = np.zeros(slots, int), [[] for _ in range(slots)]
    for sample, length in enumerate(lengths):
        slot = int(np.argmin(free))  # the first that is free, the lowest of several
        order[slot].append(sample)
        free[slot] += length
    return order, int(free.max())


def snapshots(model, untils, *, slots, **settings):
    """The states after `decode` until so many samples are finished, and the next, ..."""
    tokens, lengths, index = batch(*EIGHT)
    images = encode_images(model)
    sampling, key = SamplingParams(**WARM | settings), jax.random.key(0)
    state = loop.prefill(
        model,
        tokens,
        lengths,
        images,
        index,
        group_size=2,
        slots=slots,
        sampling=sampling,
    )
    for until in untils:
        limit = jnp.int32(sampling.max_tokens)
        state = loop.decode(
            model, state, key, limit, jnp.int32(until), sampling=sampling
        )
        yield jax.device_get((until, state.completions, state.finished, state))


@pytest.mark.parametrize("slots", [3, 16])
def test_decoding_returns_when_enough_samples_are_finished(ending, sample, slots):
    expected = sample(*EIGHT, group_size=2, model=ending, **WARM)
    before, seen = (
        np.zeros(16, bool),
        list(snapshots(ending, (4, 8, 8, 16), slots=slots)),
    )
    for until, completions, finished, _ in seen:
        # Several may be done with the same token, but none is sampled on meanwhile.
        assert until <= finished.sum() < until + slots and np.all(finished >= before)
        assert_same(rows(completions, finished), rows(expected, finished))
        if slots < 16:  # what is not finished is not there
            assert not completions.lengths[~finished].any()
        before = finished
    _, completions, finished, state = seen[-1]
    assert finished.all()
    if slots < 16:
        assert np.all(state.queue.sample == 16) and state.queue.next == [16]
        _, steps = served(expected.lengths, slots)
        assert state.step == steps  # no slot ever waits
        assert completions.lengths.sum() / (slots * steps) > 0.8
    else:
        assert state.step == expected.lengths.max()


def test_samples_are_taken_in_order(ending, sample):
    expected = sample(*EIGHT, group_size=2, model=ending, **WARM)
    order, _ = served(expected.lengths, 3)
    seen = [[] for _ in range(3)]
    for *_, state in snapshots(ending, range(0, 16), slots=3):
        for slot, number in enumerate(state.queue.sample):
            if number < 16 and number not in seen[slot]:
                seen[slot].append(int(number))
    assert seen == order and sum(order, []) != sorted(sum(order, []))


@pytest.mark.parametrize(
    "name", ["decode", "train", "host inputs", "penalty", "thinking"]
)
def test_eight_devices_serve_their_own_slots(ending, sample, name):
    shape, rules, placed, further = LAYOUTS[name]
    settings = {**WARM, **further}
    expected = sample(*EIGHT, group_size=2, model=ending, **settings)
    got = on_a_mesh(ending, shape, rules, placed, settings, slots=8)
    assert_same(got, expected)


def test_slots_that_do_not_fit_are_refused(ending, sample):
    for slots in (17, -1):
        with pytest.raises(
            ValueError, match=f"{slots} slots for 16 samples; at most one for each"
        ):
            sample(*EIGHT, group_size=2, model=ending, slots=slots, **WARM)
    with pytest.raises(ValueError, match="3 slots cannot be split over 2 devices"):
        on_a_mesh(ending, (2, 2, 2), DECODE, True, WARM, slots=3)
