"""Bad numbers, wherever they come from, are never applied."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax import nnx
from random_models import random_model
from test_shared_prompts import CONFIG, Processor, groups  # noqa: F401
from tokenizers_for_tests import write_tiny_tokenizer

from r1v3_jax.config import TINY, Compute, Health, Optimizer
from r1v3_jax.losses import ConstantLength, SequenceMean
from r1v3_jax.models import qwen2
from r1v3_jax.models.build import for_decoding
from r1v3_jax.models.joined_cache import JoinedCache
from r1v3_jax.processing.tokenizer import check_prompt_length, check_token_ids, load
from r1v3_jax.rollout.metrics import not_finite
from r1v3_jax.run import alarms
from r1v3_jax.sampling.loop import decode, generate, prefill
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.stages import grpo
from r1v3_jax.train import policy_batch, policy_gradient
from r1v3_jax.train.logprobs import token_logprobs
from r1v3_jax.train.optimizer import schedule, trainable
from r1v3_jax.train.update import create, make_update

KL = dataclasses.replace(
    CONFIG, kl_coef=0.1, optimizer=Optimizer(lr=1e-2, weight_decay=0.1)
)
BAD = (np.nan, np.inf, -np.inf)


@pytest.fixture(scope="module")
def made(groups):  # noqa: F811
    """(model, batch on the host, fresh states, the jitted update), with a KL term."""
    model = random_model(TINY, Compute(logprob_chunk=5))
    batch = jax.tree.map(np.asarray, policy_batch.policy_batch(groups, KL, Processor))
    old = policy_gradient.score(model, batch, KL.temperature)
    rows = dataclasses.replace(batch.rows, old_logprobs=old, ref_logprobs=old)
    batch = jax.tree.map(np.asarray, dataclasses.replace(batch, rows=rows))
    optimizer, update = grpo.make_update(KL)
    learns = trainable("all")
    lr = schedule(KL.optimizer, KL.steps)

    def poisoned(model, params, batch_and_where):
        """The real gradient, with one entry of one leaf set to what the batch says."""
        batch, leaf, value = batch_and_where
        grads, metrics = policy_gradient.gradients(model, params, batch, config=KL)
        leaves, tree = jax.tree.flatten(grads)
        put = lambda i, x: jnp.where(leaf == i, x.at[(0,) * x.ndim].set(value), x)  # noqa: E731
        return jax.tree.unflatten(
            tree, [put(i, x) for i, x in enumerate(leaves)]
        ), metrics

    bad_gradient = make_update(poisoned, optimizer, learns, lr)

    def fresh():
        return create(jax.tree.map(jnp.copy, model), optimizer, learns)

    return batch, fresh, update, bad_gradient


def arrays(state) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.device_get(jax.tree.leaves(state))]


def put(array: np.ndarray, at: np.ndarray, value: float, rng) -> np.ndarray:
    """`array` with a bad value at a random one of the places where `at`."""
    array = array.copy()
    places = np.argwhere(at)
    array[tuple(places[rng.integers(len(places))])] = value
    return array


def test_a_bad_update_is_never_applied(made, shows):
    batch, fresh, update, bad_gradient = made
    rng, caught, untouched, count = np.random.default_rng(0), 0, 0, 0
    learnt = batch.rows.loss_weights > 0
    for place in ("pixels", "gradient", "reward", "reference", "optimizer"):
        for i in range(10):
            value, state = BAD[i % 3], fresh()
            given = batch
            if place == "pixels":
                used = np.zeros(batch.prompts.tiles.shape, bool)
                used[:, :4] = True  # the tiles of the four prompts
                tiles = put(batch.prompts.tiles, used, value, rng)
                given = dataclasses.replace(
                    batch, prompts=dataclasses.replace(batch.prompts, tiles=tiles)
                )
            elif place in ("reward", "reference"):
                name = "advantages" if place == "reward" else "ref_logprobs"
                bad = put(getattr(batch.rows, name), learnt, value, rng)
                given = dataclasses.replace(
                    batch, rows=dataclasses.replace(batch.rows, **{name: bad})
                )
            elif place == "optimizer":
                leaves, tree = jax.tree.flatten(state.optimizer)
                floats = [
                    k for k, x in enumerate(leaves) if x.dtype == jnp.float32 and x.ndim
                ]
                k = floats[rng.integers(len(floats))]
                everywhere = np.ones(leaves[k].shape, bool)
                leaves[k] = jnp.asarray(
                    put(np.asarray(leaves[k]), everywhere, value, rng)
                )
                state = dataclasses.replace(
                    state, optimizer=jax.tree.unflatten(tree, leaves)
                )
            before = arrays(state)
            if place == "gradient":
                leaf = np.int32(
                    rng.integers(len(jax.tree.leaves(nnx.state(state.model))))
                )
                state, metrics = bad_gradient(state, (given, leaf, np.float32(value)))
            else:
                state, metrics = update(state, given)
            count += 1
            caught += float(metrics["finite"]) == 0
            after = arrays(state)
            untouched += all(
                np.array_equal(a, b, equal_nan=True)
                for a, b in zip(before, after, strict=True)
            )
    shows(
        f"14 {count} bad numbers in five places: caught", caught, count, caught == count
    )
    shows(
        "14 ... weights, moments and step untouched",
        untouched,
        count,
        untouched == count,
    )
    state, metrics = update(fresh(), batch)
    assert (
        float(metrics["finite"]) == 1 and int(state.step) == 1
    )  # without them it goes on


def test_a_bad_reward_or_sampler_log_probability_is_seen_on_the_host(groups):  # noqa: F811
    assert not_finite(groups) == ""
    first = groups[0]
    scores = [
        dataclasses.replace(first.scores[0], total=float("inf")),
        *first.scores[1:],
    ]
    bad = dataclasses.replace(first, scores=scores)
    assert not_finite([bad, *groups[1:]]) == "a reward of 0 is"
    made = first.completions
    logprobs = made.logprobs.copy()
    logprobs[2, made.lengths[2] - 1] = np.nan
    bad = dataclasses.replace(
        first, completions=dataclasses.replace(made, logprobs=logprobs)
    )
    assert not_finite([bad]) == "a log-probability of the sampler, 0, is"
    logprobs = made.logprobs.copy()
    logprobs[0, made.lengths[0] :] = np.nan  # behind the end of a sample: never read
    fine = dataclasses.replace(
        first, completions=dataclasses.replace(made, logprobs=logprobs)
    )
    assert not_finite([fine]) == ""


def test_a_run_skips_counts_and_stops(tmp_path, shows):
    """Weights blow up at a learning rate of 1e15; every step after that is not finite."""
    place, workdir = runs.Place(tmp_path), tmp_path / "run"
    flags = ["--config.stage=cold_start", "--config.cold_start.validate_every=0"]
    rate = "--config.cold_start.optimizer"
    flags += [f"{rate}.lr=1e15", f"{rate}.warmup_steps=0"]
    skip = ["--config.health.not_finite=skip", "--config.health.max_skipped=3"]
    place.run(workdir, *flags, *skip, code=1)
    dumped = sorted(path.name for path in (workdir / "not_finite").iterdir())
    wanted = [f"cold_start_{step:06d}.npz" for step in (1, 2, 3, 4)]
    shows("14 skip: batches dumped", dumped, wanted, dumped == wanted)
    counted = [row["skipped"] for row in runs.lines(workdir)]
    shows("14 skip: counted", counted, [0, 1, 2, 3], counted == [0, 1, 2, 3])
    with np.load(workdir / "not_finite" / dumped[0], allow_pickle=False) as batch:
        assert batch["tokens"].shape == (1, 6, 144 + 16) and "tiles" in batch
    assert "Traceback" not in runs.said(workdir)
    stop = tmp_path / "stop"
    place.run(stop, *flags, code=1)
    found = [p.name for p in (stop / "not_finite").iterdir()]
    shows("14 stop: batches dumped", found, wanted[:1], found == wanted[:1])


@pytest.fixture(scope="module")
def sampled():
    """1,024 sampled tokens of a random model at each setting, and the trainer's view of them."""
    model = random_model(TINY, Compute(logprob_chunk=5))
    rng = np.random.default_rng(0)
    prompts = rng.integers(10, 331, (8, 16)).astype(np.int32)
    lengths = np.full(8, 16, np.int32)
    index = np.full((8, 16), -1, np.int32)

    def run(temperature, top_p, trainer_temperature=None):
        sampling = SamplingParams(max_tokens=32, temperature=temperature, top_p=top_p)
        out = generate(
            for_decoding(model), prompts, lengths, jax.random.key(1), None, index,
            group_size=4, sampling=sampling,
        )  # fmt: skip
        from r1v3_jax.types import Batch

        rows, at = 32, 16 + 32
        ids = np.zeros((rows, at), np.int32)
        ids[:, :16], ids[:, 16:] = np.repeat(prompts, 4, 0), out.tokens
        batch = Batch(
            tokens=jnp.asarray(ids),
            positions=jnp.broadcast_to(jnp.arange(at, dtype=jnp.int32), ids.shape),
            segment_ids=jnp.ones_like(ids),
            loss_weights=jnp.ones(ids.shape),
            image_index=jnp.full(ids.shape, -1, jnp.int32),
        )
        theirs, _ = token_logprobs(
            model, batch, temperature=trainer_temperature or temperature
        )
        held = np.arange(32) < np.asarray(out.lengths)[:, None]
        return np.asarray(out.logprobs)[held], np.asarray(theirs)[:, 16:][held]

    return run


