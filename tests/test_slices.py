"""Several slices: they compute what one does, and little crosses the network between them.

Eight CPU devices stand for two slices of four, or four of two.
"""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from random_models import random_model

from r1v3_jax.config import TINY, Compute, load_config
from r1v3_jax.data import placement
from r1v3_jax.data.placement import split
from r1v3_jax.losses.supervised import cross_entropy
from r1v3_jax.sharding import (
    DECODE,
    TRAIN,
    abstract_mesh,
    make_mesh,
    replicate,
    shard_bytes,
    shardings,
    without_slices,
)
from r1v3_jax.slices import (
    each_slice,
    max_over_slices,
    number_rows,
    only_slices,
    share_of_slice,
    sum_over_slices,
)
from r1v3_jax.stages.kinds import stage_programs
from r1v3_jax.tpu import hlo
from r1v3_jax.tpu.chips import CHIPS
from r1v3_jax.tpu.torus import ACROSS, COLLECTIVES, Torus
from r1v3_jax.train import logprobs
from r1v3_jax.train.optimizer import trainable
from r1v3_jax.train.update import create, gradients, make_update
from r1v3_jax.types import Batch

# --- meshes ------------------------------------------------------------------------------------


def test_data_spans_the_slices():
    mesh = make_mesh((4, 2, 1), slices=2)
    assert dict(mesh.shape) == {"slices": 2, "data": 2, "fsdp": 2, "tensor": 1}
    ids = [device.id for device in mesh.devices.flat]
    assert ids == list(range(8))  # the first four are the first slice
    assert abstract_mesh((4, 2, 1), slices=2).shape == mesh.shape
    # One slice has the mesh that it always had.
    assert make_mesh((4, 2, 1), slices=1).axis_names == ("data", "fsdp", "tensor")


def test_rows_are_split_over_slices_and_weights_are_not():
    mesh = abstract_mesh((4, 2, 1), slices=2)
    with jax.sharding.use_abstract_mesh(mesh):
        rows = PartitionSpec(("slices", "data", "fsdp"), None)
        assert TRAIN.spec("batch", None) == rows
        assert TRAIN.shards("batch") == 8 and TRAIN.shards("tiles") == 8
        assert DECODE.spec("batch") == PartitionSpec(("slices", "data"))
    fields = [field.name for field in dataclasses.fields(TRAIN)]
    for rules in (TRAIN, DECODE):
        split_over_slices = [n for n in fields if "slices" in (getattr(rules, n) or ())]
        assert split_over_slices == ["batch", "tiles"]
    assert without_slices(rows) == PartitionSpec(("data", "fsdp"), None)
    assert only_slices(rows) == PartitionSpec("slices", None)


@pytest.mark.parametrize("make", [make_mesh, abstract_mesh])
def test_data_that_cannot_be_dealt_out_is_refused(make):
    message = r"data 1, which cannot be dealt out to 2 slices; .* could: \(2, 8, 1\)"
    with pytest.raises(ValueError, match=message):
        make((1, 8, 1), slices=2)


# --- what runs on each slice -------------------------------------------------------------------


def test_each_slice_has_its_own_rows_and_ends_its_own_loop():
    mesh = make_mesh((4, 2, 1), slices=2)

    def of_slice(rows, weights, until):
        assert rows.shape == (8,) and weights.shape == (4,)
        # 1 is added until the sum of the slice's rows is large enough.
        many = jax.lax.while_loop(lambda x: x.sum() < until, lambda x: x + 1, rows)
        numbers = number_rows(len(rows), jax.typeof(rows).sharding.spec)
        largest = max_over_slices(many.max())
        return many, numbers, sum_over_slices(rows.sum() + weights.sum()), largest

    @jax.jit
    def program(rows, weights, until):
        specs = (jax.typeof(rows).sharding.spec,) * 2 + (PartitionSpec(),) * 2
        return each_slice(of_slice, rows, weights, until, like=specs)

    with jax.set_mesh(mesh):
        row_sharding = NamedSharding(mesh, TRAIN.spec("batch"))
        rows = jax.device_put(np.repeat([0, 5], 8), row_sharding)
        weights = jax.device_put(np.arange(4), NamedSharding(mesh, TRAIN.spec("embed")))
        many, numbers, total, largest = program(rows, weights, np.int32(16))
        assert many.sharding.spec == row_sharding.spec
    assert many.tolist() == [2] * 8 + [5] * 8
    assert numbers.tolist() == list(range(16))
    assert total == (0 + 6) + (40 + 6)
    assert largest == 5


