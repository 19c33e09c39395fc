"""One update: what moves, what must not, and that micro-batches add up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from r1v3_jax.config import TINY, Compute, Optimizer
from r1v3_jax.data.placement import split
from r1v3_jax.losses.supervised import cross_entropy
from r1v3_jax.models import build
from r1v3_jax.sharding import make_mesh
from r1v3_jax.train import logprobs
from r1v3_jax.train import optimizer as train_optimizer
from r1v3_jax.train.optimizer import PARTS, make_optimizer, schedule, trainable
from r1v3_jax.train.update import abstract_state, create, gradients, make_update
from r1v3_jax.types import Batch

CONFIG = Optimizer(lr=1e-2, weight_decay=0.1)


@pytest.fixture(scope="module")
def model():
    return build.init(TINY, Compute(logprob_chunk=5))


def batch(parts: int = 1, rows: int = 4, length: int = 12) -> Batch:
    """Random rows, one image of one tile (4 tokens) each."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 331, (rows, length)).astype(np.int32)
    tokens[:, 2:6] = TINY.image_token_id
    index = np.full((rows, length), -1, np.int32)
    per_part = rows // parts
    index[:, 2:6] = 4 * (np.arange(rows) % per_part)[:, None] + np.arange(4)
    mask = rng.random((rows, length)) < 0.5
    mask[:, :6] = False
    whole = Batch(
        tokens=tokens,
        positions=np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape),
        segment_ids=np.ones_like(tokens),
        loss_weights=(mask / mask.sum()).astype(np.float32),
        tiles=rng.normal(size=(rows, 28, 28, 3)).astype(np.float32),
        image_index=index,
    )
    return split(whole, parts)


def loss(model, micro):
    return cross_entropy(
        logprobs.token_logprobs(model, micro)[0], micro.loss_weights
    ), {}


def updated(model, names: str, data: Batch, steps: int = 1, optimizer=None):
    learns = trainable(names)
    optimizer = make_optimizer(CONFIG, 10) if optimizer is None else optimizer
    update = make_update(gradients(loss), optimizer, learns, schedule(CONFIG, 10))
    state = create(jax.tree.map(jnp.copy, model), optimizer, learns)
    for _ in range(steps):
        state, metrics = update(state, data)
    return state, metrics


def by_part(model) -> dict[str, list[np.ndarray]]:
    flat = nnx.to_flat_state(nnx.state(model))
    parts = {"vision": [], "connector": [], "language": []}
    for path, variable in flat:
        parts[path[0]].append(np.asarray(variable.get_value()))
    return parts


@pytest.mark.parametrize("names", ["connector", "llm", "vision", "llm+connector"])
def test_frozen_parts_stay_bitwise(model, names):
    state, _ = updated(model, names, batch())
    before, after = by_part(model), by_part(state.model)
    moving = {PARTS[name] for name in names.split("+")}
    for part in before:
        same = all(map(np.array_equal, before[part], after[part]))
        assert same == (part not in moving), part


def test_frozen_parts_have_no_optimizer_state(model):
    state, _ = updated(model, "connector", batch())
    moments = sum(x.size for x in jax.tree.leaves(state.optimizer) if x.ndim)
    assert moments == 2 * sum(x.size for x in by_part(model)["connector"])


def test_accumulated_micro_batches_equal_the_whole_batch(model):
    """By plain gradient descent: Adam's first step is the gradient's sign, which hides its size."""
    descent = optax.sgd(1.0)
    whole, one = updated(model, "all", batch(parts=1), optimizer=descent)
    parts, four = updated(model, "all", batch(parts=4), optimizer=descent)
    np.testing.assert_allclose(one["loss"], four["loss"], rtol=1e-6)
    for a, b in zip(
        jax.tree.leaves(whole.model), jax.tree.leaves(parts.model), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)  # float32 sums in another order


