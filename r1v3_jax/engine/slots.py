"""Which sample is in which slot, and which prompt in which row; on the host alone.

With two groups of devices, four slots and six rows (one more a group than it has slots), where
request A has three samples and B one:

    group 0   slots  A0 A1    rows  A - -
    group 1   slots  A2 B0    rows  A B -
"""

import numpy as np

from r1v3_jax.engine.encoding import Prepared
from r1v3_jax.engine.requests import Listener
from r1v3_jax.engine.text import Detokenizer, Pieces, StopStrings


class Ticket:
    """A request that was taken, until its last sample has ended."""

    def __init__(self, prepared: Prepared, listener: Listener, on_cancel):
        self.prepared = prepared
        self.listener = listener
        self.cancelled = False
        self._on_cancel = on_cancel
        self.begun = 0  # samples that have had a slot
        self.left = prepared.request.settings.n  # samples that have not ended
        self.rows: np.ndarray | None = (
            None  # int32[groups], its prompt's, once it was read
        )
        self.pixels = None  # a future of its tiles, once they are cut

    @property
    def to_begin(self) -> int:
        """How many samples wait for a slot."""
        return self.prepared.request.settings.n - self.begun

    @property
    def done(self) -> bool:
        """Whether nothing more is told to its listener."""
        return self.cancelled or self.left == 0

    def cancel(self) -> None:
        """Ends the request: nothing more is told, and its slots are free after the next run."""
        if not self.done:
            self.cancelled = True
            self._on_cancel()


class Sample:
    """One answer that is being sampled."""

    def __init__(self, ticket: Ticket, number: int, pieces: Pieces):
        self.ticket = ticket
        self.number = number
        self.text = Detokenizer(pieces)
        self.stops = StopStrings(ticket.prepared.request.settings.stop)
        self.ended = False  # its finish reason was told

    @property
    def done(self) -> bool:
        return self.ended or self.ticket.done


class SlotTable:
    """The samples in B slots and the prompts in P rows, split evenly over groups of devices."""

    def __init__(self, slots: int, rows: int, groups: int):
        self.samples: list[Sample | None] = [None] * slots
        self.groups = groups
        self.slots_a_group = slots // groups
        self.rows_a_group = rows // groups

    def __len__(self) -> int:
        return len(self.samples)

    def group(self, slot: int) -> int:
        """Returns the group of devices that has a slot."""
        return slot // self.slots_a_group

    def free(self) -> list[int]:
        """Returns the empty slots, in order."""
        return [b for b, sample in enumerate(self.samples) if sample is None]

    def running(self) -> int:
        """Returns how many slots have a sample that has not ended."""
        return sum(sample is not None and not sample.done for sample in self.samples)

    def take_done(self) -> list[int]:
        """Empties the slots of samples that have ended or were cancelled, and returns these."""
        done = [
            b
            for b, sample in enumerate(self.samples)
            if sample is not None and sample.done
        ]
        for slot in done:
            self.samples[slot] = None
        return done

    def new_rows(self) -> np.ndarray:
        """Returns a row of each group that no running sample continues, int32[groups].

        -1 where a group has none. A group with an empty slot has one: there are no fewer rows.
        """
        result = np.full(self.groups, -1, np.int32)
        for group in range(self.groups):
            first = group * self.slots_a_group
            samples = self.samples[first : first + self.slots_a_group]
            used = {x.ticket.rows[group] for x in samples if x is not None}
            free = [row for row in range(self.rows_a_group) if row not in used]
            if free:
                result[group] = free[0]
        return result
