"""Verify, Shaping."""

import dataclasses
import urllib.parse

from r1v3_jax.config.fields import positive, require


@dataclasses.dataclass(frozen=True)
class Shaping:
    """What is taken off the reward of a sample besides its answer; a weight of 0 leaves it out."""

    repetition: float = 0.0  # times the share of n-grams that have come before
    repetition_ngram: int = 40  # tokens
    # Times 0 to 1 over the last `overlong_tokens` before the length limit (DAPO's soft punishment).
    overlong: float = 0.0
    overlong_tokens: int = 1024
    language: float = (
        0.0  # times the share of words in another script than the question's
    )

    def __post_init__(self):
        require(
            self,
            "repetition overlong overlong_tokens language",
            lambda x: x >= 0,
            ">= 0",
        )
        require(self, "repetition_ngram", positive, "at least 1")


@dataclasses.dataclass(frozen=True)
class Verify:
    """How answers are checked: in processes, and by a model for the rows that ask for it. What a
    row's verifier may be: `verifiers.routing`.
    """

    processes: int = 0  # 0: one a core, at most 8
    deadline_s: float = (
        10.0  # for one answer; then its process is killed, and it counts as ERROR
    )
    memory_gib: float = 2.0  # of one process
    # The functions that rows may name, as "package.module:function".
    custom: tuple[str, ...] = ()
    # An OpenAI-compatible endpoint, as http://host:8000/v1; empty: no model verifier. With one, a
    # row that names no verifier is right if the rule OR the model says so (report, section 3.1).
    model_url: str = ""
    model_name: str = ""
    model_timeout_s: float = 60.0  # for a whole reply
    model_retries: int = 3
    model_requests: int = 32  # at a time
    model_cache: str = (
        ""  # a file that keeps judgements; empty: they are kept in memory
    )

    def __post_init__(self):
        require(self, "processes model_retries", lambda n: n >= 0, "at least 0")
        require(
            self, "deadline_s memory_gib model_timeout_s", lambda x: x > 0, "positive"
        )
        require(self, "model_requests", positive, "at least 1")
        if bool(self.model_url) != bool(self.model_name):
            raise ValueError(
                "Verify.model_url and Verify.model_name go together; set both"
            )
        address = urllib.parse.urlsplit(self.model_url)
        if self.model_url and not (
            address.scheme in ("http", "https") and address.hostname
        ):
            raise ValueError(
                f"Verify.model_url {self.model_url!r} is no address; give one as http://host:8000/v1"
            )
