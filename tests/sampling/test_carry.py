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
from r1v3_jax.models import build, qwen2
from r1v3_jax.models.caches import Cache
from r1v3_jax.models.joined_cache import JoinedCache
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
        state = self.new_state()
        admitted = 0
        for step in range(len(self.batches)):
            while admitted < min(step + K, len(self.batches)):
                state = self.admit(state, admitted)
                admitted += 1
            state, found = self.decoded(state, place=K - (admitted - step))
            by_batch = found.lengths.reshape(self.shards, K, -1).swapaxes(0, 1)
            yield found.completions, by_batch.reshape(K, -1), int(found.step)

    def new_state(self):
        """The state in which nothing is under way."""
        return empty(
            self.model,
            prompts=self.under_way * len(self.batches[0]),
            group_size=GROUP,
            slots=self.slots,
            prompt_tokens=16,
            sampling=self.sampling,
        )

    def decoded(self, state, place: int):
        """The state once the batch in this place has ended, and what the host asks of it."""
        count = len(self.batches[0]) * GROUP
        limit = jnp.int32(self.sampling.max_tokens)
        until = jnp.int32((place + 1) * count)
        arrays = (state, jax.random.key(0), limit, until)
        state = loop.decode(self.model, *arrays, sampling=self.sampling)
        found = jax.device_get(carry.carried(state, jnp.int32(place), count=count))
        assert found.finished.all()
        return state, found

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


@pytest.fixture(params=[JoinedCache, Cache])
def layout(request, monkeypatch):
    """The kind of cache: what one CPU has for small prompts, and what every other machine has."""
    if request.param is Cache:
        monkeypatch.setattr(qwen2, "is_joined", lambda *args: False)
    # `empty` is traced anew.
    for program in (empty, carry.empty):
        program.clear_cache()
    yield request.param
    for program in (empty, carry.empty):
        program.clear_cache()


@pytest.mark.parametrize("name", SETTINGS)
def test_carried_samples_are_those_of_one_rollout(ending, images, sample, name, layout):
    settings = WARM | SETTINGS[name]
    expected = sample(*EIGHT, group_size=GROUP, model=ending, **settings)
    assert len(set(expected.lengths.tolist())) > 2
    sampling = SamplingParams(**settings)
    for slots, under_way in ((3, 2), (4, 3), (5, 4)):
        steps = Steps(ending, images, sampling, slots, under_way, BATCHES)
        assert isinstance(steps.new_state().cache, layout)
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


def test_the_oldest_are_waited_for_and_no_slot_waits(ending, images, sample, layout):
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


def test_a_batch_of_short_prompts_is_the_same(ending, images, sample, layout):
    """Prompts padded to less than the state has room for, as in a bucket."""
    batches = [(1, 3), (0, 1), (3, 1), (2, 0)]
    numbers = [n for pair in batches for n in pair]
    expected = sample(*numbers, group_size=GROUP, model=ending, **WARM)
    steps = Steps(ending, images, SamplingParams(**WARM), 4, 3, batches, padded=(7, 16))
    for number, (completions, *_) in enumerate(steps.run()):
        assert_same(completions, rows(expected, slice(number * 4, number * 4 + 4)))


def test_a_state_with_nothing_under_way_is_as_good_as_new(ending, images):
    """To the bit: a run that goes on from a save has a new one."""
    steps = Steps(ending, images, SamplingParams(**WARM), 3, 1, BATCHES[:2])
    (*_, passes), (after_another, *_) = steps.run()
    # The ring of 24 slots did not stand at its first when the second batch came.
    assert passes % 24
    state = steps.admit(steps.new_state(), 1)
    _, found = steps.decoded(state, place=0)
    jax.tree.map(np.testing.assert_array_equal, after_another, found.completions)


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
