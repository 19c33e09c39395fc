"""From prompts to the arrays of a policy update: the ids and numbers of the sampler, end to end."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rollout_cases import CONFIG, host, info, source

from r1v3_jax.config import Data
from r1v3_jax.data import placement
from r1v3_jax.data.reader import TooManyDropped
from r1v3_jax.evaluate import accuracy
from r1v3_jax.losses import GroupRelative
from r1v3_jax.models import build
from r1v3_jax.processing.processor import Processor
from r1v3_jax.rewards import score
from r1v3_jax.rollout import collect
from r1v3_jax.rollout import sampler as rollout_sampler
from r1v3_jax.rollout.sampler import GroupSampler, sample
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import DECODE, TRAIN
from r1v3_jax.stages import grpo
from r1v3_jax.train.optimizer import trainable
from r1v3_jax.train.policy_batch import of_samples, pack, policy_batch
from r1v3_jax.train.policy_gradient import score as score_batch
from r1v3_jax.train.update import create
from r1v3_jax.types import DroppedRow


def test_a_bad_row_of_a_held_out_set_stops_nothing(setup):
    sampler, _ = setup

    class Few:
        bad = {10, 20, 30}

        def __len__(self):
            return 40

        def __call__(self, index):
            if index % 40 in self.bad:
                raise DroppedRow("few", str(index), "fields", "no question")
            return source(index)

    few = Few()
    items, consumed = sampler.reader(few, 4).take(50)
    assert [item.index for item in items] == [
        i for i in range(54) if i % 40 not in few.bad
    ]
    assert [drop["index"] for drop in consumed.drops] == [10, 20, 30, 50]
    few.bad = set(range(40))
    with pytest.raises(TooManyDropped):  # and does not look for ever
        sampler.reader(few, 4).take(1)


def test_the_trainer_agrees_with_the_sampler(setup, groups):
    """Every sampled log-probability, recomputed by the training forward pass on its row."""
    sampler, model = setup
    batch = policy_batch(groups, CONFIG, sampler.processor)
    batch = placement.place(batch, TRAIN, jax.sharding.get_mesh())
    got, sampled = (
        np.asarray(score_batch(model, batch, 1.0)),
        batch.rows.sampler_logprobs,
    )
    at = sampled != 0
    assert at.sum() == sum(group.completions.lengths.sum() for group in groups)
    np.testing.assert_allclose(got[at], sampled[at], atol=1e-4)  # float32


def samples(groups, config=CONFIG):
    """Each sample's group, number, and place in the rows: micro-batch, row, tokens."""
    plan = pack(np.stack([group.completions.lengths for group in groups]), config)
    for (p, g), (n, b, at, segment) in plan.places.items():
        size = groups[p].completions.lengths[g]
        yield groups[p], g, (n, b, slice(at, at + size)), segment


def test_rows_hold_the_sampled_ids(setup, groups):
    batch = policy_batch(groups, CONFIG, setup[0].processor)
    for group, prompt in zip(groups, batch.prompts.tokens, strict=True):
        np.testing.assert_array_equal(
            prompt[: len(group.prompt.tokens)], group.prompt.tokens
        )
    for group, g, place, segment in samples(groups):
        size = group.completions.lengths[g]
        start = len(group.prompt.tokens)
        np.testing.assert_array_equal(
            batch.rows.tokens[place], group.completions.tokens[g, :size]
        )
        np.testing.assert_array_equal(
            batch.rows.positions[place], start + np.arange(size)
        )
        assert (batch.rows.segment_ids[place] == segment).all()
    held = sum(group.completions.lengths.sum() for group in groups)
    assert (batch.rows.segment_ids > 0).sum() == held


def test_what_was_packed_is_taken_out_again(setup, groups):
    """Proves: `of_samples` undoes the packing, for every sample of a step."""
    batch = policy_batch(groups, CONFIG, setup[0].processor)
    for group, tokens in zip(
        groups, of_samples(batch.rows.tokens, groups, CONFIG), strict=True
    ):
        for g, size in enumerate(group.completions.lengths):
            sampled = group.completions.tokens[g, :size]
            np.testing.assert_array_equal(tokens[g], sampled)


def test_an_undecided_sample_takes_no_part(setup, groups):
    """Weight and advantage 0; the advantages of its siblings are those computed without it."""
    rows = policy_batch(groups, CONFIG, setup[0].processor).rows
    without = GroupRelative()(np.array([[1.0, 0.0]]), np.ones((1, 2), bool), None)[0]
    for group, g, place, _ in samples(groups):
        if group is groups[0]:
            expected = 0.0 if g == 2 else without[g]
            np.testing.assert_array_equal(np.unique(rows.advantages[place]), [expected])
            assert (rows.loss_weights[place] > 0).all() == (g != 2)
    np.testing.assert_allclose(rows.loss_weights.sum(), 1, rtol=1e-5)


