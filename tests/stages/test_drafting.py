"""A stage with a draft head: the same run as without, resumption, when guesses stop, refusals."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from short_runs import cut_off, exported, half_right, lines_of, short

from r1v3_jax.config import Draft, LoRA, Optimizer
from r1v3_jax.losses import Truncated
from r1v3_jax.pipeline import pipeline, preflight
from r1v3_jax.rewards import score
from r1v3_jax.stages.drafting import Drafting

# A head that has learnt nothing guesses right where the policy has learnt nothing either: both are
# nearly uniform, and draw with the same numbers. So guesses pay in every step.
DRAFT = Draft(tokens=3, pays_from=1.2, optimizer=Optimizer(lr=1e-2))


@pytest.fixture(scope="module")
def config():
    return short(steps=3, optimizer=Optimizer(lr=1e-2), draft=DRAFT)


def varied(config, **changes):
    stage = dataclasses.replace(config.stages["grpo"], **changes)
    return config.with_stages(grpo=stage)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora": LoRA(rank=2), "trainable": "llm"},
    ],
    ids=["as it is", "adapters"],
)
def test_a_run_with_guesses_is_the_run_without(config, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(score, "verify_all", half_right)
    runs = {
        "without": varied(config, draft=None, **changes),
        "with": varied(config, **changes),
    }
    for name, run in runs.items():
        preflight.check(run)
        pipeline.run(run, tmp_path / name, quiet=True)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["compiles_after_warmup"] == 0
    assert exported(tmp_path / "with") == exported(tmp_path / "without")
    without = lines_of(tmp_path / "without")
    guessed = lines_of(tmp_path / "with")
    for name in ("reward", "completions/mean_length", "grad_norm"):
        assert [line[name] for line in guessed] == [line[name] for line in without]
    assert all(line["drafts/used"] == 1 for line in guessed)
    assert all(1.2 < line["drafts/tokens_a_pass"] <= 3 for line in guessed)
    assert not any("drafts/used" in line for line in without)


def test_with_slots_a_step_ahead_the_same_samples_are_drawn(
    config, tmp_path, monkeypatch
):
    # The head is used by several calls of `decode`, and taught while samples are drawn.
    monkeypatch.setattr(score, "verify_all", half_right)
    changes = {
        "slots": 6,
        "off_policy_steps": 1,
        "correction": Truncated(2.0),
        "checkpoint_every": 3,
        "evaluate_every": 2,
    }
    steps = {}
    for name, draft in (("without", None), ("with", DRAFT)):
        pipeline.run(
            varied(config, draft=draft, **changes), tmp_path / name, quiet=True
        )
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["compiles_after_warmup"] == 0
        steps[name] = lines_of(tmp_path / name)
    # The correction reads log-probabilities that are equal to rounding: so are the weights.
    for name in ("reward", "completions/mean_length"):
        assert [x[name] for x in steps["with"]] == [x[name] for x in steps["without"]]
    # The second rollout begins before the first is measured.
    assert [line["drafts/used"] for line in steps["with"]] == [1, 0, 1]


def test_a_run_with_a_head_resumes_in_the_same_bits(config, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "verify_all", half_right)
    # With a reference that follows: a state of three parts.
    config = varied(config, kl_coef=0.01, reference_decay=0.75, reference_every=2)
    pipeline.run(config, tmp_path / "whole", quiet=True)
    cut_off(config, tmp_path / "cut", step=2)
    pipeline.run(config, tmp_path / "cut", quiet=True)
    assert exported(tmp_path / "cut") == exported(tmp_path / "whole")
    # The head too went on from where it was: its loss is the same number.
    last = [lines_of(tmp_path / name)[-1] for name in ("whole", "cut")]
    for name in ("drafts/loss", "drafts/tokens_a_pass", "reward"):
        assert last[0][name] == last[1][name], name


def test_guesses_stop_where_they_do_not_pay_and_are_tried_again(config):
    stage = dataclasses.replace(
        config.stages["grpo"], draft=Draft(tokens=2, pays_from=1.5, retry_every=4)
    )
    context = SimpleNamespace(run=dataclasses.replace(config, mesh=(1, 1, 1)))
    drafting = Drafting(context, stage)
    measured = [1.2, None, None, None, 1.6, 1.5, 1.4, None, 1.1, None]
    used = []
    for step, tokens_a_pass in enumerate(measured):
        used.append(drafting.head(step) is not None)
        drafting.measure([SimpleNamespace(tokens_a_pass=tokens_a_pass)])
    # Steps 0, 4 and 8 are tries; 5 and 6 go on, as 4 and 5 have paid.
    assert np.flatnonzero(used).tolist() == [0, 4, 5, 6, 8]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: Draft(tokens=1), "Draft.tokens is 1; it must be 2, 3 or 4"),
        (lambda c: Draft(tokens=5), "it must be 2, 3 or 4"),
        (lambda c: Draft(pays_from=0.5), "a pass yields one token in any case"),
        (lambda c: Draft(pays_from=2.5), "no pass yields more than 2; 1.3 would do"),
        (
            lambda c: varied(
                c, in_flight=8, prompts=4, correction=Truncated(2.0)
            ).check(),
            "in_flight = 0 or draft = None would do",
        ),
    ],
)
def test_what_cannot_be_is_refused(config, make, message):
    with pytest.raises(ValueError, match=message):
        make(config)
