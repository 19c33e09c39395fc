"""A checkpoint measured during GRPO, and the choice of one."""

import dataclasses

from absl import logging

from r1v3_jax.config import GRPO
from r1v3_jax.evaluate import accuracy, critical_tokens, selection
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.run.checkpoints import States
from r1v3_jax.run.context import Context
from r1v3_jax.sampling.params import SamplingParams


def make_sampler(context: Context, config: GRPO) -> GroupSampler:
    return GroupSampler(
        processor=context.processor,
        sampling=SamplingParams(
            max_tokens=config.max_completion_tokens,
            temperature=config.temperature,
            banned=context.processor.tokenizer.banned_token_ids,
        ),
        max_prompt_tokens=config.max_prompt_tokens,
        tiles=config.tiles,
        group_size=config.group_size,
        verify=context.run.verify,
        data=context.run.data,
        slots=config.slots,
        buckets=config.buckets,
    )


class Probe:
    """Measures a checkpoint on the fixed probe set: accuracy and critical-token entropy, sampled as
    in training, but always by the weights as they are.
    """

    def __init__(self, context: Context, config: GRPO):
        self.context, self.config = context, context.run.evaluate
        self.sequences = critical_tokens.critical_sequences(
            context.processor.tokenizer, self.config.critical_words
        )
        self.sampler = dataclasses.replace(
            make_sampler(context, config),
            group_size=1,
            slots=self.config.slots,
            tiles=self.config.tiles,
            buckets=(),
        )

    def measure(self, model: R1V3) -> dict:
        groups = accuracy.sample_groups(
            self.sampler,
            model,
            self.config.probe,
            self.config.probe_questions,
            self.config.batch,
            self.context.key("probe"),
        )
        entropies = critical_tokens.entropies(
            groups, self.sequences, self.config.high_entropy
        )
        return {"accuracy": accuracy.accuracy(groups), **entropies}


def choose(
    context: Context, config: GRPO, state, candidates: States, checkpoints: list[dict]
):
    """The weights of the selected checkpoint (without candidates: the last), and the account of the
    choice.
    """
    if not checkpoints:
        return state.model, {
            "checkpoints": [],
            "chosen_step": config.steps,
            "why": "the last step: none was measured",
        }
    left, model = checkpoints, None
    while model is None:
        chosen, why = selection.select(left, context.run.evaluate.select_by)
        if chosen["step"] == config.steps:
            model = state.model
            break
        try:
            model, _ = candidates.restore(chosen["step"], state.model)
        except ValueError as error:  # damaged since: the next best will do
            logging.warning("%s; passed over", error)
            left = [c for c in left if c is not chosen]
    return model, {
        "checkpoints": checkpoints,
        "chosen_step": chosen["step"],
        "why": why,
        "rank_correlation": selection.correlation(checkpoints),
    }
