"""From prompts to the arrays of a policy update: the ids and numbers of the sampler, end to end."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from tokenizers_for_tests import write_tiny_tokenizer

from r1v3_jax import data, distill, evaluate, losses, rewards, rollout, tokens, train
from r1v3_jax.config import GRPO, Compute
from r1v3_jax.models import r1v3
from r1v3_jax.presets import TINY
from r1v3_jax.sampler import Sampling
from r1v3_jax.sharding import DECODE, TRAIN
from r1v3_jax.types import Example


def source(index: int) -> Example:
    picture = Image.fromarray(np.full((28, 28, 3), 40 * index % 256, np.uint8))
    return Example(str(index), (picture,), "what" + "?" * (index % 5), str(index))


CONFIG = GRPO(
    train=source,
    prompts=4,
    group_size=3,
    max_prompt_tokens=100,
    max_completion_tokens=8,
    tiles=4,
    aggregation="token",
)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(directory)
    tokenizer = tokens.load(directory, chat=tokens.ChatFormat(system=None, opening="<think>\n"))
    config = dataclasses.replace(
        TINY,
        text=dataclasses.replace(TINY.text, vocab_size=tokenizer.vocab_size),
        image_token_id=tokenizer.image_token_id,
        end_token_id=tokenizer.end_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = data.Encoder(config, tokenizer)
    sampler = rollout.Sampler(
        encoder=encoder,
        sampling=Sampling(max_tokens=8, banned=tokenizer.banned_token_ids),
        max_prompt_tokens=100,
        tiles=4,
        group_size=3,
    )
    return sampler, r1v3.init(config, Compute())


@pytest.fixture(scope="module")
def groups(setup):
    """Sampled groups with rewards as if some were right, one of them undecided."""
    sampler, model = setup
    made = sampler.groups(model, [source(i) for i in range(4)], jax.random.key(0), limit=8)
    rng, out = np.random.default_rng(0), []
    for p, group in enumerate(made):
        right = [float(x) for x in rng.integers(0, 2, 3)] if p else [1.0, 0.0, None]
        scores = [dataclasses.replace(s, total=r) for s, r in zip(group.scores, right, strict=True)]
        out.append(dataclasses.replace(group, scores=scores))
    return out


def test_the_trainer_agrees_with_the_sampler(setup, groups):
    """Every sampled log-probability, recomputed by the training forward pass on its row."""
    sampler, model = setup
    batch = rollout.policy_batch(groups, CONFIG, sampler.encoder)
    part = jax.tree.map(lambda x: np.asarray(x)[0], batch)
    got, _ = jax.jit(train.token_logprobs)(model, part.batch)
    at = part.sampler_logprobs != 0
    assert at.sum() == sum(group.completions.lengths.sum() for group in groups)
    np.testing.assert_allclose(np.asarray(got)[at], part.sampler_logprobs[at], atol=1e-4)  # float32


def test_rows_hold_the_sampled_ids(setup, groups):
    batch = rollout.policy_batch(groups, CONFIG, setup[0].encoder).batch
    for p, group in enumerate(groups):
        for g in range(3):
            row, start = batch.tokens[0, p * 3 + g], len(group.prompt.tokens)
            size = group.completions.lengths[g]
            np.testing.assert_array_equal(row[:start], group.prompt.tokens)
            np.testing.assert_array_equal(
                row[start : start + size], group.completions.tokens[g, :size]
            )
            assert (batch.segment_ids[0, p * 3 + g] == 1).sum() == start + size


def test_an_undecided_sample_takes_no_part(setup, groups):
    """Weight and advantage 0; the advantages of its siblings are those computed without it."""
    policy = rollout.policy_batch(groups, CONFIG, setup[0].encoder)
    assert not policy.batch.loss_weights[0, 2].any() and not policy.advantages[0, 2].any()
    without = losses.group_advantages(np.array([[1.0, 0.0]]), np.ones((1, 2), bool))[0]
    for row, expected in enumerate(without):
        at = policy.batch.loss_weights[0, row] > 0
        np.testing.assert_array_equal(np.unique(policy.advantages[0, row, at]), [expected])
    np.testing.assert_allclose(policy.batch.loss_weights.sum(), 1, rtol=1e-5)


def test_micro_batches_hold_their_own_tiles(setup, groups):
    config = dataclasses.replace(CONFIG, accumulate=2)
    whole = rollout.policy_batch(groups, CONFIG, setup[0].encoder)
    parts = rollout.policy_batch(groups, config, setup[0].encoder)
    assert parts.batch.tokens.shape == (2, 6, 108) and parts.batch.tiles.shape == (2, 2, 28, 28, 3)
    np.testing.assert_array_equal(parts.batch.tokens.reshape(12, -1), whole.batch.tokens[0])
    np.testing.assert_array_equal(
        parts.batch.loss_weights.reshape(12, -1), whole.batch.loss_weights[0]
    )
    for n in range(2):
        index = parts.batch.image_index[n]
        assert index.max() == 2 * 4 - 1
        mine = np.asarray(parts.batch.tiles)[n]
        np.testing.assert_array_equal(mine, np.asarray(whole.batch.tiles)[0, 2 * n : 2 * n + 2])


def test_an_update_may_have_more_tile_slots_than_a_rollout(setup, groups):
    config = dataclasses.replace(CONFIG, accumulate=2, update_tiles=12)
    wide = rollout.policy_batch(groups, config, setup[0].encoder).batch.tiles
    narrow = dataclasses.replace(config, update_tiles=0)
    narrow = rollout.policy_batch(groups, narrow, setup[0].encoder).batch.tiles
    assert wide.shape == (2, 6, 28, 28, 3) and narrow.shape == (2, 2, 28, 28, 3)
    np.testing.assert_array_equal(np.asarray(wide)[:, :2], np.asarray(narrow))
    assert not np.asarray(wide)[:, 2:].any()


def test_the_tower_runs_once_a_prompt(setup, groups):
    batch = rollout.policy_batch(groups, CONFIG, setup[0].encoder).batch
    assert batch.tiles.shape[1] == 4  # not 4 x 3
    np.testing.assert_array_equal(batch.image_index[0, 0], batch.image_index[0, 2])


def test_a_prefilled_answer_is_prompt_to_the_sampler_and_text_to_the_verifier(setup):
    sampler, model = setup
    encoder = data.Encoder(sampler.encoder.config, sampler.encoder.tokenizer, "\n</think>\n\n")
    plain, filled = (
        dataclasses.replace(sampler, encoder=e).groups(model, [source(1)], jax.random.key(0), 3)[0]
        for e in (sampler.encoder, encoder)
    )
    added = encoder.tokenizer.encode_text("\n</think>\n\n")
    assert filled.prompt.tokens.tolist() == [*plain.prompt.tokens, *added]
    assert all(text.startswith("\n</think>\n\n") for text in filled.texts)
    assert filled.completions.tokens.shape == plain.completions.tokens.shape


def test_rollouts_and_evaluations_decode_in_the_decode_layout(setup, monkeypatch):
    """All who sample: the policy as it is trained comes in, and its DECODE form samples."""
    sampler, model = setup
    assert model.compute.rules == TRAIN
    used = []

    class Spy:
        sampling = sampler.sampling

        def groups(self, model, examples, key, limit, **_):
            used.append(model.language.blocks.compute.rules)
            return sampler.groups(model, examples, key, limit)

    rollout.collect(Spy(), model, source, 0, jax.random.key(0), CONFIG, 8)
    evaluate.sample_groups(Spy(), model, source, 4, 4, jax.random.key(0))
    distill.distill(Spy(), model, source, 4, 4, jax.random.key(0), distill.Filter(8))
    assert used == [DECODE] * 3


def test_dynamic_sampling_replaces_groups_without_signal(setup, monkeypatch):
    """Rewards by prompt: even prompts are always right, odd ones mixed."""
    sampler, model = setup

    def score_all(texts, answers, ended, **_):
        base = rewards.score(texts[0], answers[0], ended=ended[0])
        return [
            dataclasses.replace(base, total=float(int(answer) % 2 == 0 or i % 3 == 0))
            for i, answer in enumerate(answers)
        ]

    monkeypatch.setattr(rewards, "score_all", score_all)  # the verifier is not what is tested
    config = dataclasses.replace(CONFIG, refills=2)
    kept, cursor, stats = rollout.collect(sampler, model, source, 0, jax.random.key(0), config, 8)
    assert [int(group.example.id) for group in kept] == [1, 3, 5, 7]
    assert cursor == 8 and stats == {"frac_reward_zero_std": 0.5, "rollout_passes": 2}
    kept, cursor, stats = rollout.collect(sampler, model, source, 0, jax.random.key(0), CONFIG, 8)
    assert [int(group.example.id) for group in kept] == [0, 1, 2, 3] and cursor == 4


@pytest.fixture(scope="module")
def spread(setup):
    """A sampler with five tokens, one of them the end, and so with samples of all lengths."""
    sampler, _ = setup
    tokenizer = sampler.encoder.tokenizer
    allowed = {tokenizer.end_token_id, *tokenizer.encode_text("what")}
    banned = tuple(i for i in range(tokenizer.vocab_size) if i not in allowed)
    return dataclasses.replace(sampler, sampling=Sampling(max_tokens=8, banned=banned))


def host(groups):
    """What there is to compare of groups."""
    return [
        (
            group.example.id,
            group.texts,
            [dataclasses.asdict(score) for score in group.scores],
            *(getattr(group.completions, x).tolist() for x in ("tokens", "lengths", "ended")),
        )
        for group in groups
    ]


def test_what_is_scored_while_others_are_sampled_is_the_same(setup, spread, monkeypatch):
    """Five slots for twelve samples: four looks, each at what the ones before did not have."""
    sampler, model = spread, setup[1]
    examples = [source(i) for i in range(4)]
    expected = sampler.groups(model, examples, jax.random.key(0), limit=8)
    calls, score_all = [], rewards.score_all

    def watched(texts, *args, **options):
        calls.append(len(texts))
        return score_all(texts, *args, **options)

    monkeypatch.setattr(rewards, "score_all", watched)
    slotted = dataclasses.replace(sampler, slots=5)
    groups = slotted.groups(model, examples, jax.random.key(0), limit=8)
    assert host(groups) == host(expected)
    assert len({int(x) for group in groups for x in group.completions.lengths}) >= 4
    assert len(calls) == rollout.LOOKS and sum(calls) == 12 and calls[0] > 0
    calls.clear()
    sampler.groups(model, examples, jax.random.key(0), limit=8)
    assert calls == [12]


def test_busy_slots_are_counted(setup, spread):
    """Twelve samples of lengths from 1 to 8: the steps of the longest, or of five slots in turn."""
    model, found = setup[1], []
    for slots in (0, 5):
        groups = dataclasses.replace(spread, slots=slots).groups(
            model, [source(i) for i in range(4)], jax.random.key(0), limit=8
        )
        lengths = np.concatenate([group.completions.lengths for group in groups])
        free = np.zeros(slots or 12)
        for length in lengths:
            free[np.argmin(free)] += length
        busy = lengths.sum() / (len(free) * free.max())
        stats = rollout.statistics(groups, 8)
        np.testing.assert_allclose(stats["slots/busy"], busy)
        found.append(busy)
    assert found[0] < found[1] < 1


def test_the_limit_of_a_step_holds_without_another_program(setup):
    sampler, model = setup
    from r1v3_jax.sampler import decode

    sampler.groups(model, [source(i) for i in range(4)], jax.random.key(0), limit=8)
    programs = decode._cache_size()
    short = sampler.groups(model, [source(i) for i in range(4)], jax.random.key(0), limit=3)
    assert max(group.completions.lengths.max() for group in short) <= 3
    assert decode._cache_size() == programs
