"""--dry_run_lengths: what decoding and an update take with samples of uneven lengths."""

import dataclasses
import json
import math

import numpy as np
import pytest

from r1v3_jax.config import load_config
from r1v3_jax.losses import Truncated
from r1v3_jax.run.program import Program
from r1v3_jax.tpu import lengths, uneven
from r1v3_jax.tpu.chips import CHIPS
from r1v3_jax.tpu.compiled import Compiled
from r1v3_jax.tpu.estimate import Estimate

POD = load_config("tpu_v5p_256")
STAGE = POD.stages["grpo"]


def test_slots_in_use_by_hand():
    """The example of the module: tokens 0 to 3 find 0 2 2 3 slots in use."""
    load = lengths.load(np.array([[4, 2, 1]]))
    assert (load.trips, load.slot_trips) == (4, 0 + 2 + 2 + 3)
    # Of two groups the fuller counts at each token: 0 2 2 3 and 0 1 2 0.
    load = lengths.load(np.array([[4, 2, 1], [3, 1, 1]]))
    assert (load.trips, load.slot_trips) == (4, 0 + 2 + 2 + 3)
    # 0 2 2 3 beside 0 3 0 0.
    load = lengths.load(np.array([[4, 2, 1], [2, 2, 2]]))
    assert (load.trips, load.slot_trips) == (4, 0 + 3 + 2 + 3)


def test_waiting_samples_start_where_a_slot_is_free():
    """Lengths 4 2 3 in 2 slots: 0 + 0, 1 + 1, 2 + 0, 3 + 1 and 2 are in use."""
    row = np.array([4, 2, 3])
    assert lengths.starts_of(row, 2).tolist() == [0, 0, 2]
    load = lengths.load(row[None], 2)
    assert (load.trips, load.slot_trips) == (5, 0 + 2 + 2 + 4 + 2)
    assert lengths.load(row[None], 3) == lengths.load(row[None])


def test_loads_are_those_of_a_loop_over_tokens():
    """Two ways that agree: this simulates every token of every slot."""
    random = np.random.default_rng(3)
    table = random.integers(1, 30, (4, 10))
    for slots in (1, 3, 10):
        in_use = []
        for row in table:
            waiting = list(row)
            slot = [None] * slots  # [tokens so far, length]
            series = []
            while waiting or any(slot):
                for i in range(slots):
                    if slot[i] is None and waiting:
                        slot[i] = [0, waiting.pop(0)]
                series.append(sum(s[0] for s in slot if s))
                for i in range(slots):
                    if slot[i]:
                        slot[i][0] += 1
                        if slot[i][0] == slot[i][1]:
                            slot[i] = None
            in_use.append(series)
        longest = max(map(len, in_use))
        most = sum(
            max(series[t] if t < len(series) else 0 for series in in_use)
            for t in range(longest)
        )
        assert lengths.load(table, slots) == lengths.Load(longest, most)


def test_carried_loads_by_hand():
    """The example of the module, and its slots in use: 0 1 3 3 | 0 2 2 with 4 1, 2 1, 3 1."""
    batches = [np.array([[4, 1]]), np.array([[2, 1]]), np.array([[3, 1]])]
    loads = lengths.carried_loads(batches, 2, 2)
    # Slot 0 has 0 1 2 3 | 0 1 2, slot 1 has 0 0 1 0 | 0.
    assert loads == [
        lengths.Load(4, 0 + 1 + 3 + 3),
        lengths.Load(0, 0.0),
        lengths.Load(3, 0 + 1 + 2),
    ]


def test_carried_loads_are_those_of_a_loop_over_tokens():
    """Two ways that agree: this simulates every token of every slot, on two groups."""
    random = np.random.default_rng(5)
    batches = [random.integers(1, 20, (2, 6)) for _ in range(7)]
    slots, under_way = 4, 3
    slot = [[None] * slots for _ in range(2)]  # [batch, tokens so far, length]
    waiting = [[], []]
    left = [batch.size for batch in batches]
    came = 0
    expected = []
    for step in range(len(batches)):
        for number in range(came, min(step + under_way, len(batches))):
            for g in range(2):
                waiting[g] += [(number, length) for length in batches[number][g]]
            came = number + 1
        trips = slot_trips = 0
        while left[step]:
            in_use = [0, 0]
            for g in range(2):
                for i in range(slots):
                    if slot[g][i] is None and waiting[g]:
                        number, length = waiting[g].pop(0)
                        slot[g][i] = [number, 0, length]
                in_use[g] = sum(s[1] for s in slot[g] if s)
            trips += 1
            slot_trips += max(in_use)
            for g in range(2):
                for i, s in enumerate(slot[g]):
                    if s:
                        s[1] += 1
                        if s[1] == s[2]:
                            left[s[0]] -= 1
                            slot[g][i] = None
        expected.append(lengths.Load(trips, slot_trips))
    assert lengths.carried_loads(batches, slots, under_way) == expected


def test_full_samples_in_flight_take_what_a_step_takes():
    full = [np.full((32, 32), 8192)]
    carried = dataclasses.replace(
        STAGE, in_flight=96, length_limit=0, correction=Truncated(2.0)
    )
    assert lengths.mean_load(carried, full, 16) == lengths.mean_load(STAGE, full, 16)


