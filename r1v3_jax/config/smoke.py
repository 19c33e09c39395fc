"""A run cut down to a few steps and questions: every program, no learning."""

import dataclasses
from collections.abc import Callable

import numpy as np

from r1v3_jax.config.collect import Chosen, Collect
from r1v3_jax.config.grpo import GRPO
from r1v3_jax.config.run import Run
from r1v3_jax.rewards.verifiers.verdict import Verdict

STEPS = 2  # of a stage
QUESTIONS = 8  # of a held-out set
PROMPTS = 4  # a step of GRPO
GROUP_SIZE = 4


def cut_down(run: Run) -> Run:
    """Returns the run with few steps and questions, all of whose stages still do all they do."""
    stages = {name: _cut_down_stage(stage) for name, stage in run.stages.items()}
    whole = run.evaluate
    evaluate = dataclasses.replace(
        whole,
        questions=QUESTIONS,
        probe_questions=QUESTIONS,
        batch=QUESTIONS,
        slots=0,
        # As many tiles a question as before.
        tiles=_share(whole.tiles, QUESTIONS, whole.batch),
    )
    # Its own name, and so its own directory: what it has done is not taken for the run's.
    name = f"smoke_{run.name}"
    return dataclasses.replace(run, name=name, stages=stages, evaluate=evaluate)


@dataclasses.dataclass(frozen=True)
class Pretend:
    """Keeps rows of a model that has learnt nothing: every second answer is taken for right.

    Their texts are made of the question's own chain, which stages behind them can read.
    """

    keep: Callable

    @property
    def MAKES(self) -> str:
        """What the rows hold."""
        return self.keep.MAKES

    @property
    def by(self):
        """The scorer of the keep, by which a temperature is chosen; None if it has none."""
        return getattr(self.keep, "by", None)

    @property
    def count(self) -> int:
        """How many answers of a question its keep takes."""
        return self.keep.count

    def score(self, group, sample: int) -> float:
        """Returns what the scorer of the keep says of one sample."""
        return self.keep.score(group, sample)

    def __call__(self, group):
        chain = group.example.chain or group.texts[0]
        first, *_ = chain.split(" ")
        texts = []
        scores = []
        for g, score in enumerate(group.scores):
            is_right = g % 2 == 0
            verdict = Verdict.RIGHT if is_right else Verdict.WRONG
            texts.append(chain if is_right else f"{first} {chain}")
            scores.append(
                dataclasses.replace(score, total=1.0, verdict=verdict, format=1.0)
            )
        ended = np.ones(len(texts), bool)
        completions = dataclasses.replace(group.completions, ended=ended)
        return self.keep(
            dataclasses.replace(
                group, texts=texts, scores=scores, completions=completions
            )
        )


def _share(tiles: int, kept: int, before: int) -> int:
    """Returns the tiles of so many of the questions there were: 1 of 24 stays 1, not 0, of 4."""
    return -(-tiles * kept // before)


def _cut_down_stage(stage):
    if isinstance(stage, Collect):
        return _cut_down_collect(stage)
    changes = {"steps": STEPS}
    # What is measured every so many steps is measured at each.
    for field in ("evaluate_every", "validate_every"):
        if getattr(stage, field, 0):
            changes[field] = 1
    if hasattr(stage, "validation_steps"):
        changes["validation_steps"] = 1
    # Buckets and micro-batches are made for the whole size of a step.
    if isinstance(stage, GRPO) and not stage.buckets and stage.accumulate == 1:
        changes |= {
            "prompts": PROMPTS,
            "group_size": GROUP_SIZE,
            "slots": 0,
            "in_flight": PROMPTS * (stage.in_flight // stage.prompts),
            "tiles": _share(stage.tiles, PROMPTS, stage.prompts),
        }
    return dataclasses.replace(stage, **changes)


def _cut_down_collect(stage: Collect) -> Collect:
    return dataclasses.replace(
        stage,
        questions=QUESTIONS,
        prompts=PROMPTS,
        slots=0,
        temperature=_cut_down_choice(stage.temperature),
        tiles=_share(stage.tiles, PROMPTS, stage.prompts),
        keep=Pretend(stage.keep),
    )


def _cut_down_choice(temperature: float | Chosen) -> float | Chosen:
    if not isinstance(temperature, Chosen):
        return temperature
    return dataclasses.replace(temperature, questions=PROMPTS)