def test_micro_batches_hold_the_same_samples(setup, groups):
    whole = policy_batch(groups, CONFIG, setup[0].processor).rows
    config = dataclasses.replace(CONFIG, accumulate=2)
    parts = policy_batch(groups, config, setup[0].processor).rows
    assert parts.tokens.shape == (2, 6, 8) and whole.tokens.shape == (1, 12, 8)
    pairs = zip(samples(groups), samples(groups, config), strict=True)
    for (_, _, one, _), (_, _, other, _) in pairs:
        for name in (
            "tokens",
            "positions",
            "loss_weights",
            "advantages",
            "sampler_logprobs",
        ):
            a, b = getattr(whole, name)[one], getattr(parts, name)[other]
            np.testing.assert_array_equal(a, b)


def test_the_tower_runs_once_a_prompt(setup, groups):
    batch = policy_batch(groups, CONFIG, setup[0].processor).prompts
    assert batch.tiles.shape == (1, 4, 28, 28, 3)  # not 4 x 3
    assert [row.max() for row in batch.image_index] == [3, 7, 11, 15]


def test_a_prefilled_answer_is_prompt_to_the_sampler_and_text_to_the_verifier(setup):
    sampler, model = setup
    processor = Processor(
        sampler.processor.config, sampler.processor.tokenizer, "\n</think>\n\n"
    )
    plain, filled = (
        dataclasses.replace(sampler, processor=e).groups(
            model, [source(1)], info(limit=3)
        )[0]
        for e in (sampler.processor, processor)
    )
    added = processor.tokenizer.encode_text("\n</think>\n\n")
    assert filled.prompt.tokens.tolist() == [*plain.prompt.tokens, *added]
    assert all(text.startswith("\n</think>\n\n") for text in filled.texts)
    assert filled.completions.tokens.shape == plain.completions.tokens.shape


def test_rollouts_and_evaluations_decode_in_the_decode_layout(
    setup, monkeypatch, reader
):
    """All who sample: the policy as it is trained comes in, and its DECODE form samples."""
    sampler, model = setup
    assert model.compute.rules == TRAIN
    used = []

    class Spy(GroupSampler):
        def begin(self, model, *args):
            used.append(model.language.blocks.compute.rules)
            return super().begin(model, *args)

    spy = Spy(**{f.name: getattr(sampler, f.name) for f in dataclasses.fields(sampler)})
    collect.collect(spy, model, reader(), CONFIG, info())
    accuracy.sample_groups(spy, model, source, 4, 4, jax.random.key(0))
    list(sample(spy, model, source, 4, 4, jax.random.key(0)))  # chains, pass rates
    assert used == [DECODE] * 3


def test_a_rollout_begun_ahead_samples_with_the_weights_it_was_begun_with(
    setup, spread, reader
):
    """An update, to which the weights are given away, does not touch what is under way."""
    sampler, model = spread, jax.tree.map(jnp.copy, setup[1])
    optimizer, update = grpo.make_update(CONFIG)
    state = create(model, optimizer, trainable("all"))
    old = [sampler, build.for_decoding(setup[1]), reader(4)]
    expected = host(sampler.finish(collect.begin(*old, CONFIG, info(5))))
    examples = reader()

    def begin_next():
        decoding = build.for_decoding(state.model)
        return collect.begin(sampler, decoding, examples, CONFIG, info(5))

    first = collect.collect(
        sampler, state.model, examples, CONFIG, info(), begin_next=begin_next
    )
    assert first.consumed.cursor == 4
    batch = policy_batch(first.groups, CONFIG, sampler.processor)
    batch = placement.place(batch, TRAIN, jax.sharding.get_mesh())
    weights = dataclasses.replace(batch.rows, advantages=batch.rows.advantages + 1)
    state, _ = update(state, dataclasses.replace(batch, rows=weights))
    second = collect.collect(
        sampler, state.model, examples, CONFIG, info(9), pending=first.ahead
    )
    assert host(second.groups) == expected
    assert second.consumed.cursor == 8 and second.ahead is None
    decoding = build.for_decoding(state.model)
    new = collect.begin(sampler, decoding, reader(4), CONFIG, info(5))
    moved = [group.completions.logprobs for group in sampler.finish(new)]
    stayed = [group.completions.logprobs for group in second.groups]
    assert any(np.abs(a - b).max() > 0 for a, b in zip(moved, stayed, strict=True))


def test_the_next_rollout_is_begun_once(setup, reader):
    """Slots whose samples all end at the limit: two looks find everything there."""
    sampler, model = dataclasses.replace(setup[0], slots=6), setup[1]
    banned = (*sampler.sampling.banned, sampler.processor.tokenizer.end_token_id)
    sampler = dataclasses.replace(
        sampler, sampling=SamplingParams(max_tokens=8, banned=banned)
    )
    begun = []
    found = collect.collect(
        sampler,
        model,
        reader(),
        CONFIG,
        info(),
        begin_next=lambda: begun.append(1) or 7,
    )
    assert begun == [1] and found.ahead == 7


