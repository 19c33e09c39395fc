"""What a verifier says of one answer."""

import dataclasses
import enum


class Verdict(enum.Enum):
    """ERROR: the verifier failed, so that the answer may be right or wrong. It is not WRONG."""

    RIGHT = "right"
    WRONG = "wrong"
    ERROR = "error"


@dataclasses.dataclass(frozen=True)
class Check:
    """What became of one answer. extracted: inside the last box; reason: a few words. credit: 0 to
    1, what the answer is worth by a rule that knows degrees; None: all if it is right, else
    nothing.
    """

    verdict: Verdict
    extracted: str | None
    reason: str
    credit: float | None = None
