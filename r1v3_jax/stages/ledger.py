"""The rows that a stage drops: listed in WORKDIR/drops.jsonl, and counted."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from r1v3_jax import files
from r1v3_jax.data.reader import Counts, TooManyDropped
from r1v3_jax.run import metrics


class Ledger:
    """Lists the rows that a stage has dropped, one line each, and counts them.

    A line of WORKDIR/drops.jsonl: stage, step, index, source, id, reason (`types.REASONS`), detail.
    Process 0 writes.
    """

    def __init__(
        self, workdir, stage: str, *, resume_step: int = 0, counts: Counts | None = None
    ):
        """Opens the list of a stage.

        resume_step: the first step to come. Lines of the stage from there on are of a run that was
        cut short, and are removed. counts: {source: {reason: rows}} at that step.
        """
        self.path = Path(workdir) / "drops.jsonl"
        self.stage = stage
        # Replaced, never changed in place: a thread may be writing it to a state.
        self.counts = counts or {}
        if files.first_process():
            metrics.drop_lines(self.path, stage, resume_step)

    def add(self, step: int, drops: tuple[dict, ...]) -> None:
        """Lists and counts what a step has dropped."""
        for drop in drops:
            source = drop["source"]
            reason = drop["reason"]
            reasons = self.counts.get(source, {})
            reasons = {**reasons, reason: reasons.get(reason, 0) + 1}
            self.counts = {**self.counts, source: reasons}
        if not drops or not files.first_process():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({"stage": self.stage, "step": step, **drop}) + "\n"
            for drop in drops
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            # A state that counts these rows may be saved after this step.
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def reading(self, step: int) -> Iterator[None]:
        """Surrounds what reads for a step: if too many rows are bad, they are listed too."""
        try:
            yield
        except TooManyDropped as error:
            self.add(step, error.drops)
            raise ValueError(
                f"{self.stage}, step {step}: {error}; {self.path} lists them"
            ) from error

    def metrics(self) -> dict[str, int]:
        """Returns the rows dropped since the stage began: `dropped`, and `dropped/SOURCE`."""
        by_source = {
            source: sum(reasons.values()) for source, reasons in self.counts.items()
        }
        out = {"dropped": sum(by_source.values())}
        for source, count in by_source.items():
            if source:
                out[f"dropped/{source}"] = count
        return out