def test_a_step_that_is_not_finite_changes_nothing(model):
    good, bad = batch(), batch()
    tiles = bad.tiles.copy()
    tiles[0, 0, 0, 0, 0] = np.nan
    state, metrics = updated(model, "all", dataclasses.replace(good, tiles=tiles))
    assert metrics["finite"] == 0 and int(state.step) == 0
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(state.model), strict=True):
        np.testing.assert_array_equal(a, b)
    for leaf in jax.tree.leaves(state.optimizer):
        assert not np.asarray(leaf).any()


def test_learning_lowers_the_loss(model):
    first = updated(model, "all", batch(), steps=1)[1]["loss"]
    last = updated(model, "all", batch(), steps=8)[1]["loss"]
    assert last < 0.8 * first


def test_token_logprobs_stand_where_their_token_stands(model):
    """Against the full logits: entry t is log p(tokens[t] | tokens[:t])."""
    data = jax.tree.map(lambda x: x[0], batch())
    got, entropy = jax.jit(logprobs.token_logprobs)(model, data)

    @jax.jit
    def full(model, b):
        hidden = model(
            b.tokens,
            b.positions,
            b.segment_ids,
            model.encode_images(b.tiles),
            b.image_index,
        )
        return jax.nn.log_softmax(model.logits(hidden))

    table = np.asarray(full(model, data))
    rows, columns = np.indices(data.tokens.shape)
    expected = table[rows[:, 1:], columns[:, 1:] - 1, data.tokens[:, 1:]]
    np.testing.assert_allclose(got[:, 1:], expected, atol=1e-5)
    assert not np.asarray(got[:, 0]).any()
    expected = -(np.exp(table) * np.maximum(table, -1e9)).sum(-1)[:, :-1]
    np.testing.assert_allclose(entropy[:, 1:], expected, atol=1e-5)


def test_schedule_written_out():
    config = Optimizer(lr=1.0, warmup_steps=4, schedule="cosine", final_lr_fraction=0.1)
    lr = schedule(config, 14)
    got = [float(lr(step)) for step in (0, 2, 4, 9, 14, 20)]
    np.testing.assert_allclose(got, [0, 0.5, 1, 0.55, 0.1, 0.1], atol=1e-6)


def test_norms_and_biases_do_not_decay(model):
    params = nnx.state(model)
    decays = jax.tree_util.tree_map_with_path(train_optimizer.decays, params)
    flat = {
        ".".join(path): bool(v.get_value()) for path, v in nnx.to_flat_state(decays)
    }
    assert (
        flat["language.blocks.q"]
        and flat["language.embedding"]
        and flat["connector.up"]
    )
    for name in (
        "language.norm",
        "language.blocks.q_bias",
        "vision.blocks.scale1",
        "connector.norm",
    ):
        assert not flat[name], name


def test_an_unknown_part_is_named():
    with pytest.raises(
        ValueError, match="no part 'projector'; name all, or some of llm, connector"
    ):
        trainable("llm+projector")


def test_moments_keep_their_dtype_beside_weights_in_bfloat16():
    """They begin in the dtype of the gradients: an update makes no other state of them."""
    compute = Compute(dtype="bfloat16", param_dtype="bfloat16")
    model = build.init(TINY, compute)
    learns = trainable("connector")
    adamw = make_optimizer(CONFIG, 2)

    def ones(model, params, batch):
        grads = jax.tree.map(lambda x: jnp.ones_like(x, jnp.float32), params)
        return grads, {"loss": jnp.float32(1)}

    step = make_update(ones, adamw, learns, schedule(CONFIG, 2))
    state = create(model, adamw, learns)
    before = [x.dtype for x in jax.tree.leaves(state)]
    state, _ = step(state, jnp.zeros(1))
    assert [x.dtype for x in jax.tree.leaves(state)] == before
    mesh = make_mesh((1, 1, 1))
    abstract = build.abstract(TINY, compute, mesh)
    with jax.set_mesh(mesh):
        shapes = abstract_state(abstract, adamw, learns, mesh)
    assert [x.dtype for x in jax.tree.leaves(shapes)] == before
