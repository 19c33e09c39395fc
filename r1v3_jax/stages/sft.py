"""Supervised stages: the cold start on chains of thought, and connector-only tuning at the end.

A step: pack examples into rows, one forward and backward pass, one optimizer step. What learns is
`config.trainable`; frozen parts have neither gradient nor optimizer state. With `validate_every`
the loss on held-out examples is watched, and with `patience` the stage stops early and hands on its
best weights.
"""

import contextlib
import itertools
import math

import jax
import numpy as np
from absl import logging

from r1v3_jax.config import SFT, Run
from r1v3_jax.data import packing, placement
from r1v3_jax.data.abstract import batch_of, on_mesh
from r1v3_jax.data.reader import of_stage
from r1v3_jax.losses.supervised import cross_entropy
from r1v3_jax.models import build
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.run import watchdog
from r1v3_jax.run.context import Context
from r1v3_jax.run.program import Program, lower_on_mesh
from r1v3_jax.sharding import shard_bytes
from r1v3_jax.stages.ledger import Ledger
from r1v3_jax.stages.loop import Loop
from r1v3_jax.train import update as train_update
from r1v3_jax.train.logprobs import token_logprobs
from r1v3_jax.train.optimizer import make_optimizer, schedule, trainable
from r1v3_jax.train.update import abstract_state, create, gradients, release
from r1v3_jax.types import Batch


def run(context: Context, name: str, config: SFT, model: R1V3) -> R1V3:
    """The stage `name` from its newest state, or from `model`; returns the model it hands on."""
    learns = trainable(config.trainable)
    optimizer, update = make_update(config)
    state = create(model, optimizer, learns)
    del model  # its arrays are the state's now, and the first update donates them

    kept = context.run.checkpoints
    states = context.states(name, "states", keep=kept.keep, keep_every=kept.keep_every)
    done, cursor, skipped, best = 0, 0, 0, {"loss": math.inf, "step": 0, "since": 0}
    dropped = {}
    if found := states.newest(state):
        release(state.model)
        done, state, extra = found
        cursor, skipped, best = extra["cursor"], extra["skipped"], extra["best"]
        dropped = extra["dropped"]
        states.chosen = {best["step"]}
    mesh = jax.sharding.get_mesh()
    held_out = validation_batches(context, config, mesh)
    where = {"start": cursor, "counts": dropped}
    reader = of_stage(config, context.processor, context.run.data, **where)
    batches = packing.packed_batches(reader, context.processor, config)
    batches = placement.prefetch(
        (place(context, batch, mesh), consumed) for batch, consumed in batches
    )
    ledger = Ledger(context.workdir, name, resume_step=done, counts=dropped)

    with (
        contextlib.closing(batches),
        contextlib.closing(reader),
        Loop(context, name, config, states, done, skipped) as loop,
    ):
        for step in range(done, config.steps):
            if config.patience and best["since"] >= config.patience:
                break
            with loop.timer("step"):
                with loop.timer("data_wait"), watchdog.own_work(), ledger.reading(step):
                    (batch, tokens), consumed = next(batches)
                ledger.add(step, consumed.drops)
                state, metrics = update(state, batch)
                metrics = {
                    key: float(value) for key, value in jax.device_get(metrics).items()
                }
            loop.check_finite(step, metrics, batch)
            metrics |= {"tokens": tokens, **ledger.metrics()}
            improved = False
            if config.validate_every and (
                (step + 1) % config.validate_every == 0 or loop.is_last(step)
            ):
                with loop.timer("validate"), loop.watchdog.slow():
                    metrics["eval/loss"] = value = validate(state.model, held_out)
                if improved := value < best["loss"]:
                    best = {"loss": value, "step": step + 1, "since": 0}
                    states.chosen = {step + 1}
                else:
                    best = {**best, "since": best["since"] + 1}
            loop.log(step, metrics)
            context.compiles.after(
                f"{name}/step", *[f"{name}/validate"] * ("eval/loss" in metrics)
            )
            extra = {"cursor": consumed.cursor, "dropped": ledger.counts, "best": best}
            loop.end(step, state, extra, save=improved)
            done = step + 1
    if config.patience and best["step"] and best["step"] != done:
        try:
            state, _ = states.restore(best["step"], state)
        except ValueError as error:
            logging.warning(
                "%s; the last weights are handed on in place of the best", error
            )
    return state.model


def make_update(config: SFT):
    """The optimizer of the stage and its jitted step; see `train.make_update`."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    lr = schedule(config.optimizer, config.steps)
    return optimizer, train_update.make_update(
        gradients(loss), optimizer, trainable(config.trainable), lr
    )


def loss(model: R1V3, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    logprobs, _ = token_logprobs(model, batch)
    return cross_entropy(logprobs, batch.loss_weights), {}


def place(context: Context, batch: Batch, mesh) -> tuple[Batch, int]:
    """The batch on the devices, and how many tokens of it are learnt from."""
    tokens = int((batch.loss_weights > 0).sum())
    return placement.place(batch, context.run.compute.rules, mesh), tokens


def validation_batches(context: Context, config: SFT, mesh) -> list[Batch]:
    """The same few batches every time, so that losses can be compared."""
    if not config.validate_every:
        return []
    how = context.run.data
    reader = of_stage(config, context.processor, how, source=config.validation)
    with contextlib.closing(reader):
        batches = packing.packed_batches(reader, context.processor, config)
        batches = itertools.islice(batches, config.validation_steps)
        return [place(context, batch, mesh)[0] for batch, _ in batches]


def validate(model: R1V3, batches: list) -> float:
    """Mean loss a token over the validation batches."""
    return float(np.mean([float(validation_loss(model, batch)) for batch in batches]))


@jax.jit
def validation_loss(model: R1V3, batch) -> jax.Array:
    def micro(total, part):
        return total + loss(model, part)[0], None

    return jax.lax.scan(micro, 0.0, batch)[0]


def _of_sft(config: Run, stage: SFT, mesh) -> list[Program]:
    batch = batch_of(
        config.model, stage.rows, stage.row_tokens, stage.tiles, stage.accumulate
    )
    batch = on_mesh(batch, config, mesh)
    model, learns = build.abstract(config.model, config.compute, mesh), trainable
    optimizer, update = make_update(stage)
    state = abstract_state(model, optimizer, learns(stage.trainable), mesh)
    programs = [
        Program("update", lower_on_mesh(mesh, lambda: update.lower(state, batch)))
    ]
    if stage.validate_every:
        lower = lower_on_mesh(mesh, lambda: validation_loss.lower(model, batch))
        resident = shard_bytes(state) - shard_bytes(model)
        programs.append(Program("validation_loss", lower, calls=0, resident=resident))
    return programs
