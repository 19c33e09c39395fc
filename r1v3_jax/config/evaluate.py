"""What is measured after each stage (`Evaluate`)."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from r1v3_jax.fields import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    check,
)


@dataclasses.dataclass(frozen=True)
class After:
    """One measurement: which sets are asked when a stage is done, and whose weights answer.

    A judge is asked what it makes of the answers that stage `said` has collected:

        After("said", sets=(("home", Reworded(Made("said", HOME), as_judge)),), of="judge")
    """

    stage: str
    # (name, source) of held-out questions; empty: those of `Evaluate`.
    sets: tuple[tuple[str, Callable], ...] = ()
    of: str = ""  # the stage whose weights answer; empty: those there are after `stage`


def check_sets(field: str, sets: tuple[tuple[str, Callable], ...]) -> None:
    """Raises ValueError for a set that is no source of questions."""
    for name, source in sets:
        if not callable(source):
            raise ValueError(
                f"{field} {name!r}: {source!r} is no source of questions; in a config, "
                f"(({name!r}, Rows({str(source)!r})),)"
            )


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What is measured after each stage, and by what the GRPO checkpoint is chosen."""

    sets: tuple[tuple[str, Callable], ...] = ()  # (name, source) of held-out questions
    # (name, names of sets): several sets counted as one.
    pooled: tuple[tuple[str, tuple[str, ...]], ...] = ()
    # When they are asked: stages, or `After` a stage for some sets, or of other weights.
    after: tuple[str | After, ...] = ("cold_start", "grpo", "connector")
    # Whether the last stage answers once more with noise in place of the images.
    without_images: bool = True
    # (set, accuracy of the best constant answer), where that is known: what a blind model can get.
    answer_prior: tuple[tuple[str, float], ...] = ()
    questions: PositiveInt = 1000  # a set
    # Answers to each question, and the temperature they are sampled at; 0: the likeliest tokens,
    # always the same. The report's accuracies are means of 5 answers at temperature 1.
    samples: PositiveInt = 1
    temperature: NonNegativeFloat = 0.0
    batch: PositiveInt = 250  # prompts at a time
    slots: NonNegativeInt = 0  # decode slots of a batch; 0: one for each answer
    tiles: int = 250  # tile slots of a batch
    max_prompt_tokens: PositiveInt = 4096
    max_tokens: PositiveInt = 8192
    # How the model thinks over held-out questions. slow: as it was trained; no_think: its template
    # without <think>; prefilled: its thinking is given, and empty; no_wait: critical words are
    # never sampled.
    thinking: Literal["slow", "no_think", "prefilled", "no_wait"] = "slow"
    thinking_tokens: NonNegativeInt = (
        0  # after so many the thinking is closed; 0: no limit
    )
    # A smaller fixed set for the checkpoints of GRPO: its accuracy, and the entropy at critical
    # words.
    probe: Callable | None = None
    probe_questions: PositiveInt = 250
    # Report, sections 5.1 and 6.2.
    critical_words: tuple[str, ...] = ("Wait", "Alternatively", "Hmm")
    # P(entropy > this) is logged; report, section 6.5 (it does not state the base of the log).
    high_entropy: float = 6.8
    select_by: Literal["critical_entropy", "accuracy", "both", "last"] = "both"

    @property
    def measurements(self) -> tuple[After, ...]:
        """What is measured: `after`, with a name alone written out."""
        return tuple(
            After(entry) if isinstance(entry, str) else entry for entry in self.after
        )

    @property
    def sources(self) -> tuple[Callable, ...]:
        """The questions of every set: of `sets`, and of those that a measurement has of its own."""
        own = [source for entry in self.measurements for _, source in entry.sets]
        return (*(source for _, source in self.sets), *own)

    def after_stage(self, name: str) -> After | None:
        """Returns what is measured after a stage; None if nothing is."""
        return next((m for m in self.measurements if m.stage == name), None)

    def asked(self, entry: After) -> "Evaluate":
        """Returns the settings of one measurement: its sets, and those that pool them."""
        sets = entry.sets or self.sets
        names = {name for name, _ in sets}
        pooled = tuple(pair for pair in self.pooled if set(pair[1]) <= names)
        return dataclasses.replace(self, sets=sets, pooled=pooled, after=(entry,))

    def __post_init__(self):
        check(self)
        check_sets("Evaluate.sets", self.sets)
        known = {name for name, _ in self.sets}
        for name, parts in self.pooled:
            missing = sorted(set(parts) - known)
            if missing:
                raise ValueError(f"Evaluate.pooled {name!r}: no set {missing[0]!r}")
        stages = [entry.stage for entry in self.measurements]
        for entry in self.measurements:
            check_sets(f"Evaluate.after {entry.stage!r}", entry.sets)
            if stages.count(entry.stage) > 1:
                raise ValueError(
                    f"Evaluate.after names {entry.stage!r} twice; one After with all of its sets "
                    "would do"
                )
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"Evaluate.samples is {self.samples} at temperature 0, where all answers to a "
                "question are the same; temperature = 1.0 would do, or samples = 1"
            )
        answers = self.batch * self.samples
        if self.slots > answers:
            raise ValueError(
                f"Evaluate.slots is {self.slots}; it must be at most batch x samples = {answers}"
            )
        if self.thinking in ("no_think", "prefilled") and self.thinking_tokens:
            raise ValueError(
                f"Evaluate.thinking_tokens {self.thinking_tokens} limits a thinking that thinking "
                f"{self.thinking!r} leaves out; set one of them"
            )