def test_a_step_in_flight_is_as_long_as_its_share_of_the_tokens():
    """At the pod's lengths: near the mean length, and more before a save."""
    drawn = lengths.draws(STAGE, lengths.parse("2400,0.8"))
    mean, _ = lengths.mean_and_cut(drawn, 8192)
    trips = []
    for under_way in (2, 4):
        carried = dataclasses.replace(
            STAGE, in_flight=32 * under_way, length_limit=0, correction=Truncated(2.0)
        )
        steady = lengths.mean_load(carried, drawn, 16).trips
        # 20 steps from save to save: no fewer tokens than all samples have, in all slots.
        assert mean < steady < lengths.drained_trips(carried, drawn, 16)
        trips.append(steady)
    assert trips[1] < 1.05 * mean < trips[0] < 8192 / 1.5


def test_a_lognormal_has_its_median_and_is_cut_at_the_limit():
    drawn = lengths.parse("2400,0.8")
    steps = lengths.draws(STAGE, drawn)
    every = np.concatenate([step.ravel() for step in steps])
    assert every.max() == 8192
    # 16,384 draws: three standard errors of the median, sigma sqrt(pi / 2) / sqrt(n).
    error = 0.8 * math.sqrt(math.pi / 2 / len(every))
    assert abs(math.log(np.median(every) / 2400)) < 3 * error
    # log(8192 / 2400) / 0.8 = 1.53 standard deviations leave 6.3% above.
    mean, cut = lengths.mean_and_cut(steps, 8192)
    assert abs(cut - 0.063) < 3 * math.sqrt(0.063 * 0.937 / len(every))
    assert 2900 < mean < 3200
    again = lengths.draws(STAGE, drawn)
    assert all(np.array_equal(a, b) for a, b in zip(steps, again, strict=True))


def test_lengths_of_an_earlier_run(tmp_path):
    path = tmp_path / "grpo_000010.jsonl"
    rows = [
        {"id": "a", "completion": "b", "length": n, "tokens": [1] * n} for n in (5, 7)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = lengths.parse(str(path))
    assert drawn.seen == (5, 7)
    assert drawn.name == "grpo_000010.jsonl"
    step = drawn.draw(np.random.default_rng(0), (8, 8), 6)
    assert set(step.flat) == {5, 6}


@pytest.mark.parametrize("text", ["2400", "2400,x", "0,0.8", "2400,-1", "nan,1", "no"])
def test_what_is_no_distribution_is_refused(text):
    with pytest.raises(ValueError, match="2400,0.8 would do"):
        lengths.parse(text)


def test_a_file_without_samples_is_refused(tmp_path):
    path = tmp_path / "grpo_000010.jsonl"
    path.write_text("{\n")
    with pytest.raises(ValueError, match="no sample can be read"):
        lengths.parse(str(path))


def decode(trip: float) -> Compiled:
    """A decode of which a token with a full cache takes `trip` seconds."""
    parts = dict.fromkeys(
        ("matmul", "attention", "kernels", "elementwise", "collectives"), 0.0
    )
    estimate = Estimate(
        seconds=trip * 8192,
        parts=parts,
        flops=0.0,
        hbm_bytes=0.0,
        collectives={},
        bound="memory",
        copies=(),
        dynamic_loop_seconds=trip,
        cache_rate=CHIPS["v5p"].reached_hbm,
    )
    program = Program("decode", lower=None, trips=8192)
    return Compiled(program, 0, 0, 1, estimate)


def test_full_rows_take_what_the_dry_run_says_of_them():
    """Half a cache over the loop, as `Compiled.seconds` has it."""
    steps = [np.full((32, 32), 8192)]
    v5p = CHIPS["v5p"]
    cache = lengths.cache_bytes(POD, STAGE)
    # 2 x 64 layers x 64 rows x 1 head x 8,192 slots x 128 x 2 bytes.
    assert cache == 2 * 64 * 64 * 1 * 8192 * 128 * 2
    trip = 18e-3
    seconds = uneven.decode_of(POD, "grpo", decode(trip), steps)
    share = cache / v5p.reached_hbm
    # Slots in use are 0 to 8,191: half of them, but for half a slot.
    assert seconds == pytest.approx(8192 * (trip - share / 2), rel=1e-4)


def test_slots_that_cost_time_are_warned_of():
    """512 slots: twice as many tokens, one after the other, of which each takes the same here."""
    stage = dataclasses.replace(STAGE, slots=512)
    run = POD.with_stages(grpo=stage)
    args = (run, "grpo", decode(15e-3), decode(18e-3))
    found = uneven.slower_slots(*args, None)
    assert found["seconds"] > 1.5 * found["all_at_once"]
    assert found["sentence"].startswith("warning: grpo: decoding takes")
    assert "512 slots" in found["sentence"]
    found = uneven.slower_slots(run, "grpo", decode(6e-3), decode(18e-3), None)
    assert not found["sentence"].startswith("warning")
    large = dataclasses.replace(decode(18e-3), peak=2)
    found = uneven.slower_slots(*args[:3], large, None)
    assert "does not fit" in found["sentence"]
