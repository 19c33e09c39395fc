"""Preferences: of two answers to a question, make the chosen one likelier than the rejected one.

One step: P pairs, their log-probabilities under the reference (the weights that the stage began
with), one optimizer step. Nothing is sampled. The loss is `losses.Mpo`: DPO, MPO.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from r1v3_jax.config import Data, Preference, Run
from r1v3_jax.data import placement
from r1v3_jax.data.abstract import on_mesh
from r1v3_jax.data.reader import Consumed, Reader
from r1v3_jax.losses.preference import RunningMean
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Processor
from r1v3_jax.run import watchdog
from r1v3_jax.run.context import Context
from r1v3_jax.run.program import Program, lower_on_mesh
from r1v3_jax.sharding import TRAIN, shard_bytes
from r1v3_jax.stages.ledger import Ledger
from r1v3_jax.stages.loop import Loop, StepWork, check_sources, newest
from r1v3_jax.train import update as train_update
from r1v3_jax.train.adapters import abstract_model
from r1v3_jax.train.optimizer import make_optimizer, schedule, what_learns
from r1v3_jax.train.policy_gradient import score
from r1v3_jax.train.preference import gradients, pair_batch, pair_batch_of
from r1v3_jax.train.update import abstract_state, create
from r1v3_jax.types import PolicyBatch


def run(
    context: Context, name: str, config: Preference, model: R1V3
) -> tuple[R1V3, dict]:
    """Runs the stage from its newest state, or from `model`.

    Returns the model that it hands on, and an empty account: there is no choice to account for.
    """
    optimizer, update = make_update(config)
    # A copy: the first update donates the arrays of the policy.
    reference = jax.tree.map(jnp.copy, model)
    state = create(model, optimizer, what_learns(config))
    del model  # its arrays belong to `state` now

    # 1. Where the stage goes on.
    states = context.training_states(name)
    state, resume = newest(states, state)
    rewards = RunningMean(resume.reward_mean, resume.reward_steps)

    # 2. What it learns from.
    rows = reader(config, context.processor, context.run.data, **resume.position)
    # The current mesh is a property of this thread; batches are made in another one.
    mesh = jax.sharding.get_mesh()
    shards = TRAIN.shards("batch")
    batches = placement.prefetch(batches_of(context, config, rows, mesh, shards))
    ledger = Ledger(
        context.workdir, name, resume_step=resume.step, counts=resume.dropped
    )

    with (
        contextlib.closing(batches),
        contextlib.closing(rows),
        Loop(context, name, config, states, resume) as loop,
    ):
        for step in range(resume.step, config.steps):
            # 3. Learn.
            with loop.timer("step"):
                with loop.timer("data_wait"), watchdog.own_work(), ledger.reading(step):
                    batch, answer_tokens, consumed = next(batches)
                ledger.add(step, consumed.drops)
                batch = with_shift(context, batch, rewards.mean)
                with loop.timer("score"):
                    batch = with_reference(reference, batch, config)
                state, metrics = update(state, batch)
                metrics = {key: float(x) for key, x in jax.device_get(metrics).items()}
            is_finite = bool(metrics["finite"])
            loop.check_finite(step, metrics, batch)
            metrics |= {"tokens": answer_tokens, "shift": rewards.mean}
            if is_finite:
                rewards = rewards.followed_by(step_mean(metrics))

            # 4. Write down.
            loop.log(step, metrics | ledger.metrics())
            context.compiles.after(f"{name}/step")
            position = {"cursor": consumed.cursor, "dropped": ledger.counts}
            position |= {"reward_mean": rewards.mean, "reward_steps": rewards.steps}
            loop.end(step, state, position)
    return state.model, {}


def step_mean(metrics: dict[str, float]) -> float:
    """Returns the mean reward over the answers of a step, chosen and rejected."""
    return (metrics["rewards/chosen"] + metrics["rewards/rejected"]) / 2


def batches_of(
    context: Context, config: Preference, rows: Reader, mesh, shards: int
) -> Iterator[tuple[PolicyBatch, int, Consumed]]:
    """Yields batches on the devices of `mesh`, the tokens of their answers, what they used up.

    shards: over how many devices of the mesh rows are split.
    """
    rules = context.run.compute.rules
    while True:
        items, consumed = rows.take(config.pairs)
        pairs = [item.encoded for item in items]
        batch = pair_batch(pairs, config, context.processor, shards)
        answer_tokens = int((batch.rows.segment_ids > 0).sum())
        yield placement.place(batch, rules, mesh), answer_tokens, consumed


def with_shift(context: Context, batch: PolicyBatch, shift: float) -> PolicyBatch:
    """Returns the batch with the shift of its rewards, which is known when its step comes."""
    rules = context.run.compute.rules
    numbers = {"shift": np.float32(shift)}
    mesh = jax.sharding.get_mesh()
    return dataclasses.replace(batch, numbers=placement.place(numbers, rules, mesh))


def with_reference(
    reference: R1V3, batch: PolicyBatch, config: Preference
) -> PolicyBatch:
    """Returns the batch with the log-probabilities of the reference."""
    logprobs = score(reference, batch, 1.0, config.prompt_parts)
    rows = dataclasses.replace(batch.rows, ref_logprobs=logprobs)
    return dataclasses.replace(batch, rows=rows)


def reader(
    config: Preference,
    processor: Processor,
    data: Data,
    *,
    source: Callable | None = None,
    **position,
) -> Reader:
    """Returns a reader of the stage's pairs, or of `source` in their place.

    Every prompt of a step has the same share of the step's tile slots, as in GRPO. position:
    `start` and `counts` of a resumed stage, see `data.reader.Reader`.
    """
    return Reader(
        source or config.train,
        functools.partial(processor.pair, answer_tokens=config.max_answer_tokens),
        tokens=config.max_prompt_tokens,
        tiles=config.tiles // config.pairs,
        data=data,
        tile_size=processor.tile_size,
        **position,
    )


def check(run: Run, config: Preference) -> None:
    """Raises ValueError or FileNotFoundError for data that the stage cannot use."""
    check_sources(config.train)


def make_update(config: Preference):
    """Returns the optimizer of the stage and its jitted step; see `train.update.make_update`."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    return optimizer, train_update.make_update(
        functools.partial(gradients, config=config),
        optimizer,
        what_learns(config),
        schedule(config.optimizer, config.steps),
    )


