"""What the reinforcement stage wants to sample ahead or carried over, and how long samples are."""

import pytest

from r1v3_jax.config import GRPO, load_config
from r1v3_jax.losses import NOTHING, Truncated
from r1v3_jax.losses.schedules import Line, Steps


def source(index):
    return None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"refills": 2}, "wants refills = 0, not 2"),
        (
            {"correction": NOTHING},
            "and a correction, not .*; correction.cap = 2.0 would do",
        ),
        ({"off_policy_steps": 2}, "off_policy_steps is 2; it must be 0 or 1"),
    ],
)
def test_sampling_ahead_is_refused_with_what_it_wants(changes, message):
    fields = {"off_policy_steps": 1, "correction": Truncated(2.0), **changes}
    with pytest.raises(ValueError, match=message):
        GRPO(source, **fields)


def test_sampling_ahead_without_refills_and_with_a_cap_passes():
    stage = GRPO(source, off_policy_steps=1, correction=Truncated(2.0))
    assert "checkpoint_every" not in stage.may_change()


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"in_flight": 40},
            "in_flight is 40; it must be a multiple of prompts = 32, and more; 64 would do",
        ),
        ({"in_flight": 32}, "multiple of prompts = 32, and more; 64 would do"),
        ({"in_flight": 120}, "multiple of prompts = 32, and more; 128 would do"),
        ({"refills": 2}, "in_flight = 64 wants refills = 0, not 2"),
        ({"off_policy_steps": 1}, "off_policy_steps = 0, not 1"),
        ({"correction": NOTHING}, "and a correction, not .*; correction.cap = 2.0"),
        (
            {"temperature": Line(1.0, 0.6)},
            "GRPO.temperature is .* lives through several steps; a number would do, as 0.6",
        ),
        (
            {"length_limit": Line(50, 200)},
            "GRPO.length_limit is .*; a number would do, as 200",
        ),
    ],
)
def test_prompts_in_flight_are_refused_with_what_would_do(changes, message):
    fields = {"in_flight": 64, "correction": Truncated(2.0), **changes}
    with pytest.raises(ValueError, match=message):
        GRPO(source, **fields)


def test_prompts_in_flight_decide_what_may_change():
    stage = GRPO(source, in_flight=96, correction=Truncated(2.0))
    assert stage.MAY_CHANGE - stage.may_change() == {"checkpoint_every", "slots"}
    assert stage.decode_slots == 32 * 32
    assert GRPO(source, slots=64).decode_slots == 64


def test_lengths_grow_in_steps_and_along_lines():
    """The report's two lengths change at step 235 of 469; a line is rounded to whole tokens."""
    grown = Steps(((0, 4096), (235 / 469, 8192)))
    stage = GRPO(source, steps=469, length_limit=grown)
    assert [stage.token_limit(step) for step in (0, 234, 235, 468)] == [
        4096,
        4096,
        8192,
        8192,
    ]
    line = GRPO(source, steps=4, max_completion_tokens=100, length_limit=Line(10, 21))
    # 10, 12.75, 15.5, 18.25; halves go to the even number.
    assert [line.token_limit(step) for step in range(4)] == [10, 13, 16, 18]
    assert GRPO(source, max_completion_tokens=100).token_limit(7) == 100


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            101,
            "GRPO.length_limit is 101; it must be between 1 and max_completion_tokens = 100",
        ),
        (Line(50, 200), "at 34% of the run; it must be between 1 and"),
        (Steps(((0, 0), (0.5, 50))), "is 0 at 0% of the run; it must be between 1 and"),
    ],
)
def test_a_length_without_room_is_refused(limit, message):
    with pytest.raises(ValueError, match=message):
        GRPO(source, max_completion_tokens=100, length_limit=limit)


def test_the_lengths_of_an_older_config_are_refused_with_how_they_are_written_now(
    tmp_path,
):
    path = tmp_path / "older.py"
    path.write_text(
        "from r1v3_jax.config import GRPO\n"
        "GRPO(train=None, length_limits=((0, 4096), (235, 8192)))\n"
    )
    with pytest.raises(ValueError, match="it is now written GRPO.length_limit=Steps"):
        load_config(str(path))
