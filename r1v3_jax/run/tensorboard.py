"""Writes what a stage logs for TensorBoard: scalars, and texts and pictures of a few samples."""

import contextlib
import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from r1v3_jax.run.trackers import ShownSample


class TensorBoard:
    """Writes scalars STAGE/NAME. Any failure is warned of once and never stops a run.

    It writes in the caller's thread: tensorboardX.SummaryWriter passes events to a thread through a
    queue of ten, and when that thread has died of a full disk, `add_scalar` soon waits for ever.
    """

    def __init__(self, directory: Path, stage: str, resume_step: int):
        self.stage = stage
        self.writer = None
        with self._harmless():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import SessionLog

            # A directory a stage: a restart is announced below by its step, for all tags of one.
            (directory / stage).mkdir(parents=True, exist_ok=True)
            prefix = str(directory / stage / "events")
            self.writer = EventsWriter(prefix, filename_suffix=f".{resume_step}")
            self._write(
                step=resume_step, session_log=SessionLog(status=SessionLog.START)
            )

    def log(self, step: int, values: dict[str, float | int]) -> None:
        if self.writer is None:
            return
        with self._harmless():
            from tensorboardX.proto.summary_pb2 import Summary

            # TensorBoard has no place for nan and infinities.
            scalars = [
                Summary.Value(tag=f"{self.stage}/{key}", simple_value=values[key])
                for key in sorted(values)
                if math.isfinite(values[key])
            ]
            self._write(step=step, summary=Summary(value=scalars))

    def show(self, step: int, samples: list[ShownSample]) -> None:
        """Writes a few samples as texts, and their pictures."""
        if self.writer is None:
            return
        with self._harmless():
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.summary import text

            for i, sample in enumerate(samples):
                tag = f"{self.stage}/sample_{i}"
                self._write(step=step, summary=text(tag, in_words(sample)))
                if sample.picture:
                    width, height = sample.size
                    image = Summary.Image(
                        width=width,
                        height=height,
                        colorspace=3,
                        encoded_image_string=sample.picture,
                    )
                    value = Summary.Value(tag=f"{tag}/picture", image=image)
                    self._write(step=step, summary=Summary(value=[value]))

    def close(self) -> None:
        if self.writer is not None:
            with self._harmless():
                self.writer.close()

    def _write(self, **fields) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.writer.write_event(Event(wall_time=time.time(), **fields))
        self.writer.flush()

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except (
            Exception
        ) as error:  # any: metrics.jsonl is the record, this is a view of it
            failed = self.writer
            self.writer = None
            with contextlib.suppress(Exception):
                failed.close()
            warnings.warn(
                f"no more TensorBoard scalars of {self.stage}: {error}", stacklevel=3
            )


def in_words(sample: ShownSample) -> str:
    """Returns a sample in Markdown. Texts of data and model are code blocks: nothing acts there."""
    reward = "-" if sample.reward is None else f"{sample.reward:.4g}"

    def block(text: str) -> str:
        return "\n".join(f"    {line}" for line in text.splitlines() or [""])

    return "\n\n".join(
        [
            f"**{sample.verdict}**, reward {reward}",
            block(sample.id),
            "question",
            block(sample.prompt),
            "wanted",
            block(sample.wanted),
            "answer",
            block(sample.completion),
        ]
    )
