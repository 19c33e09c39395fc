"""GRPO: sample groups of completions, score them, move the policy towards the better ones.

One step: P prompts, G samples each, rewards, advantages within each group, `updates_per_rollout`
optimizer steps. What is deliberately absent: a value network, a reward model, a second engine. One
set of weights samples (in 8 bits, if `rollout_int8` says so), scores and learns.

With one update per rollout the policy that learns is the policy that sampled: no scoring pass is
needed, the update's own forward pass is the old policy. With kl_coef 0 there is no reference model
at all.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1v3_jax.config import GRPO, Run
from r1v3_jax.data import placement
from r1v3_jax.data.abstract import on_mesh
from r1v3_jax.data.reader import of_stage
from r1v3_jax.evaluate import critical_tokens, selection
from r1v3_jax.files import write_jsonl
from r1v3_jax.losses.policy import clipped_policy_loss, importance_weights, kl
from r1v3_jax.losses.supervised import weighted_sum
from r1v3_jax.models import build
from r1v3_jax.models.build import for_decoding
from r1v3_jax.models.qwen2 import PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rollout import collect
from r1v3_jax.rollout import group as rollout_group
from r1v3_jax.rollout import sampler as rollout_sampler
from r1v3_jax.rollout.group import busy
from r1v3_jax.rollout.metrics import not_finite, statistics
from r1v3_jax.rollout.programs import question_batch, rollout_programs
from r1v3_jax.rollout.sampler import PendingRollout
from r1v3_jax.run.context import Context
from r1v3_jax.run.program import Program, lower_on_mesh
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import shard_bytes
from r1v3_jax.stages.ledger import Ledger
from r1v3_jax.stages.loop import Loop
from r1v3_jax.stages.probe import Probe, choose, make_sampler
from r1v3_jax.train import update as train_update
from r1v3_jax.train.logprobs import read_prompts, sample_logprobs
from r1v3_jax.train.optimizer import make_optimizer, schedule, trainable
from r1v3_jax.train.policy_batch import policy_batch, policy_batch_of
from r1v3_jax.train.update import (
    abstract_state,
    create,
    micro_batch,
    release,
    summed_gradients,
)
from r1v3_jax.types import PolicyBatch, SampleRows


def run(context: Context, name: str, config: GRPO, model: R1V3) -> tuple[R1V3, dict]:
    """The stage from its newest state, or from `model`; returns the chosen model and what was
    chosen from.
    """
    learns = trainable(config.trainable)
    optimizer, update = make_update(config)
    reference = jax.tree.map(jnp.copy, model) if config.kl_coef else None
    state = create(model, optimizer, learns)
    del model  # its arrays are the state's now, and the first update donates them

    rules, mesh = context.run.compute.rules, jax.sharding.get_mesh()
    kept = context.run.checkpoints
    states = context.states(name, "states", keep=kept.keep, keep_every=kept.keep_every)
    candidates = context.states(name, "candidates", keep=1)
    first, cursor, skipped, dropped, checkpoints = 0, 0, 0, {}, []
    if found := states.newest(state):
        release(state.model)
        first, state, extra = found
        cursor, skipped, checkpoints = (
            extra["cursor"],
            extra["skipped"],
            extra["checkpoints"],
        )
        dropped = extra["dropped"]
    sampler = make_sampler(context, config)
    prober = Probe(context, config)

    where = {"start": cursor, "counts": dropped}
    reader = of_stage(config, context.processor, context.run.data, **where)
    ledger = Ledger(context.workdir, name, resume_step=first, counts=dropped)

    def begin(step: int, model: R1V3) -> PendingRollout:
        key, limit = context.key("rollout", step), config.length_limit(step)
        model = for_decoding(model, int8=config.rollout_int8)
        return rollout_sampler.begin(sampler, model, reader, key, config, limit)

    lengths = [length for length, _ in (*config.buckets, (config.max_prompt_tokens, 0))]
    shapes = {
        f"{name}/{what}/{length}"
        for what in ("rollout", "update")
        for length in lengths
    }
    ahead = None  # the next step's rollout, if it is under way

    with (
        contextlib.closing(reader),
        Loop(context, name, config, states, first, skipped) as loop,
    ):
        for step in range(first, config.steps):
            timer, limit = loop.timer, config.length_limit(step)
            if not shapes <= context.compiles.done:
                loop.watchdog.may_compile()
            # Off-policy, the devices sample for the next step while this one's samples are scored
            # here. Not across a save: resumed there, a run would sample with newer weights (as it
            # does where it was preempted).
            then = None
            if config.off_policy_steps and not loop.is_saved(step):
                then = functools.partial(begin, step + 1, state.model)
            with timer("rollout"), ledger.reading(step):
                collected = collect.collect(
                    sampler,
                    state.model,
                    reader,
                    context.key("rollout", step),
                    config,
                    limit,
                    progress=step / config.steps,
                    flight=ahead,
                    then=then,
                )
                groups, consumed, ahead = (
                    collected.groups,
                    collected.consumed,
                    collected.ahead,
                )
                ledger.add(step, consumed.drops)
                host_batch = policy_batch(groups, config, context.processor)
                padded = host_batch.prompts.tokens.shape[1]
                counts = collected.counts | {
                    "rows/busy": busy(host_batch),
                    "prompts/padded_length": padded,
                }
                batch = placement.place(host_batch, rules, mesh)
            metrics = {}
            if problem := not_finite(groups):
                loop.skip(step, problem, host_batch)
            else:
                if needs_old_logprobs(config):
                    with timer("score"):
                        batch = with_logprobs(batch, state.model, reference, config)
                for _ in range(config.updates_per_rollout):
                    with timer("update"):
                        state, metrics = update(state, batch)
                        metrics = {
                            key: float(x) for key, x in jax.device_get(metrics).items()
                        }
                    loop.check_finite(step, metrics, batch)
            metrics |= statistics(groups, limit) | counts | ledger.metrics()
            metrics |= critical_tokens.entropies(
                groups, prober.sequences, context.run.evaluate.high_entropy
            )
            sampled = int(sum(group.completions.lengths.sum() for group in groups))
            seconds = timer.values["time/rollout_s"]
            if (
                config.off_policy_steps
            ):  # its devices sample while this process is elsewhere
                seconds = sum(timer.values.values())
            metrics["tokens_per_s"] = sampled / seconds
            metrics["time/data_wait_s"] = (
                consumed.wait_s
            )  # of these rows, in whichever step
            if config.evaluate_every and (
                (step + 1) % config.evaluate_every == 0 or loop.is_last(step)
            ):
                with timer("probe"), loop.watchdog.slow():
                    measured = prober.measure(state.model)
                checkpoints.append({"step": step + 1, **measured})
                candidates.chosen = selection.selectable(checkpoints)
                candidates.save(step + 1, state.model, measured)
                metrics["eval/accuracy"] = measured["accuracy"]["mean"]
                metrics["eval/critical_entropy"] = measured["critical_entropy"]
            loop.log(step, metrics)
            sampled_at = {*collected.lengths, *([ahead.length] if ahead else [])}
            context.compiles.after(
                *[f"{name}/rollout/{length}" for length in sampled_at],
                *[f"{name}/update/{padded}"] * ("loss" in metrics),
                *[f"{name}/probe"] * ("eval/accuracy" in metrics),
            )
            if config.rollouts_every and step % config.rollouts_every == 0:
                write_jsonl(
                    context.workdir / "rollouts" / f"{name}_{step:06d}.jsonl",
                    rollout_group.rows(groups),
                )
            extra = {"cursor": consumed.cursor, "dropped": ledger.counts}
            # A copy: a thread writes it while the next steps add to the list.
            loop.end(step, state, {**extra, "checkpoints": [*checkpoints]})
    candidates.wait()
    return choose(context, config, state, candidates, checkpoints)


def make_update(config: GRPO):
    """The optimizer of the stage and its jitted step; see `train.make_update`."""
    updates = config.steps * config.updates_per_rollout
    optimizer = make_optimizer(config.optimizer, updates)
    learns, lr = trainable(config.trainable), schedule(config.optimizer, updates)
    return optimizer, train_update.make_update(
        functools.partial(gradients, config=config), optimizer, learns, lr
    )


def gradients(model: Callable, params, batch: PolicyBatch, *, config: GRPO):
    """For `train.make_update`. Prompts are read once, forward and backward, whatever the number of
    their samples; micro-batches add up what they ask of them.

        params -> keys, values and last states of the prompts -> loss of each micro-batch
               ----------------------------------------------->
    """

    def read(params):
        last, cache = read_prompts(model(params), batch.prompts, config.prompt_parts)
        return last, cache.k, cache.v

    def loss(params, read, rows):
        last, k, v = read
        read = last, PromptCache(k=k, v=v, lengths=batch.prompts.lengths)
        return policy_loss(model(params), read, rows, config=config)

    prompts, pull_back = jax.vjp(read, params)
    (grads, asked), metrics = summed_gradients(
        loss, (params, prompts), batch.rows, batch.used
    )
    # Means over what is learnt from, whatever the weights add up to.
    for name in ("sampler_gap", "policy_entropy"):
        metrics[name] /= jnp.maximum(metrics["weight"], 1e-9)
    (through,) = pull_back(jax.tree.map(lambda a, x: a.astype(x.dtype), asked, prompts))
    return jax.tree.map(lambda g, x: g + x.astype(g.dtype), grads, through), metrics


def needs_old_logprobs(config: GRPO) -> bool:
    """Whether a pass before the update is needed: with one update per rollout the update's own
    forward pass is the policy before it.
    """
    return config.updates_per_rollout > 1 or bool(config.kl_coef)


def policy_loss(
    model: R1V3, read: tuple[jax.Array, PromptCache], rows: SampleRows, *, config: GRPO
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The clipped policy gradient, plus kl_coef times the KL to the reference."""
    weights = rows.loss_weights
    logprobs, entropy = sample_logprobs(
        model, read, rows, temperature=config.temperature
    )
    old = (
        jax.lax.stop_gradient(logprobs)
        if rows.old_logprobs is None
        else rows.old_logprobs
    )
    corrected = weights
    if config.importance_cap:
        corrected = weights * importance_weights(
            old, rows.sampler_logprobs, config.importance_cap
        )
    loss, metrics = clipped_policy_loss(
        logprobs,
        old,
        rows.advantages,
        corrected,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
    )
    if config.kl_coef:
        divergence = weighted_sum(
            kl(logprobs, rows.ref_logprobs, config.kl_estimator), weights
        )
        loss += config.kl_coef * divergence
        metrics["kl"] = divergence
    total = weighted_sum(jnp.ones_like(weights), weights)
    # What the sampler's forward pass and this one disagree by; in exact arithmetic 0 at the first
    # update.
    metrics["sampler_gap"] = weighted_sum(jnp.abs(old - rows.sampler_logprobs), weights)
    metrics["policy_entropy"] = weighted_sum(entropy, weights)
    metrics["weight"] = total
    return loss, metrics


