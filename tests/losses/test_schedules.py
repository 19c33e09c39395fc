"""Numbers that move with a run, at points written out."""

import pytest

from r1v3_jax.config import GRPO
from r1v3_jax.fields import flatten_fields
from r1v3_jax.losses import Clipped, Gmpo, Gspo, HighEntropy, Masked
from r1v3_jax.losses.schedules import Decay, DipAndRise, Line, Steps, is_off, value
from r1v3_jax.train.strengths import numbers_at, strengths


def source(index):
    return None


WRITTEN_OUT = [
    (0.3, {0: 0.3, 1: 0.3}),
    (
        Steps(((0, 0.85), (0.1, 0.95), (0.25, 0.99))),
        {0: 0.85, 0.0999: 0.85, 0.1: 0.95, 0.9: 0.99},
    ),
    (Line(1.0, 0.0), {0: 1.0, 0.25: 0.75, 1: 0.0}),
    (
        DipAndRise(0.1, 0.5, turn=0.3),
        {0: 0.3, 0.15: 0.2, 0.3: 0.1, 0.65: 0.3, 1: 0.5},
    ),
    (Decay(0.02, 0.5, after=0.2), {0: 0.02, 0.2: 0.02, 0.21: 0.01, 0.22: 0.005}),
    (lambda progress: progress**2, {0.5: 0.25}),
]


@pytest.mark.parametrize(("number", "points"), WRITTEN_OUT)
def test_a_number_at_points(number, points):
    for progress, expected in points.items():
        assert value(number, progress) == pytest.approx(expected, abs=1e-12)


def test_only_the_number_0_is_off():
    assert is_off(0.0) and is_off(0)
    assert not is_off(0.1) and not is_off(Line(0.0, 0.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Steps(()), "wanted .progress, value. from progress 0 on"),
        (lambda: Steps(((0.1, 1.0),)), "from progress 0 on"),
        (lambda: Steps(((0, 1.0), (0.5,))), "wanted .progress, value."),
        (lambda: Steps(((0, 1.0), (1.5, 2.0))), "rising and below 1"),
        (lambda: Steps(((0, 1.0), (0.5, 2.0), (0.5, 3.0))), "rising and below 1"),
        (lambda: DipAndRise(0.0, 0.2, turn=1.0), "must lie between 0 and 1, as 0.3"),
        (lambda: Decay(0.1, 1.5), r"must lie in \(0, 1\], as 0.985"),
    ],
)
def test_schedules_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_numbers_of_an_update_follow_their_formulas():
    """What 20 batches carry into the compiled update; what stands still is not among it."""
    stage = GRPO(
        train=lambda index: None,
        steps=20,
        loss=Clipped(low=0.1, high=lambda progress: 0.2 + 0.3 * progress**2),
        kl_coef=DipAndRise(0.0, 0.2),
    )
    for step in range(20):
        progress = step / 20
        numbers = numbers_at(stage, progress)
        assert numbers == pytest.approx(
            {
                "kl_coef": DipAndRise(0.0, 0.2)(progress),
                "loss.high": 0.2 + 0.3 * progress**2,
            }
        )
        now = strengths(stage, numbers)
        assert (now.loss.low, now.entropy_coef) == (0.1, 0.0)
        assert (
            now.loss.high == numbers["loss.high"] and now.kl_coef == numbers["kl_coef"]
        )


def test_a_schedule_is_part_of_what_a_run_is():
    """A line and a number are two runs: a workdir must tell them apart."""
    fields = [
        flatten_fields(GRPO(train=source, kl_coef=number), "grpo")
        for number in (0.1, Line(0.0, 1.0), lambda progress: progress)
    ]
    assert fields[0]["grpo.kl_coef"] == "0.1"
    assert (
        fields[1]["grpo.kl_coef"] == "Line" and fields[1]["grpo.kl_coef.end"] == "1.0"
    )
    assert "<lambda>" in fields[2]["grpo.kl_coef"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_coef": -0.1}, "GRPO.kl_coef is -0.1; it must be finite and at least 0"),
        ({"kl_coef": float("inf")}, "GRPO.kl_coef is inf; it must be finite"),
        (
            {"tokens": HighEntropy(0.2), "loss": Gspo()},
            r"GRPO.loss Gspo, whose ratio is that of a whole sample; AllTokens\(\) would do",
        ),
        (
            {"correction": Masked(), "loss": Gmpo()},
            r"GRPO.loss Gmpo, whose ratio is that of a whole sample; Truncated\(2.0\) or",
        ),
        ({"kl_coef": Line(0.1, -0.1)}, "at 51% of the run; it must be finite and"),
        ({"entropy_coef": -1.0}, "GRPO.entropy_coef is -1.0; it must be finite and at"),
        ({"temperature": 0.0}, "is 0.0; it must be positive, as 1.0: greedy samples"),
        (
            {"temperature": Line(1.0, 0.0)},
            "is 0.0 at 100% of the run; it must be positive",
        ),
        (
            {"tokens": HighEntropy},
            r"must be an object of r1v3_jax.losses, as HighEntropy\(\)",
        ),
    ],
)
def test_a_stage_refuses_what_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        GRPO(train=source, **changes)