def test_sampler_and_trainer_agree(sampled, shows):
    worst, ratio = 0.0, 0.0
    for temperature in (1.0, 0.7):
        for top_p in (1.0, 0.9):
            ours, theirs = sampled(temperature, top_p)
            worst = max(worst, np.abs(ours - theirs).max())
            ratio = max(ratio, np.abs(np.exp(theirs - ours) - 1).max())
    shows("15 sampler against trainer, log p", f"{worst:.1e}", 1e-4, worst <= 1e-4)
    shows("15 importance ratio - 1", f"{ratio:.1e}", 1e-3, ratio <= 1e-3)
    ours, theirs = sampled(0.7, 1.0, trainer_temperature=1.0)
    gap = {"sampler_gap": float(np.abs(ours - theirs).mean())}
    found = list(alarms.alarms(gap, Health()))
    passed = found == ["sampler_gap"]
    shows(
        "15 temperature on one side only: alarms at once", found, "sampler_gap", passed
    )


def test_the_metric_of_an_update_shows_a_fault_in_one_step(made, shows):
    """The sampler's side as it is, and with the temperature left out, whatever the aggregation."""
    batch, fresh, _, _ = made
    for aggregation in (SequenceMean(), ConstantLength()):
        config = dataclasses.replace(KL, kl_coef=0.0, aggregation=aggregation)
        _, update = grpo.make_update(config)
        weights = batch.rows.loss_weights * (
            0.1 if aggregation == ConstantLength() else 1.0
        )
        for temperature, wanted in ((config.temperature, []), (2.0, ["sampler_gap"])):
            state = fresh()
            sampled = policy_gradient.score(state.model, batch, temperature)
            rows = dataclasses.replace(
                batch.rows, sampler_logprobs=sampled, old_logprobs=None, ref_logprobs=None,
                loss_weights=weights,
            )  # fmt: skip
            _, metrics = update(state, dataclasses.replace(batch, rows=rows))
            gap = float(metrics["sampler_gap"])
            found = [n for n in alarms.alarms({"sampler_gap": gap}, Health())]
            what = f"15 an update's gap, {type(aggregation).__name__}, sampled at {temperature}"
            shows(what, f"{gap:.1e} {found}", wanted, found == wanted)