def test_dynamic_sampling_replaces_groups_without_signal(setup, monkeypatch, reader):
    """Rewards by prompt: even prompts are always right, odd ones mixed."""
    sampler, model = setup

    def score_all(samples, **_):
        base = score.score("7", "7", ended=True)
        return [
            dataclasses.replace(
                base, total=float(int(sample.example.answer) % 2 == 0 or i % 3 == 0)
            )
            for i, sample in enumerate(samples)
        ]

    monkeypatch.setattr(
        rollout_sampler, "score_all", score_all
    )  # the verifier is not what is tested
    config = dataclasses.replace(CONFIG, refills=2)
    found = collect.collect(sampler, model, reader(), config, info())
    assert [int(group.example.id) for group in found.groups] == [1, 3, 5, 7]
    assert found.consumed.cursor == 8 and found.lengths == [100, 100]
    lengths = found.counts.pop("rollout_tokens")
    assert lengths >= sum(group.completions.lengths.sum() for group in found.groups)
    assert found.counts == {
        "frac_reward_zero_std": 0.5,
        "frac_mixed_answers": 0.0,  # here only the rewards differ
        "rollout_passes": 2,
    }
    found = collect.collect(sampler, model, reader(), CONFIG, info())
    assert [int(group.example.id) for group in found.groups] == [0, 1, 2, 3]
    assert found.consumed.cursor == 4


def test_refills_by_accuracy_keep_groups_of_right_and_wrong_answers(
    setup, monkeypatch, reader
):
    """Proves: rewards that differ are no reason to keep a group whose answers are all wrong."""
    sampler, model = setup

    def score_all(samples, **_):
        base = score.score("7", "7", ended=True)
        # Rewards differ in every group, as by a penalty; answers in every second one.
        return [
            dataclasses.replace(
                base,
                total=float(i % 3),
                accuracy=float(int(sample.example.answer) % 2 and i % 3 == 0),
            )
            for i, sample in enumerate(samples)
        ]

    monkeypatch.setattr(rollout_sampler, "score_all", score_all)
    config = dataclasses.replace(CONFIG, refills=2, refill_by="accuracy")
    found = collect.collect(sampler, model, reader(), config, info())
    assert [int(group.example.id) for group in found.groups] == [1, 3, 5, 7]
    assert found.counts["frac_reward_zero_std"] == 0.0
    assert found.counts["frac_mixed_answers"] == 0.5
    by_reward = dataclasses.replace(config, refill_by="reward")
    found = collect.collect(sampler, model, reader(), by_reward, info())
    assert [int(group.example.id) for group in found.groups] == [0, 1, 2, 3]


def test_a_bucket_changes_no_sample(setup, reader):
    """Four prompts padded to 100 tokens, and to the first bucket that they fit."""
    sampler, model = setup
    buckets = ((20, 4), (90, 4), (95, 4))
    found = []
    for how, length in (
        (CONFIG, 100),
        (dataclasses.replace(CONFIG, buckets=buckets), 90),
    ):
        mine = dataclasses.replace(sampler, buckets=how.buckets)
        made = collect.collect(mine, model, reader(), how, info())
        batch = policy_batch(made.groups, how, sampler.processor)
        assert made.lengths == [length] and batch.prompts.tokens.shape[1] == length
        found.append(made.groups)
    for large, small in zip(*found, strict=True):
        np.testing.assert_array_equal(
            small.completions.tokens, large.completions.tokens
        )
        a, b = small.completions.logprobs, large.completions.logprobs
        np.testing.assert_allclose(a, b, atol=1e-5)  # sums in another order


def test_bad_rows_are_left_out_of_a_step_and_counted(setup):
    """Rows 1, 2 and 6 are bad; the rollout begun ahead takes what comes after."""
    sampler, model = setup

    def spoilt(index):
        if index in (1, 2, 6):
            raise DroppedRow("set", str(index), "markers", "2 of 1")
        return source(index)

    how = Data(max_drop_fraction=0.1)
    examples = grpo.reader(CONFIG, sampler.processor, how, source=spoilt)
    with contextlib.closing(examples):
        begin_next = functools.partial(
            collect.begin,
            sampler,
            build.for_decoding(model),
            examples,
            CONFIG,
            info(1),
        )
        first = collect.collect(
            sampler, model, examples, CONFIG, info(), begin_next=begin_next
        )
        assert [group.example.id for group in first.groups] == ["0", "3", "4", "5"]
        assert first.consumed.cursor == 6 and [
            x["index"] for x in first.consumed.drops
        ] == [1, 2]
        later = collect.collect(
            sampler, model, examples, CONFIG, info(1), pending=first.ahead
        )
    assert [group.example.id for group in later.groups] == ["7", "8", "9", "10"]
    assert later.consumed.cursor == 11 and [
        x["index"] for x in later.consumed.drops
    ] == [6]
