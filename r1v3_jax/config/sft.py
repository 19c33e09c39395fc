"""A supervised stage (`SFT`), and AdamW (`Optimizer`), which every stage learns with."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

from r1v3_jax.config.fit import (
    check_positions,
    check_splits,
    check_tiles,
    check_trainable,
)
from r1v3_jax.config.lora import LoRA, check_lora
from r1v3_jax.fields import (
    LATER,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    check,
)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW behind a global-norm clip."""

    lr: PositiveFloat = 1e-5
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_fraction: Share = 0.0  # of lr, at the end of the cosine
    b1: Share = 0.9
    b2: Share = 0.95
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0  # of matrices; norms and biases never decay
    max_grad_norm: PositiveFloat = 1.0
    # Updates that the schedule is made for; 0: those of the stage. Stages that carry one optimizer
    # on (`SFT.carry`) share one schedule: all of them have the number of all their updates here.
    schedule_steps: NonNegativeInt = dataclasses.field(default=0, metadata=LATER)

    __post_init__ = check


@dataclasses.dataclass(frozen=True)
class SFT:
    """One supervised stage: the cold start, or connector-only tuning.

    `train` and `validation` return examples by index: `source(index) -> types.Example`, pure
    functions.
    """

    train: Callable
    validation: Callable | None = None
    # A file of tools/distill.py: its chains replace the examples' own.
    chains: str = ""
    # Whose weights it begins with: those of the stage before (empty), "init" (the run's initial
    # weights), or those of the earlier stage of that name.
    start: str = ""
    # An earlier SFT stage whose optimizer goes on here: moments, and the place in its schedule
    # (M-STAR, arXiv 2412.17451). Empty: a fresh one.
    carry: str = dataclasses.field(default="", metadata=LATER)
    steps: PositiveInt = 100
    rows: PositiveInt = 32  # packed rows a step
    row_tokens: PositiveInt = 256
    tiles: NonNegativeInt = 128  # tile slots a step
    accumulate: PositiveInt = 1  # micro-batches that the rows of a step are cut into
    trainable: str = "all"  # all, or parts joined by +: llm, connector, vision
    # Of these parts, adapters learn in place of matrices. None: everything learns whole.
    lora: LoRA | None = dataclasses.field(default=None, metadata=LATER)
    optimizer: Optimizer = Optimizer()
    # Steps between measurements of the loss on `validation_steps` batches; 0: never measured.
    validate_every: NonNegativeInt = 0
    validation_steps: PositiveInt = 4
    # After so many measurements without a new best the stage stops and hands on its best weights.
    # 0: it never stops early.
    patience: NonNegativeInt = 0
    checkpoint_every: PositiveInt = 100

    # Whether answers are rewarded, and therefore must be well formed.
    IS_REWARDED: ClassVar[bool] = False
    # Whether it hands on weights of its own.
    HAS_WEIGHTS: ClassVar[bool] = True
    # Rows of collecting stages that it can learn from, by what they hold (`distill.keeps`).
    READS: ClassVar[frozenset[str]] = frozenset({"chains", "said", "rates"})
    # What may change when a stage is resumed: where and how often, not what is computed.
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({"checkpoint_every"})

    def __post_init__(self):
        check(self)
        if self.rows % self.accumulate or self.tiles % self.accumulate:
            raise ValueError(
                f"SFT.rows {self.rows} and tiles {self.tiles} must divide into accumulate = "
                f"{self.accumulate} parts"
            )
        if self.validate_every and self.validation is None:
            raise ValueError("SFT.validate_every needs SFT.validation examples")

    def check_fit(self, name: str, run) -> None:
        """Raises ValueError if the stage does not fit the model or the mesh of `run`."""
        check_trainable(name, self.trainable, run.model)
        check_lora(name, self, run)
        check_positions(run, f"{name}.row_tokens", self.row_tokens, room_for="tokens")
        rows = f"{name}.rows / {name}.accumulate"
        check_splits(run.mesh, rows, self.rows // self.accumulate, "data fsdp")
        if run.model.vision is not None:
            check_tiles(run, f"{name}.tiles", self.tiles)
            tiles = f"{name}.tiles / {name}.accumulate"
            per_micro_batch = self.tiles // self.accumulate
            check_splits(run.mesh, tiles, per_micro_batch, "data fsdp tensor")

    def may_change(self) -> frozenset[str]:
        """The fields that a resumed stage may have with other values."""
        return self.MAY_CHANGE

    def depends_on(self, name: str, run) -> dict:
        """Other parts of `run` that decide what the stage computes, by name."""
        return {}
