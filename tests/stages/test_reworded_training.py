"""What is told in training is told in training alone, and to every log-probability alike."""

import dataclasses
import functools
import json

import numpy as np

from r1v3_jax.config import load_config
from r1v3_jax.data import Reworded
from r1v3_jax.data.reworded import told
from r1v3_jax.pipeline import pipeline, start
from r1v3_jax.rollout import texts as rollout_texts
from r1v3_jax.stages import grpo
from r1v3_jax.train import policy_gradient

RULES = "right 2; wrong -1"


def told_in_training():
    """The smoke run of one stage, with a reference, old log-probabilities, probe and test set."""
    smoke = load_config("digits_smoke")
    stage = smoke.stages["grpo"]
    return dataclasses.replace(
        smoke,
        stages={
            "grpo": dataclasses.replace(
                stage,
                train=Reworded(stage.train, told(RULES)),
                steps=1,
                updates_per_rollout=2,
                kl_coef=0.1,
                max_prompt_tokens=64,
            )
        },
        evaluate=dataclasses.replace(
            smoke.evaluate,
            sets=smoke.evaluate.sets[:1],
            pooled=(),
            answer_prior=(),
            after=("grpo",),
            max_prompt_tokens=64,
        ),
    )


def test_the_words_are_in_every_pass_over_training_and_in_none_over_questions(
    tmp_path, monkeypatch
):
    """Every compiled program that reads prompts is watched: what it reads, decoded."""
    config = told_in_training()
    prompts = {"prefill": [], "score": [], "update": []}

    def watched(name: str, function):
        @functools.wraps(function)
        def call(*arguments, **named):
            # prefill(model, tokens, lengths, ...), score(model, batch, ...), update(state, batch).
            if name == "prefill":
                tokens, lengths = arguments[1:3]
            else:
                tokens = arguments[1].prompts.tokens
                lengths = arguments[1].prompts.lengths
            rows = zip(np.asarray(tokens), np.asarray(lengths), strict=True)
            prompts[name].append([row[:length] for row, length in rows])
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(
        rollout_texts, "prefill", watched("prefill", rollout_texts.prefill)
    )
    score = watched("score", policy_gradient.score)
    monkeypatch.setattr(policy_gradient, "score", score)
    make_update = grpo.make_update

    def watched_update(stage):
        optimizer, update = make_update(stage)
        return optimizer, watched("update", update)

    monkeypatch.setattr(grpo, "make_update", watched_update)
    pipeline.run(config, tmp_path, quiet=True)
    monkeypatch.undo()

    tokenizer = start.make_processor(config, tmp_path / "tokenizer").tokenizer
    texts = {
        name: [
            [tokenizer.decode(row, skip_special=False) for row in batch]
            for batch in batches
        ]
        for name, batches in prompts.items()
    }
    # 1. One rollout with the rules; the probe before and after the stage, and the test set.
    training = [batch for batch in texts["prefill"] if RULES in batch[0]]
    asked = [batch for batch in texts["prefill"] if RULES not in batch[0]]
    assert len(training) == 1
    assert all(f"<|im_start|>system\n{RULES}<|im_end|>" in text for text in training[0])
    assert len(asked) >= 3
    assert not any(
        "right" in text or "system" in text for batch in asked for text in batch
    )
    # 2. The policy before the update, the reference, and two updates: the prompts of the rollout.
    assert texts["score"] == [training[0]] * 2
    assert texts["update"] == [training[0]] * 2
    # 3. The questions are those that were asked without the rules.
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["stage"] == "grpo" and np.isfinite(line["loss"])
    bare = config.stages["grpo"].train.source
    for row, text in enumerate(training[0]):
        assert f"\n{bare(row).question}<|im_end|>" in text