def test_sampled_ids_are_never_encoded_again(groups, shows):  # noqa: F811
    """What is learnt from is what was drawn, id by id, also where text would give other ids."""
    plan = policy_batch.pack(np.stack([g.completions.lengths for g in groups]), CONFIG)
    rows = policy_batch.policy_batch(groups, CONFIG, Processor).rows
    changed = 0
    for (p, g), (n, b, start, _) in plan.places.items():
        size = int(groups[p].completions.lengths[g])
        drawn = groups[p].completions.tokens[g, :size]
        changed += int((rows.tokens[n, b, start : start + size] != drawn).sum())
    assert len(plan.places) == 24
    shows(
        "16 sampled ids that changed on the way to the update", changed, 0, changed == 0
    )


def test_text_comes_back_from_its_ids(tmp_path, shows):
    """A byte-level vocabulary; Qwen's own in processing/test_tokenizer.py."""
    write_tiny_tokenizer(tmp_path)
    tokenizer, rng, changed = load(tmp_path), np.random.default_rng(0), 0
    letters = list(
        "0123456789+-=; abcdefghijklmnopqrstuvwxyz\\{}\n\u00e9\u4e2d\U0001f600"
    )
    for _ in range(1000):
        text = "".join(rng.choice(letters, rng.integers(1, 60)))
        changed += (
            tokenizer.decode(tokenizer.encode_text(text), skip_special=False) != text
        )
    shows("16 1,000 strings encoded and decoded: changed", changed, 0, changed == 0)


