"""What the reinforcement stage wants to sample a step ahead, and how long completions may be."""

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
