"""The whole pipeline on a few steps a stage: it runs, resumes, and repeats bitwise."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import exported_answers
import jax
import numpy as np
import pytest
from flax import nnx
from tools_for_tests import run_tool

from r1v3_jax import hf
from r1v3_jax.config import load
from r1v3_jax.data import Rows
from r1v3_jax.evaluate import accuracy, held_out
from r1v3_jax.files import read_jsonl
from r1v3_jax.hf import processor_files
from r1v3_jax.pipeline import pipeline, preflight, start
from r1v3_jax.processing.chat import ChatFormat
from r1v3_jax.run import metrics, weights
from r1v3_jax.sharding import make_mesh
from r1v3_jax.stages import loop

ROOT = Path(__file__).parents[2]
UNTAUGHT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def config():
    return load.load_config("digits_smoke")


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, pipeline.run(config, workdir, quiet=True)


def logged(workdir, stages=None):
    """The lines of metrics.jsonl without what measures time."""
    return [
        {k: v for k, v in line.items() if not k.endswith(("_s", "_per_s"))}
        for line in metrics.read(workdir)
        if stages is None or line["stage"] in stages
    ]


def test_it_leaves_what_a_run_leaves(config, finished):
    workdir, summary = finished
    assert set(summary["accuracy"]) == {"cold_start", "grpo", "connector"}
    for sets in (*summary["accuracy"].values(), summary["blind"]):
        assert set(sets) == {"easy", "normal", "hard", "second", "home"}
        assert sets["home"]["n"] == 24 and sets["easy"]["n"] == 8
    assert summary["compiles_after_warmup"] == 0
    assert summary["programs"] == {
        "update": 4,  # one a stage
        "reshard": 1,  # to the layout for decoding
        "prefill": 3,  # rollouts, probe, held-out questions
        "decode": 3,
        "encode_images": 2,  # of a rollout; of the others, which have more tiles
        "score": 0,
        "follow": 0,
        "step_scores": 0,
        "validation_loss": 1,
    }
    prior = summary["answer_prior"]
    assert (
        set(prior) == set(summary["blind"]) and 0 < prior["hard"] < prior["easy"] < 0.2
    )
    assert summary["chosen_step"] in (1, 2) and len(summary["checkpoints"]) == 2
    assert (
        json.loads((workdir / "summary.json").read_text())["versions"]["jax"]
        == jax.__version__
    )
    steps = [(line["stage"], line["step"]) for line in metrics.read(workdir)]
    planned = (("base", 3), ("cold_start", 3), ("grpo", 2), ("connector", 3))
    assert steps == [(stage, i) for stage, count in planned for i in range(count)]
    assert {path.stem for path in (workdir / "plots").glob("*.png")} >= {
        "reward",
        "accuracy_by_stage",
    }
    assert (workdir / "rollouts" / "grpo_000000.jsonl").exists()
    # Answers to the same questions at each probe, with their pictures.
    probes = [
        read_jsonl(workdir / "rollouts" / f"grpo.probe_00000{i}.jsonl") for i in (0, 1)
    ]
    assert [row["id"] for row in probes[0]] == [row["id"] for row in probes[1]]
    assert len(probes[0]) == min(32, config.evaluate.probe_questions)
    for row in probes[1]:
        assert (workdir / "rollouts" / row["images"][0]).exists()
    # Whether each question was answered right, from which the accuracy comes.
    rows = read_jsonl(workdir / "connector" / "verdicts.jsonl")
    asked = [row["set"] for row in rows]
    assert asked == [
        name for name in ("easy", "normal", "hard", "second") for _ in range(8)
    ]
    right = [row["right"] == [True] for row in rows if row["set"] == "easy"]
    assert summary["accuracy"]["connector"]["easy"]["mean"] == sum(right) / 8
    assert all(row["credit"] == [float(row["right"] == [True])] for row in rows)


def test_the_export_is_the_model(config, finished):
    workdir, _ = finished
    exported = hf.load(workdir / "export")
    kept = weights.load_weights(workdir / "connector/done")
    vocab = config.model.text.vocab_size  # pad rows of the vocabulary are not exported
    for model in (exported, kept):
        for table in (model.language.embedding, model.language.head):
            table.set_value(table[...][:vocab])
    for a, b in zip(jax.tree.leaves(exported), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_export_answers_in_transformers_what_ours_answers(config, finished):
    workdir, _ = finished
    differing, count = exported_answers.compare(config, workdir, 8)
    assert count == 8 and not differing


def test_a_checkpoint_of_another_model_is_refused(config, finished, tmp_path):
    workdir, _ = finished
    for source in ("export", "connector/done"):
        run = dataclasses.replace(
            config, init_from=str(workdir / source), write_tokenizer=None
        )
        preflight.check(run)  # the same model
        assert (
            pipeline.prepare(run, tmp_path / source, True).processor.tokenizer
            is not None
        )
        text = dataclasses.replace(config.model.text, layers=4)
        vision = dataclasses.replace(config.model.vision, norm="layer_norm")
        other = dataclasses.replace(config.model, text=text, vision=vision)
        with pytest.raises(ValueError) as error:
            preflight.check(dataclasses.replace(run, model=other))
        assert str(error.value) == (
            f"{workdir / source} is not the model of this config: text.layers is 3 there and 4 "
            "here; vision.norm is 'rms_norm' there and 'layer_norm' here; change config.model, or "
            "start from another checkpoint"
        )


def warned(caplog) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING"
    ]


def test_a_run_begins_the_assistant_s_turn_as_it_says(
    config, finished, tmp_path, caplog
):
    workdir, _ = finished
    source = tmp_path / "untaught"  # as InternVL3's: no thought is opened, strings only
    shutil.copytree(workdir / "export", source)
    processor_files.replace_template(source, UNTAUGHT)
    run = dataclasses.replace(config, init_from=str(source), write_tokenizer=None)
    context = pipeline.prepare(run, tmp_path / "as it is", True)
    assert context.processor.tokenizer.chat == ChatFormat("Be brief.", "")
    assert "begins with '', not with <think>" in warned(caplog)[0]
    # Without GRPO there are no rewards to miss.
    caplog.clear()
    sft = dataclasses.replace(run, stage="cold_start")
    start.make_processor(sft, tmp_path / "as it is" / "tokenizer")
    assert not warned(caplog)

    taught = dataclasses.replace(run, opening="<think>\n")
    context = pipeline.prepare(taught, tmp_path / "taught", True)
    assert context.processor.tokenizer.chat == ChatFormat("Be brief.", "<think>\n")
    assert not warned(caplog)
    both = dataclasses.replace(taught, system='Box "it".')
    context = pipeline.prepare(both, tmp_path / "both", True)
    assert context.processor.tokenizer.chat == ChatFormat('Box "it".', "<think>\n")
    prompt = context.processor.tokenizer.encode_prompt(
        [{"role": "user", "content": "1 + 1 ="}]
    )
    text = context.processor.tokenizer.decode(prompt, skip_special=False)
    assert text.startswith("<|im_start|>system\nBox") and text.endswith(
        "assistant\n<think>\n"
    )
    # In a directory where a run was begun that had said nothing yet.
    context = pipeline.prepare(both, tmp_path / "as it is", True)
    assert context.processor.tokenizer.chat == ChatFormat('Box "it".', "<think>\n")
    own = dataclasses.replace(
        config, system="Of digits."
    )  # a tokenizer that the run writes
    context = pipeline.prepare(own, tmp_path / "own", True)
    assert context.processor.tokenizer.chat == ChatFormat("Of digits.", "<think>\n")
    # Another one is another run.
    assert taught.identity("grpo") != both.identity("grpo") != run.identity("grpo")


def test_a_checkpoint_that_lacks_something_is_refused_on_the_host(
    config, finished, tmp_path
):
    workdir, _ = finished
    run = dataclasses.replace(
        config, init_from=str(tmp_path / "c"), write_tokenizer=None
    )
    for lost, message in (
        ("model.safetensors", "safetensors"),
        ("tokenizer.json", "no tokenizer in"),
    ):
        shutil.copytree(workdir / "export", tmp_path / "c")
        preflight.check(run)
        for path in (tmp_path / "c").glob("*token*" if "token" in lost else lost):
            path.unlink()
        (tmp_path / "c" / "chat_template.jinja").unlink()
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            preflight.check(run)
        shutil.rmtree(tmp_path / "c")


@pytest.mark.parametrize("source", ["export", "connector/done"])
def test_the_choices_of_a_run_are_taken(config, finished, tmp_path, source):
    """Of what may differ from the checkpoint: the run's own, in data, model and export alike."""
    workdir, _ = finished
    text = dataclasses.replace(
        config.model.text, rope_impl="vllm_static", rope_factor=1.0
    )
    model = dataclasses.replace(
        config.model, text=text, max_tiles=7, architecture="SkyworkR1VChatModel"
    )
    origin = str(workdir / source)
    run = dataclasses.replace(
        config, init_from=origin, write_tokenizer=None, model=model
    )
    preflight.check(run)
    context = pipeline.prepare(run, tmp_path / "run", True)
    with jax.set_mesh(make_mesh(config.mesh)):
        got = start.first_weights(context, "base")
    assert got.config == model and got.language.config == model.text
    vocab = text.vocab_size
    kept = weights.load_weights(workdir / "connector/done")
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(kept), strict=True):
        a, b = (x[:vocab] if x.shape[0] == text.padded_vocab else x for x in (a, b))
        np.testing.assert_array_equal(a, b)