def test_with_one_slice_nothing_is_called_otherwise():
    with jax.set_mesh(make_mesh((4, 2, 1))):
        assert each_slice(lambda x: x + 1, 1, like=None) == 2
        assert sum_over_slices(3) == max_over_slices(3) == share_of_slice(3) == 3


@pytest.mark.parametrize("inside", [True, False], ids=["on each slice", "on all"])
def test_whole_images_are_on_every_slice(inside):
    """Rows in the order that they have without a mesh, and gradients back where they belong."""
    mesh = make_mesh((4, 2, 1), slices=2)
    images = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)

    def weighted(x):
        whole = replicate(x)
        assert whole.shape == (16, 3)
        assert jax.typeof(whole).sharding.spec == PartitionSpec(None, None)
        return (whole * images).sum()

    def both(x):
        # Each slice counts every image, so two count them twice.
        value, gradient = jax.value_and_grad(weighted)(x)
        return sum_over_slices(value), gradient

    @jax.jit
    def program(x):
        if not inside:
            return both(x)
        layout = jax.typeof(x).sharding.spec
        return each_slice(both, x, like=(PartitionSpec(), layout))

    with jax.set_mesh(mesh):
        x = jax.device_put(images, NamedSharding(mesh, TRAIN.spec("tiles", None)))
        value, gradient = program(x)
    times = 2 if inside else 1
    assert value == times * (images**2).sum()
    np.testing.assert_array_equal(gradient, times * images)


# --- an update ---------------------------------------------------------------------------------

ROWS = 16


