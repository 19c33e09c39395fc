"""A draft head learns from samples beside the policy: its loss, several devices, what it leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import get_mesh
from policy_groups import CONFIG, C, Processor, make_groups
from random_models import random_model

from r1v3_jax.config import TINY, Compute, Draft, Optimizer
from r1v3_jax.data import placement
from r1v3_jax.models import build
from r1v3_jax.sharding import TRAIN, make_mesh, shardings
from r1v3_jax.train import draft_head
from r1v3_jax.train.draft_head import Lesson
from r1v3_jax.train.logprobs import read_prompts
from r1v3_jax.train.policy_batch import policy_batch
from r1v3_jax.train.update import micro_batch

TOKENS = 3  # of a pass: two guesses
DRAFT = Draft(tokens=TOKENS, optimizer=Optimizer(lr=3e-3))
STAGE = dataclasses.replace(CONFIG, accumulate=3, prompt_parts=2, draft=DRAFT)


@pytest.fixture(scope="module")
def model():
    return random_model(TINY, Compute(logprob_chunk=5))


@pytest.fixture(scope="module")
def groups():
    return make_groups()


def placed(groups, stage=STAGE):
    """The arrays of an update, on the devices of the current mesh."""
    batch = policy_batch(groups, stage, Processor)
    return placement.place(batch, TRAIN, get_mesh())


@nnx.jit
def guesses_of_sample(model, head, row, images, index):
    """log q of each guess in one row that holds a single sample, guesses of one size together."""
    count = row.shape[1]
    places = np.arange(count)[None]
    hidden = model(row, places, jnp.ones_like(row), images, index)
    embedded = model.language.embed(row)
    start = count - C  # where the sample begins
    # Behind each token of the sample: what predicted it.
    known = hidden[:, start - 1 : count - 1]
    guesses = []
    seen = ()
    for ahead in range(1, TOKENS):
        size = C - ahead  # places that a guess so far ahead can be made from
        seen = tuple((k[:, :size], v[:, :size]) for k, v in seen)
        said = embedded[:, start + ahead - 1 :][:, :size]
        known, seen = head(known[:, :size], said, seen)
        wanted = row[:, start + ahead :]
        logprobs, _ = model.logprobs(known, wanted, temperature=STAGE.temperature)
        guesses.append(logprobs[0])
    return guesses


def test_the_loss_is_that_of_every_sample_alone(model, groups):
    head = build.init_head(TINY.text, model.compute, TOKENS, seed=1)
    batch = placed(groups)
    prompts = read_prompts(model, batch.prompts)
    got = np.zeros(2)
    for i in range(int(batch.used)):
        rows = micro_batch(batch.rows, i)
        parts = (head, model, prompts, rows, STAGE.temperature)
        got += np.asarray(draft_head.draft_loss(*parts))

    want = np.zeros(2)
    for group in groups:
        prompt = group.prompt.tokens
        images = model.encode_images(np.asarray(group.prompt.tiles))
        index = np.full((1, len(prompt) + C), -1, np.int32)
        index[0, 2:6] = np.arange(4)
        made = group.completions
        for tokens, length in zip(made.tokens, made.lengths, strict=True):
            # What stands behind a sample changes nothing before it.
            row = np.concatenate([prompt, tokens])[None]
            found = guesses_of_sample(model, head, row, images, index)
            for ahead, logprobs in enumerate(found, start=1):
                own = np.asarray(logprobs)[: max(length - ahead, 0)]
                want += -own.sum(), own.size
    assert got[1] == want[1] > 50
    # Float32 sums of some hundred terms of about 6.
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "slices"), [((2, 2, 2), 1), ((4, 1, 2), 2)], ids=["mesh", "two slices"]
)
def test_teaching_on_eight_devices_is_teaching_on_one(model, groups, shape, slices):
    # All samples in one micro-batch: which are in which depends on the mesh.
    whole = dataclasses.replace(STAGE, accumulate=1)

    # The gradient's norm: Adam's first step has the size of the rate whatever the slope is.
    def taught(model, head):
        optimizer, update = draft_head.make_update(whole)
        state = draft_head.train_update.create(head, optimizer, draft_head.learns)
        lesson = Lesson(model, placed(groups, whole), jnp.int32(1))
        _, metrics = update(state, lesson)
        return jax.device_get((metrics["loss"], metrics["grad_norm"]))

    head = build.init_head(TINY.text, model.compute, TOKENS, seed=1)
    weights = jax.device_get(nnx.state(head))  # the update donates those on the device
    want = taught(model, head)
    mesh = make_mesh(shape, slices=slices)
    with jax.set_mesh(mesh):
        head_graph = nnx.graphdef(build.abstract_head(TINY.text, model.compute, TOKENS))
        layout = shardings(nnx.merge(head_graph, weights), TRAIN, mesh)
        head = nnx.merge(head_graph, jax.device_put(weights, layout))
        graph, state = nnx.split(model)
        policy = nnx.merge(graph, jax.device_put(state, shardings(model, TRAIN, mesh)))
        got = taught(policy, head)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_head_learns_and_the_policy_stays_as_it_is(model, groups):
    before = jax.device_get(nnx.state(model))
    optimizer, update = draft_head.make_update(STAGE)
    state = draft_head.create(STAGE, TINY.text, model.compute, optimizer, seed=0)
    batch = placed(groups)
    losses = []
    for step in range(80):
        state, metrics = update(state, Lesson(model, batch, jnp.int32(step)))
        losses.append(float(metrics["loss"]))
    # 24 samples of random tokens, learnt by heart: ln 331 = 5.8 nats at first.
    assert losses[0] > 5
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    after = jax.device_get(nnx.state(model))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
