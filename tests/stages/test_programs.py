"""The table of programs is what a run compiles: the same text, program by program."""

import dataclasses
import functools
import json

import pytest

from r1v3_jax.config import Collect, Draft, load_config
from r1v3_jax.distill.keeps import Rates
from r1v3_jax.losses import Clipped, Truncated
from r1v3_jax.losses.schedules import Decay, DipAndRise, Line
from r1v3_jax.models import build
from r1v3_jax.pipeline import pipeline, start
from r1v3_jax.rollout import in_flight as in_flight_rollouts
from r1v3_jax.rollout import texts
from r1v3_jax.sampling import loop
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages import grpo, kinds, sft
from r1v3_jax.train import draft_head, policy_gradient


@pytest.fixture(scope="module")
def config():
    smoke = load_config("digits_smoke")
    asked = Collect(
        smoke.stages["grpo"].train,
        Rates(),
        questions=4,
        samples=3,
        prompts=4,
        tiles=8,
        slots=6,
        max_prompt_tokens=26,
        max_completion_tokens=20,
    )
    # Two updates a rollout, so that `score` runs too.
    return dataclasses.replace(
        smoke,
        stages={
            "cold_start": dataclasses.replace(
                smoke.stages["cold_start"], steps=1, validate_every=1
            ),
            "asked": asked,
            "grpo": dataclasses.replace(
                smoke.stages["grpo"],
                steps=2,
                updates_per_rollout=2,
                evaluate_every=1,
                slots=6,
                rollout_int8=True,
                correction=Truncated(2.0),
                # Strengths that move, and a reference model.
                loss=Clipped(high=Line(0.2, 0.4)),
                kl_coef=DipAndRise(0.0, 0.1),
                entropy_coef=Decay(0.01, 0.9),
                temperature=Line(1.0, 0.6),
                off_policy_steps=1,
                # The prompts of step 0 have up to 25 tokens, of step 1 up to 23.
                buckets=((24, 4),),
            ),
        },
        evaluate=dataclasses.replace(
            smoke.evaluate, sets=(), pooled=(), answer_prior=(), slots=4
        ),
        mesh=(2, 2, 1),
    )


def test_a_collection_asks_a_stage_of_any_name(config):
    """The programs of a collection are made in the run as it is, whatever its stages are called."""
    stages = dict(config.stages)
    asked = stages.pop("asked")
    stages = {
        "warm": stages["cold_start"],
        "asked": dataclasses.replace(asked, start="warm"),
    }
    evaluate = dataclasses.replace(config.evaluate, after=("warm",))
    run = dataclasses.replace(config, stages=stages, evaluate=evaluate)
    programs = kinds.stage_programs(run, "asked", make_mesh(run.mesh), (3,))
    names = [program.name for program in programs]
    assert names == ["reshard", "encode_images", "prefill", "decode"]


def test_guesses_have_programs_for_every_size_of_prompts(config):
    grpo_stage = dataclasses.replace(config.stages["grpo"], draft=Draft(tokens=2))
    run = config.with_stages(grpo=grpo_stage)
    programs = kinds.stage_programs(run, "grpo", make_mesh(run.mesh), (3,))
    labels = [program.label for program in programs]
    for name in ("drafts_prefill", "drafts_decode", "drafts_update"):
        assert {name, f"{name}@24x4"} <= set(labels)
    assert labels.count("drafts_reshard") == 1
    assert len(set(labels)) == len(labels)


# A run that samples a step ahead, one with two batches under way, and one that guesses in step 0.
WAYS = {
    "ahead": {},
    "in flight": {"in_flight": 8, "off_policy_steps": 0, "temperature": 0.8},
    "guesses": {"draft": Draft(tokens=2, pays_from=2.0), "buckets": ()},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_table_is_what_a_run_compiles(config, tmp_path, monkeypatch, way):
    ran = []
    grpo_stage = dataclasses.replace(config.stages["grpo"], **WAYS[way])
    config = config.with_stages(grpo=grpo_stage)

    def watch(module, name):
        function = getattr(module, name)

        @functools.wraps(function)
        def watched(*args, **kwargs):
            ran.append((name, function.lower(*args, **kwargs).as_text()))
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    for module, name in (
        (build, "reshard"), (texts, "encode_images"), (texts, "prefill"), (loop, "decode"),
        (in_flight_rollouts, "encode_images"), (in_flight_rollouts, "exchange"),
        (policy_gradient, "score"), (sft, "validation_loss"),
    ):  # fmt: skip
        watch(module, name)
    for stage in (grpo, sft, draft_head):
        make = stage.make_update

        def watched_update(config, make=make):
            optimizer, update = make(config)

            def watched(*args):
                ran.append(("update", update.lower(*args).as_text()))
                return update(*args)

            return optimizer, watched

        monkeypatch.setattr(stage, "make_update", watched_update)
    pipeline.run(config, tmp_path, quiet=True)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if line["stage"] == "grpo"]
    lengths = [26, 24] if grpo_stage.buckets else [26, 26]
    assert [line["prompts/padded_length"] for line in steps] == lengths
    if grpo_stage.draft:
        assert [line["drafts/used"] for line in steps] == [1, 0]
    # Step 1 of 2 is at half of the run.
    numbers = {
        "number/loss.high": (0.2, 0.3),
        "number/kl_coef": (0.05, 0.1 * 2 / 7),
        "number/entropy_coef": (0.01, 0.01 * 0.9**50),
    }
    if not grpo_stage.in_flight:
        numbers["number/temperature"] = (1.0, 0.8)
    for name, (first, second) in numbers.items():
        assert [line[name] for line in steps] == pytest.approx([first, second])
    assert (
        json.loads((tmp_path / "summary.json").read_text())["compiles_after_warmup"]
        == 0
    )
    monkeypatch.undo()

    tokenizer = start.make_processor(config, tmp_path / "tokenizer").tokenizer
    mesh = make_mesh(config.mesh)
    table = [
        program
        for stage in config.stages
        for program in kinds.stage_programs(
            config, stage, mesh, tokenizer.banned_token_ids
        )
    ]
    wanted = [(program.name, program.lower().as_text()) for program in table]
    assert {name for name, _ in ran} == {name for name, _ in wanted}
    for name, text in ran:
        assert text in [other for same, other in wanted if same == name], name
    for name, text in wanted:  # and the table holds nothing else
        assert text in [other for same, other in ran if same == name], name
