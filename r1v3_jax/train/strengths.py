"""The strengths of an update: those that stand still are compiled in, those that move are arrays.

A strength that is a function of the progress (`schedules.Number`) comes into the compiled update as
an array of its batch, so that no step compiles anything.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from r1v3_jax.config import GRPO
from r1v3_jax.losses import AdaptiveEntropy, PolicyLoss
from r1v3_jax.losses.schedules import value


class Strengths(NamedTuple):
    """What an update computes with. A number is a float, or float32[] where it moves."""

    loss: PolicyLoss
    kl_coef: object
    entropy_coef: object
    temperature: object


def numbers_at(
    config: GRPO, progress: float, entropy_coef: float = 0.0
) -> dict[str, np.float32]:
    """Returns the numbers that move, at `progress` (0 to 1): {"kl_coef": .02, "loss.high": .28}.

    entropy_coef: where it is adaptive, what it is at this step.
    """
    moving = {}
    for name in ("kl_coef", "entropy_coef", "temperature"):
        moving[name] = getattr(config, name)
    if dataclasses.is_dataclass(config.loss):
        for field in dataclasses.fields(config.loss):
            moving[f"loss.{field.name}"] = getattr(config.loss, field.name)
    numbers = {
        name: np.float32(value(number, progress))
        for name, number in moving.items()
        if callable(number)
    }
    if isinstance(config.entropy_coef, AdaptiveEntropy):
        numbers["entropy_coef"] = np.float32(entropy_coef)
    return numbers


def strengths(config: GRPO, numbers: dict) -> Strengths:
    """Returns the strengths of a step, whose moving numbers are `numbers` (see `numbers_at`)."""
    of_loss = {
        name.removeprefix("loss."): number
        for name, number in numbers.items()
        if name.startswith("loss.")
    }
    loss = dataclasses.replace(config.loss, **of_loss) if of_loss else config.loss
    return Strengths(
        loss=loss,
        kl_coef=numbers.get("kl_coef", config.kl_coef),
        entropy_coef=numbers.get("entropy_coef", config.entropy_coef),
        temperature=numbers.get("temperature", config.temperature),
    )
