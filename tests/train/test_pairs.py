"""Pairs behind prompts that are read once: loss and gradient are those of answers alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec, get_mesh
from random_models import random_model

from r1v3_jax.config import TINY, Compute, Preference
from r1v3_jax.data import placement
from r1v3_jax.data.prompts import place_images
from r1v3_jax.losses import Mpo
from r1v3_jax.processing.processor import EncodedPair, Tiles
from r1v3_jax.sharding import TRAIN, make_mesh, shardings
from r1v3_jax.slices import each_slice
from r1v3_jax.train import optimizer, policy_gradient, preference
from r1v3_jax.train.logprobs import token_logprobs
from r1v3_jax.types import Batch

P, S, C = 4, 16, 9
SHIFT = 0.05
CONFIG = Preference(
    train=lambda index: None,
    pairs=P,
    max_prompt_tokens=S,
    max_answer_tokens=C,
    tiles=8,
    beta=0.3,
)


class Processor:  # what `pair_batch` asks of one
    config = TINY

    class tokenizer:
        pad_token_id = TINY.pad_token_id


@pytest.fixture(scope="module")
def model():
    return random_model(TINY, Compute(logprob_chunk=5))


@pytest.fixture(scope="module")
def reference(model):
    """Other weights than the model's, so that no log-ratio is 0."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda x: 0.9 * x, state))


@pytest.fixture(scope="module")
def pairs():
    """Prompts of 8 to 16 tokens with one tile each, answers of 1 to 9 tokens."""
    rng = np.random.default_rng(0)
    lengths = [(1, 9), (9, 9), (4, 2), (7, 1)]
    made = []
    for chosen, rejected in lengths:
        ids = rng.integers(10, 331, rng.integers(8, S + 1)).astype(np.int32)
        ids[2:6] = TINY.image_token_id
        pixels = rng.normal(size=(1, 28, 28, 3)).astype(np.float32)
        made.append(
            EncodedPair(
                tokens=ids,
                labels=ids,
                loss_mask=np.zeros(len(ids), bool),
                tiles=Tiles([1], 28, functools.partial(np.copyto, src=pixels)),
                chosen=rng.integers(10, 331, chosen).astype(np.int32),
                rejected=rng.integers(10, 331, rejected).astype(np.int32),
            )
        )
    return made


