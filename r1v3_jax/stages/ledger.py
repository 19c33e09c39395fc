"""Rows left out, listed and counted."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from r1v3_jax import files
from r1v3_jax.data.reader import Counts, TooManyDropped
from r1v3_jax.run import metrics


class Ledger:
    """The rows that a stage has left out: one line each in WORKDIR/drops.jsonl, and their counts.

    A line: stage, step, index, source, id, reason (`types.REASONS`), detail. resume_step: the first
    step to come; lines of the stage from there on are of a run that was cut short, and go. counts:
    as they were then. Process 0 writes.
    """

    def __init__(
        self, workdir, stage: str, *, resume_step: int = 0, counts: Counts | None = None
    ):
        self.path, self.stage = Path(workdir) / "drops.jsonl", stage
        self.counts = (
            counts or {}
        )  # not changed in place: a thread may be writing it to a state
        if files.first_process():
            metrics.drop_lines(self.path, stage, resume_step)

    def add(self, step: int, drops: tuple[dict, ...]) -> None:
        """Lists and counts what a step has left out."""
        for drop in drops:
            source, reason = drop["source"], drop["reason"]
            reasons = self.counts.get(source, {})
            counted = {**reasons, reason: reasons.get(reason, 0) + 1}
            self.counts = {**self.counts, source: counted}
        if drops and files.first_process():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = [
                json.dumps({"stage": self.stage, "step": step, **drop})
                for drop in drops
            ]
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
                file.flush()
                os.fsync(
                    file.fileno()
                )  # a state that counts them may be saved after this step

    @contextlib.contextmanager
    def reading(self, step: int) -> Iterator[None]:
        """Around what reads for a step: if too many rows are bad, they are listed too."""
        try:
            yield
        except TooManyDropped as error:
            self.add(step, error.drops)
            raise ValueError(
                f"{self.stage}, step {step}: {error}; {self.path} lists them"
            ) from error

    def metrics(self) -> dict[str, int]:
        """`dropped`, and of each source that lost a row `dropped/SOURCE`; since the stage began."""
        by_source = {
            source: sum(reasons.values()) for source, reasons in self.counts.items()
        }
        named = {
            f"dropped/{source}": count for source, count in by_source.items() if source
        }
        return {"dropped": sum(by_source.values()), **named}
