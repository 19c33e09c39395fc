"""A policy update computes each prompt once; what comes out is what the naive computation gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec, get_mesh
from policy_groups import CONFIG, C, G, P, Processor, S, make_groups
from random_models import random_model

from r1v3_jax.config import GRPO, TINY, Compute, Run
from r1v3_jax.data import placement
from r1v3_jax.data.prompts import place_images
from r1v3_jax.losses import (
    NOTHING,
    Cispo,
    Clipped,
    ConstantLength,
    Gmpo,
    Gspo,
    Masked,
    Sapo,
    SequenceMean,
    TokenMean,
    Truncated,
    WholeSequence,
)
from r1v3_jax.models import attention, internvit, qwen2
from r1v3_jax.sharding import TRAIN, make_mesh, shardings
from r1v3_jax.slices import each_slice
from r1v3_jax.train import optimizer, policy_batch, policy_gradient
from r1v3_jax.train.logprobs import token_logprobs
from r1v3_jax.types import Batch


@pytest.fixture(scope="module")
def model():
    return random_model(TINY, Compute(logprob_chunk=5))


@pytest.fixture(scope="module")
def groups():
    return make_groups()


def naive(groups: list, config: GRPO) -> tuple[Batch, np.ndarray, np.ndarray]:
    """A row a sample, prompt and completion side by side: [B, T] arrays, advantages and the
    sampler's log-probabilities beside them.
    """
    shape = (P * G, S + C)
    out = {
        name: np.zeros(shape, np.int32)
        for name in ("tokens", "positions", "segment_ids")
    }
    index, mask = np.full(shape, -1, np.int32), np.zeros((P * G, C), bool)
    weights, advantages, sampled = (np.zeros(shape, np.float32) for _ in range(3))
    reward = np.stack([group.rewards for group in groups])
    lengths = np.stack([group.completions.lengths for group in groups])
    advantage = CONFIG.advantage(reward, ~np.isnan(reward), lengths)
    for r in range(P * G):
        p, g = divmod(r, G)
        prompt, made = groups[p].prompt, groups[p].completions
        start, size = len(prompt.tokens), int(made.lengths[g])
        out["tokens"][r, :start], out["tokens"][r, start : start + C] = (
            prompt.tokens,
            made.tokens[g],
        )
        out["positions"][r, : start + size] = np.arange(start + size)
        out["segment_ids"][r, : start + size] = 1
        place_images(index[r, :start], prompt, p, Processor)
        if not np.isnan(reward[p, g]):
            mask[r, :size] = made.chosen[g, :size]
        advantages[r, start : start + size] = advantage[p, g]
        sampled[r, start : start + size] = made.logprobs[g, :size]
    for r, row in enumerate(config.aggregation(mask, C, np.ones(len(mask)))):
        start = len(groups[r // G].prompt.tokens)
        weights[r, start : start + C] = row
    tiles = np.concatenate([np.asarray(group.prompt.tiles) for group in groups])
    batch = Batch(loss_weights=weights, tiles=tiles, image_index=index, **out)
    return batch, advantages, sampled


def naive_gradient(model, groups, config: GRPO, names: str):
    graph, params, frozen = nnx.split(model, optimizer.trainable(names), ...)
    batch, advantages, sampled = jax.tree.map(jnp.asarray, naive(groups, config))

    def loss(params):
        model = nnx.merge(graph, params, frozen)
        logprobs, _ = token_logprobs(model, batch, temperature=config.temperature)
        old, weights = jax.lax.stop_gradient(logprobs), batch.loss_weights
        if config.updates_per_rollout > 1:
            old = sampled  # as if the sampling weights had given these
        segments = batch.segment_ids
        if config.correction != NOTHING:
            weights *= config.correction(old, sampled, weights, segments)
        return config.loss(logprobs, old, advantages, weights, segments)[0]

    return jax.jit(jax.value_and_grad(loss))(params)


def shared_gradient(model, groups, config: GRPO, names: str):
    graph, params, frozen = nnx.split(model, optimizer.trainable(names), ...)
    batch = policy_batch.policy_batch(groups, config, Processor)
    if config.updates_per_rollout > 1:
        rows = batch.rows
        rows = dataclasses.replace(rows, old_logprobs=rows.sampler_logprobs)
        batch = dataclasses.replace(batch, rows=rows)
    batch = placement.place(batch, TRAIN, get_mesh())

    def of_slice(params, frozen, batch):
        return policy_gradient.gradients(
            lambda params: nnx.merge(graph, params, frozen),
            params,
            batch,
            config=config,
        )

    @jax.jit
    def gradient(params, frozen, batch):  # as `make_update` calls it
        layouts = (params, PartitionSpec())
        return each_slice(of_slice, params, frozen, batch, like=layouts)

    grads, metrics = gradient(params, frozen, batch)
    return metrics["loss"], grads


def worst(got, want) -> float:
    """The largest difference, in units of its array's largest entry."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(
        float(
            np.abs(np.asarray(a) - np.asarray(b)).max()
            / (np.abs(np.asarray(b)).max() + 1e-12)
        )
        for a, b in pairs
    )


