"""Evaluate."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from r1v3_jax.config.fields import one_of, positive, require


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What is measured after each stage, and by what the GRPO checkpoint is chosen."""

    sets: tuple[tuple[str, Callable], ...] = ()  # (name, source) of held-out questions
    pooled: tuple[
        tuple[str, tuple[str, ...]], ...
    ] = ()  # (name, sets): several taken as one
    after: tuple[str, ...] = ("cold_start", "grpo", "connector")  # the stages
    # (set, accuracy of the best constant answer), where that is known: what a blind model can get.
    answer_prior: tuple[tuple[str, float], ...] = ()
    questions: int = 1000  # a set
    batch: int = 250  # prompts at a time
    slots: int = 0  # decode slots of a batch; 0: one for each prompt
    tiles: int = 250  # tile slots of a batch
    max_prompt_tokens: int = 4096
    max_tokens: int = 8192
    # How the model thinks over held-out questions. slow: as it was trained; none: its thinking is
    # given, and empty; no_wait: critical words are never sampled.
    thinking: Literal["slow", "none", "no_wait"] = "slow"
    thinking_tokens: int = 0  # after so many the thinking is closed; 0: no limit
    # A smaller fixed set for the checkpoints of GRPO: its accuracy, and the entropy at critical
    # words.
    probe: Callable | None = None
    probe_questions: int = 250
    critical_words: tuple[str, ...] = (
        "Wait",
        "Alternatively",
        "Hmm",
    )  # report, 5.1 and 6.2
    high_entropy: float = (
        6.8  # P(entropy > this) is logged; report, 6.5 (base of the log not stated)
    )
    select_by: Literal["critical_entropy", "accuracy", "both"] = "both"

    def __post_init__(self):
        names = "questions batch probe_questions max_prompt_tokens max_tokens"
        require(self, names, positive, "at least 1")
        if wrong := [
            (name, source) for name, source in self.sets if not callable(source)
        ]:
            name, source = wrong[0]
            raise ValueError(
                f"Evaluate.sets {name!r}: {source!r} is no source of questions; in a config, "
                f"(({name!r}, Rows({str(source)!r})),)"
            )
        known = {name for name, _ in self.sets}
        for name, parts in self.pooled:
            if missing := set(parts) - known:
                raise ValueError(
                    f"Evaluate.pooled {name!r}: no set {sorted(missing)[0]!r}"
                )
        one_of(self, "select_by", ("critical_entropy", "accuracy", "both"))
        one_of(self, "thinking", ("slow", "none", "no_wait"))
        require(self, "slots thinking_tokens", lambda n: n >= 0, "at least 0")
        if self.slots > self.batch:
            raise ValueError(
                f"Evaluate.slots is {self.slots}; it must be at most batch = {self.batch}"
            )
        if self.thinking == "none" and self.thinking_tokens:
            raise ValueError(
                f"Evaluate.thinking_tokens {self.thinking_tokens} limits a thinking that thinking "
                "'none' leaves out; set one of them"
            )
