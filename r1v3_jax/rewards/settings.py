"""How answers are found and checked (`Verify`)."""

import dataclasses
import urllib.parse

from r1v3_jax.fields import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check,
)
from r1v3_jax.losses.policy import check_number
from r1v3_jax.losses.schedules import Number, Steps
from r1v3_jax.rewards.verifiers.boxes import FindAnswers, find_boxes
from r1v3_jax.rewards.verifiers.judging import Judging


@dataclasses.dataclass(frozen=True)
class Verify:
    """How answers are checked: in processes, and by a model for the rows that ask for it.

    What a row's verifier may be: `rewards.verifiers.routing`.
    """

    processes: NonNegativeInt = 0  # 0: one a core, at most 8
    # For one answer; after that its process is killed, and the answer counts as ERROR.
    deadline_s: PositiveFloat = 10.0
    memory_gib: PositiveFloat = 2.0  # of one process
    # What iou=dynamic of a row means, 0 to 1, for boxes on images; may move. The default is
    # V-Triune's (arXiv 2505.18129): lenient, then strict.
    iou: Number = Steps(((0.0, 0.85), (0.1, 0.95), (0.25, 0.99)))
    # Where the answer of a summary stands: `boxes.find_boxes` reads \boxed{}, `boxes.find_tagged`
    # reads <answer></answer>.
    answer: FindAnswers = find_boxes
    # The functions that rows may name, as "package.module:function".
    custom: tuple[str, ...] = ()
    # An OpenAI-compatible endpoint, as http://host:8000/v1; empty: no model verifier. With one, a
    # row that names no verifier is right if the rule OR the model says so (report, section 3.1).
    model_url: str = ""
    model_name: str = ""
    judging: Judging = Judging()  # what it is asked, and how its reply is read
    model_timeout_s: PositiveFloat = 60.0  # for a whole reply
    model_retries: NonNegativeInt = 3
    model_requests: PositiveInt = 32  # at a time
    model_cache: str = (
        ""  # a file that keeps judgements; empty: they are kept in memory
    )

    def __post_init__(self):
        check(self)
        check_number("Verify.iou", self.iou, 0, 1, "between 0 and 1, as 0.5")
        if bool(self.model_url) != bool(self.model_name):
            raise ValueError(
                "Verify.model_url and Verify.model_name go together; set both"
            )
        if not callable(self.answer):
            raise ValueError(
                f"Verify.answer is {self.answer!r}; it must be a function of "
                "r1v3_jax.rewards.verifiers.boxes, as find_boxes or find_tagged"
            )
        address = urllib.parse.urlsplit(self.model_url)
        is_http = address.scheme in ("http", "https") and address.hostname
        if self.model_url and not is_http:
            raise ValueError(
                f"Verify.model_url {self.model_url!r} is no address; give one as "
                "http://host:8000/v1"
            )
