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

from r1v3_jax import data, feed, train
from r1v3_jax.checkpoint import States
from r1v3_jax.config import SFT
from r1v3_jax.losses import cross_entropy
from r1v3_jax.metrics import Logger, Timer
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.stages.context import Context, leave, preempted, stop_unless_finite
from r1v3_jax.types import Batch


def run(context: Context, name: str, config: SFT, model: R1V3) -> R1V3:
    """The stage `name` from its newest state, or from `model`; returns the model it hands on."""
    learns = train.trainable(config.trainable)
    optimizer, update = make_update(config)
    state = train.create(model, optimizer, learns)
    del model  # its arrays are the state's now, and the first update donates them

    directory = context.directory(name)
    states, best = States(directory / "states"), {"loss": math.inf, "step": 0, "since": 0}
    cursor, dropped = 0, {}
    if steps := states.steps():
        state, extra = states.restore(steps[-1], state)
        cursor, dropped, best = extra["cursor"], extra["dropped"], extra["best"]
    first = int(state.step)
    mesh = jax.sharding.get_mesh()
    held_out = validation_batches(context, config, mesh)
    reader = feed.of_stage(
        config, context.encoder, context.run.data, start=cursor, counts=dropped
    )  # fmt: skip
    batches = data.packed_batches(reader, context.encoder, config)
    batches = data.prefetch((place(context, batch, mesh), drawn) for batch, drawn in batches)
    ledger = feed.Ledger(context.workdir, name, resume_step=first, counts=dropped)
    best_states = States(directory / "best", keep=1)

    with (
        contextlib.closing(batches),
        contextlib.closing(reader),
        Logger(
            context.workdir,
            total_steps=config.steps,
            stage=name,
            quiet=context.quiet,
            resume_step=first,
        ) as logger,
    ):
        for step in range(first, config.steps):
            if config.patience and best["since"] >= config.patience:
                break
            timer = Timer()
            with timer("step"):
                with timer("data_wait"), ledger.reading(step):
                    (batch, tokens), drawn = next(batches)
                cursor = drawn.cursor
                ledger.add(step, drawn.drops)
                state, metrics = update(state, batch)
                metrics = {key: float(value) for key, value in jax.device_get(metrics).items()}
            stop_unless_finite(name, step, metrics, f"the examples before {cursor}")
            metrics |= {"tokens": tokens, **ledger.metrics()}
            last = step + 1 == config.steps
            if config.validate_every and ((step + 1) % config.validate_every == 0 or last):
                value = validate(state.model, held_out)
                metrics["eval/loss"] = value
                if value < best["loss"]:
                    best = {"loss": value, "step": step + 1, "since": 0}
                    best_states.save(step + 1, state, {"loss": value})
                else:
                    best = {**best, "since": best["since"] + 1}
            logger.log(step, metrics | timer.values)
            context.compiles.after(f"{name}/step", *[f"{name}/validate"] * ("eval/loss" in metrics))
            going = preempted(step)
            if (step + 1) % config.checkpoint_every == 0 or last or going:
                extra = {"cursor": cursor, "dropped": ledger.counts, "best": best}
                states.save(step + 1, state, extra)
            if going and not last:
                leave(name, step + 1)
    if config.patience and best["step"] and best["step"] != int(state.step):
        state, _ = best_states.restore(best["step"], state)
    return state.model


def make_update(config: SFT):
    """The optimizer of the stage and its jitted step; see `train.make_update`."""
    optimizer = train.make_optimizer(config.optimizer, config.steps)
    lr = train.schedule(config.optimizer, config.steps)
    return optimizer, train.make_update(
        train.gradients(loss), optimizer, train.trainable(config.trainable), lr
    )


def loss(model: R1V3, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    logprobs, _ = train.token_logprobs(model, batch)
    return cross_entropy(logprobs, batch.loss_weights), {}


def place(context: Context, batch: Batch, mesh) -> tuple[Batch, int]:
    """The batch on the devices, and how many tokens of it are learnt from."""
    tokens = int((batch.loss_weights > 0).sum())
    return data.place(batch, context.run.compute.rules, mesh), tokens


def validation_batches(context: Context, config: SFT, mesh) -> list[Batch]:
    """The same few batches every time, so that losses can be compared."""
    if not config.validate_every:
        return []
    reader = feed.of_stage(
        config, context.encoder, context.run.data, source=config.validation
    )  # fmt: skip
    with contextlib.closing(reader):
        batches = data.packed_batches(reader, context.encoder, config)
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