def batch(rows: int, images: bool) -> Batch:
    """Two micro-batches; the images of the first rows are the last tiles."""
    rng = np.random.default_rng(0)
    shape = (rows, 12)
    tokens = rng.integers(10, 331, shape).astype(np.int32)
    mask = rng.random(shape) < 0.5
    mask[:, :6] = False
    index = np.full(shape, -1, np.int32)
    if images:
        tokens[:, 2:6] = TINY.image_token_id
        tile_of_row = np.arange(rows)[::-1] % (rows // 2)
        index[:, 2:6] = 4 * tile_of_row[:, None] + np.arange(4)
    whole = Batch(
        tokens=tokens,
        positions=np.broadcast_to(np.arange(12, dtype=np.int32), shape),
        segment_ids=np.ones_like(tokens),
        loss_weights=(mask / mask.sum()).astype(np.float32),
        tiles=rng.normal(size=(rows, 28, 28, 3)).astype(np.float32) if images else None,
        image_index=index if images else None,
    )
    return split(whole, 2)


def loss(model, micro):
    logprob, _ = logprobs.token_logprobs(model, micro)
    return cross_entropy(logprob, micro.loss_weights), {}


TEXT = dataclasses.replace(TINY, vision=None, image_token_id=None)


def update_on(config, shape, slices: int, rows: int = ROWS):
    """One step of gradient descent; returns the jitted update, its arguments and the mesh."""
    mesh = make_mesh(shape, slices=slices)
    with jax.set_mesh(mesh):
        model = random_model(config, Compute(logprob_chunk=5))
        graph, state = nnx.split(model)
        placed = jax.device_put(state, shardings(model, TRAIN, mesh))
        learns = trainable("all")
        descent = optax.sgd(1.0)
        update = make_update(gradients(loss), descent, learns, lambda step: 1.0)
        state = create(nnx.merge(graph, placed), descent, learns)
        arrays = batch(rows, images=config.vision is not None)
        return update, (state, placement.place(arrays, TRAIN, mesh)), mesh


@pytest.mark.parametrize("shape", [(4, 2, 1), (4, 1, 2)], ids=str)
def test_two_slices_learn_what_one_does(shape):
    results = []
    for slices in (1, 2):
        update, arguments, mesh = update_on(TINY, shape, slices)
        with jax.set_mesh(mesh):
            results.append(jax.device_get(update(*arguments)))
    (one, metrics), (two, others) = results
    assert metrics.keys() == others.keys() and metrics["grad_norm"] > 1e-3
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)
    before = jax.tree.leaves(random_model(TINY, Compute()))
    leaves = jax.tree.leaves(one.model), jax.tree.leaves(two.model), before
    moved = 0.0
    for ours, theirs, start in zip(*leaves, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
        moved = max(moved, float(np.abs(ours - start).max()))
    assert moved > 1e-2


# --- what crosses ------------------------------------------------------------------------------


def collectives(text: str, slices: list[int]) -> list[tuple[bool, str, float]]:
    """Lists the collectives of a compiled program: in a loop, kind, bytes sent.

    slices: the slice of each device. A kind ends with ACROSS if the collective leaves a slice.
    """
    computations, entry = hlo.parse(text)
    torus = Torus(CHIPS["v5p"], [(i, 0, 0) for i in range(len(slices))], slices)
    found = []

    def visit(name: str, in_loop: bool):
        for op in computations[name].values():
            if op.kind in COLLECTIVES and not op.opcode.endswith("-done"):
                transfer = torus.collective(op)
                found.append((in_loop, transfer.kind, transfer.bytes))
            for attribute in ("body", "condition", "calls", "to_apply"):
                called = op.called(attribute)
                if called in computations:
                    visit(called, in_loop or op.opcode == "while")

    visit(entry, False)
    return found


def crossing(text: str) -> list[tuple[bool, str, float]]:
    """Lists the collectives across two slices of four devices: in a loop, kind, bytes sent."""
    found = collectives(text, [0] * 4 + [1] * 4)
    return [
        (in_loop, kind.removesuffix(ACROSS), size)
        for in_loop, kind, size in found
        if kind.endswith(ACROSS)
    ]


def text_of(update, arguments, mesh) -> str:
    with jax.set_mesh(mesh):
        return update.lower(*arguments).compile().as_text()


def test_gradients_cross_once_an_update():
    update, arguments, mesh = update_on(TEXT, (4, 2, 1), 2)
    found = crossing(text_of(update, arguments, mesh))
    # Not once a micro-batch, and not in a layer.
    assert not [entry for entry in found if entry[0]]
    assert {kind for _, kind, _ in found} == {"all-reduce"}
    # Each device sends its shard of the gradients, float32, to its peer; and the loss.
    gradient = shard_bytes(arguments[0].model)
    assert gradient < sum(size for _, _, size in found) <= gradient + 16


def test_a_slice_gathers_what_one_slice_alone_would_gather():
    """Weights only: no rows of the gradient of a table, which a scatter would ask for."""
    two = text_of(*update_on(TEXT, (4, 2, 1), 2))
    one = text_of(*update_on(TEXT, (2, 2, 1), 1, rows=ROWS // 2))
    gathered = [
        sorted(entry for entry in found if entry[1] == "all-gather")
        for found in (collectives(two, [0] * 4 + [1] * 4), collectives(one, [0] * 4))
    ]
    assert gathered[0] == gathered[1] and len(gathered[0]) > 5


@pytest.fixture(scope="module")
def programs():
    """The programs of GRPO on two slices, by label."""
    smoke = load_config("digits_smoke")
    stage = dataclasses.replace(
        smoke.stages["grpo"], prompts=8, tiles=8, slots=16, accumulate=2
    )
    config = dataclasses.replace(
        smoke, mesh=(4, 2, 1), stages={"grpo": stage}, stage="grpo"
    )
    mesh = make_mesh(config.mesh, slices=2)
    return {p.label: p for p in stage_programs(config, "grpo", mesh, (5,))}


@pytest.mark.parametrize("label", ["reshard", "encode_images", "prefill", "decode"])
def test_slices_sample_alone(programs, label):
    text = programs[label].lower().compile().as_text()
    found = crossing(text)
    if label == "decode":  # the number of steps, when all have ended
        assert found == [(False, "all-reduce", 4.0)]
    elif label == "prefill":  # any prompt may need any image
        assert {kind for _, kind, _ in found} <= {"all-gather"} and found
    else:
        assert not found
