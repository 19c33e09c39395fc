"""Scores of samples, while others are still sampled and on other processes; what is counted."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from rollout_cases import host, info, source

from r1v3_jax.rewards import score, verify
from r1v3_jax.rewards.score import scored
from r1v3_jax.rewards.verifiers import verdict
from r1v3_jax.rollout import metrics, scoring
from r1v3_jax.rollout import sampler as rollout_sampler
from r1v3_jax.rollout.sampler import SNAPSHOTS


def test_the_accuracy_of_each_source_written_out(setup, groups):
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
    found = metrics.statistics(made, 8)
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
    monkeypatch.setattr(score, "format_score", lambda *_, **__: 0.0)
    weights = [None, 0.25, 0.0, 1.0]
    examples = [
        dataclasses.replace(source(i), accuracy_weight=w) for i, w in enumerate(weights)
    ]
    groups = sampler.groups(model, examples, info(limit=3), accuracy_weight=0.5)
    for group, weight in zip(groups, [0.5, 0.25, 0.0, 1.0], strict=True):
        np.testing.assert_allclose(group.rewards, weight)


def test_scores_of_other_processes_are_the_same(monkeypatch):
    """Two processes, the second with fewer: all totals, also those between, are kept."""
    right, wrong, error = verdict.Verdict
    checks = [
        verdict.Check(right, "7", "equal", 0.912346), verdict.Check(wrong, "8", "another", 0.1),
        verdict.Check(error, "9", "late"), verdict.Check(right, "7", "equal"),
        verdict.Check(wrong, "8", "another"),
    ]  # fmt: skip
    weights = [0.8, 0.5, 0.8, 0.25, 1.0]
    scores = [scored(check, 1.0, w) for check, w in zip(checks, weights, strict=True)]
    tables = []

    def gather(table, tiled):
        tables.append(np.array(table))
        return np.concatenate(tables)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(scoring.multihost_utils, "process_allgather", gather)
    with contextlib.suppress(ValueError):  # the rest is not there yet
        scoring.gather_scores(scores[:3], weights)
    found = scoring.gather_scores(scores[3:], weights)
    for mine, theirs in zip(scores, found, strict=True):
        assert theirs == dataclasses.replace(mine, extracted=None, reason="")


def test_what_is_scored_while_others_are_sampled_is_the_same(
    setup, spread, monkeypatch
):
    """Five slots for twelve samples: four looks, each at what the ones before did not have."""
    sampler, model = spread, setup[1]
    examples = [source(i) for i in range(4)]
    expected = sampler.groups(model, examples, info())
    calls, score_all = [], score.score_all

    def watched(texts, *args, **options):
        calls.append(len(texts))
        return score_all(texts, *args, **options)

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
