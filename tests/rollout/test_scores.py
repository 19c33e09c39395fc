"""Scores of samples, while others are still sampled and on other processes; what is counted."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from rollout_cases import host, info, source

from r1v3_jax.rewards import score, verify
from r1v3_jax.rewards.reward import Reward, Score
from r1v3_jax.rewards.terms import Repeated, correct, facts, well_formed
from r1v3_jax.rewards.verifiers import verdict
from r1v3_jax.rollout import metrics, scoring
from r1v3_jax.rollout import sampler as rollout_sampler
from r1v3_jax.rollout.texts import SNAPSHOTS


def test_the_accuracy_of_each_source_written_out(groups, monkeypatch):
    """Prompts 0 and 2 of one data set, 1 and 3 of another; a failed verifier is in neither."""
    right = {
        0: (1.0, 0.0, None),
        1: (0.0, 0.0, 0.0),
        2: (1.0, 1.0, 0.0),
        3: (1.0, 0.0, 0.0),
    }
    made = [
        dataclasses.replace(
            group,
            example=dataclasses.replace(group.example, source="ab"[p % 2]),
            scores=[
                dataclasses.replace(score, total=x, accuracy=x)
                for score, x in zip(group.scores, right[p], strict=True)
            ],
        )
        for p, group in enumerate(groups)
    ]
    # A text may have a hundred thousand characters: each is read once, not for each mean.
    read = []
    monkeypatch.setattr(metrics, "cannot_see", lambda text: read.append(text) or False)
    found = metrics.statistics(made, 8)
    assert len(read) == sum(len(group.texts) for group in made)
    assert found["accuracy/a"] == pytest.approx(3 / 5)
    assert found["accuracy/b"] == pytest.approx(1 / 6)
    assert found["accuracy"] == pytest.approx(4 / 11)
    assert "accuracy/a" not in metrics.statistics(
        [made[0], made[2]], 8
    )  # of one data set


def test_a_row_is_checked_by_the_verifier_it_names(setup, monkeypatch):
    sampler, model = setup
    asked = {}

    def verify_all(completions, answers, *, thinking=True, **options):
        asked.update(options)
        return [verify.verify(c, a) for c, a in zip(completions, answers, strict=True)]

    monkeypatch.setattr(
        score, "verify_all", verify_all
    )  # the verifier is not what is tested
    names = ["", "choice", "number relative=0.1", "choice|model"]
    examples = [
        dataclasses.replace(source(i), verifier=name) for i, name in enumerate(names)
    ]
    sampler.groups(model, examples, info(limit=3, progress=0.25))
    assert asked["verifiers"] == [name for name in names for _ in range(3)]
    assert asked["questions"] == [
        example.question for example in examples for _ in range(3)
    ]
    assert asked["progress"] == 0.25 and asked["verify"] is sampler.verify


def test_a_row_weighs_its_accuracy_itself(setup, monkeypatch):
    """All right, none in the right form: the reward is the weight."""
    sampler, model = setup
    right = verdict.Check(verdict.Verdict.RIGHT, "7", "equal")
    monkeypatch.setattr(
        score, "verify_all", lambda texts, *_, **__: [right] * len(texts)
    )
    weights = [None, 0.25, 0.0, 1.0]
    examples = [
        dataclasses.replace(source(i), accuracy_weight=w) for i, w in enumerate(weights)
    ]
    reward = Reward(((0.5, correct), (0.5, well_formed)))
    sampler = dataclasses.replace(sampler, reward=reward)
    groups = sampler.groups(model, examples, info(limit=3))
    for group, weight in zip(groups, [0.5, 0.25, 0.0, 1.0], strict=True):
        assert {score.format for score in group.scores} == {0.0}
        np.testing.assert_allclose(group.rewards, weight)


def test_terms_see_the_tokens_and_the_limit_of_a_rollout(setup):
    """The penalty is that of the sampled ids, counted here by hand."""
    sampler, model = setup

    def cut(answered):
        return float(len(answered.ids) == answered.limit and not answered.ended)

    reward = Reward(((1.0, correct), (-0.5, Repeated(1)), (-1.0, cut)))
    sampler = dataclasses.replace(sampler, reward=reward)
    groups = sampler.groups(model, [source(i) for i in range(4)], info(limit=5))
    found = 0
    for group in groups:
        completions = group.completions
        for g, scored in enumerate(group.scores):
            ids = completions.tokens[g, : completions.lengths[g]].tolist()
            assert scored.parts["repeated"] == 1 - len(set(ids)) / len(ids)
            was_cut = len(ids) == 5 and not completions.ended[g]
            assert scored.parts["cut"] == float(was_cut)
            found += was_cut
    assert found


def test_scores_of_other_processes_are_the_same(monkeypatch):
    """Two processes, the second with fewer: every number travels bit for bit."""
    reward = Reward(((0.8, correct), (1 - 0.8, well_formed), (-0.1, facts)))
    right, wrong, error = verdict.Verdict
    thirds = {"correct": 1 / 3, "well_formed": 1.0}
    of_thirds = {"correct": 0.8, "well_formed": 1 - 0.8}
    total = 0.8 * (1 / 3) + (1 - 0.8) * 1.0
    everything = thirds | {"facts": 0.1 + 0.2}
    of_everything = of_thirds | {"facts": -0.1}
    scores = [
        Score(total, 1 / 3, 1.0, right, "7", "equal", thirds, of_thirds),
        Score(total + -0.1 * (0.1 + 0.2), 1 / 3, 1.0, wrong, "8", "no", everything, of_everything),
        Score(None, None, 0.0, error, "9", "late"),
        Score(None, 1.0, 1.0, right, "7", "equal", failed="facts", problem="nan"),
        Score(0.0, 0.0, 0.0, wrong, None, "no answer"),
    ]  # fmt: skip
    tables = []

    def gather(table, tiled):
        assert table.dtype == np.uint32 and tiled
        tables.append(np.array(table))
        return np.concatenate(tables)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(scoring.multihost_utils, "process_allgather", gather)
    with contextlib.suppress(ValueError):  # the rest is not there yet
        scoring.gather_scores(scores[:3], 5, reward)
    found = scoring.gather_scores(scores[3:], 5, reward)
    for mine, theirs in zip(scores, found, strict=True):
        assert theirs == dataclasses.replace(
            mine, extracted=None, reason="", problem=""
        )


def test_terms_and_lengths_of_each_source_written_out(groups):
    """Of source a: one right answer of 3 tokens, a wrong cut one of 5, a failed term."""
    right, wrong, _ = verdict.Verdict
    zero = dict.fromkeys(("accuracy", "format", "total"), 0.0)
    base = Score(verdict=wrong, extracted=None, reason="", **zero)
    scores = [
        dataclasses.replace(base, total=1.0, verdict=right, parts={"short": 0.5}),
        dataclasses.replace(base, parts={"short": 0.25, "facts": 1.0}),
        dataclasses.replace(base, total=None, failed="facts"),
    ]
    made = []
    for p, group in enumerate(groups[:2]):
        completions = dataclasses.replace(
            group.completions,
            lengths=np.array([3, 5, 4]),
            ended=np.array([True, False, True]),
        )
        made.append(
            dataclasses.replace(
                group,
                example=dataclasses.replace(group.example, source="ab"[p]),
                completions=completions,
                scores=scores if p == 0 else [base] * 3,
                texts=["wait", "I cannot see the image", "so"],
            )
        )
    found = metrics.statistics(made, 8)
    assert found["a/reward"] == 0.5 and found["b/reward"] == 0.0
    assert found["a/reward/short"] == 0.375 and found["a/reward/facts"] == 1.0
    assert found["reward/short"] == 0.375 and "b/reward/short" not in found
    assert found["a/completions/mean_length_right"] == 3.0
    assert found["a/completions/mean_length_wrong"] == 4.5
    assert found["a/completions/mean_length_cut"] == 5.0
    assert "b/completions/mean_length_right" not in found
    assert found["a/completions/clipped_ratio"] == pytest.approx(1 / 3)
    assert found["completions/reflecting"] == pytest.approx(1 / 3)
    assert found["b/completions/cannot_see"] == pytest.approx(1 / 3)
    assert found["reward_errors/facts"] == 1 and found["verifier_errors"] == 0


def test_what_is_scored_while_others_are_sampled_is_the_same(
    setup, spread, monkeypatch
):
    """Five slots for twelve samples: four looks, each at what the ones before did not have."""
    sampler, model = spread, setup[1]
    examples = [source(i) for i in range(4)]
    expected = sampler.groups(model, examples, info())
    calls, score_all = [], score.score_all

    def watched(samples, **options):
        calls.append(len(samples))
        return score_all(samples, **options)

    monkeypatch.setattr(rollout_sampler, "score_all", watched)
    slotted = dataclasses.replace(sampler, slots=5)
    groups = slotted.groups(model, examples, info())
    assert host(groups) == host(expected)
    assert len({int(x) for group in groups for x in group.completions.lengths}) >= 4
    assert len(calls) == SNAPSHOTS and sum(calls) == 12 and calls[0] > 0
    calls.clear()
    sampler.groups(model, examples, info())
    assert calls == [12]


def test_busy_slots_are_counted(setup, spread):
    """Twelve samples of lengths from 1 to 8: the steps of the longest, or of five slots in turn."""
    model, found = setup[1], []
    for slots in (0, 5):
        groups = dataclasses.replace(spread, slots=slots).groups(
            model, [source(i) for i in range(4)], info()
        )
        lengths = np.concatenate([group.completions.lengths for group in groups])
        free = np.zeros(slots or 12)
        for length in lengths:
            free[np.argmin(free)] += length
        busy = lengths.sum() / (len(free) * free.max())
        stats = metrics.statistics(groups, 8)
        np.testing.assert_allclose(stats["slots/busy"], busy)
        found.append(busy)
    assert found[0] < found[1] < 1


def test_the_limit_of_a_step_holds_without_another_program(setup):
    sampler, model = setup
    from r1v3_jax.sampling.loop import decode

    sampler.groups(model, [source(i) for i in range(4)], info())
    programs = decode._cache_size()
    short = sampler.groups(model, [source(i) for i in range(4)], info(limit=3))
    assert max(group.completions.lengths.max() for group in short) <= 3
    assert decode._cache_size() == programs
