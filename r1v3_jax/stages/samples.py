"""Writes the samples that a step has learnt from into WORKDIR/rollouts."""

import numpy as np

from r1v3_jax.config import GRPO
from r1v3_jax.data.placement import fetch
from r1v3_jax.evaluate.critical_tokens import critical_mask, critical_sequences
from r1v3_jax.files import first_process, write_jsonl
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.record import Learnt, Pictures, json_rows
from r1v3_jax.run.context import Context
from r1v3_jax.train.policy_batch import of_samples
from r1v3_jax.types import PolicyBatch


class SampleWriter:
    """Writes samples, and the images they are about, every `rollouts_every` steps."""

    def __init__(self, context: Context, stage: str, config: GRPO):
        self.directory = context.workdir / "rollouts"
        self.stage = stage
        self.config = config
        self.pictures = Pictures(self.directory)
        words = context.run.evaluate.critical_words
        self.critical = critical_sequences(context.processor.tokenizer, words)

    def write(
        self, step: int, groups: list[Group], batch: PolicyBatch, *, wait: bool
    ) -> None:
        """Writes the samples of a step if it is due, with what its update was told.

        The trainer's log-probabilities are there where the step has computed them: nothing is
        computed for the file. All processes must call this at the same moment; the first one
        writes. wait: until the images are on the disk, before a state that follows them is.
        """
        every = self.config.rollouts_every
        if every and step % every == 0:
            tables = fetch((batch.rows.advantages, batch.rows.old_logprobs))
            if first_process():
                self._write_rows(step, groups, *tables)
        if wait:
            self.pictures.wait()

    def _write_rows(self, step: int, groups: list[Group], advantages, old) -> None:
        """Writes the rows; advantages, old: arrays of `SampleRows`, old may be None."""
        advantages = of_samples(advantages, groups, self.config)
        old = (
            [None] * len(groups)
            if old is None
            else of_samples(old, groups, self.config)
        )
        learnt = [Learnt(*arrays) for arrays in zip(advantages, old, strict=True)]
        images = [self.pictures.save(group) for group in groups]
        path = self.directory / f"{self.stage}_{step:06d}.jsonl"
        rows = json_rows(groups, step=step, learnt=learnt, images=images)
        write_jsonl(path, (self._with_critical(row) for row in rows))

    def _with_critical(self, row: dict) -> dict:
        """Adds the places where a critical word begins, if there are any."""
        mask = critical_mask(np.asarray(row["tokens"], np.int32), self.critical)
        return {**row, "critical": np.flatnonzero(mask)} if mask.any() else row

    def close(self) -> None:
        """Waits for the images."""
        self.pictures.close()
