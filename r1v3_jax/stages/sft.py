"""Supervised stages: the cold start on chains of thought, and connector-only tuning at the end.

A step: pack examples into rows, one forward and backward pass, one optimizer step. What learns is
`config.trainable`; frozen parts have neither gradient nor optimizer state. With `validate_every`
the loss on held-out examples is watched, and with `patience` the stage stops early and hands on its
best weights.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable

import jax
import numpy as np
from absl import logging

from r1v3_jax.config import SFT, Data, Run
from r1v3_jax.data import packing, placement
from r1v3_jax.data.abstract import batch_of, on_mesh
from r1v3_jax.data.made import not_made
from r1v3_jax.data.mixtures import with_chains
from r1v3_jax.data.reader import Reader
from r1v3_jax.losses.supervised import cross_entropy
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Processor
from r1v3_jax.run import watchdog
from r1v3_jax.run.checkpoints import States
from r1v3_jax.run.context import Context
from r1v3_jax.run.program import Program, lower_on_mesh
from r1v3_jax.sharding import shard_bytes
from r1v3_jax.stages.ledger import Ledger
from r1v3_jax.stages.loop import Loop, StepWork, check_sources, newest
from r1v3_jax.train import update as train_update
from r1v3_jax.train.adapters import abstract_model
from r1v3_jax.train.logprobs import token_logprobs
from r1v3_jax.train.optimizer import make_optimizer, schedule, what_learns
from r1v3_jax.train.update import (
    TrainState,
    abstract_state,
    create,
    gradients,
    release,
)
from r1v3_jax.types import Batch, DroppedRow


def run(context: Context, name: str, config: SFT, model: R1V3) -> tuple[R1V3, dict]:
    """Runs the stage from its newest state, or from `model`.

    Returns the model that it hands on, and an empty account: there is no choice to account for.
    """
    optimizer, update = make_update(config)
    state = create(model, optimizer, what_learns(config))
    del model  # its arrays belong to `state` now, and the first update donates them

    # 1. Where the stage goes on.
    states = context.training_states(name)
    state, resume = newest(states, state)
    if config.carry and not resume.step:
        state = with_carried_optimizer(context, config.carry, state)
    best = resume.best
    if resume.step:
        states.chosen = {best["step"]}
    done = resume.step

    # 2. What it learns from.
    held_out = validation_batches(context, config)
    rows = reader(config, context.processor, context.run.data, **resume.position)
    packed = packing.packed_batches(rows, context.processor, config)
    # The current mesh is a property of this thread; batches are placed in another one.
    mesh = jax.sharding.get_mesh()
    batches = placement.prefetch(
        (place(context, batch, mesh), consumed) for batch, consumed in packed
    )
    ledger = Ledger(
        context.workdir, name, resume_step=resume.step, counts=resume.dropped
    )

    with (
        contextlib.closing(batches),
        contextlib.closing(rows),
        Loop(context, name, config, states, resume) as loop,
    ):
        for step in range(resume.step, config.steps):
            if config.patience and best["since"] >= config.patience:
                break

            # 3. Learn.
            with loop.timer("step"):
                with loop.timer("data_wait"), watchdog.own_work(), ledger.reading(step):
                    (batch, learnt_tokens), consumed = next(batches)
                ledger.add(step, consumed.drops)
                state, metrics = update(state, batch)
                metrics = {key: float(x) for key, x in jax.device_get(metrics).items()}
            loop.check_finite(step, metrics, batch)
            metrics |= {"tokens": learnt_tokens, **ledger.metrics()}

            # 4. Measure.
            improved = False
            if is_validated(config, step):
                with loop.timer("validate"), loop.watchdog.slow():
                    loss_now = validate(state.model, held_out)
                metrics["eval/loss"] = loss_now
                improved = loss_now < best["loss"]
                if improved:
                    best = {"loss": loss_now, "step": step + 1, "since": 0}
                    states.chosen = {step + 1}
                else:
                    best = {**best, "since": best["since"] + 1}

            # 5. Write down. A new best is saved at once: it is what `patience` goes back to.
            loop.log(step, metrics)
            called = [f"{name}/step"]
            if "eval/loss" in metrics:
                called.append(f"{name}/validate")
            context.compiles.after(*called)
            position = {"cursor": consumed.cursor, "dropped": ledger.counts}
            loop.end(step, state, {**position, "best": best}, save=improved)
            done = step + 1

    # 6. With `patience`, the best weights are handed on, not the last.
    if config.patience and best["step"] and best["step"] != done:
        state = restored_best(states, best["step"], state)
    return state.model, {}


def with_carried_optimizer(
    context: Context, carry: str, state: TrainState
) -> TrainState:
    """Returns a fresh state with the moments, and the number of updates, that a stage ended with.

    The weights stay those of `state`. ValueError if the last state of stage `carry` is gone.
    """
    # A stage that is done stays as it is, whatever it was made with, as the seed of another run.
    finished = dataclasses.replace(context, accept_changes=True)
    saved = finished.training_states(carry).newest(state)
    if saved is None:
        raise ValueError(
            f"carry = {carry!r}: its training states are gone from "
            f"{context.workdir / carry / 'states'}; put them back, or set carry = ''"
        )
    _, carried, _ = saved
    release(carried.model)
    return dataclasses.replace(state, step=carried.step, optimizer=carried.optimizer)


def restored_best(states: States, step: int, state: TrainState) -> TrainState:
    """Returns the state of `step`; if it was damaged since it was saved, `state` itself."""
    try:
        return states.restore(step, state)[0]
    except ValueError as error:
        logging.warning(
            "%s; the last weights are handed on in place of the best", error
        )
        return state


def is_validated(config: SFT, step: int) -> bool:
    """Whether the held-out loss is measured after `step`: every so often, and at the end."""
    every = config.validate_every
    done = step + 1
    return bool(every) and (done % every == 0 or done == config.steps)


def reader(
    config: SFT,
    processor: Processor,
    data: Data,
    *,
    source: Callable | None = None,
    **position,
) -> Reader:
    """Returns a reader of the rows that the stage learns from, or of `source` in their place.

    A row is in one micro-batch, and may fill all tile slots of that one. position: `start` and
    `counts` of a resumed stage, see `data.reader.Reader`.
    """
    if source is None:
        source = config.train
        if config.chains:
            source = with_chains(source, config.chains)
    return Reader(
        source,
        processor.supervised,
        tokens=config.row_tokens,
        tiles=config.tiles // config.accumulate,
        data=data,
        tile_size=processor.tile_size,
        **position,
    )


def check(run: Run, config: SFT) -> None:
    """Raises ValueError or FileNotFoundError for data that the stage cannot use."""
    check_sources(config.train, config.validation)
    if config.chains and not not_made(config.train):
        with contextlib.suppress(
            DroppedRow
        ):  # a bad row is dropped when its turn comes
            with_chains(config.train, config.chains)(0)


def make_update(config: SFT):
    """Returns the optimizer of the stage and its jitted step; see `train.update.make_update`."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    return optimizer, train_update.make_update(
        gradients(loss),
        optimizer,
        what_learns(config),
        schedule(config.optimizer, config.steps),
    )