def test_a_stage_that_begins_without_the_one_before_says_so(
    config, finished, tmp_path, caplog
):
    context = pipeline.prepare(config, tmp_path / "run", True)
    with jax.set_mesh(make_mesh(config.mesh)):
        start.first_weights(context, "base")
        assert not warned(caplog)
        start.first_weights(context, "grpo")
    assert warned(caplog)[0].startswith(
        "grpo begins with random weights: cold_start was not done"
    )


def asks_three(tool: str, *flags: str) -> str:
    """What a tool prints that asks a checkpoint three questions, twice each."""
    mesh = ["--mesh=1,2,1"]  # of two devices
    done = run_tool(
        tool, *flags, *mesh, "--examples=3", "--samples=2", "--batch=2", devices=2
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_distillation_tool_asks_the_teacher(finished, tmp_path):
    """The teacher of a few steps answers nothing right, and the tool says so."""
    workdir, _ = finished
    out = tmp_path / "chains.jsonl"
    flags = [
        "--config=digits_smoke",
        f"--checkpoint={workdir}/grpo/done",
        f"--out={out}",
    ]
    printed = asks_three("distill", *flags)
    said = re.fullmatch(rf"{out}: 0 chains for 3 questions; samples: (.*)\n", printed)
    counts = {
        verdict: int(count)
        for count, verdict in re.findall(r"(\d+) ([a-z ]+)", said[1])
    }
    assert sum(counts.values()) == 6 and set(counts) <= {"wrong", "too long"}
    assert out.read_text() == ""


def test_the_pass_rates_tool_asks_the_policy(finished, tmp_path):
    workdir, _ = finished
    out, data = tmp_path / "rates.jsonl", tmp_path / "mine.jsonl"
    source = load.load_config("digits_smoke").stages["grpo"].train
    examples = [source(i) for i in range(3)]
    for i, example in enumerate(examples):
        example.images[0].save(tmp_path / f"{i}.png")
    asked = [
        {"id": x.id, "question": x.question, "answer": x.answer, "images": [f"{i}.png"]}
        for i, x in enumerate(examples)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in asked))
    flags = [
        "--config=digits_smoke",
        f"--checkpoint={workdir}/cold_start/done",
        f"--out={out}",
    ]
    flags.append(f"--data={data}")
    assert (
        asks_three("pass_rates", *flags)
        == f"{out}: 3 questions; 0 always solved, 3 never, 0 between, 0 not verified\n"
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    own = Rows(str(data))  # in an order of its own
    assert rows == [
        {
            "index": i,
            "id": own(i).id,
            "source": "mine",
            "pass_rate": 0.0,
            "reward_std": 0.0,
            "samples": 2,
        }
        for i in range(3)
    ]
    assert {row["id"] for row in rows} == {example.id for example in examples}


def test_connector_tuning_moves_the_connector_alone(finished):
    workdir, _ = finished
    before = weights.load_weights(workdir / "grpo/done")
    after = weights.load_weights(workdir / "connector/done")
    for part in ("vision", "language"):
        for a, b in zip(
            jax.tree.leaves(getattr(before, part)),
            jax.tree.leaves(getattr(after, part)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(before.connector.up[...], after.connector.up[...])


def test_the_same_command_again_finds_everything_done(config, finished):
    workdir, summary = finished
    lines = logged(workdir)
    again = pipeline.run(config, workdir, quiet=True)
    assert (
        again["accuracy"] == summary["accuracy"]
        and again["chosen_step"] == summary["chosen_step"]
    )
    assert logged(workdir) == lines


@pytest.mark.parametrize("thinking, budget", [("prefilled", 0), ("no_wait", 4)])
def test_thinking_modes(config, finished, tmp_path, monkeypatch, thinking, budget):
    """Four tokens of thinking at most, or none at all; what the model says is looked at."""
    workdir, _ = finished
    shutil.copytree(workdir / "tokenizer", tmp_path / "tokenizer")
    settings = dataclasses.replace(
        config.evaluate, thinking=thinking, thinking_tokens=budget,
        sets=config.evaluate.sets[:1], pooled=(),
    )  # fmt: skip
    context = pipeline.prepare(
        dataclasses.replace(config, evaluate=settings), tmp_path, True
    )
    said = []

    def listen(groups):
        said.extend(groups)
        return {}

    monkeypatch.setattr(accuracy, "accuracy", listen)
    held_out.accuracies(context, weights.load_weights(workdir / "connector/done"))
    assert len(said) == 8
    words = [
        context.processor.tokenizer.encode_text(word)[0] for word in ("Wait", " Hmm")
    ]
    for group in said:
        (text,), ids = group.texts, group.completions.tokens[0]
        if thinking == "prefilled":
            assert text.startswith("\n</think>\n\n")
        else:
            assert "</think>" in context.processor.tokenizer.decode(
                ids[:5], skip_special=False
            )
            assert not np.isin(ids, words).any()


def test_several_answers_a_question(config, finished, tmp_path):
    """The report's protocol: the mean of several answers at temperature 1, and pass@k."""
    workdir, _ = finished
    shutil.copytree(workdir / "tokenizer", tmp_path / "tokenizer")
    settings = dataclasses.replace(
        config.evaluate, samples=3, temperature=1.0,
        sets=config.evaluate.sets[:1], pooled=(),
    )  # fmt: skip
    context = pipeline.prepare(
        dataclasses.replace(config, evaluate=settings), tmp_path, True
    )
    model = weights.load_weights(workdir / "connector/done")
    (measured,) = held_out.accuracies(context, model).values()
    assert (measured["n"], measured["samples"]) == (8, 3)
    assert measured["pass"] >= measured["mean"] >= 0
    assert held_out.accuracies(context, model) == {"easy": measured}  # the same again


def test_a_stage_resumes_bitwise(config, finished, tmp_path, monkeypatch):
    """Stopped after 2 of 3 steps and started again: the same numbers, the same weights."""
    workdir, _ = finished
    short = dataclasses.replace(
        config,
        stage="base",
        stages={
            **config.stages,
            "base": dataclasses.replace(config.stages["base"], checkpoint_every=1),
        },
    )

    class Stop(Exception):
        pass

    def stopping(index, source=short.stages["base"].train, limit=20):
        if index > limit:
            raise Stop
        return source(index)

    torn = dataclasses.replace(
        short,
        stages={
            **short.stages,
            "base": dataclasses.replace(short.stages["base"], train=stopping),
        },
    )
    with pytest.raises(Stop):
        pipeline.run(torn, tmp_path, quiet=True)
    done = [line["step"] for line in metrics.read(tmp_path)]
    assert done and len(done) < 3  # it was stopped on the way
    released = []
    monkeypatch.setattr(
        loop,
        "release",
        lambda model, now=loop.release, **kept: (
            released.append(model) or now(model, **kept)
        ),
    )
    pipeline.run(short, tmp_path, quiet=True, accept_changes=True)  # of the source
    # What the stage would have begun with does not stay beside what it goes on from.
    assert all(
        x.is_deleted() for model in released for x in jax.tree.leaves(nnx.state(model))
    )
    assert len(released) == 1
    assert logged(tmp_path) == logged(workdir, ["base"])
    resumed = weights.load_weights(tmp_path / "base/done")
    straight = weights.load_weights(workdir / "base/done")
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(straight), strict=True):
        np.testing.assert_array_equal(a, b)
