"""A run in progress: its config, its directory, its processor, its random keys (`Context`)."""

import dataclasses
from pathlib import Path

import jax

from r1v3_jax import checksums
from r1v3_jax.config import Run
from r1v3_jax.processing.processor import Processor
from r1v3_jax.run.checkpoints import Base, States
from r1v3_jax.run.compiles import Compiles
from r1v3_jax.run.trackers import Tracker

# One number a purpose, folded into the seed: streams of random numbers that never meet.
PURPOSES = {"init": 0, "rollout": 1, "probe": 2, "evaluate": 3, "collect": 4}


@dataclasses.dataclass(frozen=True)
class Context:
    """A run in progress."""

    run: Run
    workdir: Path  # everything that the run writes is below it
    processor: Processor
    quiet: bool = False
    accept_changes: bool = (
        False  # whether states of a run with another config are resumed
    )
    trackers: tuple[Tracker, ...] = ()  # services that are sent what the run logs
    base: Base | None = None  # of the stage that runs, if it trains adapters
    compiles: Compiles = dataclasses.field(default_factory=Compiles)

    def key(self, purpose: str, step: int = 0) -> jax.Array:
        """Returns the random key of a purpose at a step.

        It is a function of seed, purpose and step, so there is no state to save.
        """
        key = jax.random.fold_in(jax.random.key(self.run.seed), PURPOSES[purpose])
        return jax.random.fold_in(key, step)

    def directory(self, stage: str) -> Path:
        """Returns the directory of a stage, made if need be."""
        path = self.workdir / stage
        path.mkdir(parents=True, exist_ok=True)
        return path

    def training_states(self, stage: str) -> States:
        """Returns the states that a stage goes on from, in WORKDIR/STAGE/states."""
        kept = self.run.checkpoints
        return self.states(stage, "states", keep=kept.keep, keep_every=kept.keep_every)

    def states(self, stage: str, name: str, **kept) -> States:
        """Returns the states of a stage in WORKDIR/STAGE/NAME; kept: which of them stay."""
        # Written into every state, and compared before one is restored.
        about = {"stage": stage, **self.run.identity(stage)}
        about["tokenizer"] = checksums.digest(self.workdir / "tokenizer")
        return States(
            self.directory(stage) / name,
            about=about,
            accept_changes=self.accept_changes,
            on_error=self.run.checkpoints.on_error,
            base=self.base,
            **kept,
        )
