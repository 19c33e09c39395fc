"""Writes the samples of a step into WORKDIR/rollouts, and a few of them for TensorBoard."""

import io

import numpy as np
from absl import logging

from r1v3_jax.config import GRPO
from r1v3_jax.data.placement import fetch
from r1v3_jax.evaluate.critical_tokens import critical_mask, critical_sequences
from r1v3_jax.files import first_process, write_jsonl
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.record import Learnt, Pictures, json_rows
from r1v3_jax.run.context import Context
from r1v3_jax.run.trackers import ShownSample
from r1v3_jax.stages.loop import Loop
from r1v3_jax.train.policy_batch import of_samples
from r1v3_jax.types import PolicyBatch

SHOWN_GROUPS = 4  # questions of a written step that trackers get, two answers of each
SHOWN_TEXT = 2000  # letters of each of their texts
SHOWN_SIDE = 256  # pixels of a side of their pictures


def shown_samples(groups: list[Group]) -> list[ShownSample]:
    """Returns the best and the worst answer to a few questions, for TensorBoard and the like.

    Questions with different rewards come first. Texts and pictures are cut to a size that a run of
    many steps can afford.
    """
    shown = []
    for group in sorted(groups, key=lambda group: not group.has_signal)[:SHOWN_GROUPS]:
        picture, size = small_picture(group)
        rewards = np.nan_to_num(group.rewards)
        for g in dict.fromkeys([int(rewards.argmax()), int(rewards.argmin())]):
            score = group.scores[g]
            shown.append(
                ShownSample(
                    id=cut(group.example.id),
                    prompt=cut(group.example.question),
                    wanted=cut(group.example.answer),
                    completion=cut(group.texts[g]),
                    verdict=score.verdict.name.lower(),
                    reward=score.total,
                    picture=picture,
                    size=size,
                )
            )
    return shown


def small_picture(group: Group) -> tuple[bytes, tuple[int, int]]:
    """Returns a group's first image as a small file, and its size; nothing if it has none."""
    images = group.example.images
    if not images:
        return b"", (0, 0)
    try:
        image = images[0]
        image = image.decode() if isinstance(image, StoredImage) else image
        image = image.convert("RGB")
    # The file that was there when the question was read may be gone.
    except (OSError, ValueError) as error:
        logging.warning("%s: its image is not shown: %s", group.example.id, error)
        return b"", (0, 0)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue(), image.size


def cut(text: str) -> str:
    """Leaves out the middle of a long text, and what no file of TensorBoard can hold."""
    # Half of a surrogate pair, which a text of the data may have.
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= SHOWN_TEXT:
        return text
    half = SHOWN_TEXT // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} letters]\n{text[-half:]}"


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
        self, step: int, groups: list[Group], batch: PolicyBatch, loop: Loop
    ) -> None:
        """Writes the samples of a step if it is due, with what its update was told.

        The trainer's log-probabilities are there where the step has computed them: nothing is
        computed for the file. All processes must call this at the same moment; the first one
        writes. The images are on the disk before a state that follows them is.
        """
        every = self.config.rollouts_every
        if every and step % every == 0:
            tables = fetch((batch.rows.advantages, batch.rows.old_logprobs))
            if first_process():
                self._write_rows(step, groups, *tables)
                loop.logger.show(step, shown_samples(groups))
        if loop.is_saved(step):
            self.pictures.wait()

    def write_probe(self, step: int, groups: list[Group]) -> None:
        """Writes answers to questions of the probe, by the weights after `step`.

        The same questions each time, in STAGE.probe_STEP.jsonl: no stage can have that name.
        """
        if self.config.rollouts_every and first_process():
            self._write_file(f"{self.stage}.probe", step, groups, learnt=None)

    def _write_rows(self, step: int, groups: list[Group], advantages, old) -> None:
        """Writes the rows; advantages, old: arrays of `SampleRows`, old may be None."""
        advantages = of_samples(advantages, groups, self.config)
        old = (
            [None] * len(groups)
            if old is None
            else of_samples(old, groups, self.config)
        )
        learnt = [Learnt(*arrays) for arrays in zip(advantages, old, strict=True)]
        self._write_file(self.stage, step, groups, learnt)

    def _write_file(
        self, name: str, step: int, groups: list[Group], learnt: list[Learnt] | None
    ) -> None:
        """Writes the rows of a step and their images."""
        images = [self.pictures.save(group) for group in groups]
        path = self.directory / f"{name}_{step:06d}.jsonl"
        rows = json_rows(groups, step=step, learnt=learnt, images=images)
        write_jsonl(path, (self._with_critical(row) for row in rows))

    def _with_critical(self, row: dict) -> dict:
        """Adds the places where a critical word begins, if there are any."""
        mask = critical_mask(np.asarray(row["tokens"], np.int32), self.critical)
        return {**row, "critical": np.flatnonzero(mask)} if mask.any() else row

    def close(self) -> None:
        """Waits for the images."""
        self.pictures.close()
