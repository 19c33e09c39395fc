"""The sets of a run, thinking modes, images as noise."""

import numpy as np

from r1v3_jax.evaluate import accuracy, critical_tokens
from r1v3_jax.models import r1v3
from r1v3_jax.processing.processor import Processor, Tiles
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.run.context import Context
from r1v3_jax.run.preemption import leave_if_preempted
from r1v3_jax.sampling.params import SamplingParams

# An answer that begins so has thought of nothing. (The report leaves `<think>` out of the template
# instead, section 6.2.)
NO_THINKING = "\n</think>\n\n"


def accuracies(
    context: Context, model: r1v3.R1V3, kind: type[Processor] = Processor
) -> dict:
    """Greedy held-out accuracy on every set of the run, and on the sets pooled."""
    config, tokenizer = context.run.evaluate, context.processor.tokenizer
    banned = tokenizer.banned_token_ids
    if config.thinking == "no_wait":
        banned += critical_tokens.critical_tokens(tokenizer, config.critical_words)
    prefill = NO_THINKING if config.thinking == "none" else ""
    sampler = GroupSampler(
        processor=kind(context.processor.config, tokenizer, prefill),
        sampling=SamplingParams(
            max_tokens=config.max_tokens,
            temperature=0.0,
            banned=banned,
            thinking_tokens=config.thinking_tokens,
            think_end=tokenizer.closing("</think>") if config.thinking_tokens else (),
        ),
        max_prompt_tokens=config.max_prompt_tokens
        + len(tokenizer.encode_text(prefill)),
        tiles=config.tiles,
        group_size=1,
        verify=context.run.verify,
        data=context.run.data,
        slots=config.slots,
    )
    groups = {}
    for name, source in config.sets:
        leave_if_preempted("the stage before")
        groups[name] = accuracy.sample_groups(
            sampler,
            model,
            source,
            config.questions,
            config.batch,
            context.key("evaluate"),
        )
        context.compiles.after("evaluate")
    for name, parts in config.pooled:
        groups[name] = [group for part in parts for group in groups[part]]
    return {name: accuracy.accuracy(mine) for name, mine in groups.items()}


class NoiseProcessor(Processor):
    """Encodes noise in the place of every image, always the same for an example."""

    def tiles(self, example):
        counts, size = super().tiles(example).counts, self.config.vision.image_size

        def noise(out: np.ndarray) -> None:
            rng = np.random.default_rng(np.frombuffer(example.id.encode(), np.uint8))
            out[:] = rng.normal(size=out.shape)

        return Tiles(counts, size, noise)


def accuracy_without_images(context: Context, model: r1v3.R1V3) -> dict:
    """Accuracy with the images replaced by noise: what the questions alone give away."""
    return accuracies(context, model, NoiseProcessor)
