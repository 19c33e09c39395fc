"""The helpers of a stage's reward: loaded, checked, and counted in the dry run."""

import dataclasses

import jax
import jax.numpy as jnp

from r1v3_jax.config import GRPO, Collect, ModelConfig, Run
from r1v3_jax.data.abstract import batch_of, on_mesh
from r1v3_jax.distill.ask import answering_tokenizer
from r1v3_jax.models import build
from r1v3_jax.models.build import for_decoding
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer_files import tokenizer_of
from r1v3_jax.rewards.helpers import Consistent, Frozen, StepScores, asking_terms
from r1v3_jax.rewards.reward import name_of
from r1v3_jax.rollout.frozen import FrozenAnswers
from r1v3_jax.rollout.helpers import Asked, endpoint_answers
from r1v3_jax.rollout.programs import rollout_programs
from r1v3_jax.rollout.texts import Sampler
from r1v3_jax.run.context import Context
from r1v3_jax.run.program import Program, concrete, lower_on_mesh
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import abstract_mesh, shard_bytes
from r1v3_jax.stages.reference import checkpoint_config, is_ours, load_checkpoint
from r1v3_jax.stages.step_scores import FrozenScores, marks, step_scores

Rewarded = GRPO | Collect


def make_helpers(context: Context, stage: Rewarded) -> tuple[Asked, ...]:
    """Returns the helpers of a stage's reward, with their weights on the current mesh.

    FileNotFoundError or ValueError for one that cannot answer: those of stages are there now.
    """
    check_helpers(context.run, stage, all_there=True)
    return tuple(
        Asked(
            term=term,
            weight=weight,
            answer=_answers(context, stage, term),
            verify=context.run.verify,
            is_collective=isinstance(term.helper, Frozen),
        )
        for weight, term in asking_terms(stage.reward)
    )


def _answers(context: Context, stage: Rewarded, term: Consistent | StepScores):
    """Returns what answers for a term: a frozen model, or an endpoint."""
    if not isinstance(term.helper, Frozen):
        return endpoint_answers(term, term.helper)
    directory = term.helper.directory
    config = helper_config(context.run, term.helper)
    model = load_checkpoint(directory, config, context.run.compute)
    tokenizer = answering_tokenizer(context.run, tokenizer_of(directory), config)
    processor = Processor(config, tokenizer)
    if isinstance(term, StepScores):
        return FrozenScores(
            term,
            model,
            processor,
            prompts=stage.prompts,
            rows=scored_rows(context.run, stage),
            room=room(stage),
            tiles=stage.tiles,
        )
    model = for_decoding(model)
    sampler = Sampler(
        processor=processor,
        sampling=sampling(term, tokenizer.banned_token_ids),
        max_prompt_tokens=room(stage),
        tiles=0,
        group_size=1,
    )
    return FrozenAnswers(term, model, sampler, batch=stage.prompts)


def sampling(term: Consistent, banned: tuple[int, ...]) -> SamplingParams:
    """Returns how a frozen helper answers: with its likeliest tokens."""
    return SamplingParams(term.max_tokens, temperature=0.0, banned=banned)


