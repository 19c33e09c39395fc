"""The stage that learns from pairs of answers (`Preference`)."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

from r1v3_jax.config.fit import (
    check_positions,
    check_splits,
    check_tiles,
    check_trainable,
)
from r1v3_jax.config.lora import LoRA, check_lora
from r1v3_jax.config.sft import Optimizer
from r1v3_jax.fields import LATER, NonNegativeInt, PositiveFloat, PositiveInt, check
from r1v3_jax.losses import Mpo


@dataclasses.dataclass(frozen=True)
class Preference:
    """One stage of preferences: DPO (arXiv 2305.18290), MPO (arXiv 2411.10442).

    `train` returns examples by index, `source(index) -> types.Example`, with two answers each:
    `chosen` and `rejected`.
    """

    train: Callable
    # Whose weights it begins with: those of the stage before (empty), "init" (the run's initial
    # weights), or those of the earlier stage of that name. They are the reference too.
    start: str = ""
    steps: PositiveInt = 100
    pairs: PositiveInt = 32  # a step
    max_prompt_tokens: PositiveInt = 1024
    max_answer_tokens: PositiveInt = 1024  # of one answer, with the end of its turn
    # Tile slots a step; each prompt has the same share of them.
    tiles: NonNegativeInt = 128
    # The algorithm. Its strengths are flags: --config.NAME.loss.quality=0.1.
    loss: Mpo = Mpo()
    beta: PositiveFloat = 0.1  # of rewards: how much a log-ratio counts
    trainable: str = "all"  # all, or parts joined by +: llm, connector, vision
    # Of these parts, adapters learn in place of matrices. None: everything learns whole.
    lora: LoRA | None = dataclasses.field(default=None, metadata=LATER)
    optimizer: Optimizer = Optimizer()
    accumulate: PositiveInt = 1  # micro-batches that the pairs of a step are cut into
    # Parts in which an update reads its prompts and their tiles, as in GRPO.
    prompt_parts: PositiveInt = 1
    checkpoint_every: PositiveInt = 100

    # Whether answers are rewarded, and therefore must be well formed.
    IS_REWARDED: ClassVar[bool] = False
    # Whether it hands on weights of its own.
    HAS_WEIGHTS: ClassVar[bool] = True
    # Rows of collecting stages that it can learn from, by what they hold (`distill.keeps`).
    READS: ClassVar[frozenset[str]] = frozenset({"pairs"})
    # What may change when a stage is resumed: where and how often, not what is computed.
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every", "accumulate", "prompt_parts"}
    )

    def __post_init__(self):
        check(self)
        if not isinstance(self.loss, Mpo):
            raise ValueError(
                f"Preference.loss is {self.loss!r}; it must be an Mpo, as Mpo(1.0, 0.0, 0.0), "
                "which is DPO"
            )
        for field in dataclasses.fields(self.loss):
            weight = getattr(self.loss, field.name)
            is_number = isinstance(weight, int | float)
            if not is_number or not 0 <= weight < math.inf:
                raise ValueError(
                    f"Preference.loss.{field.name} is {weight!r}; it must be finite and at least "
                    "0, as 0.2"
                )
        if not self.loss.preference + self.loss.quality:
            raise ValueError(
                f"Preference.loss is {self.loss}, which never looks at a rejected answer; "
                "Mpo(1.0, 0.0, 1.0) would do, or a stage SFT(...) of the chosen ones"
            )

    def check_fit(self, name: str, run) -> None:
        """Raises ValueError if the stage does not fit the model or the mesh of `run`."""
        check_trainable(name, self.trainable, run.model)
        check_lora(name, self, run)
        check_positions(
            run,
            f"{name}.max_prompt_tokens + {name}.max_answer_tokens",
            self.max_prompt_tokens + self.max_answer_tokens,
            room_for="answer tokens",
            taken=self.max_prompt_tokens,
        )
        # A pair is one row of one micro-batch, on the device that has its prompt.
        if self.pairs % self.accumulate:
            nearest = -(-self.pairs // self.accumulate) * self.accumulate
            raise ValueError(
                f"{name}.pairs = {self.pairs} must divide into accumulate = {self.accumulate} "
                f"parts; {nearest} would do"
            )
        pairs = f"{name}.pairs / {name}.accumulate"
        check_splits(run.mesh, pairs, self.pairs // self.accumulate, "data fsdp")
        if run.model.vision is not None:
            check_tiles(run, f"{name}.tiles", self.tiles)

    def may_change(self) -> frozenset[str]:
        """The fields that a resumed stage may have with other values."""
        return self.MAY_CHANGE

    def depends_on(self, name: str, run) -> dict:
        """Other parts of `run` that decide what the stage computes, by name."""
        return {}
