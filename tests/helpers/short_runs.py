"""Runs of a few steps in this process: the smoke config made shorter, and a run that is cut off."""

import dataclasses
from pathlib import Path

import pytest

from r1v3_jax.config import Run, load_config
from r1v3_jax.pipeline import pipeline
from r1v3_jax.rewards.verifiers.verdict import Check, Verdict
from r1v3_jax.run import metrics
from r1v3_jax.stages import grpo


def short(**changes) -> Run:
    """Returns a run of one supervised step and a GRPO stage of a few, on a mesh of two devices.

    It saves after each step and asks nothing at its end. changes: of the GRPO stage.
    """
    smoke = load_config("digits_smoke")
    # A first save has small programs of its own: those of the stage before.
    cold_start = dataclasses.replace(
        smoke.stages["cold_start"], steps=1, validate_every=0
    )
    stage = dataclasses.replace(
        smoke.stages["grpo"],
        **{
            "evaluate_every": 0,
            "checkpoint_every": 1,
            "max_completion_tokens": 20,
            **changes,
        },
    )
    evaluate = dataclasses.replace(
        smoke.evaluate, sets=(), pooled=(), answer_prior=(), after=()
    )
    return dataclasses.replace(
        smoke,
        stages={"cold_start": cold_start, "grpo": stage},
        evaluate=evaluate,
        mesh=(1, 2, 1),
    )


def half_right(texts, *_, **__) -> list[Check]:
    """Returns verdicts by the length of a text: such a model has learnt nothing.

    In the place of `rewards.score.verify_all`.
    """
    verdicts = (Verdict.RIGHT, Verdict.WRONG)
    return [Check(verdicts[len(text) % 2], "7", "equal") for text in texts]


def cut_off(config: Run, workdir: Path, *, step: int) -> None:
    """Starts a run, and ends it before it learns in a step of GRPO."""
    learn = grpo.learn

    def stops(loop, now, *args):
        if now == step:
            raise KeyboardInterrupt
        return learn(loop, now, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "learn", stops)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(config, workdir, quiet=True)


def exported(workdir: Path) -> bytes:
    """Returns the bits of the weights that a run hands on."""
    return (workdir / "export/model.safetensors").read_bytes()


def lines_of(workdir: Path) -> list[dict]:
    """Returns the metrics of the GRPO stage, step by step."""
    return [line for line in metrics.read(workdir) if line["stage"] == "grpo"]