CASES = {
    "everything learns": ({"aggregation": SequenceMean()}, "all"),
    "the tower is frozen": (
        {"aggregation": TokenMean(), "accumulate": 2},
        "llm+connector",
    ),
    "the connector alone": (
        {"aggregation": ConstantLength(), "accumulate": 4},
        "connector",
    ),
    "prompts in parts": ({"accumulate": 3, "prompt_parts": 4}, "all"),
    "padded to a bucket": (
        {"max_prompt_tokens": 40, "buckets": ((12, 4), (24, 8))},
        "all",
    ),
    "one sample at a time, corrected": (
        {"accumulate": 24, "correction": Truncated(1.05)},
        "llm",
    ),
    "masked": ({"accumulate": 3, "correction": Masked(0.9, 1.1)}, "llm"),
    "a factor a sample": ({"accumulate": 3, "correction": WholeSequence(1.5)}, "llm"),
    # Several updates a rollout: the ratios are not 1.
    **{
        type(loss).__name__: (
            {"accumulate": 3, "loss": loss, "updates_per_rollout": 2},
            "llm",
        )
        for loss in (Clipped(dual=3.0), Gspo(0.2, 0.2), Gmpo(), Cispo(), Sapo())
    },
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_naive_computation(model, groups, case):
    changes, names = CASES[case]
    config = dataclasses.replace(CONFIG, **changes)
    want_loss, want = naive_gradient(model, groups, config, names)
    padded = policy_batch.policy_batch(groups, config, Processor).prompts.tokens.shape[
        1
    ]
    assert padded == (24 if config.buckets else S)
    loss, grads = shared_gradient(model, groups, config, names)
    print(f"{case}: worst relative difference {worst(grads, want):.1e}")
    np.testing.assert_allclose(loss, want_loss, atol=1e-6)
    assert worst(grads, want) <= 1e-5  # float32, other orders of summation


@pytest.fixture(scope="module")
def on_one_device(model, groups):
    return shared_gradient(model, groups, CONFIG, "all")


@pytest.mark.parametrize(
    "shape, slices",
    [((1, 2, 2), 1), ((2, 2, 2), 1), ((8, 1, 1), 1), ((4, 2, 1), 2), ((8, 1, 1), 4)],
)
def test_a_mesh_changes_nothing(model, groups, on_one_device, shape, slices):
    """Also where there are more devices than prompts, so that prompts are there twice."""
    want_loss, want = on_one_device
    mesh = make_mesh(shape, jax.devices()[: np.prod(shape)], slices=slices)
    config = dataclasses.replace(CONFIG, accumulate=3, prompt_parts=2)
    with jax.set_mesh(mesh):
        graph, state = nnx.split(model)
        placed = jax.device_put(state, shardings(model, TRAIN, mesh))
        loss, grads = shared_gradient(nnx.merge(graph, placed), groups, config, "all")
    np.testing.assert_allclose(loss, want_loss, atol=1e-6)
    assert worst(jax.device_get(grads), jax.device_get(want)) <= 1e-5


def test_scores_are_the_naive_log_probabilities(model, groups):
    config = dataclasses.replace(CONFIG, accumulate=4)
    batch = policy_batch.policy_batch(groups, config, Processor)
    got = np.asarray(
        policy_gradient.score(model, placement.place(batch, TRAIN, get_mesh()), 0.8)
    )
    flat, _, _ = naive(groups, config)
    want, _ = jax.jit(functools.partial(token_logprobs, temperature=0.8))(model, flat)
    plan = policy_batch.pack(
        np.stack([group.completions.lengths for group in groups]), config
    )
    for (p, g), (n, b, at, _) in plan.places.items():
        start, size = (
            len(groups[p].prompt.tokens),
            int(groups[p].completions.lengths[g]),
        )
        expected = np.asarray(want)[p * G + g, start : start + size]
        np.testing.assert_allclose(got[n, b, at : at + size], expected, atol=1e-5)
    assert not got[int(batch.used) :].any()


def test_the_kernel_sees_what_the_reference_sees(model, groups, monkeypatch):
    """Interpreted: the Pallas kernel runs on a TPU only."""
    for module, name in (
        (qwen2, "splash_after_prompt"),
        (qwen2, "splash_attention"),
        (internvit, "splash_attention"),
    ):
        kernel = functools.partial(getattr(attention, name), interpret=True)
        monkeypatch.setattr(module, name, kernel)
    batch = placement.place(
        policy_batch.policy_batch(groups, CONFIG, Processor), TRAIN, get_mesh()
    )
    want = policy_gradient.score(model, batch, 1.0)
    compute = dataclasses.replace(model.compute, attention="splash")
    got = policy_gradient.score(random_model(TINY, compute), batch, 1.0)
    at = batch.rows.segment_ids > 0
    np.testing.assert_allclose(
        got[at], want[at], atol=1e-4
    )  # as between programs, `test_models`


ATTENTION = {  # rows, length, kv heads, queries a kv head, head_dim, prompt slots, prompts, block
    "several blocks, ragged lengths": (4, 200, 2, 3, 64, 150, 2, 128),
    "one block, one row": (1, 100, 1, 2, 128, 40, 1, 1024),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_the_kernel_behind_prompts_equals_the_reference(case):
    B, T, K, Q, H, slots, J, block = ATTENTION[case]
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    arrays = (
        normal(B, T, K, Q, H), normal(B, T, K, H), normal(B, T, K, H),
        normal(J, K, slots, H), normal(J, K, slots, H),
    )  # fmt: skip
    segments = np.zeros((B, T), np.int32)
    segments[:, : T // 3], segments[:, T // 3 : T // 2], segments[::2, T // 2 : -9] = (
        1,
        2,
        3,
    )
    segments, used = jnp.asarray(segments), jnp.asarray([slots * 2 // 3, slots][:J])
    weights = normal(B, T, K, Q, H) * (segments > 0)[..., None, None, None]

    def both(attend):
        def objective(*arrays):
            return jnp.sum(attend(*arrays, segments, used) * weights)

        return jax.jit(jax.value_and_grad(objective, argnums=range(5)))(*arrays)

    kernel = functools.partial(
        attention.splash_after_prompt, block=block, interpret=True
    )
    (got, got_grads), (want, want_grads) = (
        both(kernel),
        both(attention.attention_after_prompt),
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for a, b in zip(got_grads, want_grads, strict=True):
        assert np.abs(a - b).max() <= 2e-5  # as without a prompt, `test_models`


# --- packing -----------------------------------------------------------------------------------


def test_first_fit_written_out():
    # 5 goes first, then 4, 3 (fits behind 5), 2 (behind 4), 2, 1
    assert policy_batch.first_fit([2, 5, 3, 4, 2, 1], 8) == [[1, 2], [3, 0, 4]] + [[5]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "prompts, group, accumulate", [(4, 6, 1), (4, 6, 6), (3, 8, 2), (2, 32, 8)]
)
def test_every_sample_lies_once_with_its_prompt(seed, prompts, group, accumulate):
    lengths = np.random.default_rng(seed).integers(1, C + 1, (prompts, group))
    config = dataclasses.replace(
        CONFIG, prompts=prompts, group_size=group, accumulate=accumulate
    )
    plan = policy_batch.pack(lengths, config)
    N, B, T = plan.shape
    assert N * B == prompts * group and len(plan.places) == prompts * group
    taken = np.zeros(plan.shape, int)
    for (p, g), (n, b, at, _) in plan.places.items():
        assert n < plan.used
        taken[n, b, at : at + lengths[p, g]] += 1
        assert plan.prompt_of_row[n, b * plan.prompt_of_row.shape[1] // B] == p
    assert taken.max() == 1 and taken.sum() == lengths.sum()


def test_full_samples_fill_every_row():
    plan = policy_batch.pack(
        np.full((P, G), C), dataclasses.replace(CONFIG, accumulate=6)
    )
    assert (
        plan.used == 6 and len({place[:2] for place in plan.places.values()}) == P * G
    )


def test_short_samples_run_fewer_micro_batches():
    plan = policy_batch.pack(
        np.full((P, G), 2), dataclasses.replace(CONFIG, accumulate=6)
    )
    # 6 samples of 2 in rows of 8: 2 rows a prompt, a block; a micro-batch has 2 blocks.
    assert plan.used == 2


def test_the_share_of_an_update_that_was_sampled(groups):
    batch = policy_batch.policy_batch(
        groups, dataclasses.replace(CONFIG, accumulate=6), Processor
    )
    sampled = sum(int(group.completions.lengths.sum()) for group in groups)
    assert policy_batch.busy_rows(batch) == pytest.approx(
        sampled / (int(batch.used) * 4 * C)
    )


@pytest.mark.parametrize(
    "changes, mesh, message",
    [
        ({"prompts": 4}, (2, 3, 1), "one must divide the other; 6 would do"),
        (
            {"prompts": 2, "group_size": 3},
            (2, 2, 1),
            "use a multiple, or more grpo.prompts",
        ),
    ],
)
def test_samples_that_cannot_lie_with_their_prompts_are_refused(changes, mesh, message):
    stage = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ValueError, match=message):
        Run(
            name="x",
            model=TINY,
            init_from="x",
            stages={"grpo": stage},
            mesh=mesh,
        )
