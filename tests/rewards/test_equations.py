"""The equations of a chain, and the reward for those that hold."""

import pytest
from scored_texts import answered

from r1v3_jax.rewards.equations import equations
from r1v3_jax.rewards.terms import equations_hold


@pytest.mark.parametrize(
    "text, holds",
    [
        ("7+8=15", [True]),
        ("7+8=14 Wait,7+8=15", [False, True]),
        ("7+8=15+5=20;2+4=7", [True, True, False]),
        ("95-38-2=55", [True]),
        ("no equation, 47 38: 85", []),
        ("x=5", []),  # nothing to work out
        ("12=12", [True]),
        ("1+1=", []),
        # Parts of others, which hold, would not hold alone.
        ("3*7+8=29", []),
        ("2 * 3+1=7", []),
        ("x+2=5", []),
        ("1.5+2=3.5", []),
        ("-7+8=1", []),
        ("7+8=3*5", []),
        ("7+8=3\\cdot5", []),
        ("so 7+8=15. Then", [True]),
        ("- 7+8=15\n* 4+3=8", [True, False]),
        ("**7+8=15** - so", [True]),
    ],
)
def test_equations(text, holds):
    assert list(equations(text)) == holds


@pytest.mark.parametrize(
    "text, value",
    [
        ("7+8=15;4+3=7</think>\\boxed{85}", 1.0),
        ("7+8=15;4+3=8</think>\\boxed{85}", 0.0),
        ("47 38</think>\\boxed{1+1=3}", None),  # the answer is no step
    ],
)
def test_the_steps_of_a_chain(text, value):
    assert equations_hold(answered(text)) == value
