"""What a run hands from stage to stage, and what every stage does around its steps."""

import contextlib

from r1v3_jax.data.placement import fetch
from r1v3_jax.run import alarms, preemption, watchdog
from r1v3_jax.run.checkpoints import States
from r1v3_jax.run.context import Context
from r1v3_jax.run.metrics import Logger, Timer


class Loop:
    """What every stage does around its steps: log, watch, save, leave; a context manager.

    first: the step it begins with. skipped: steps of the stage before it that changed nothing.
    """

    def __init__(
        self,
        context: Context,
        stage: str,
        config,
        states: States,
        first: int,
        skipped: int,
    ):
        self.context, self.stage, self.states = context, stage, states
        self.total, self.every = config.steps, config.checkpoint_every
        self.skipped, self._skipped_at, self.timer = skipped, -1, Timer()
        run = context.run
        self.watchdog, self.clock = watchdog.Watchdog(run.health), watchdog.HostClock()
        self.alarms = alarms.Alarms(stage, run.health)
        self.logger = Logger(
            context.workdir, total_steps=self.total, stage=stage, quiet=context.quiet,
            resume_step=first,
        )  # fmt: skip
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Loop":
        for part in (self.logger, self.watchdog, self.clock):
            self._stack.enter_context(part)
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()
        if error[0] is None:
            self.states.wait()

    def is_last(self, step: int) -> bool:
        return step + 1 == self.total

    def is_saved(self, step: int) -> bool:
        return self.is_last(step) or (step + 1) % self.every == 0

    def check_finite(self, step: int, metrics: dict[str, float], batch) -> None:
        """Takes `finite` out of an update's metrics; see `skip` for what follows if it was 0."""
        if not metrics.pop("finite"):
            names = [
                name for name in ("loss", "grad_norm", "update_norm") if name in metrics
            ]
            seen = ", ".join(f"{name} {metrics[name]:g}" for name in names)
            self.skip(step, f"an update is ({seen})", batch)

    def skip(self, step: int, what: str, batch) -> None:
        """Counts a step whose numbers are not finite, or ends the run; nothing was applied. batch:
        arrays of the devices, or of this host. A step of several updates counts once.
        """
        self.skipped += step != self._skipped_at
        self._skipped_at = step
        path = self.context.workdir / "not_finite" / f"{self.stage}_{step:06d}.npz"
        alarms.not_finite(
            self.context.run.health, what, fetch(batch), path, self.skipped
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics, with what the watchers add to it."""
        config = self.context.run.health
        metrics = metrics | {"skipped": self.skipped, "save_errors": States.failed}
        metrics |= self.alarms.step(step, metrics)
        metrics |= self.clock.step(config) | self.timer.values
        self.logger.log(step, metrics)
        self.timer = Timer()

    def end(self, step: int, state, extra: dict, *, save: bool = False) -> None:
        """The end of a step: a save if it is due, and the end of the process if it is preempted."""
        self.states.check()
        going = preemption.preempted()
        if save or going or self.is_saved(step):
            with self.watchdog.slow():
                self.logger.sync()
                self.states.save(step + 1, state, {**extra, "skipped": self.skipped})
                if going and not self.is_last(step):
                    self.states.wait()
        if going and not self.is_last(step):
            preemption.leave(f"{self.stage}, step {step + 1}")
        self.watchdog.step()
