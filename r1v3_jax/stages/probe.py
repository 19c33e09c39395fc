"""A fixed set of questions that the checkpoints of GRPO are measured on, and the choice of one."""

import dataclasses

from absl import logging

from r1v3_jax.config import GRPO
from r1v3_jax.evaluate import accuracy, critical_tokens, selection
from r1v3_jax.losses.schedules import value
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.helpers import Asked
from r1v3_jax.rollout.sampler import GroupSampler
from r1v3_jax.run.checkpoints import States
from r1v3_jax.run.context import Context
from r1v3_jax.sampling.params import SamplingParams
from r1v3_jax.stages.samples import SampleWriter
from r1v3_jax.train.update import TrainState

WRITTEN = 32  # questions of the probe whose answers are written down each time


def make_sampler(
    context: Context, config: GRPO, helpers: tuple[Asked, ...] = ()
) -> GroupSampler:
    """Returns the sampler of a stage's rollouts, with the helpers of its reward.

    A temperature that moves comes with each step (`StepInfo`); without one, as for the probe, it is
    that of the stage's end.
    """
    return GroupSampler(
        processor=context.processor,
        sampling=SamplingParams(
            max_tokens=config.max_completion_tokens,
            temperature=value(config.temperature, progress=1.0),
            banned=context.processor.tokenizer.banned_token_ids,
        ),
        max_prompt_tokens=config.max_prompt_tokens,
        tiles=config.tiles,
        group_size=config.group_size,
        verify=context.run.verify,
        data=context.run.data,
        reward=config.reward,
        slots=config.slots,
        buckets=config.buckets,
        helpers=helpers,
    )


class Probe:
    """Measures checkpoints on the probe set, and chooses one of them.

    Sampled as in training, but always with the weights as they are, never in 8 bits.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        config: GRPO,
        checkpoints: list[dict],
        writer: SampleWriter,
    ):
        self.context = context
        self.config = config
        self.settings = context.run.evaluate
        self.checkpoints = checkpoints  # measured so far; grows
        self.writer = writer
        self.candidates = context.states(name, "candidates", keep=1)
        self.sequences = critical_tokens.critical_sequences(
            context.processor.tokenizer, self.settings.critical_words
        )
        self.sampler = dataclasses.replace(
            make_sampler(context, config),
            group_size=1,
            slots=self.settings.slots,
            tiles=self.settings.tiles,
            buckets=(),
        )

    def is_due(self, step: int) -> bool:
        """Whether the policy is measured after `step`: every so often, and at the end."""
        every = self.config.evaluate_every
        done = step + 1
        return bool(every) and (done % every == 0 or done == self.config.steps)

    def measure(self, step: int, model: R1V3) -> dict[str, float]:
        """Measures the model after `step`, and keeps its weights while they may be chosen."""
        groups = accuracy.sample_groups(
            self.sampler,
            model,
            self.settings.probe,
            self.settings.probe_questions,
            self.settings.batch,
            self.context.key("probe"),
            whole=WRITTEN,
        )
        self.writer.write_probe(step, groups[:WRITTEN])
        measured = {"accuracy": accuracy.accuracy(groups), **self.entropies(groups)}
        # The weights are kept while they may be chosen: `candidates` removes the others.
        self.checkpoints.append({"step": step + 1, **measured})
        self.candidates.chosen = selection.selectable(self.checkpoints)
        self.candidates.save(step + 1, model, measured)
        return {
            "eval/accuracy": measured["accuracy"]["mean"],
            "eval/critical_entropy": measured["critical_entropy"],
        }

    def entropies(self, groups: list[Group]) -> dict[str, float]:
        """Returns the entropies of sampled tokens, and of those where a critical word begins."""
        return critical_tokens.entropies(
            groups, self.sequences, self.settings.high_entropy
        )

    def choose(self, state: TrainState) -> tuple[R1V3, dict]:
        """Returns the weights of the chosen checkpoint, and why it was chosen.

        state: after the last step. It is chosen if no checkpoint was measured.
        """
        self.candidates.wait()
        if not self.checkpoints:
            return state.model, {
                "checkpoints": [],
                "chosen_step": self.config.steps,
                "why": "the last step: none was measured",
            }
        model, chosen_step, why = choose(
            self.checkpoints,
            self.settings.select_by,
            self.candidates,
            state,
            last_step=self.config.steps,
        )
        return model, {
            "checkpoints": self.checkpoints,
            "chosen_step": chosen_step,
            "why": why,
            "rank_correlation": selection.correlation(self.checkpoints),
        }


def choose(
    checkpoints: list[dict],
    select_by: str,
    candidates: States,
    state: TrainState,
    last_step: int,
) -> tuple[R1V3, int, str]:
    """Returns the weights of the best checkpoint that can be read, its step, and why it is best."""
    # The last step's weights are in `state`; those of earlier steps are read from the disk.
    readable = checkpoints
    while True:
        best, why = selection.select(readable, select_by)
        if best["step"] == last_step:
            return state.model, last_step, why
        try:
            model, _ = candidates.restore(best["step"], state.model)
            return model, best["step"], why
        except ValueError as error:
            # It was damaged after it was saved: the next best is taken.
            logging.warning("%s; passed over", error)
            readable = [c for c in readable if c is not best]