def work(config: Preference) -> StepWork:
    """Returns what a step of full size computes, for its FLOPs.

    A prompt is read once; its answers attend to it and, on average, to half of themselves.
    """
    prompt = config.max_prompt_tokens
    answer = config.max_answer_tokens
    tokens = 2 * config.pairs * answer
    return StepWork(
        learnt=((config.pairs * prompt, prompt / 2), (tokens, prompt + answer / 2)),
        updates=1,
        new_tokens=tokens,
    )


def programs(
    config: Run, stage: Preference, mesh, banned: tuple[int, ...] = ()
) -> list[Program]:
    """Returns the programs of a step with the shapes they get. Nothing is sampled: no `banned`."""
    model = abstract_model(config, stage, mesh)
    optimizer, update = make_update(stage)
    state = abstract_state(model, optimizer, what_learns(stage), mesh)
    loop = {"trips": stage.accumulate, "trip": "micro-batch"}

    # 1. The reference reads the pairs. Beside it: the state.
    batch = on_mesh(pair_batch_of(config.model, stage), config, mesh)
    settings = (batch, 1.0, stage.prompt_parts)
    lower = lower_on_mesh(mesh, lambda: score.lower(model, *settings))
    table = [Program("score", lower, resident=shard_bytes(state), **loop)]

    # 2. The policy learns. Beside it: the reference.
    scored = on_mesh(pair_batch_of(config.model, stage, ref=True), config, mesh)
    lower = lower_on_mesh(mesh, lambda: update.lower(state, scored))
    return [*table, Program("update", lower, resident=shard_bytes(model), **loop)]
