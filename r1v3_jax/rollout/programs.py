"""Reshard, encode_images, prefill, decode, for the dry run."""

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Evaluate, Run
from r1v3_jax.data import placement
from r1v3_jax.data.abstract import prompt_batch_of, with_shardings
from r1v3_jax.models import build
from r1v3_jax.rollout import sampler
from r1v3_jax.run.program import Program, concrete, lower_on_mesh
from r1v3_jax.sampling import loop
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.sharding import shard_bytes


def of_evaluation(config: Run, mesh, banned: tuple[int, ...]) -> list[Program]:
    """The programs of one batch of held-out questions."""
    evaluate: Evaluate = config.evaluate
    with jax.set_mesh(mesh):
        return rollout_programs(
            config, mesh, SamplingParams(evaluate.max_tokens, 0.0, banned=banned),
            max_prompt_tokens=evaluate.max_prompt_tokens, **question_batch(evaluate),
            resident=shard_bytes(build.abstract(config.model, config.compute, mesh)),
        )  # fmt: skip


def question_batch(evaluate: Evaluate) -> dict[str, int]:
    """The sizes of a batch of questions."""
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
) -> list[Program]:
    """`rollout.Sampler.snapshots`, program by program, beside `resident` bytes."""
    trained = nnx.state(build.abstract(config.model, config.compute, mesh))
    compute = build.decode_compute(config.compute)
    weights = jax.eval_shape(lambda w: build.reshard(w, compute, int8), trained)
    model = build.abstract(config.model, compute, mesh)
    model = nnx.merge(nnx.graphdef(model), concrete(weights, mesh))
    with_images = config.model.vision is not None
    batch = prompt_batch_of(config.model, prompts, max_prompt_tokens, tiles)
    batch = with_shardings(batch, placement.specs(batch, compute.rules), mesh)
    images = None
    if with_images:
        images = concrete(
            jax.eval_shape(sampler.encode_images, model, batch.tiles), mesh
        )
    static = {"group_size": group_size, "slots": slots, "sampling": sampling}
    asked = (batch.tokens, batch.lengths, images, batch.image_index)
    state = concrete(
        jax.eval_shape(lambda m, *a: loop.prefill(m, *a, **static), model, *asked), mesh
    )
    key = concrete(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    bound = concrete(jax.ShapeDtypeStruct((), jnp.int32), mesh)
    reshard = lower_on_mesh(mesh, lambda: build.reshard.lower(trained, compute, int8))
    out = [Program("reshard", reshard, resident=resident - shard_bytes(trained))]
    if with_images:
        lower = lower_on_mesh(
            mesh, lambda: sampler.encode_images.lower(model, batch.tiles)
        )
        out.append(Program("encode_images", lower, resident=resident))
    prefill = lower_on_mesh(mesh, lambda: loop.prefill.lower(model, *asked, **static))
    asked_of_decode = (model, state, key, bound, bound)
    decode = lower_on_mesh(
        mesh, lambda: loop.decode.lower(*asked_of_decode, sampling=sampling)
    )
    samples = prompts * group_size
    rounds = -(-samples // (slots or samples))
    return [
        *out,
        Program("prefill", prefill, resident=resident),
        Program(
            "decode",
            decode,
            trips=rounds * sampling.max_tokens,
            trip="token with a full cache",
            resident=resident,
            given=shard_bytes((model, state)),
        ),
    ]
