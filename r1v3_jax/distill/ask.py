"""A checkpoint asked the questions of a source."""

import dataclasses
from collections.abc import Callable, Iterator

import jax

from r1v3_jax.config import Run
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import GroupSampler, sample
from r1v3_jax.run import weights
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.types import Example


def ask(
    config: Run,
    directory: str,
    source: Callable[[int], Example],
    count: int,
    *,
    samples: int,
    batch: int,
    temperature: float,
    seed: int,
) -> Iterator[tuple[int, Group]]:
    """What a checkpoint of ours says to the first `count` good rows of `source`, `samples` times
    each, with the room of `config.grpo`; see `rollout.sample`.
    """
    grpo = config.stage_named("grpo")
    described, _ = weights.read_config(directory)
    tokenizer = load(f"{directory}/tokenizer", text_only=described.vision is None)
    tokenizer.check_model(described)
    chat = tokenizer.chat.override(config.system, config.opening)  # as GRPO would ask
    tokenizer = dataclasses.replace(tokenizer, chat=chat)
    sampler = GroupSampler(
        processor=Processor(described, tokenizer),
        sampling=SamplingParams(
            max_tokens=grpo.max_completion_tokens,
            temperature=temperature,
            banned=tokenizer.banned_token_ids,
        ),
        max_prompt_tokens=grpo.max_prompt_tokens,
        tiles=batch * max(1, grpo.tiles // grpo.prompts),
        group_size=samples,
        verify=config.verify,
        data=config.data,
    )
    # As the run computes, and no weight wider than that; its kernels are for a TPU alone.
    compute = dataclasses.replace(config.compute, param_dtype=config.compute.dtype)
    if jax.default_backend() != "tpu":
        compute = dataclasses.replace(compute, attention="reference")
    model = weights.load_weights(directory, compute=compute)
    return sample(sampler, model, source, count, batch, jax.random.key(seed))
