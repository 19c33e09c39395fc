"""Every program of a run in one table: a jitted function with the shapes and shardings it is given.

A run calls these functions; `--dry_run` compiles them for a slice that is not there; a test holds a
run to what stands here. Nothing is allocated: arguments are `jax.ShapeDtypeStruct`s on a mesh.

    for program in programs.of_stage(config, "grpo", mesh, tokenizer.banned_token_ids):
        program.lower().compile()
"""

import dataclasses

import jax

from r1v3_jax.config import GRPO, SFT, Run
from r1v3_jax.data.abstract import batch_of, on_mesh
from r1v3_jax.models import build
from r1v3_jax.rollout.programs import _batch_of, _of_rollout
from r1v3_jax.run.program import Program, _in
from r1v3_jax.sampling.params import Sampling
from r1v3_jax.sharding import shard_bytes
from r1v3_jax.stages import grpo, sft
from r1v3_jax.train.optimizer import trainable
from r1v3_jax.train.policy_batch import policy_batch_of
from r1v3_jax.train.update import _state


def of_stage(config: Run, stage: str, mesh, banned: tuple[int, ...]) -> list[Program]:
    """The programs of one step of a stage, in the order in which they run.

    banned: `Tokenizer.banned_token_ids`, which the sampler is compiled with.
    """
    with jax.set_mesh(mesh):
        stage_config = getattr(config, stage)
        if isinstance(stage_config, GRPO):
            return _of_grpo(config, stage_config, mesh, banned)
        return _of_sft(config, stage_config, mesh)


def _of_sft(config: Run, stage: SFT, mesh) -> list[Program]:
    batch = batch_of(config.model, stage.rows, stage.row_tokens, stage.tiles, stage.accumulate)
    batch = on_mesh(batch, config, mesh)
    model, learns = build.abstract(config.model, config.compute, mesh), trainable
    optimizer, update = sft.make_update(stage)
    state = _state(model, optimizer, learns(stage.trainable), mesh)
    programs = [Program("update", _in(mesh, lambda: update.lower(state, batch)))]
    if stage.validate_every:
        lower = _in(mesh, lambda: sft.validation_loss.lower(model, batch))
        resident = shard_bytes(state) - shard_bytes(model)
        programs.append(Program("validation_loss", lower, calls=0, resident=resident))
    return programs


def _of_grpo(config: Run, stage: GRPO, mesh, banned: tuple[int, ...]) -> list[Program]:
    model = build.abstract(config.model, config.compute, mesh)
    optimizer, update = grpo.make_update(stage)
    state = _state(model, optimizer, trainable(stage.trainable), mesh)
    scored = grpo.needs_old_logprobs(stage)
    columns = {"old": scored, "ref": bool(stage.kl_coef)}
    weights = shard_bytes(model)
    reference = weights if stage.kl_coef else 0
    kept = shard_bytes(state) + reference
    how = Sampling(stage.max_completion_tokens, stage.temperature, banned=banned)
    loop = {"trips": stage.accumulate, "trip": "micro-batch"}

    def sampled(length: int, tiles: int) -> list[Program]:
        return _of_rollout(
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
            batch = on_mesh(policy_batch_of(config.model, stage, length, tiles), config, mesh)
            how_scored = stage.temperature, stage.prompt_parts
            lower = _in(mesh, lambda: grpo.score.lower(model, batch, *how_scored))
            calls, beside = 2 if stage.kl_coef else 1, kept - weights + ahead
            out.append(Program("score", lower, calls=calls, resident=beside, **loop))
        policy = policy_batch_of(config.model, stage, length, tiles, **columns)
        policy = on_mesh(policy, config, mesh)
        lower = _in(mesh, lambda: update.lower(state, policy))
        calls, beside = stage.updates_per_rollout, reference + ahead
        return [*out, Program("update", lower, calls=calls, resident=beside, **loop)]

    if stage.evaluate_every:  # `grpo.Prober`
        probe = _of_rollout(
            config, mesh, how, **_batch_of(config.evaluate),
            max_prompt_tokens=stage.max_prompt_tokens, resident=kept + ahead,
        )  # fmt: skip
        # A probe is of the weights as they are.
        probe = probe if stage.rollout_int8 else probe[1:]
        out += [dataclasses.replace(p, use="probe", calls=0) for p in probe]
    out += learnt(*full)
    for length, tiles in stage.buckets:  # the weights are laid out once
        small = [*sampled(length, tiles)[1:], *learnt(length, tiles)]
        out += [dataclasses.replace(p, size=f"{length}x{tiles}", calls=0) for p in small]
    return out
