"""Optimizer, SFT."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from r1v3_jax.config.fields import one_of, positive, require


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW behind a global-norm clip."""

    lr: float = 1e-5
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_fraction: float = 0.0  # of lr, at the end of the cosine
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0  # of matrices; norms and biases never decay
    max_grad_norm: float = 1.0

    def __post_init__(self):
        one_of(self, "schedule", ("constant", "cosine"))
        require(self, "lr eps max_grad_norm", lambda x: x > 0, "positive")
        require(self, "warmup_steps weight_decay", lambda x: x >= 0, "at least 0")
        require(
            self, "final_lr_fraction b1 b2", lambda x: 0 <= x <= 1, "between 0 and 1"
        )


@dataclasses.dataclass(frozen=True)
class SFT:
    """One supervised stage: the cold start, or connector-only tuning.

    `train` and `validation` give examples by index: `source(index) -> types.Example`, pure
    functions.
    """

    train: Callable
    validation: Callable | None = None
    chains: str = ""  # a file of tools/distill.py, whose chains take the place of the examples' own
    steps: int = 100
    rows: int = 32  # packed rows a step
    row_tokens: int = 256
    tiles: int = 128  # tile slots a step
    accumulate: int = 1  # micro-batches the rows of a step are cut into
    trainable: str = "all"  # all, or parts joined by +: llm, connector, vision
    optimizer: Optimizer = Optimizer()
    # Every so many steps the loss on `validation_steps` batches is measured; after `patience`
    # measurements without a new best the stage stops, and its best weights are what it hands on. 0:
    # never.
    validate_every: int = 0
    validation_steps: int = 4
    patience: int = 0
    checkpoint_every: int = 100

    def __post_init__(self):
        require(
            self,
            "steps rows row_tokens accumulate validation_steps checkpoint_every",
            positive,
            "at least 1",
        )
        require(self, "tiles validate_every patience", lambda n: n >= 0, "at least 0")
        if self.rows % self.accumulate or self.tiles % self.accumulate:
            raise ValueError(
                f"SFT.rows {self.rows} and tiles {self.tiles} must divide into accumulate = "
                f"{self.accumulate} parts"
            )
        if self.validate_every and self.validation is None:
            raise ValueError("SFT.validate_every needs SFT.validation examples")
