"""Accuracy on the held-out sets of a run, with any thinking mode, also without images."""

from pathlib import Path

import numpy as np

from r1v3_jax.evaluate import accuracy
from r1v3_jax.evaluate.thinking import asking
from r1v3_jax.files import write_jsonl
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.processing.processor import Processor, Tiles
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.run.context import Context
from r1v3_jax.run.preemption import leave_if_preempted
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.types import Example


def accuracies(
    context: Context,
    model: R1V3,
    processor_class: type[Processor] = Processor,
    *,
    verdicts: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Returns the accuracy on each set of the run, and on the sets pooled, by name.

    verdicts: a file for the verdicts of each question, a line each: {"set", "id", "right": [true,
    ...], "credit": [1.0, ...]}.
    """
    config = context.run.evaluate
    sampler = _sampler(context, processor_class)
    groups = {}
    for name, source in config.sets:
        # The stage before is saved. The sets of a preempted run are done again.
        leave_if_preempted("the stage before")
        key = context.key("evaluate")
        groups[name] = accuracy.sample_groups(
            sampler, model, source, config.questions, config.batch, key
        )
        context.compiles.after("evaluate")
    if verdicts is not None:
        rows = [
            {"set": name, **row}
            for name, answered in groups.items()
            for row in accuracy.verdicts(answered)
        ]
        write_jsonl(verdicts, rows)
    for name, parts in config.pooled:
        groups[name] = [group for part in parts for group in groups[part]]
    return {
        name: {**accuracy.accuracy(samples), **accuracy.unseen(samples)}
        for name, samples in groups.items()
    }


def _sampler(context: Context, processor_class: type[Processor]) -> GroupSampler:
    """Returns a sampler of the answers to each question, in the thinking mode of the config."""
    config = context.run.evaluate
    asked = asking(context.processor.tokenizer, config.thinking, config.critical_words)
    tokenizer = asked.tokenizer
    think_end = tokenizer.closing("</think>") if config.thinking_tokens else ()
    sampling = SamplingParams(
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        banned=asked.banned,
        banned_sequences=asked.banned_sequences,
        thinking_tokens=config.thinking_tokens,
        think_end=think_end,
    )
    prefill_tokens = len(tokenizer.encode_text(asked.prefill))
    return GroupSampler(
        processor=processor_class(context.processor.config, tokenizer, asked.prefill),
        sampling=sampling,
        max_prompt_tokens=config.max_prompt_tokens + prefill_tokens,
        tiles=config.tiles,
        group_size=config.samples,
        verify=context.run.verify,
        thinking=config.thinking != "no_think",
        data=context.run.data,
        slots=config.slots,
    )


class NoiseProcessor(Processor):
    """Encodes noise in place of every image, always the same noise for an example."""

    def tiles(self, example: Example) -> Tiles:
        counts = super().tiles(example).counts
        seed = np.frombuffer(example.id.encode(), np.uint8)

        def write_noise(out: np.ndarray) -> None:
            rng = np.random.default_rng(seed)
            out[:] = rng.normal(size=out.shape)

        return Tiles(counts, self.config.vision.image_size, write_noise)


def accuracy_without_images(context: Context, model: R1V3) -> dict:
    """Returns accuracies with the images replaced by noise: what the questions alone give away."""
    return accuracies(context, model, NoiseProcessor)
