"""Sampling a step ahead: what the reinforcement stage wants for it."""

import pytest

from r1v3_jax.config import GRPO
from r1v3_jax.losses import NOTHING, Truncated


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