def alone(pairs) -> tuple[Batch, np.ndarray]:
    """A row an answer, prompt and answer side by side; and the answers' tokens, bool[2P, S + C].

    The chosen answer of pair p is row 2p, the rejected one row 2p + 1.
    """
    shape = (2 * len(pairs), S + C)
    tokens, positions, segments = np.zeros((3, *shape), np.int32)
    index = np.full(shape, -1, np.int32)
    is_answer = np.zeros(shape, bool)
    for r in range(len(tokens)):
        pair = pairs[r // 2]
        answer = pair.rejected if r % 2 else pair.chosen
        start, end = len(pair.tokens), len(pair.tokens) + len(answer)
        tokens[r, :end] = np.concatenate([pair.tokens, answer])
        positions[r, :end] = np.arange(end)
        segments[r, :end] = 1
        is_answer[r, start:end] = True
        place_images(index[r, :start], pair, r // 2, Processor)
    tiles = np.concatenate([np.asarray(pair.tiles) for pair in pairs])
    batch = Batch(
        tokens=tokens,
        positions=positions,
        segment_ids=segments,
        loss_weights=np.zeros(shape, np.float32),
        tiles=tiles,
        image_index=index,
    )
    return jax.tree.map(jnp.asarray, batch), is_answer


def naive(model, reference, pairs, config: Preference, names: str):
    """Loss and gradient with a row an answer, and the equation written out."""
    batch, is_answer = alone(pairs)
    graph, params, frozen = nnx.split(model, optimizer.trainable(names), ...)
    ref, _ = token_logprobs(reference, batch)

    def loss(params):
        logprobs, _ = token_logprobs(nnx.merge(graph, params, frozen), batch)
        ratios = jnp.where(is_answer, logprobs - ref, 0).sum(1)
        chosen, rejected = config.beta * ratios[::2], config.beta * ratios[1::2]
        weights = config.loss
        dpo = -jax.nn.log_sigmoid(chosen - rejected).mean()
        bco = -jax.nn.log_sigmoid(chosen - SHIFT) - jax.nn.log_sigmoid(SHIFT - rejected)
        likely = jnp.where(is_answer, logprobs, 0)[::2].sum() / is_answer[::2].sum()
        total = weights.preference * dpo + weights.quality * bco.mean()
        return total - weights.generation * likely

    return jax.jit(jax.value_and_grad(loss))(params)


def shared(model, reference, pairs, config: Preference, names: str):
    """Loss and gradient as `make_update` computes them; also the metrics."""
    graph, params, frozen = nnx.split(model, optimizer.trainable(names), ...)
    batch = preference.pair_batch(pairs, config, Processor, TRAIN.shards("batch"))
    batch = dataclasses.replace(batch, numbers={"shift": np.float32(SHIFT)})
    batch = placement.place(batch, TRAIN, get_mesh())
    ref = policy_gradient.score(reference, batch, 1.0, config.prompt_parts)
    rows = dataclasses.replace(batch.rows, ref_logprobs=ref)
    batch = dataclasses.replace(batch, rows=rows)

    def of_slice(params, frozen, batch):
        def model(params):
            return nnx.merge(graph, params, frozen)

        return preference.gradients(model, params, batch, config=config)

    @jax.jit
    def gradient(params, frozen, batch):
        layouts = (params, PartitionSpec())
        return each_slice(of_slice, params, frozen, batch, like=layouts)

    grads, metrics = gradient(params, frozen, batch)
    return metrics["loss"], grads, metrics


def worst(got, want) -> float:
    """The largest difference, in units of its array's largest entry."""
    arrays = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(
        float(np.abs(np.asarray(a) - b).max() / (np.abs(b).max() + 1e-12))
        for a, b in ((a, np.asarray(b)) for a, b in arrays)
    )


CASES = {
    "MPO": ({}, "all"),
    "DPO, the tower frozen": ({"loss": Mpo(1.0, 0.0, 0.0), "accumulate": 2}, "llm"),
    "in parts": ({"accumulate": 4, "prompt_parts": 2}, "llm+connector"),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_answers_alone(model, reference, pairs, case):
    changes, names = CASES[case]
    config = dataclasses.replace(CONFIG, **changes)
    want_loss, want = naive(model, reference, pairs, config, names)
    loss, grads, _ = shared(model, reference, pairs, config, names)
    print(f"{case}: worst relative difference {worst(grads, want):.1e}")
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    assert worst(grads, want) <= 1e-5  # float32, other orders of summation


@pytest.mark.parametrize(
    "shape, slices, accumulate",
    # The last: one pair alone on one device, whose arrays have one row.
    [((1, 2, 2), 1, 1), ((4, 1, 1), 2, 1), ((1, 1, 1), 1, 4)],
)
def test_a_mesh_changes_nothing(model, reference, pairs, shape, slices, accumulate):
    config = dataclasses.replace(CONFIG, accumulate=accumulate)
    want_loss, want, metrics = shared(model, reference, pairs, CONFIG, "all")
    mesh = make_mesh(shape, jax.devices()[: np.prod(shape)], slices=slices)
    with jax.set_mesh(mesh):
        placed = []
        for weights in (model, reference):
            graph, state = nnx.split(weights)
            state = jax.device_put(state, shardings(weights, TRAIN, mesh))
            placed.append(nnx.merge(graph, state))
        loss, grads, on_mesh = shared(*placed, pairs, config, "all")
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    assert worst(jax.device_get(grads), jax.device_get(want)) <= 1e-5
    for name, number in metrics.items():
        np.testing.assert_allclose(on_mesh[name], number, rtol=1e-5, err_msg=name)


def test_the_model_that_is_its_own_reference_has_no_margin(model, pairs):
    """Then every reward is 0, and DPO's loss log 2."""
    config = dataclasses.replace(CONFIG, loss=Mpo(1.0, 0.0, 0.0))
    loss, _, metrics = shared(model, model, pairs, config, "all")
    np.testing.assert_allclose(loss, np.log(2), atol=1e-6)
    for name in ("chosen", "rejected", "margin"):
        np.testing.assert_allclose(metrics[f"rewards/{name}"], 0, atol=1e-5)


def test_each_pair_has_a_row_beside_its_prompt():
    """8 pairs, 2 micro-batches, 2 devices, as in the docstring of `plan_pairs`."""
    config = dataclasses.replace(CONFIG, pairs=8, accumulate=2)
    plan = preference.plan_pairs(config, shards=2)
    assert plan.shape == (2, 4, 2 * C)
    rows = {plan.places[p, 0][:2]: p for p in range(8)}
    assert [[rows[n, b] for b in range(4)] for n in range(2)] == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
    ]
    assert plan.prompt_of_row.tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]]
    assert preference.plan_pairs(config, shards=2).used == 2


def test_the_shapes_of_a_batch_are_those_of_its_arrays(pairs):
    batch = preference.pair_batch(pairs, CONFIG, Processor, 1)
    batch = dataclasses.replace(batch, numbers={"shift": np.float32(0)})
    shapes = preference.pair_batch_of(TINY, CONFIG)
    got = jax.tree.map(lambda x: (x.shape, x.dtype), batch, is_leaf=None)
    want = jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), shapes)
    assert jax.tree.leaves(got) == jax.tree.leaves(want)
