"""The verdict on one answer, in the form that every verifier returns. Knows no rule."""

import dataclasses
import enum

# Reasons of a verdict on what is no answer at all.
NO_ANSWER = "no answer"
SEVERAL = "several answers"
UNREADABLE = "cannot be read"
NOT_READ = frozenset((NO_ANSWER, SEVERAL, UNREADABLE))


class Verdict(enum.Enum):
    """Says whether an answer is right, as far as its verifier can tell."""

    RIGHT = "right"
    WRONG = "wrong"
    ERROR = (
        "error"  # the verifier failed: the answer may be right, so this is not WRONG
    )


@dataclasses.dataclass(frozen=True)
class Check:
    """The result of verifying one answer."""

    verdict: Verdict
    extracted: str | None  # the text inside the last box; None: there is no box
    reason: str  # in a few words: "equal", "another number", "no answer"
    # What the answer is worth, 0 to 1, by a rule with partial credit. None: its rule has none, so
    # that a right answer is worth 1 and a wrong one 0.
    credit: float | None = None
