"""A stage of preferences: it learns which answer is better, and resumes to the same bits."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest
from flax import nnx

from r1v3_jax.config import Preference, Run, load_config
from r1v3_jax.hf.load import flatten_state
from r1v3_jax.losses import Mpo
from r1v3_jax.pipeline import pipeline, preflight
from r1v3_jax.run import metrics
from r1v3_jax.run.weights import load_weights
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages import kinds, preference

STEPS = 4


def pairs_of(source):
    """The rows of a source: its chains are chosen, those of the next row rejected."""

    def example(index: int):
        shown = source(index)
        other = source(index + 1)
        return dataclasses.replace(
            shown, chosen=shown.chain, rejected=other.chain + " So.", chain=None
        )

    return example


@pytest.fixture(scope="module")
def config() -> Run:
    smoke = load_config("digits_smoke")
    taught = smoke.stages["cold_start"]
    stage = Preference(
        train=pairs_of(taught.train),
        steps=STEPS,
        pairs=4,
        max_prompt_tokens=smoke.stages["grpo"].max_prompt_tokens,
        max_answer_tokens=taught.row_tokens,
        tiles=8,
        accumulate=2,
        optimizer=dataclasses.replace(taught.optimizer, warmup_steps=0),
        checkpoint_every=2,
    )
    evaluate = dataclasses.replace(
        smoke.evaluate, sets=(), pooled=(), answer_prior=(), probe=None
    )
    return dataclasses.replace(smoke, stages={"mpo": stage}, evaluate=evaluate)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mpo")
    preflight.check(config, workdir)
    ran = []
    make = preference.make_update
    score = preference.score

    def watched_update(stage):
        optimizer, update = make(stage)

        def watched(*args):
            ran.append(("update", update.lower(*args).as_text()))
            return update(*args)

        return optimizer, watched

    @functools.wraps(score)
    def watched_score(*args):
        ran.append(("score", score.lower(*args).as_text()))
        return score(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preference, "make_update", watched_update)
        patch.setattr(preference, "score", watched_score)
        summary = pipeline.run(config, workdir, quiet=True)
    return workdir, summary, ran


def logged(workdir) -> list[dict]:
    """The lines of metrics.jsonl without what measures time."""
    return [
        {k: v for k, v in line.items() if not k.endswith(("_s", "_per_s"))}
        for line in metrics.read(workdir)
    ]


def test_the_chosen_answers_become_likelier(finished):
    workdir, summary, _ = finished
    first, *_, last = logged(workdir)
    # The policy is its own reference before the first update.
    for name in ("chosen", "rejected", "margin"):
        assert first[f"rewards/{name}"] == pytest.approx(0, abs=1e-3)
    assert first["loss/preference"] == pytest.approx(np.log(2), abs=1e-3)
    # Every step has other rows: what is learnt of some pairs holds for the next ones.
    later = logged(workdir)[1:]
    assert all(line["rewards/margin"] > 0.1 for line in later)
    assert np.mean([line["rewards/accuracy"] for line in later]) > 0.6
    assert last["loss/generation"] < first["loss/generation"]
    weights = (("preference", 0.8), ("quality", 0.2), ("generation", 1.0))
    total = sum(weight * last[f"loss/{term}"] for term, weight in weights)
    assert last["loss"] == pytest.approx(total, rel=1e-5)
    assert summary["compiles_after_warmup"] == 0
    assert summary["programs"]["update"] == summary["programs"]["score"] == 1


def test_the_shift_is_the_mean_reward_of_the_steps_before(finished):
    lines = logged(finished[0])
    means = [(x["rewards/chosen"] + x["rewards/rejected"]) / 2 for x in lines]
    wanted = [0.0, *(np.mean(means[:k]) for k in range(1, STEPS))]
    np.testing.assert_allclose([x["shift"] for x in lines], wanted, atol=1e-7)
    assert abs(lines[-1]["shift"]) > 1e-4


def test_killed_behind_any_step_it_ends_in_the_same_bits(config, finished, tmp_path):
    """The state behind step 2 of 4: the reference, the shift and the rows go on from there."""
    workdir = tmp_path / "killed"
    shutil.copytree(finished[0], workdir)
    shutil.rmtree(workdir / "mpo/done")
    shutil.rmtree(workdir / "mpo/states/4")
    pipeline.run(config, workdir, quiet=True)
    assert logged(workdir) == logged(finished[0])
    kept, resumed = (
        flatten_state(nnx.state(load_weights(path / "mpo/done")))
        for path in (finished[0], workdir)
    )
    for name, array in kept.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)


def test_the_dry_run_lists_what_a_step_calls(config, finished):
    table = kinds.stage_programs(config, "mpo", make_mesh(config.mesh), ())
    wanted = {(program.name, program.lower().as_text()) for program in table}
    assert set(finished[2]) == wanted


def test_rows_of_pairs_are_for_such_a_stage_alone(config, finished):
    """Others drop them by name, and it drops what is no pair."""
    processor = pipeline.prepare(config, finished[0], True).processor
    smoke = load_config("digits_smoke")
    source = config.stages["mpo"].train
    for name in ("cold_start", "grpo"):
        reader = kinds.open_reader(
            smoke.stages[name], processor, config.data, source=source
        )
        assert reader.make(0)["reason"] == "pair"
        assert "Preference(...)" in reader.make(0)["detail"]
        reader.close()

    def changed(**fields):
        return lambda index: dataclasses.replace(source(index), **fields)

    stage = config.stages["mpo"]
    good = source(0)
    for reason, fields in {
        "no_pair": {"chosen": None, "rejected": None},
        "same_answers": {"rejected": good.chosen},
        "open_thought": {"chosen": "It is 5."},
        "too_long": {"rejected": "5 " * 500 + "</think>"},
    }.items():
        reader = kinds.open_reader(
            stage, processor, config.data, source=changed(**fields)
        )
        assert reader.make(0)["reason"] == reason
        reader.close()
    # A rejected answer may be bad in that it never ends its thought.
    rows = changed(rejected="It is 5.")
    reader = kinds.open_reader(stage, processor, config.data, source=rows)
    pair = reader.make(0).encoded
    reader.close()
    tokenizer = processor.tokenizer
    assert tokenizer.decode(pair.rejected, skip_special=False) == "It is 5.<|im_end|>"
    # As supervised learning has it: the prompt, then the answer through the end of its turn.
    taught = dataclasses.replace(good, chain=good.chosen, chosen=None, rejected=None)
    whole = processor.supervised(dataclasses.replace(taught, image_labels=()))
    asked = len(pair.tokens)
    np.testing.assert_array_equal(whole.tokens[:asked], pair.tokens)
    np.testing.assert_array_equal(whole.tokens[whole.loss_mask], pair.chosen)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss": "dpo"}, r"Preference.loss is 'dpo'; .* Mpo\(1.0, 0.0, 0.0\)"),
        ({"loss": Mpo(0.0, 0.0, 1.0)}, "never looks at a rejected answer; .* SFT"),
        ({"loss": Mpo(quality=-1.0)}, "Preference.loss.quality is -1.0; .* as 0.2"),
        ({"pairs": 6, "accumulate": 4}, "pairs = 6 must divide .* 8 would do"),
    ],
)
def test_a_stage_that_cannot_learn_is_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        config.with_stages(mpo=dataclasses.replace(config.stages["mpo"], **changes))


def test_pairs_must_split_over_the_mesh(config):
    wanted = (
        "mpo.pairs / mpo.accumulate = 2 does not split .* = 4 of mesh .*; 4 would do"
    )
    with pytest.raises(ValueError, match=wanted):
        dataclasses.replace(config, mesh=(2, 2, 1))