def scored_rows(run: Run, stage: Rewarded) -> int:
    """Returns the rows of a batch whose steps are scored: they split over the devices."""
    shards = run.mesh[0] * run.mesh[1]
    return -(-stage.prompts // shards) * shards


def room(stage: Rewarded) -> int:
    """Returns the tokens that a helper's prompt may have: a question and its thoughts."""
    return stage.max_prompt_tokens + stage.max_completion_tokens


def helper_config(run: Run, helper: Frozen) -> ModelConfig:
    """Returns the dimensions of a frozen helper."""
    # `check_helpers` refuses a directory that is not there. A dry run without data has none: it
    # counts with the model of the run.
    if not helper.directory.is_dir():
        return run.model
    config = checkpoint_config(helper.directory)
    if is_ours(helper.directory):
        return config
    # What no config.json has: the vocabulary is padded as the run's.
    text = dataclasses.replace(
        config.text,
        vocab_multiple=run.model.text.vocab_multiple,
        rope_impl=run.model.text.rope_impl,
    )
    return dataclasses.replace(config, text=text)


def check_helpers(run: Run, stage: Rewarded, *, all_there: bool = False) -> None:
    """Raises FileNotFoundError or ValueError for a helper that cannot answer.

    all_there: whether the stages that helpers come from must be done.
    """
    for _, term in asking_terms(stage.reward):
        if not isinstance(term.helper, Frozen):
            continue
        if term.helper.stage:
            _check_stage(run, stage, term)
        # In a whole run the stage is done before its turn.
        is_made = not all_there and term.helper.stage in run.selected_stages()
        if not is_made or term.helper.directory.is_dir():
            _check_frozen(run, stage, term)


def _check_stage(run: Run, stage: Rewarded, term: Consistent | StepScores) -> None:
    """Raises ValueError unless the stage of a helper comes before `stage`, and has weights."""
    names = list(run.stages)
    own = next(name for name in names if run.stages[name] == stage)
    earlier = [
        name for name in names[: names.index(own)] if run.stages[name].HAS_WEIGHTS
    ]
    if term.helper.stage not in earlier:
        raise ValueError(
            f"the helper of reward term {name_of(term)} is stage {term.helper.stage!r}, which is "
            f"no stage with weights before {own}; choose from "
            f"{', '.join(earlier) or 'none: name a checkpoint'}"
        )


def _check_frozen(run: Run, stage: Rewarded, term: Consistent | StepScores) -> None:
    """Raises FileNotFoundError or ValueError for a checkpoint that is not there or does not fit."""
    directory = term.helper.directory
    where = f"the helper of reward term {name_of(term)}: {directory}"
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{where}: no such directory; run the stage that makes it first, or give a Hugging "
            "Face export or a checkpoint of this program, as RUN/export or RUN/cold_start/done"
        )
    config = helper_config(run, term.helper)
    tokenizer = answering_tokenizer(run, tokenizer_of(directory), config)
    if isinstance(term, StepScores):
        marks(term, Processor(config, tokenizer))
    wanted = room(stage) + getattr(term, "max_tokens", 0)
    if wanted > config.text.max_positions:
        raise ValueError(
            f"{where} has {config.text.max_positions} positions, and max_prompt_tokens + "
            f"max_completion_tokens + those of its answer = {wanted}; a shorter completion "
            "would do"
        )
    # Refuses a mesh that does not divide it.
    mesh = abstract_mesh(run.mesh, slices=run.slices)
    for compute in (run.compute, build.decode_compute(run.compute)):
        build.abstract(config, compute, mesh)


def resident_helpers(run: Run, stage: Rewarded, mesh) -> int:
    """Returns the bytes that the weights of frozen helpers take on a chip, all the time."""
    total = 0
    for _, term in asking_terms(stage.reward):
        if isinstance(term.helper, Frozen):
            # One that writes is laid out for that; one that scores is not.
            is_scorer = isinstance(term, StepScores)
            compute = run.compute if is_scorer else build.decode_compute(run.compute)
            config = helper_config(run, term.helper)
            total += shard_bytes(build.abstract(config, compute, mesh))
    return total


def helper_programs(
    run: Run, stage: Rewarded, mesh, banned: tuple[int, ...], resident: int
) -> list[Program]:
    """Returns the programs of the frozen helpers of a step, with the shapes they get.

    Their weights are laid out once, at the stage's beginning. How often a helper is called depends
    on how many samples are right: at most once for each prompt's sample.
    """
    table = []
    for _, term in asking_terms(stage.reward):
        if not isinstance(term.helper, Frozen):
            continue
        if isinstance(term, StepScores):
            table.append(_scoring_program(run, stage, term, mesh, resident))
            continue
        programs = rollout_programs(
            run,
            mesh,
            sampling(term, banned),
            prompts=stage.prompts,
            group_size=1,
            slots=0,
            tiles=0,
            max_prompt_tokens=room(stage),
            resident=resident,
            answering=helper_config(run, term.helper),
            images=False,
        )
        for program in programs:
            calls = 0 if program.name == "reshard" else _samples(stage)
            of_helper = dataclasses.replace(program, use="helper", calls=calls)
            table.append(dataclasses.replace(of_helper, size=name_of(term)))
    return table


def _scoring_program(
    run: Run, stage: Rewarded, term: StepScores, mesh, resident: int
) -> Program:
    """Returns the program that scores steps, with the shapes it gets."""
    config = helper_config(run, term.helper)
    model = build.abstract(config, run.compute, mesh)
    shapes = batch_of(config, scored_rows(run, stage), room(stage), stage.tiles, 1)
    batch = on_mesh(shapes, run, mesh)
    mark = concrete(jax.ShapeDtypeStruct((), jnp.int32), mesh)
    lower = lower_on_mesh(mesh, lambda: step_scores.lower(model, batch, mark, mark))
    return Program(
        "step_scores",
        lower,
        use="helper",
        size=name_of(term),
        calls=_samples(stage),
        resident=resident - shard_bytes(model),
    )


def _samples(stage: Rewarded) -> int:
    return stage.group_size if isinstance(stage, GRPO) else stage.samples
