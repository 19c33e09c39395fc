"""A reference that is a checkpoint: the teacher of distillation, and what is refused."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from r1v3_jax import hf
from r1v3_jax.config import GRPO, Optimizer, load_config
from r1v3_jax.losses import Distilled, HighEntropy, Prioritized, TermByTerm
from r1v3_jax.models import build
from r1v3_jax.pipeline import pipeline, preflight, start
from r1v3_jax.run import metrics, weights
from r1v3_jax.sharding import make_mesh, shard_bytes
from r1v3_jax.stages import kinds, reference
from r1v3_jax.train import policy_gradient


def source(index):
    return None


@pytest.fixture(scope="module")
def config():
    """The smoke run's reinforcement stage alone, on two devices."""
    smoke = load_config("digits_smoke")
    stage = dataclasses.replace(
        smoke.stages["grpo"],
        steps=24,
        evaluate_every=0,
        max_completion_tokens=8,
        optimizer=Optimizer(lr=2e-3),
        loss=Distilled(),
        reference="not there yet",
    )
    return dataclasses.replace(
        smoke,
        stages={"grpo": stage},
        evaluate=dataclasses.replace(
            smoke.evaluate, sets=(), pooled=(), answer_prior=()
        ),
        mesh=(1, 2, 1),
    )


def with_reference(config, directory, **changes):
    stage = dataclasses.replace(
        config.stages["grpo"], reference=str(directory), **changes
    )
    return config.with_stages(grpo=stage)


def teacher_of(config, directory, **text):
    """Writes a random model, whose language model differs in these fields, as an export."""
    text = dataclasses.replace(config.model.text, **text)
    model = dataclasses.replace(config.model, text=text)
    teacher = build.init(model, config.compute, seed=7)
    # Sure of itself, and so far from a student that knows nothing.
    teacher.language.norm[...] = 8 * teacher.language.norm[...]
    hf.save(teacher, directory)
    return directory


def test_a_student_learns_from_a_larger_teacher(config, tmp_path, monkeypatch):
    """Its distance falls step by step; what was compiled is what the dry run counts with."""
    layers = config.model.text.layers + 1
    directory = teacher_of(config, tmp_path / "teacher", layers=layers)
    run = with_reference(config, directory)
    preflight.check(run)
    lowered = []
    scored = policy_gradient.score

    @functools.wraps(scored)
    def watched(*args):
        if len(lowered) < 2:  # of the policy, and of the teacher
            lowered.append(scored.lower(*args).as_text())
        return scored(*args)

    monkeypatch.setattr(policy_gradient, "score", watched)
    pipeline.run(run, tmp_path / "run", quiet=True)
    monkeypatch.undo()

    # 1. The distance that remains, and no program twice.
    steps = [line for line in metrics.read(tmp_path / "run") if line["stage"] == "grpo"]
    distance = [line["teacher_kl"] for line in steps]
    assert np.mean(distance[-6:]) < 0.8 * np.mean(distance[:6]), distance
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["compiles_after_warmup"] == 0

    # 2. The programs of the table, and the bytes that each finds beside its arguments.
    tokenizer = start.make_processor(run, tmp_path / "run/tokenizer").tokenizer
    mesh = make_mesh(run.mesh)
    table = kinds.stage_programs(run, "grpo", mesh, tokenizer.banned_token_ids)
    scores = {p.label: p for p in table if p.name == "score"}
    assert scores.keys() == {"score", "reference_score"}
    assert set(lowered) == {p.lower().as_text() for p in scores.values()}
    teacher = build.abstract(
        reference.reference_config(run, run.stages["grpo"]), run.compute, mesh
    )
    student = build.abstract(run.model, run.compute, mesh)
    assert shard_bytes(teacher) > shard_bytes(student)
    (update,) = [p for p in table if p.name == "update"]
    assert update.resident == shard_bytes(teacher)
    # Of the state, weights and moments, both scores leave the moments and the other model.
    assert scores["score"].resident - scores["reference_score"].resident == shard_bytes(
        teacher
    ) - shard_bytes(student)


def test_a_reference_of_ours_and_its_export_score_alike(config, tmp_path):
    """The same weights in both layouts, on two devices: the same arrays."""
    model = build.init(config.model, config.compute, seed=7)
    weights.save_weights(tmp_path / "ours", model)
    hf.save(model, tmp_path / "export")
    with jax.set_mesh(make_mesh(config.mesh)):
        loaded = [
            reference.make_reference(
                config, with_reference(config, path).stages["grpo"], None
            )
            for path in (tmp_path / "ours", tmp_path / "export")
        ]
    assert loaded[0].config == loaded[1].config == config.model
    ours, export = (jax.tree.leaves(model) for model in loaded)
    padded = config.model.text.padded_vocab
    for a, b in zip(ours, export, strict=True):
        assert a.sharding == b.sharding
        # What pads the vocabulary leaves no checkpoint, and is masked wherever it is read.
        rows = config.model.text.vocab_size if len(a) == padded else None
        np.testing.assert_array_equal(np.asarray(a)[:rows], np.asarray(b)[:rows])


def test_a_reference_that_cannot_judge_is_refused_on_the_host(config, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="GRPO.reference: .*no such directory; give a"
    ):
        preflight.check(with_reference(config, tmp_path / "nowhere"))
    vocab_size = config.model.text.vocab_size + 1
    other = teacher_of(config, tmp_path / "other", vocab_size=vocab_size)
    message = f"text.vocab_size is {vocab_size} there and {vocab_size - 1} here"
    with pytest.raises(ValueError, match=message):
        preflight.check(with_reference(config, other))
    # As many words, of which two have changed their places.
    swapped = teacher_of(config, tmp_path / "swapped")
    config.write_tokenizer(swapped)
    preflight.check(with_reference(config, swapped))
    path = swapped / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    (one, first), (other_word, second) = list(vocab.items())[-2:]
    vocab |= {one: second, other_word: first}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has other words: 2 of the run's \d+ tokens"):
        preflight.check(with_reference(config, swapped))
    short = teacher_of(config, tmp_path / "short", max_positions=32)
    with pytest.raises(ValueError, match="has 32 positions, and"):
        preflight.check(with_reference(config, short))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reference": "dir"},
            "is 'dir' and nothing reads it; kl_coef = 0.001 or loss =",
        ),
        ({"loss": Distilled()}, "GRPO.loss is Distilled and GRPO.reference empty"),
        (
            {"loss": Distilled(), "reference": "dir", "refills": 1},
            "learns from every token whatever its reward, beside refills = 1",
        ),
        (
            {"loss": Distilled(), "reference": "dir", "tokens": HighEntropy()},
            "whatever its reward, beside refills = 0, tokens = HighEntropy",
        ),
        (
            {"loss": Distilled(), "reference": "dir", "sample_weight": Prioritized()},
            "and sample_weight = Prioritized",
        ),
        (
            {"advantage": TermByTerm(), "refills": 2},
            "refill_by = 'accuracy' or refills = 0 would do",
        ),
    ],
)
def test_a_reference_without_use_and_a_teacher_without_one_are_refused(
    changes, message
):
    with pytest.raises(ValueError, match=message):
        GRPO(source, **changes)


def test_a_reference_of_a_kl_term_passes():
    assert GRPO(source, kl_coef=0.1, reference="dir").needs_reference()
    assert GRPO(source, kl_coef=0.1).needs_reference()
    assert not GRPO(source).needs_reference()
