"""The programs of a rollout with the shapes they get, for the dry run: no array is allocated.

`Sampler.snapshots` calls them in this order: encode_images, prefill, decode; before them the
weights are laid out for decoding by reshard. Of prompts that are under way through several steps,
`InFlight` calls exchange in place of prefill.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Evaluate, ModelConfig, Run
from r1v3_jax.data import placement
from r1v3_jax.data.abstract import prompt_batch_of, with_shardings
from r1v3_jax.models import build
from r1v3_jax.models.draft_head import DraftHead
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rollout.texts import encode_images
from r1v3_jax.run.program import Program, concrete, lower_on_mesh
from r1v3_jax.sampling.carry import empty, exchange
from r1v3_jax.sampling.loop import decode, prefill
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sampling.state import DecodeState
from r1v3_jax.sharding import shard_bytes
from r1v3_jax.types import PromptBatch


def evaluation_programs(config: Run, mesh, banned: tuple[int, ...]) -> list[Program]:
    """Returns the programs of one batch of held-out questions."""
    evaluate = config.evaluate
    with jax.set_mesh(mesh):
        model = build.abstract(config.model, config.compute, mesh)
        sizes = question_batch(evaluate) | {"group_size": evaluate.samples}
        return rollout_programs(
            config,
            mesh,
            SamplingParams(evaluate.max_tokens, evaluate.temperature, banned=banned),
            max_prompt_tokens=evaluate.max_prompt_tokens,
            resident=shard_bytes(model),
            **sizes,
        )


def question_batch(evaluate: Evaluate) -> dict[str, int]:
    """Returns the sizes of a batch of questions with one answer each, for `rollout_programs`."""
    return {
        "prompts": evaluate.batch,
        "group_size": 1,
        "slots": evaluate.slots,
        "tiles": evaluate.tiles,
    }


def rollout_programs(
    config: Run,
    mesh,
    sampling: SamplingParams,
    *,
    prompts: int,
    group_size: int,
    slots: int,
    max_prompt_tokens: int,
    tiles: int,
    resident: int,
    int8: bool = False,
    moving_temperature: bool = False,
    answering: ModelConfig | None = None,
    images: bool = True,
    trained: R1V3 | None = None,
    carried: dict[str, int] | None = None,
) -> list[Program]:
    """Returns what a rollout calls, in order.

    answering: the model that is sampled; None: that of the run. images: whether prompts have them.
    moving_temperature: whether `decode` is given the temperature as an array.
    resident: bytes on a chip beside the programs' own arguments, as the trained weights.
    trained: its weights as they are trained, in shapes, where they are not plain. carried: sizes of
    the state of prompts under way through several steps (`in_flight.state_sizes`); None: a rollout
    is begun and ended in its step.
    """
    # 1. The weights as they are trained, and as they are laid out for decoding.
    if trained is None:
        trained = build.abstract(answering or config.model, config.compute, mesh)
    model = abstract_for_decoding(trained, int8, mesh)

    # 2. The prompts and what is computed of them.
    size = (prompts, max_prompt_tokens, tiles)
    batch, embeddings = abstract_prompts(model, size, mesh, images=images)
    prompt_args = (batch.tokens, batch.lengths, embeddings, batch.image_index)
    settings = {"group_size": group_size, "sampling": sampling}
    if carried:
        arrival = exchange_of(model, prompt_args, carried, mesh, **settings)
    else:
        arrival = prefill_of(model, prompt_args, mesh, slots=slots, **settings)
    state = arrival.state

    # 3. The programs.
    programs = [
        Program(
            "reshard",
            lower_on_mesh(
                mesh, lambda: build.reshard.lower(*reshard_args(trained, int8))
            ),
            resident=resident - shard_bytes(trained) + arrival.standing,
        )
    ]
    if embeddings is not None:
        lower = lower_on_mesh(mesh, lambda: encode_images.lower(model, batch.tiles))
        programs.append(
            Program("encode_images", lower, resident=resident + arrival.standing)
        )
    programs.append(Program(arrival.name, arrival.lower, resident=resident))
    program = decode_of(model, state, mesh, sampling, moving_temperature)
    # With 32 samples in 8 slots the loop runs at most 4 times as long as one sample.
    samples = prompts * group_size
    rounds = -(-samples // (slots or samples))
    given = arrival.standing or shard_bytes((model, state))
    programs.append(
        dataclasses.replace(
            program, trips=rounds * program.trips, resident=resident, given=given
        )
    )
    return programs


def decode_of(
    model: R1V3,
    state: DecodeState,
    mesh,
    sampling: SamplingParams,
    moving_temperature: bool,
    head: DraftHead | None = None,
) -> Program:
    """Returns `decode` of a state in shapes; head: that guesses, laid out for decoding."""
    key = concrete(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    bound = concrete(jax.ShapeDtypeStruct((), jnp.int32), mesh)
    temperature = None
    if moving_temperature:
        temperature = concrete(jax.ShapeDtypeStruct((), jnp.float32), mesh)
    # Two bounds: tokens allowed in a completion, and how many samples must be finished.
    args = (model, state, key, bound, bound, temperature, head)
    return Program(
        "decode",
        lower_on_mesh(mesh, lambda: decode.lower(*args, sampling=sampling)),
        trips=sampling.max_tokens,
        trip="token with a full cache" if head is None else "pass with a full cache",
    )


def guessing_programs(
    mesh,
    sampling: SamplingParams,
    *,
    head: DraftHead,
    trained: R1V3,
    size: tuple[int, int, int],
    group_size: int,
    slots: int,
    int8: bool,
    moving_temperature: bool,
    resident: int,
) -> list[Program]:
    """Returns what a rollout with guesses calls in place of, or beside, one without.

    head: as it is trained, in shapes. size: prompts, tokens that they are padded to, tile slots.
    The other arguments are those of `rollout_programs`. The loop of `decode` runs as often as if no
    guess were right.
    """
    # 1. The head as it is laid out for decoding.
    layout = (nnx.state(head), build.decode_compute(trained.compute))
    guessing = abstract_head_for_decoding(head, mesh)
    programs = [
        Program("reshard", lower_on_mesh(mesh, lambda: build.reshard.lower(*layout)))
    ]

    # 2. Prompts, whose last hidden states are kept, and their samples.
    model = abstract_for_decoding(trained, int8, mesh)
    has_images = model.config.vision is not None
    batch, embeddings = abstract_prompts(model, size, mesh, images=has_images)
    prompt_args = (batch.tokens, batch.lengths, embeddings, batch.image_index)
    settings = {"group_size": group_size, "slots": slots, "sampling": sampling}
    arrival = prefill_of(model, prompt_args, mesh, drafts=True, **settings)
    programs.append(Program(arrival.name, arrival.lower))
    state = arrival.state
    program = decode_of(model, state, mesh, sampling, moving_temperature, guessing)
    samples = size[0] * group_size
    rounds = -(-samples // (slots or samples))
    programs.append(dataclasses.replace(program, trips=rounds * program.trips))
    return [
        dataclasses.replace(p, use="drafts", calls=0, resident=resident)
        for p in programs
    ]


def abstract_head_for_decoding(head: DraftHead, mesh) -> DraftHead:
    """Returns the shapes of a head as it is laid out for decoding; head: as it is trained."""
    compute = build.decode_compute(head.compute)
    weights = jax.eval_shape(lambda w: build.reshard(w, compute), nnx.state(head))
    laid_out = build.abstract_head(head.config, compute, head.tokens)
    return nnx.merge(nnx.graphdef(laid_out), concrete(weights, mesh))


def abstract_prompts(
    model: R1V3, size: tuple[int, int, int], mesh, *, images: bool
) -> tuple[PromptBatch, jax.ShapeDtypeStruct | None]:
    """Returns the shapes of prompts, and of their images' embeddings if they have images.

    size: prompts, tokens that they are padded to, and tile slots.
    """
    batch = prompt_batch_of(model.config, *size)
    if not images:
        batch = dataclasses.replace(batch, tiles=None, image_index=None)
    specs = placement.specs(batch, model.compute.rules, mesh)
    batch = with_shardings(batch, specs, mesh)
    embeddings = None
    if batch.tiles is not None:
        embeddings = jax.eval_shape(encode_images, model, batch.tiles)
        embeddings = concrete(embeddings, mesh)
    return batch, embeddings


@dataclasses.dataclass(frozen=True)
class Arrival:
    """The program by which prompts come to be sampled, and the state that it returns, in shapes."""

    name: str
    lower: Callable[[], jax.stages.Lowered]
    state: DecodeState
    standing: int  # bytes of it on a chip, if it stands from step to step


def prefill_of(model: R1V3, prompt_args: tuple, mesh, **static) -> Arrival:
    """Returns how the prompts of a rollout come in."""
    state = jax.eval_shape(
        lambda model, *args: prefill(model, *args, **static), model, *prompt_args
    )
    lower = lower_on_mesh(mesh, lambda: prefill.lower(model, *prompt_args, **static))
    return Arrival("prefill", lower, concrete(state, mesh), standing=0)


def exchange_of(
    model: R1V3, prompt_args: tuple, sizes: dict[str, int], mesh, **static
) -> Arrival:
    """Returns how prompts come to others that are under way; sizes: of the state of all."""
    sampling = static["sampling"]
    state = jax.eval_shape(
        lambda model: empty(model, sampling=sampling, **sizes), model
    )
    state = concrete(state, mesh)
    first = concrete(jax.ShapeDtypeStruct((), jnp.int32), mesh)
    args = (model, state, *prompt_args, first)
    lower = lower_on_mesh(mesh, lambda: exchange.lower(*args, **static))
    return Arrival("exchange", lower, state, standing=shard_bytes(state))


def reshard_args(trained: R1V3, int8: bool) -> tuple:
    """Returns the arguments that `for_decoding` calls `reshard` with."""
    compute = build.decode_compute(trained.compute)
    return nnx.state(trained), compute, int8, trained.adapters


def abstract_for_decoding(trained: R1V3, int8: bool, mesh) -> R1V3:
    """Returns the shapes of a model as it is laid out for decoding; trained: as it is trained."""
    before, *layout = reshard_args(trained, int8)
    weights = jax.eval_shape(lambda w: build.reshard(w, *layout), before)
    compute = build.decode_compute(trained.compute)
    model = build.abstract(trained.config, compute, mesh)
    return nnx.merge(nnx.graphdef(model), concrete(weights, mesh))
