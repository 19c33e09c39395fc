"""Samples that outlive a step: their tokens are those of one rollout, in the order of prompts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from quick_compile import quick_jit
from sampling_cases import (
    BUDGET,
    EIGHT,
    IMAGE,
    assert_same,
    batch,
    encode_images,
    rows,
    with_end_token,
)

from r1v3_jax.config import Compute
from r1v3_jax.models import build
from r1v3_jax.sampling import carry, loop
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import DECODE, make_mesh, shardings

WARM = {"max_tokens": 24, "temperature": 0.8, "top_k": 12, "banned": (IMAGE,)}
GROUP = 2
# Prompts by number: four batches of two.
BATCHES = [EIGHT[i : i + 2] for i in range(0, 8, 2)]
empty = quick_jit(
    carry.empty,
    static_argnames=("prompts", "group_size", "slots", "prompt_tokens", "sampling"),
)
exchange = quick_jit(carry.exchange, static_argnames=("group_size", "sampling"))


@pytest.fixture(scope="module")
def ending(checkpoint, sample):
    """The model with an end token that comes early in some samples and late in others."""
    free = sample(*EIGHT, group_size=GROUP, **WARM).tokens
    lengths = [
        [np.argmax(row == token) if token in row else 24 for row in free]
        for token in range(free.max() + 1)
    ]
    return with_end_token(
        checkpoint.model, int(np.argmax([len(set(row)) for row in lengths]))
    )


@pytest.fixture(scope="module")
def images(ending):
    """Embeddings for every batch, twice: eight devices share them."""
    return np.concatenate([encode_images(ending)] * 2)


@dataclasses.dataclass
class Steps:
    """Batches that go through a standing state, one learnt from a step."""

    model: nnx.Module
    images: np.ndarray  # embeddings
    sampling: SamplingParams
    slots: int
    under_way: int  # batches
    batches: list
    padded: tuple[int, ...] = (16,)  # to which the prompts of batches are, in turn
    shards: int = 1

    def run(self):
        """Yields (completions of the oldest, lengths [K, P * G] of all, steps so far)."""
        K = self.under_way
        P = len(self.batches[0])
        state = empty(
            self.model,
            prompts=K * P,
            group_size=GROUP,
            slots=self.slots,
            prompt_tokens=16,
            sampling=self.sampling,
        )
        admitted = 0
        for step in range(len(self.batches)):
            while admitted < min(step + K, len(self.batches)):
                state = self.admit(state, admitted)
                admitted += 1
            place = K - (admitted - step)
            limit = jnp.int32(self.sampling.max_tokens)
            until = jnp.int32((place + 1) * P * GROUP)
            key = jax.random.key(0)
            state = loop.decode(
                self.model, state, key, limit, until, sampling=self.sampling
            )
            found = carry.carried(state, jnp.int32(place), count=P * GROUP)
            found = jax.device_get(found)
            assert found.finished.all()
            by_batch = found.lengths.reshape(self.shards, K, -1).swapaxes(0, 1)
            yield found.completions, by_batch.reshape(K, -1), int(found.step)

    def admit(self, state, number: int):
        """Puts a batch into the state."""
        tokens, lengths, index = batch(*self.batches[number])
        length = self.padded[number % len(self.padded)]
        arrays = (tokens[:, :length], lengths, self.images, index[:, :length])
        return exchange(
            self.model,
            state,
            *map(self.put, arrays, ("batch", "batch", "tiles", "batch")),
            jnp.int32(number * len(self.batches[number]) * GROUP),
            group_size=GROUP,
            sampling=self.sampling,
        )

    def put(self, x, axis):
        mesh = jax.sharding.get_mesh()
        if mesh.empty:
            return x
        spec = DECODE.spec(axis, *[None] * (x.ndim - 1))
        return jax.device_put(x, NamedSharding(mesh, spec))


SETTINGS = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "thinking": BUDGET,
    "penalty": {"repetition_penalty": 1.3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_carried_samples_are_those_of_one_rollout(ending, images, sample, name):
    settings = WARM | SETTINGS[name]
    expected = sample(*EIGHT, group_size=GROUP, model=ending, **settings)
    assert len(set(expected.lengths.tolist())) > 2
    sampling = SamplingParams(**settings)
    for slots, under_way in ((3, 2), (4, 3), (5, 4)):
        steps = Steps(ending, images, sampling, slots, under_way, BATCHES)
        for number, (completions, *_) in enumerate(steps.run()):
            own = slice(number * 4, number * 4 + 4)
            assert_same(completions, rows(expected, own))


def served(lengths, slots: int, under_way: int):
    """(tokens of each sample, tokens of a slot) after each step, by a loop over tokens.

    lengths: [batches, samples], which are known here.
    """
    count, size = lengths.shape
    wanted = lengths.ravel()
    drawn = np.zeros(count * size, int)
    in_slots = [-1] * slots
    waiting = []
    token = 0
    for step in range(count):
        newest = min(step + under_way, count)
        before = min(step - 1 + under_way, count) if step else 0
        waiting += range(before * size, newest * size)
        while True:
            for slot, number in enumerate(in_slots):
                if number < 0 or drawn[number] == wanted[number]:
                    in_slots[slot] = waiting.pop(0) if waiting else -1
            oldest = slice(step * size, step * size + size)
            if np.array_equal(drawn[oldest], wanted[oldest]):
                break
            for number in in_slots:
                if number >= 0:
                    drawn[number] += 1
            token += 1
        yield drawn.reshape(count, size).copy(), token


def test_the_oldest_are_waited_for_and_no_slot_waits(ending, images, sample):
    expected = sample(*EIGHT, group_size=GROUP, model=ending, **WARM)
    lengths = expected.lengths.reshape(4, 4)
    steps = Steps(ending, images, SamplingParams(**WARM), 3, 2, BATCHES)
    found = list(steps.run())
    carried_over = 0
    for step, (drawn, token) in enumerate(served(lengths, 3, 2)):
        _, of_batches, so_far = found[step]
        assert so_far == token
        # Two batches are under way: the oldest and the one behind it.
        under_way = drawn[step : step + 2]
        assert np.array_equal(of_batches[-len(under_way) :], under_way)
        carried_over += int(under_way[1:].sum())
    assert carried_over > 10  # tokens that a step drew for a later one


def test_a_batch_of_short_prompts_is_the_same(ending, images, sample):
    """Prompts padded to less than the state has room for, as in a bucket."""
    batches = [(1, 3), (0, 1), (3, 1), (2, 0)]
    numbers = [n for pair in batches for n in pair]
    expected = sample(*numbers, group_size=GROUP, model=ending, **WARM)
    steps = Steps(ending, images, SamplingParams(**WARM), 4, 3, batches, padded=(7, 16))
    for number, (completions, *_) in enumerate(steps.run()):
        assert_same(completions, rows(expected, slice(number * 4, number * 4 + 4)))


@pytest.mark.parametrize(
    "shape, slices", [((2, 2, 2), 1), ((4, 1, 2), 1), ((4, 2, 1), 2)]
)
def test_eight_devices_carry_the_same_samples(ending, images, sample, shape, slices):
    """Each device has its share of every batch; of two slices each too."""
    batches = [(0, 1, 2, 3), (2, 1, 0, 1), (3, 3, 1, 0)]
    numbers = [n for four in batches for n in four]
    expected = sample(*numbers, group_size=GROUP, model=ending, **WARM)
    mesh = make_mesh(shape, slices=slices)
    with jax.set_mesh(mesh):
        graph, _ = nnx.split(build.abstract(ending.config, Compute(rules=DECODE)))
        placed = jax.device_put(nnx.state(ending), shardings(ending, DECODE, mesh))
        model = nnx.merge(graph, placed)
        sampling = SamplingParams(**WARM)
        steps = Steps(model, images, sampling, 8, 2, batches, shards=shape[0])
        for number, (completions, *_) in enumerate(steps.run()):
            assert_same(completions, rows(expected, slice(number * 8, number * 8 + 8)))


def test_a_state_that_does_not_divide_is_refused(ending):
    run = functools.partial(
        carry.empty,
        ending,
        group_size=GROUP,
        prompt_tokens=16,
        sampling=SamplingParams(8),
    )
    with pytest.raises(ValueError, match="9 slots for 8 samples; at most one for each"):
        run(prompts=4, slots=9)
