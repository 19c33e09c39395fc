"""More samples than slots: they do not depend on their slot, and are served in order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_cases import (
    BUDGET,
    EIGHT,
    IMAGE,
    LAYOUTS,
    VOCAB,
    assert_same,
    batch,
    encode_images,
    on_a_mesh,
    rows,
    with_end_token,
)

from r1v3_jax.sampling import loop
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import DECODE

WARM = {"max_tokens": 24, "temperature": 0.8, "top_k": 12, "banned": (IMAGE,)}


@pytest.fixture(scope="module")
def ending(checkpoint, sample):
    """The model with the end token whose first places in the samples differ most."""
    free = sample(*EIGHT, group_size=2, **WARM).tokens

    def different_steps(token):
        is_token = free == token
        has_token = is_token.any(axis=1)
        return len(set(np.argmax(is_token, axis=1)[has_token]))

    steps = [different_steps(token) for token in range(VOCAB)]
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
    settings = WARM | SLOTTED[name]
    run = functools.partial(sample, *EIGHT, group_size=2, model=ending, **settings)
    expected = run()
    limit = SLOTTED[name].get("limit", 24)
    different_lengths = 2 if name == "greedy" else 5
    assert len(set(expected.lengths.tolist())) >= different_lengths
    assert set(expected.ended.tolist()) == {True, False}
    for slots in (3, 5, 8):
        actual = run(slots=slots)
        assert_same(actual, expected)
        assert np.all(actual.ended | (actual.lengths == limit))
    # As many slots as samples: the program without a queue.
    assert_same(run(slots=16), expected)


def served(lengths, slots):
    """The samples that each slot decodes, and the steps after which all are finished."""
    busy_until = np.zeros(slots, int)
    order = [[] for _ in range(slots)]
    for sample, length in enumerate(lengths):
        slot = int(np.argmin(busy_until))  # the earliest, the lowest of several
        order[slot].append(sample)
        busy_until[slot] += length
    return order, int(busy_until.max())


def snapshots(model, untils, *, slots, **settings):
    """The states after `decode` until so many samples are finished, and the next, ..."""
    tokens, lengths, index = batch(*EIGHT)
    images = encode_images(model)
    sampling = SamplingParams(**WARM | settings)
    key = jax.random.key(0)
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
    limit = jnp.int32(sampling.max_tokens)
    for until in untils:
        count = jnp.int32(until)
        state = loop.decode(model, state, key, limit, count, sampling=sampling)
        yield jax.device_get((until, state.completions, state.finished, state))


@pytest.mark.parametrize("slots", [3, 16])
def test_decoding_returns_when_enough_samples_are_finished(ending, sample, slots):
    expected = sample(*EIGHT, group_size=2, model=ending, **WARM)
    before = np.zeros(16, bool)
    states = list(snapshots(ending, (4, 8, 8, 16), slots=slots))
    for until, completions, finished, _ in states:
        # Several may finish with the same token, but none is sampled on meanwhile.
        assert until <= finished.sum() < until + slots
        assert np.all(finished >= before)
        assert_same(rows(completions, finished), rows(expected, finished))
        if slots < 16:  # what is not finished is not among the completions
            assert not completions.lengths[~finished].any()
        before = finished
    _, completions, finished, state = states[-1]
    assert finished.all()
    if slots < 16:
        assert np.all(state.queue.sample == 16)
        assert state.queue.upcoming == [16]
        _, steps = served(expected.lengths, slots)
        assert state.step == steps  # no slot ever waits
        assert completions.lengths.sum() / (slots * steps) > 0.8
    else:
        assert state.step == expected.lengths.max()


def test_samples_are_taken_in_order(ending, sample):
    expected = sample(*EIGHT, group_size=2, model=ending, **WARM)
    order, _ = served(expected.lengths, 3)
    observed = [[] for _ in range(3)]
    for *_, state in snapshots(ending, range(0, 16), slots=3):
        for slot, number in enumerate(state.queue.sample):
            if number < 16 and number not in observed[slot]:
                observed[slot].append(int(number))
    assert observed == order
    by_slot = sum(order, [])
    assert by_slot != sorted(by_slot)


@pytest.mark.parametrize("name", LAYOUTS)
def test_eight_devices_serve_their_own_slots(ending, sample, name):
    shape, rules, placed, further = LAYOUTS[name]
    settings = {**WARM, **further}
    expected = sample(*EIGHT, group_size=2, model=ending, **settings)
    actual = on_a_mesh(ending, shape, rules, placed, settings, slots=8)
    assert_same(actual, expected)


def test_a_mesh_of_one_device_serves_the_same_samples(ending, sample):
    """As a run has it, which is never without a mesh."""
    expected = sample(*EIGHT, group_size=2, model=ending, **WARM)
    actual = on_a_mesh(ending, (1, 1, 1), DECODE, True, WARM, slots=5)
    assert_same(actual, expected)


@pytest.mark.parametrize("slots", [0, 8])
@pytest.mark.parametrize("slices, shape", [(2, (4, 2, 1)), (4, (4, 1, 2))])
def test_slices_sample_what_one_device_does(ending, sample, slices, shape, slots):
    """Each slice decodes its own samples and refills its own slots."""
    expected = sample(*EIGHT, group_size=2, model=ending, **WARM)
    actual = on_a_mesh(ending, shape, DECODE, True, WARM, slots=slots, slices=slices)
    assert_same(actual, expected)


def test_slots_that_do_not_fit_are_refused(ending, sample):
    for slots in (17, -1):
        message = f"{slots} slots for 16 samples; at most one for each"
        with pytest.raises(ValueError, match=message):
            sample(*EIGHT, group_size=2, model=ending, slots=slots, **WARM)
    with pytest.raises(ValueError, match="3 slots cannot be split over 2 devices"):
        on_a_mesh(ending, (2, 2, 2), DECODE, True, WARM, slots=3)


def test_options_of_the_compiler_reach_the_decode_loop_alone(ending):
    """The CPU's compiler has none of the TPU's options, and says so."""
    assert loop.decode_with(()) is loop.decode
    with_options = loop.decode_with((("xla_tpu_scoped_vmem_limit_kib", "49152"),))
    assert with_options.__name__ == "decode"  # of a compilation in a log
    tokens, lengths, index = batch(*EIGHT)
    sampling = SamplingParams(**WARM)
    images = encode_images(ending)
    state = loop.prefill(
        ending, tokens, lengths, images, index, group_size=2, sampling=sampling
    )
    bounds = jnp.int32(sampling.max_tokens), jnp.int32(16)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_tpu_scoped_vmem"):
        with_options(ending, state, jax.random.key(0), *bounds, sampling=sampling)