def with_logprobs(
    batch: PolicyBatch, model: R1V3, reference: R1V3 | None, config: GRPO
) -> PolicyBatch:
    """The batch with the log-probabilities of the sampling weights and of the reference."""
    how = config.temperature, config.prompt_parts
    old = score(model, batch, *how)
    ref = score(reference, batch, *how) if config.kl_coef else None
    rows = dataclasses.replace(batch.rows, old_logprobs=old, ref_logprobs=ref)
    return dataclasses.replace(batch, rows=rows)


@functools.partial(jax.jit, static_argnames=("temperature", "parts"))
def score(
    model: R1V3, batch: PolicyBatch, temperature: float, parts: int = 1
) -> jax.Array:
    """log p of every sampled token of a batch, float32[N, B, T]."""
    read = read_prompts(model, batch.prompts, parts)

    def micro(i, out):
        rows = micro_batch(batch.rows, i)
        logprobs, _ = sample_logprobs(model, read, rows, temperature=temperature)
        return jax.lax.dynamic_update_index_in_dim(out, logprobs, i, 0)

    nothing = jnp.zeros_like(batch.rows.sampler_logprobs)
    return jax.lax.fori_loop(0, batch.used, micro, nothing)


def _of_grpo(config: Run, stage: GRPO, mesh, banned: tuple[int, ...]) -> list[Program]:
    model = build.abstract(config.model, config.compute, mesh)
    optimizer, update = make_update(stage)
    state = abstract_state(model, optimizer, trainable(stage.trainable), mesh)
    scored = needs_old_logprobs(stage)
    columns = {"old": scored, "ref": bool(stage.kl_coef)}
    weights = shard_bytes(model)
    reference = weights if stage.kl_coef else 0
    kept = shard_bytes(state) + reference
    how = SamplingParams(stage.max_completion_tokens, stage.temperature, banned=banned)
    loop = {"trips": stage.accumulate, "trip": "micro-batch"}

    def sampled(length: int, tiles: int) -> list[Program]:
        return rollout_programs(
            config, mesh, how,
            prompts=stage.prompts, group_size=stage.group_size, slots=stage.slots, tiles=tiles,
            max_prompt_tokens=length, resident=kept, int8=stage.rollout_int8,
        )  # fmt: skip

    full = stage.max_prompt_tokens, stage.tiles
    out = sampled(*full)
    # The next rollout, if it is begun before this update.
    ahead = out[-1].given if stage.off_policy_steps else 0

    def learnt(length: int, tiles: int) -> list[Program]:
        out = []
        if scored:
            batch = on_mesh(
                policy_batch_of(config.model, stage, length, tiles), config, mesh
            )
            how_scored = stage.temperature, stage.prompt_parts
            lower = lower_on_mesh(mesh, lambda: score.lower(model, batch, *how_scored))
            calls, beside = 2 if stage.kl_coef else 1, kept - weights + ahead
            out.append(Program("score", lower, calls=calls, resident=beside, **loop))
        policy = policy_batch_of(config.model, stage, length, tiles, **columns)
        policy = on_mesh(policy, config, mesh)
        lower = lower_on_mesh(mesh, lambda: update.lower(state, policy))
        calls, beside = stage.updates_per_rollout, reference + ahead
        return [*out, Program("update", lower, calls=calls, resident=beside, **loop)]

    if stage.evaluate_every:  # `grpo.Probe`
        probe = rollout_programs(
            config, mesh, how, **question_batch(config.evaluate),
            max_prompt_tokens=stage.max_prompt_tokens, resident=kept + ahead,
        )  # fmt: skip
        # A probe is of the weights as they are.
        probe = probe if stage.rollout_int8 else probe[1:]
        out += [dataclasses.replace(p, use="probe", calls=0) for p in probe]
    out += learnt(*full)
    for length, tiles in stage.buckets:  # the weights are laid out once
        small = [*sampled(length, tiles)[1:], *learnt(length, tiles)]
        out += [
            dataclasses.replace(p, size=f"{length}x{tiles}", calls=0) for p in small
        ]
    return out