def loss(model: R1V3, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the supervised loss of a micro-batch; it has no metrics."""
    logprobs, _ = token_logprobs(model, batch)
    return cross_entropy(logprobs, batch.loss_weights), {}


def place(context: Context, batch: Batch, mesh) -> tuple[Batch, int]:
    """Puts a batch on the devices of `mesh`; also returns how many tokens are learnt from."""
    learnt_tokens = int((batch.loss_weights > 0).sum())
    rules = context.run.compute.rules
    return placement.place(batch, rules, mesh), learnt_tokens


def validation_batches(context: Context, config: SFT) -> list[Batch]:
    """Returns the batches whose loss is watched: always the same, so that losses compare."""
    if not config.validate_every:
        return []
    rows = reader(config, context.processor, context.run.data, source=config.validation)
    with contextlib.closing(rows):
        batches = packing.packed_batches(rows, context.processor, config)
        batches = itertools.islice(batches, config.validation_steps)
        mesh = jax.sharding.get_mesh()
        return [place(context, batch, mesh)[0] for batch, _ in batches]


def validate(model: R1V3, batches: list[Batch]) -> float:
    """Returns the mean loss a token over the validation batches."""
    return float(np.mean([float(validation_loss(model, batch)) for batch in batches]))


@jax.jit
def validation_loss(model: R1V3, batch: Batch) -> jax.Array:
    """Returns the loss of a batch, summed over its micro-batches."""

    def add_micro_batch(total, part):
        return total + loss(model, part)[0], None

    return jax.lax.scan(add_micro_batch, 0.0, batch)[0]


def work(config: SFT) -> StepWork:
    """Returns what a step of full size computes, for its FLOPs."""
    # Rows are full; a token attends, on average, to half of its row.
    tokens = config.rows * config.row_tokens
    return StepWork(
        learnt=((tokens, config.row_tokens / 2),), updates=1, new_tokens=tokens
    )


def programs(
    config: Run, stage: SFT, mesh, banned: tuple[int, ...] = ()
) -> list[Program]:
    """Returns the programs of a step with the shapes they get. Nothing is sampled: no `banned`."""
    # The same functions as in `run`, with shapes in place of numbers.
    batch = batch_of(
        config.model, stage.rows, stage.row_tokens, stage.tiles, stage.accumulate
    )
    batch = on_mesh(batch, config, mesh)
    model = abstract_model(config, stage, mesh)
    optimizer, update = make_update(stage)
    state = abstract_state(model, optimizer, what_learns(stage), mesh)
    lower = lower_on_mesh(mesh, lambda: update.lower(state, batch))
    out = [Program("update", lower)]
    if stage.validate_every:
        lower = lower_on_mesh(mesh, lambda: validation_loss.lower(model, batch))
        resident = shard_bytes(state) - shard_bytes(model)
        out.append(Program("validation_loss", lower, calls=0, resident=resident))
    return out
