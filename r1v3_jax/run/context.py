"""Context: run, workdir, processor, keys."""

import dataclasses
from pathlib import Path

import jax

from r1v3_jax import checksums
from r1v3_jax.config import Run
from r1v3_jax.processing.processor import Processor
from r1v3_jax.run.checkpoints import States
from r1v3_jax.run.compiles import Compiles

# One number a purpose, folded into the seed: streams of random numbers that never meet.
PURPOSES = {"init": 0, "rollout": 1, "probe": 2, "evaluate": 3}


@dataclasses.dataclass(frozen=True)
class Context:
    """A run in progress. workdir: everything it writes lies below. accept_changes: what is there
    may be of a run whose config was another one.
    """

    run: Run
    workdir: Path
    processor: Processor
    quiet: bool = False
    accept_changes: bool = False
    compiles: Compiles = dataclasses.field(default_factory=Compiles)

    def key(self, purpose: str, step: int = 0) -> jax.Array:
        """The random key of a purpose at a step: a function of the seed, so there is no state to
        save.
        """
        key = jax.random.fold_in(jax.random.key(self.run.seed), PURPOSES[purpose])
        return jax.random.fold_in(key, step)

    def directory(self, stage: str) -> Path:
        path = self.workdir / stage
        path.mkdir(parents=True, exist_ok=True)
        return path

    def states(self, stage: str, name: str, **how) -> States:
        """The states of a stage in WORKDIR/STAGE/NAME."""
        about = {"stage": stage, **self.run.identity(stage)}
        about["tokenizer"] = checksums.digest(self.workdir / "tokenizer")
        return States(
            self.directory(stage) / name,
            about=about,
            accept_changes=self.accept_changes,
            on_error=self.run.checkpoints.on_error,
            **how,
        )
