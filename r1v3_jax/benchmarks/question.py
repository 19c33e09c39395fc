"""A question of a benchmark, as it is read from a file."""

import dataclasses

from r1v3_jax.processing.image_files import StoredImage


class BadCell(ValueError):
    """A cell of a benchmark's file that cannot be read; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One row of a benchmark.

    Question(index="7", text="Which animal?", answer="B", options={"A": "cat", "B": "dog"},
             images=(...,), fields={"category": "animals"})
    """

    index: str  # names the row; no two rows share it
    text: str
    answer: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)  # by letter
    images: tuple[StoredImage, ...] = ()
    # Every other column, as text; a missing cell is no entry.
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    # Why the row cannot be asked, "" if it can. It counts as wrong all the same.
    problem: str = ""