def test_token_ids_are_checked_on_the_host(shows):
    rng, vocab, wrong = np.random.default_rng(0), 331, 0
    for _ in range(10_000):
        ids = rng.integers(0, vocab, 16).astype(np.int64)
        bad = rng.random() < 0.5
        if bad:
            ids[rng.integers(16)] = rng.choice(
                [-1, vocab, 2**31 - 1, -(2**31), vocab + 7]
            )
        try:
            check_token_ids(ids, vocab)
            wrong += bad
        except ValueError:
            wrong += not bad
    shows("16 10,000 rows of ids: wrongly taken or refused", wrong, 0, wrong == 0)


def own_slots(cache) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of sampled tokens, float[L, B, K, S, H]."""
    if not isinstance(cache, JoinedCache):
        return np.asarray(cache.k), np.asarray(cache.v)
    k = np.stack([np.swapaxes(x, 2, 3) for x in cache.k])
    v = np.stack(cache.v)
    return k[:, :, :, cache.prompt_slots :], v[:, :, :, cache.prompt_slots :]


def prompt_of(cache) -> list[np.ndarray]:
    """Everything that a cache holds of the prompts."""
    if not isinstance(cache, JoinedCache):
        return [np.asarray(x) for x in jax.tree.leaves(cache.prompt)]
    keys = [np.asarray(x[..., : cache.prompt_slots]) for x in cache.k]
    values = [np.asarray(x[:, :, : cache.prompt_slots]) for x in cache.v]
    return [*keys, *values, np.asarray(cache.prompt_lengths)]


@pytest.mark.parametrize("size", [15, 16])
@pytest.mark.parametrize("is_joined", [False, True], ids=["shared", "joined"])
def test_no_sample_writes_beyond_its_cache(size, is_joined, shows, monkeypatch):
    """A model that never ends, prompts up to the limit: exact counts, what lies beyond stays."""
    monkeypatch.setattr(qwen2, "is_joined", lambda *args: is_joined)
    model = random_model(TINY, Compute())
    rng, limit = np.random.default_rng(0), 6
    prompts = rng.integers(10, 331, (2, 16)).astype(np.int32)
    lengths, index = np.full(2, size, np.int32), np.full((2, 16), -1, np.int32)
    sampling = SamplingParams(max_tokens=9, banned=(TINY.end_token_id,))
    decoding = for_decoding(model)
    # Traced anew for each layout.
    begin = functools.partial(prefill.__wrapped__, group_size=3, sampling=sampling)
    state = jax.jit(begin)(decoding, prompts, lengths, None, index)
    cache = state.cache
    k = jax.tree.map(lambda x: jnp.full_like(x, 7), cache.k)
    v = jax.tree.map(lambda x: jnp.full_like(x, 8), cache.v)
    if is_joined:
        # The prompt's 16 slots stay in front.
        k = tuple(
            x.at[..., :16].set(y[..., :16]) for x, y in zip(k, cache.k, strict=True)
        )
        v = tuple(
            x.at[:, :, :16].set(y[:, :, :16]) for x, y in zip(v, cache.v, strict=True)
        )
    state = dataclasses.replace(state, cache=dataclasses.replace(cache, k=k, v=v))
    prompt = prompt_of(state.cache)
    compiled = decode._cache_size()
    bounds = jnp.int32(limit), jnp.int32(6)
    state = decode(decoding, state, jax.random.key(0), *bounds, sampling=sampling)
    counts = np.asarray(state.record.lengths).tolist()
    shows(
        f"27 prompts of {size}: tokens a sample",
        counts,
        [limit] * 6,
        counts == [limit] * 6,
    )
    assert not np.asarray(state.record.ended).any()  # cut by the limit, all of them
    k, v = own_slots(state.cache)
    assert (
        (k[:, :, :, : limit - 1] != 7).all(axis=(0, 1, 2, 4)).all()
    )  # all but the last token's
    beyond = int((k[:, :, :, limit:] != 7).sum() + (v[:, :, :, limit:] != 8).sum())
    beyond += sum(
        not np.array_equal(a, np.asarray(b))
        for a, b in zip(prompt, prompt_of(state.cache), strict=True)
    )
    shows(
        f"27 prompts of {size}: slots beyond the limit changed", beyond, 0, beyond == 0
    )
    assert decode._cache_size() - compiled <= 1 and (
        size == 15 or decode._cache_size() == compiled
    )


def test_a_prompt_beyond_the_limit_is_refused():
    check_prompt_length(16, 16)
    with pytest.raises(ValueError, match="the prompt has 17 tokens, the limit is 16"):
        check_prompt_length(17, 16)
