"""What a run hands from stage to stage, and the few things every stage does."""

import dataclasses
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from r1v3_jax.config import Run
from r1v3_jax.data import Encoder
from r1v3_jax.metrics import Compiles

# One number a purpose, folded into the seed: streams of random numbers that never meet.
PURPOSES = {"init": 0, "rollout": 1, "probe": 2, "evaluate": 3}


@dataclasses.dataclass(frozen=True)
class Context:
    """A run in progress. workdir: everything it writes lies below."""

    run: Run
    workdir: Path
    encoder: Encoder
    quiet: bool = False
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


def preempted(step: int) -> bool:
    """Whether the machine is to be taken away (SIGTERM): true in all processes of a run after the
    same step, so that all save it. Call it once a step. A run of one process, not started as one of
    several, just ends.
    """
    return jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step)


def leave(stage: str, step: int) -> None:
    """Ends a preempted run whose state of `step` is saved, with an exit code that is not 0."""
    raise SystemExit(f"{stage}: preempted; step {step} is saved, the same command goes on from it")


def stop_unless_finite(stage: str, step: int, metrics: dict, look_at: str) -> None:
    """Takes `finite` out of an update's metrics; ends the run if it was 0. Nothing was applied."""
    if not metrics.pop("finite"):
        raise FloatingPointError(
            f"{stage}, step {step}: loss {metrics['loss']} or gradient norm {metrics['grad_norm']} "
            "is not finite; the update was not applied. Lower the learning rate, or look at "
            f"{look_at}"
        )
