"""Asks a checkpoint of ours the questions of a source; chains and pass rates are made of this.

Knows how a run of the config would sample and verify. Does not know what the answers are for.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from r1v3_jax.config import ModelConfig, Run
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import Tokenizer, load
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import GroupSampler, sample
from r1v3_jax.run import weights
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.types import Example


def answering_tokenizer(
    config: Run, directory: str | Path, model: ModelConfig
) -> Tokenizer:
    """Loads the tokenizer of another checkpoint, to ask its model as the run asks its own.

    Its chat has the run's system turn and opening, so that its answers fit into the run's.
    ValueError if the tokenizer has not the tokens that its model needs.
    """
    tokenizer = load(directory, text_only=model.vision is None)
    tokenizer.check_model(model)
    chat = tokenizer.chat.override(config.system, config.opening)
    return dataclasses.replace(tokenizer, chat=chat)


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
    """Asks a checkpoint of ours the first `count` good rows of `source`, `samples` times each.

    Yields (index of the row, its samples), see `rollout.sampler.sample`. The lengths of prompts and
    completions and the tiles of a prompt are those of the config's first stage with rewards.
    """
    # 1. The tokenizer of the checkpoint, with the chat format that the config's GRPO would use.
    grpo = config.rewarded_stage()
    model_config, _ = weights.read_config(directory)
    tokenizer = answering_tokenizer(config, f"{directory}/tokenizer", model_config)

    # 2. The sampler. GRPO has 256 tiles for 64 prompts, say: 4 for each, or 32 for a batch of 8.
    tiles_per_prompt = max(1, grpo.tiles // grpo.prompts)
    sampler = GroupSampler(
        processor=Processor(model_config, tokenizer),
        sampling=SamplingParams(
            max_tokens=grpo.max_completion_tokens,
            temperature=temperature,
            banned=tokenizer.banned_token_ids,
        ),
        max_prompt_tokens=grpo.max_prompt_tokens,
        tiles=batch * tiles_per_prompt,
        group_size=samples,
        verify=config.verify,
        data=config.data,
    )

    # 3. The weights, computed with as in the run, and stored no wider than that: nothing is
    # trained here. The run's attention kernels are for a TPU alone.
    compute = dataclasses.replace(config.compute, param_dtype=config.compute.dtype)
    if jax.default_backend() != "tpu":
        compute = dataclasses.replace(compute, attention="reference")
    model = weights.load_weights(directory, compute=compute)
    return sample(sampler, model, source, count, batch, jax.random.key(seed))
