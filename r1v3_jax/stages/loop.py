"""What every stage does around its steps: resume, log, watch, save, leave."""

import contextlib
import dataclasses
import math

from r1v3_jax.data.made import not_made
from r1v3_jax.data.placement import fetch
from r1v3_jax.run import alarms, preemption, watchdog
from r1v3_jax.run.checkpoints import States
from r1v3_jax.run.context import Context
from r1v3_jax.run.metrics import Logger, Timer
from r1v3_jax.train.update import TrainState, release


@dataclasses.dataclass(frozen=True)
class Resume:
    """Where a stage goes on."""

    step: int = 0  # the first that is still to be done
    cursor: int = 0  # rows of the source read so far
    skipped: int = 0  # steps that changed nothing
    # Dropped rows, {source: {reason: count}}.
    dropped: dict = dataclasses.field(default_factory=dict)
    # GRPO: the checkpoints probed so far.
    checkpoints: list = dataclasses.field(default_factory=list)
    # GRPO: the coefficient of an adaptive entropy bonus; None: where it begins.
    entropy_coef: float | None = None
    # GRPO: what a pass yielded in the last rollout with guesses.
    tokens_a_pass: float = 1.0
    # Preference: the mean of rewards up to here, and over how many steps.
    reward_mean: float = 0.0
    reward_steps: int = 0
    # Collect: questions asked, rows kept and their bytes, {verdict: answers}, and the temperature
    # that was chosen.
    asked: int = 0
    rows: int = 0
    row_bytes: int = 0
    verdicts: dict = dataclasses.field(default_factory=dict)
    temperature: float | None = None
    reward_pass: dict = dataclasses.field(default_factory=dict)  # that it was chosen by
    # SFT: the best validation loss so far, its step, and how many measurements came since.
    best: dict = dataclasses.field(
        default_factory=lambda: {"loss": math.inf, "step": 0, "since": 0}
    )

    @property
    def position(self) -> dict:
        """Where a reader goes on, as arguments of `data.reader.Reader`."""
        return {"start": self.cursor, "counts": self.dropped}


@dataclasses.dataclass(frozen=True)
class StepWork:
    """What a step of full size computes, for the FLOPs that the dry run prints."""

    # (tokens, mean number of keys that each attends to), for each pass that is learnt from.
    learnt: tuple[tuple[int, float], ...]
    updates: int  # how often that is computed in a step
    new_tokens: int  # sampled or read


def newest(states: States, state: TrainState) -> tuple[TrainState, Resume]:
    """Returns the newest good state on disk and where it stands; without one, `state` itself."""
    saved = states.newest(state)
    if saved is None:
        return state, Resume()
    step, restored, extra = saved
    release(state.model, kept_by=restored.model)
    return restored, resumed(step, extra)


def resumed(step: int, extra: dict) -> Resume:
    """Returns where a saved state stands; it may hold more than this version reads."""
    known = {field.name for field in dataclasses.fields(Resume)}
    return Resume(step, **{k: v for k, v in extra.items() if k in known})


def check_sources(*sources) -> None:
    """Raises what a source finds wrong with its files; sources without `check` pass.

    So do those whose rows an earlier stage will make: they are looked at when these are there.
    """
    for source in sources:
        if hasattr(source, "check") and not not_made(source):
            source.check()


class Loop:
    """Surrounds the steps of a stage: logs, watches, saves, leaves. A context manager."""

    def __init__(
        self, context: Context, stage: str, config, states: States, resume: Resume
    ):
        self.context = context
        self.stage = stage
        self.states = states
        self.total = config.steps
        self.save_every = config.checkpoint_every
        self.skipped = resume.skipped  # steps that changed nothing
        self._skipped_at = -1  # the last of them
        self.timer = Timer()
        health = context.run.health
        self.watchdog = watchdog.Watchdog(health)
        self.clock = watchdog.HostClock()
        self.alarms = alarms.Alarms(stage, health)
        self.logger = Logger(
            context.workdir,
            total_steps=self.total,
            stage=stage,
            quiet=context.quiet,
            resume_step=resume.step,
            trackers=context.trackers,
        )
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
        """Whether `step`, from 0, is the last of the stage."""
        return step + 1 == self.total

    def is_saved(self, step: int) -> bool:
        """Whether a state is saved after `step` in any case."""
        return self.is_last(step) or (step + 1) % self.save_every == 0

    def check_finite(self, step: int, metrics: dict[str, float], batch) -> None:
        """Takes `finite` out of an update's metrics; see `skip` for what follows if it was 0."""
        if metrics.pop("finite"):
            return
        numbers = [
            f"{name} {metrics[name]:g}"
            for name in ("loss", "grad_norm", "update_norm")
            if name in metrics
        ]
        self.skip(step, f"an update is ({', '.join(numbers)})", batch)

    def skip(self, step: int, what: str, batch) -> None:
        """Counts a step whose numbers are not finite, or ends the run; nothing was applied.

        batch: arrays of the devices, or of this host. A step of several updates counts once.
        """
        # Two updates of one step, both bad, are one skipped step.
        self.skipped += step != self._skipped_at
        self._skipped_at = step
        path = self.context.workdir / "not_finite" / f"{self.stage}_{step:06d}.npz"
        health = self.context.run.health
        alarms.not_finite(health, what, fetch(batch), path, self.skipped)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Logs one line of metrics, with what the watchers add to it."""
        metrics = metrics | {"skipped": self.skipped, "save_errors": States.failed}
        metrics |= self.alarms.step(step, metrics)
        metrics |= self.clock.step(self.context.run.health)
        metrics |= self.timer.values
        self.logger.log(step, metrics)
        self.timer = Timer()

    def next_saved(self, step: int) -> int:
        """Returns the first step from `step` on after which a state is saved in any case."""
        due = step + self.save_every - 1 - step % self.save_every
        return min(due, self.total - 1)

    def end(
        self,
        step: int,
        state,
        extra: dict,
        *,
        save: bool = False,
        can_go_on: bool = True,
    ) -> None:
        """Ends a step: saves if a save is due, and ends the process if it is preempted.

        extra: what `Resume` needs besides the step. save: whether to save in any case. can_go_on:
        whether this is all that the next step needs; else a preempted run goes on from the state
        before.
        """
        self.states.check()
        # All processes get the same answer here, so that all save the same step.
        preempted = preemption.preempted()
        leaves = preempted and not self.is_last(step)
        if leaves and not (can_go_on or self.is_saved(step)):
            with self.watchdog.slow():
                self.states.wait()
            newest = max(self.states.steps(), default=0)
            saved = f"{self.stage}, step {newest}"
            preemption.leave(saved if newest else f"what was there before {self.stage}")
        if save or preempted or self.is_saved(step):
            with self.watchdog.slow():
                self.logger.sync()
                self.states.save(step + 1, state, {**extra, "skipped": self.skipped})
                # The first save has small programs of its own, for shapes that are new.
                self.context.compiles.after(f"{self.stage}/save")
                if leaves:
                    self.states.wait()
        if leaves:
            preemption.leave(f"{self.stage}, step {step + 1}")
        self.watchdog.step()
