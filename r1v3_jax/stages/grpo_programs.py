"""The compiled programs of a step of GRPO: the update, and all of them for the dry run.

`stages/grpo.py` calls them; here they have the shapes of a config and no arrays.
"""

import dataclasses
import functools
from collections.abc import Callable

from r1v3_jax.config import GRPO, Run
from r1v3_jax.data.abstract import on_mesh
from r1v3_jax.losses.schedules import value
from r1v3_jax.models import build
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rollout.in_flight import state_sizes
from r1v3_jax.rollout.programs import question_batch, rollout_programs
from r1v3_jax.run.program import Program, lower_on_mesh
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import shard_bytes
from r1v3_jax.stages.drafting import abstract_drafts, drafting_programs
from r1v3_jax.stages.following import following_programs
from r1v3_jax.stages.helpers import helper_programs, resident_helpers
from r1v3_jax.stages.reference import reference_config
from r1v3_jax.train import update as train_update
from r1v3_jax.train.adapters import abstract_model
from r1v3_jax.train.optimizer import make_optimizer, schedule, what_learns
from r1v3_jax.train.policy_batch import policy_batch_of
from r1v3_jax.train.policy_gradient import gradients, needs_old_logprobs, score
from r1v3_jax.train.update import TrainState, abstract_state


def make_update(config: GRPO):
    """Returns the optimizer of the stage and its jitted step; see `train.update.make_update`."""
    updates = config.steps * config.updates_per_rollout
    optimizer = make_optimizer(config.optimizer, updates)
    return optimizer, train_update.make_update(
        functools.partial(gradients, config=config),
        optimizer,
        what_learns(config),
        schedule(config.optimizer, updates),
    )


def programs(config: Run, stage: GRPO, mesh, banned: tuple[int, ...]) -> list[Program]:
    """Returns the programs of a step with the shapes they get, in the order of the calls.

    banned: `Tokenizer.banned_token_ids`, which the sampler is compiled with. Call it with `mesh` as
    the current mesh.
    """
    model = abstract_model(config, stage, mesh)
    optimizer, update = make_update(stage)
    state = abstract_state(model, optimizer, what_learns(stage), mesh)
    weights = shard_bytes(model)
    reference = resident_reference(config, stage, model, mesh)
    helpers = resident_helpers(config, stage, mesh)
    # Bytes that are on a chip all the time.
    drafts = shard_bytes(abstract_drafts(config, stage, mesh))
    kept = shard_bytes(state) + reference + helpers + drafts
    sampling = SamplingParams(
        max_tokens=stage.max_completion_tokens,
        temperature=value(stage.temperature, progress=1.0),
        banned=banned,
    )

    def rollout(length: int, tiles: int) -> list[Program]:
        return rollout_programs(
            config,
            mesh,
            sampling,
            prompts=stage.prompts,
            group_size=stage.group_size,
            slots=stage.slots,
            tiles=tiles,
            max_prompt_tokens=length,
            resident=kept,
            int8=stage.rollout_int8,
            moving_temperature=callable(stage.temperature),
            trained=model,
            carried=state_sizes(stage) if stage.in_flight else None,
        )

    def learn_from(length: int, tiles: int) -> list[Program]:
        table = learning_programs(config, stage, mesh, (length, tiles), state, update)
        # Beside scoring: moments and reference; beside the update: the reference. And the next
        # rollout's state, if it was started before, or that of what is under way.
        resident = {
            "score": kept - weights + ahead,
            "reference_score": kept - reference + ahead,
            "update": reference + helpers + drafts + ahead,
        }
        return [dataclasses.replace(p, resident=resident[p.label]) for p in table]

    # 1. Sample, at full size.
    full = (stage.max_prompt_tokens, stage.tiles)
    table = rollout(*full)
    is_ahead = bool(stage.off_policy_steps or stage.in_flight)
    ahead = table[-1].given if is_ahead else 0
    table += helper_programs(config, stage, mesh, banned, resident=kept + ahead)

    # 2. The probe.
    if stage.evaluate_every:
        table += probe_programs(config, stage, mesh, sampling, model, kept + ahead)

    # 3. Learn, at full size; then the reference follows.
    drafting = (config, stage, mesh, sampling, model, kept + ahead)
    table += drafting_programs(*drafting, full) + learn_from(*full)
    rest = kept - weights - reference + ahead
    table += following_programs(stage, mesh, model, rest)

    # 4. The same for each bucket; the weights are laid out once.
    for length, tiles in stage.buckets:
        sampled = rollout(length, tiles)[1:]
        # What is under way has room for prompts of full size: it is decoded by one program.
        if stage.in_flight:
            sampled = [p for p in sampled if p.name != "decode"]
        guessed = drafting_programs(*drafting, (length, tiles))[1:]
        bucket = [*sampled, *guessed, *learn_from(length, tiles)]
        size = f"{length}x{tiles}"
        table += [dataclasses.replace(p, size=size, calls=0) for p in bucket]
    return table


def probe_programs(
    config: Run,
    stage: GRPO,
    mesh,
    sampling: SamplingParams,
    model: R1V3,
    resident: int,
) -> list[Program]:
    """Returns the programs that measure a policy, as a step does now and then.

    It is sampled with the weights as they are: without a layout of its own unless the rollout is in
    8 bits. resident: bytes on a chip, the weights among them.
    """
    probe = rollout_programs(
        config,
        mesh,
        sampling,
        max_prompt_tokens=stage.max_prompt_tokens,
        resident=resident,
        trained=model,
        **question_batch(config.evaluate),
    )
    probe = probe if stage.rollout_int8 else probe[1:]
    return [dataclasses.replace(p, use="probe", calls=0) for p in probe]


def resident_reference(config: Run, stage: GRPO, model: R1V3, mesh) -> int:
    """Returns the bytes on a chip of the reference: a copy of the model, or a checkpoint."""
    if not stage.needs_reference():
        return 0
    if not stage.reference:
        return shard_bytes(model)
    teacher = reference_config(config, stage)
    return shard_bytes(build.abstract(teacher, config.compute, mesh))


def learning_programs(
    config: Run,
    stage: GRPO,
    mesh,
    size: tuple[int, int],
    state: TrainState,
    update: Callable,
) -> list[Program]:
    """Returns score, where it is needed, and update, for prompts of one size.

    A reference of other dimensions has a program of its own.

    size: tokens that prompts are padded to, and tile slots.
    """
    loop = {"trips": stage.accumulate, "trip": "micro-batch"}
    has_old = needs_old_logprobs(stage)
    has_ref = stage.needs_reference()
    table = []
    if has_old:
        batch = on_mesh(policy_batch_of(config.model, stage, *size), config, mesh)

        def lower_score(model: R1V3):
            settings = (batch, stage.temperature, stage.prompt_parts)
            return lower_on_mesh(mesh, lambda: score.lower(model, *settings))

        # The policy before the update, and the reference.
        teacher = reference_config(config, stage)
        is_adapted = bool(stage.reference and stage.lora)
        is_shared = has_ref and teacher == config.model and not is_adapted
        calls = 2 if is_shared else 1
        table.append(Program("score", lower_score(state.model), calls=calls, **loop))
        if has_ref and not is_shared:
            lower = lower_score(build.abstract(teacher, config.compute, mesh))
            table.append(Program("score", lower, use="reference", **loop))
    scored = policy_batch_of(config.model, stage, *size, old=has_old, ref=has_ref)
    scored = on_mesh(scored, config, mesh)
    lower = lower_on_mesh(mesh, lambda: update.lower(state, scored))
    table.append(Program("update", lower, calls=stage.updates_per_rollout, **loop))
    return table
