"""A checkpoint answers a benchmark: the same tokens after a kill, every budget from one run."""

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tokenizers_for_tests
from benchmark_files import base64_of, choices, png, write_tsv
from PIL import Image
from random_models import random_model
from small_checkpoints import CONFIG

from r1v3_jax.benchmarks.prompts import place
from r1v3_jax.benchmarks.question import Question
from r1v3_jax.evaluate import (
    benchmark_run,
    benchmark_summary,
    checkpoint_answers,
)
from r1v3_jax.evaluate.benchmark_run import Reader
from r1v3_jax.evaluate.benchmark_summary import Scorer
from r1v3_jax.evaluate.checkpoint_answers import CheckpointModel, Settings
from r1v3_jax.evaluate.samples import Item, Sample, SampleFile
from r1v3_jax.processing.image_files import StoredImage
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.run.weights import save_weights
from r1v3_jax.types import Example

SETTINGS = Settings(
    temperature=1.0,
    max_tokens=24,
    max_prompt_tokens=512,
    seed=0,
    batch=4,
    thinking="slow",
)
RUNS = 2
QUESTION = Example("0", (), "What?", "-")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    work = tmp_path_factory.mktemp("checkpoint")
    (work / "tokenizer").mkdir()
    tokenizers_for_tests.write_tiny_tokenizer(work / "tokenizer")
    save_weights(work / "model", random_model(CONFIG), tokenizer=work / "tokenizer")
    return str(work / "model")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Ten questions: one has two pictures, one holds a control token, one no picture at all."""
    data = tmp_path_factory.mktemp("data")
    rows = choices(10)
    rows[2]["image"] = str([rows[2]["image"], rows[3]["image"]])
    rows[4]["question"] = "Question 4 <|im_end|>?"
    rows[6]["image"] = "no picture"
    write_tsv(data / "pets.tsv", rows)
    return benchmark_run.prepare("pets", Reader(data, "exact", "interleaved", False))


def encodable(model: CheckpointModel, prepared):
    return dataclasses.replace(prepared, items=model.encodable(prepared.items))


def answers(checkpoint, prepared, folder, **changes):
    model = CheckpointModel(checkpoint, dataclasses.replace(SETTINGS, **changes))
    folder.mkdir(exist_ok=True)
    part = encodable(model, prepared)
    benchmark_run.run(part, model, RUNS, folder)
    return SampleFile(folder / "samples.jsonl").samples


def tokens_and_text(samples):
    return {key: (s.text, s.tokens, s.ended) for key, s in samples.items()}


@pytest.fixture(scope="module")
def whole(checkpoint, prepared, tmp_path_factory):
    return answers(checkpoint, prepared, tmp_path_factory.mktemp("whole"))


def test_each_question_has_its_runs_and_they_differ(whole):
    indices = [str(i) for i in range(10) if i != 6]
    assert sorted(whole) == sorted((run, i) for run in range(RUNS) for i in indices)
    differ = [whole[0, i].text != whole[1, i].text for i in indices]
    assert np.mean(differ) > 0.8


def test_control_tokens_in_a_question_are_characters(checkpoint):
    """<|im_end|> ends no turn, <image> is no picture; as tokens they end it and are refused."""
    text = "Is <|im_end|> or <image> in <img>it</img>?"
    picture = StoredImage(png())
    question = Question("0", text, "A", images=(picture,))
    item = Item(question, place(text, 1, "front"))

    def asked(control_tokens: str, item: Item):
        settings = dataclasses.replace(SETTINGS, control_tokens=control_tokens)
        model = CheckpointModel(checkpoint, settings)
        (checked,) = model.encodable([item])
        tokens = None
        if not checked.problem:
            tokens = model.processor.prompt(model.example(item)).tokens.tolist()
        return model.tokenizer, tokens, checked.problem

    tokenizer, tokens, _ = asked("text", item)
    assert text in tokenizer.decode(tokens, skip_special=False)
    # The turns of system and user end; <img> and </img> stand around the one picture.
    assert tokens.count(tokenizer.end_token_id) == 2
    assert tokens.count(tokenizer.control_ids["<img>"]) == 1

    _, _, problem = asked("special", item)
    assert "<img>" in problem
    forging = dataclasses.replace(item, asked=place("Is <|im_end|> it?", 1, "front"))
    _, tokens, _ = asked("special", forging)
    assert tokens.count(tokenizer.end_token_id) == 3


def test_of_900_rows_the_20_that_cannot_be_asked_count_as_wrong_and_are_listed(
    checkpoint, tmp_path
):
    rows = choices(900)
    bad = range(0, 900, 45)
    for number, i in enumerate(bad):
        row = rows[i]
        if number % 4 == 0:
            row["image"] = str([base64_of(png())] * 61)
        elif number % 4 == 1:
            row["image"] = base64_of(png()[:40])
        elif number % 4 == 2:
            row["question"] = "too long " * 600
        else:
            row["question"] = "Is it <image 7>?"
    write_tsv(tmp_path / "pets.tsv", rows)
    part = benchmark_run.prepare("pets", Reader(tmp_path, "exact", "front"))
    part = encodable(CheckpointModel(checkpoint, SETTINGS), part)
    samples = [
        Sample(0, item.question.index, f"</think>{item.question.answer}", tokens=1)
        for item in part.items
        if not item.problem
    ]
    SampleFile(tmp_path / "samples.jsonl").add(samples)
    scorer = Scorer("box", Verify(processes=1), None, thinking=True)
    summary = benchmark_summary.summarise(part, 1, tmp_path, scorer)
    assert summary["questions"] == 900
    assert sorted(summary["not_asked"], key=int) == [str(i) for i in bad]
    assert all(summary["not_asked"].values())
    assert summary["accuracy"] == pytest.approx(880 / 900)


def test_a_prompt_that_is_too_long_is_named(checkpoint, prepared):
    settings = dataclasses.replace(SETTINGS, max_prompt_tokens=10)
    items = CheckpointModel(checkpoint, settings).encodable(prepared.items)
    said = [item.problem for item in items if item.question.index != "6"]
    assert len(said) == 9
    assert all("--max_prompt_tokens is 10" in problem for problem in said)


def test_positions_that_do_not_suffice_are_refused(checkpoint, prepared):
    settings = dataclasses.replace(SETTINGS, max_tokens=10**6)
    with pytest.raises(ValueError, match="exceed the model's"):
        CheckpointModel(checkpoint, settings).encodable(prepared.items)


def test_every_picture_has_all_tiles(checkpoint):
    """Two wide pictures: each has max_tiles and a thumbnail, as if it were alone."""
    model = CheckpointModel(checkpoint, SETTINGS)
    side = CONFIG.vision.image_size
    wide = Image.new("RGB", (side * CONFIG.max_tiles, side))
    pictures = Example("0", (wide, wide), "<image><image>", "-")
    counts = model.processor.tiles(pictures).counts
    assert counts == [CONFIG.max_tiles + 1] * 2


@pytest.mark.parametrize("kept", [0, 5, 8, 13])
def test_what_was_killed_goes_on_with_the_same_tokens(
    checkpoint, prepared, whole, tmp_path, kept
):
    """`kept` samples were written: none, a part of a batch of 8, one batch, one and a part."""
    first = answers(checkpoint, prepared, tmp_path / "first")
    (tmp_path / "second").mkdir()
    file = SampleFile(tmp_path / "second" / "samples.jsonl")
    file.add(list(first.values())[:kept])
    again = answers(checkpoint, prepared, tmp_path / "second")
    assert tokens_and_text(again) == tokens_and_text(whole)


def test_a_batch_that_is_done_is_not_sampled_again(
    checkpoint, prepared, whole, tmp_path, monkeypatch
):
    file = SampleFile(tmp_path / "samples.jsonl")
    file.add(list(whole.values()))
    # No weights are read at all.
    monkeypatch.setattr(CheckpointModel, "_load", lambda self: pytest.fail("sampled"))
    assert answers(checkpoint, prepared, tmp_path).keys() == whole.keys()


def test_smaller_budgets_are_beginnings_of_the_same_run(
    checkpoint, prepared, tmp_path, monkeypatch
):
    """A sample of 24 tokens within 8 is the sample of a run with --max_tokens=8, cut alike."""
    monkeypatch.setattr(checkpoint_answers, "BUDGETS", (8,))
    long = answers(checkpoint, prepared, tmp_path / "long")
    short = answers(checkpoint, prepared, tmp_path / "short", max_tokens=8)
    assert any(not sample.ended for sample in short.values())
    for key, sample in short.items():
        within = long[key].within(8)
        # A character whose bytes are cut in two is not there yet.
        assert sample.text.rstrip("\ufffd") == within.text.rstrip("\ufffd"), key
        assert sample.ended == within.ended


def test_nothink_is_a_template_without_think_and_prefilled_its_end(checkpoint):
    def prompt(thinking):
        settings = dataclasses.replace(SETTINGS, thinking=thinking)
        model = CheckpointModel(checkpoint, settings)
        text = model.tokenizer.decode(
            model.processor.prompt(QUESTION).tokens, skip_special=False
        )
        return text.partition("assistant\n")[2], model.thinks_first()

    assert prompt("slow") == ("<think>\n", True)
    assert prompt("no_think") == ("", False)
    assert prompt("prefilled") == ("<think>\n\n</think>\n\n", False)


def test_no_wait_samples_no_critical_word_of_several_tokens(
    checkpoint, prepared, tmp_path, monkeypatch
):
    """Letters are tokens of this vocabulary; pairs that the model likes stand for the words."""
    slow = answers(checkpoint, prepared, tmp_path / "slow")
    pairs = Counter(a + b for s in slow.values() for a, b in pairwise(s.text))
    # A letter that is also part of a longer token could come in that one.
    merged = set("".join(tokenizers_for_tests.TINY_MERGES)) | set(" \n")
    common = tuple(
        pair
        for pair, _ in pairs.most_common()
        if pair.isascii() and pair.isprintable() and not merged & set(pair.lower())
    )[:30]
    assert sum(pairs[pair] for pair in common) > 20
    monkeypatch.setattr(checkpoint_answers, "CRITICAL_WORDS", common)
    without = answers(checkpoint, prepared, tmp_path / "no_wait", thinking="no_wait")
    settings = dataclasses.replace(SETTINGS, thinking="no_wait")
    model = CheckpointModel(checkpoint, settings)
    assert set(common) <= set(model.banned_spellings())
    texts = "|".join(sample.text for sample in without.values())
    assert not [pair for pair in common if pair in texts]
    # The words themselves are spelled as the tokenizer cuts them.
    monkeypatch.undo()
    assert {"Wait", " hmm", "\nAlternatively"} <= set(model.banned_spellings())
