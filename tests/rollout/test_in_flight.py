"""Prompts under way through several steps: what they get, when they come in, what is logged."""

import dataclasses

import jax
import numpy as np
import pytest
from rollout_cases import CONFIG, host, info, source

from r1v3_jax.losses import Truncated
from r1v3_jax.models import build
from r1v3_jax.rollout.in_flight import InFlight, ages

STEPS = 6


def three_batches(sampler, **changes):
    """A stage with 12 prompts under way, 4 a step, and its sampler."""
    config = dataclasses.replace(
        CONFIG, in_flight=12, correction=Truncated(2.0), **changes
    )
    sampler = dataclasses.replace(
        sampler, slots=config.slots, buckets=config.buckets, data=sampler.data
    )
    return config, sampler


def never_saved(step):
    return STEPS - 1


@pytest.mark.parametrize(
    "name, changes",
    [
        ("slots", {"slots": 5}),
        ("buckets", {"buckets": ((26, 4),)}),
        ("eight bits", {"rollout_int8": True}),
    ],
)
def test_groups_are_those_of_one_rollout(spread, setup, reader, name, changes):
    """With weights that stay, whatever a step waits for: the same samples, and their scores."""
    model = setup[1]
    config, sampler = three_batches(spread, **changes)
    at_once = dataclasses.replace(spread, tiles=4 * STEPS)
    decoding = build.for_decoding(model, int8=config.rollout_int8)
    examples = [source(i) for i in range(4 * STEPS)]
    expected = host(at_once.groups(decoding, examples, info()))

    in_flight = InFlight(sampler, config, jax.random.key(0), never_saved)
    questions = reader()
    found = []
    cursors = []
    old_tokens = 0.0
    for step in range(STEPS):
        of_step = dataclasses.replace(info(), step=step)
        collected = in_flight.collect(model, questions, of_step)
        found += host(collected.groups)
        cursors.append(collected.consumed.cursor)
        old_tokens += collected.counts["age/mean"]
        (busy,) = {group.busy_slots for group in collected.groups}
        assert 0 < busy <= 1
    assert found == expected
    # Three batches come in before step 0, one before each of the others, and no seventh.
    assert cursors == [12, 16, 20, 24, 24, 24]
    assert old_tokens > 0 and not in_flight.batches


def test_nothing_is_under_way_where_a_state_is_saved(spread, setup, reader):
    """The table of `rollout.in_flight`: a state is saved after step 4."""
    config, sampler = three_batches(spread)
    in_flight = InFlight(
        sampler, config, jax.random.key(0), lambda step: 4 if step <= 4 else 9
    )
    questions = reader()
    admitted = []
    left = []
    for step in range(6):
        before = questions.cursor
        of_step = dataclasses.replace(info(), step=step)
        in_flight.collect(setup[1], questions, of_step)
        admitted.append((questions.cursor - before) // 4)
        left.append(len(in_flight.batches))
    assert admitted == [3, 1, 1, 0, 0, 3]
    assert left == [2, 2, 2, 1, 0, 2]

    # What begins behind the save draws the same: its samples are numbered through the stage.
    again = InFlight(sampler, config, jax.random.key(0), lambda step: 9)
    of_step = dataclasses.replace(info(), step=5)
    resumed = again.collect(setup[1], reader(20), of_step)
    whole = InFlight(sampler, config, jax.random.key(0), lambda step: 9)
    questions = reader()
    for step in range(6):
        of_step = dataclasses.replace(info(), step=step)
        last = whole.collect(setup[1], questions, of_step)
    assert host(resumed.groups) == host(last.groups)


def test_ages_by_hand():
    # Two samples: 3 and 2 tokens after step 4, 5 and 2 after step 5, 5 and 6 after step 7.
    grown = [(4, np.array([3, 2])), (5, np.array([5, 2])), (7, np.array([5, 6]))]
    # Learnt from at step 7: 5 tokens are 3 steps old, 2 are 2, and 4 are new.
    expected = {"age/mean": (5 * 3 + 2 * 2) / 11, "age/max": 3.0}
    assert ages(grown, 7, updates=1) == pytest.approx(expected)
    twice = {"age/mean": expected["age/mean"] * 2, "age/max": 6.0}
    assert ages(grown, 7, updates=2) == pytest.approx(twice)
    # Nothing was drawn in step 3: the oldest token is of step 4.
    assert ages([(3, np.array([0, 0])), *grown], 7, updates=1)["age/max"] == 3
