"""Scores of steps by a frozen model: where steps end, what the numbers are, what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
from rollout_cases import source
from tokenizers_for_tests import write_tiny_tokenizer

from r1v3_jax.config import TINY, Compute
from r1v3_jax.models import build
from r1v3_jax.processing import chat
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.helpers import Endpoint, Frozen, StepScores
from r1v3_jax.rewards.settings import Verify
from r1v3_jax.stages.step_scores import FrozenScores, marks, step_scores

HELPER = Frozen("dir")


@pytest.mark.parametrize(
    ("between", "thoughts", "steps"),
    [
        (";", "7+8=15;4+3=8", ["7+8=15;", "4+3=8"]),
        ("\n\n", "one\n\ntwo\n\n", ["one\n\n", "two\n\n"]),
        (";", "a;;b", ["a;;", "b"]),
        (";", ";a", [";a"]),
        (";", "", []),
    ],
)
def test_steps_written_out(between, thoughts, steps):
    assert StepScores(HELPER, between=between).steps(thoughts) == steps


@pytest.mark.parametrize(
    ("aggregate", "value"), [("min", 0.4), ("mean", 0.7), ("last", 0.8)]
)
def test_one_number_of_several(aggregate, value):
    term = StepScores(HELPER, aggregate=aggregate)
    ((found, problem),) = term.grade([(None, [0.9, 0.4, 0.8])], Verify(), 1.0)
    assert found == pytest.approx(value) and problem == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"helper": Endpoint("http://h/v1", "m")},
            "wanted a model whose probabilities",
        ),
        ({"aggregate": "max"}, "StepScores.aggregate is 'max'; choose from min, mean"),
        ({"good": "-"}, "between is '\\\\n\\\\n', good '-' and bad '-'; wanted a text"),
    ],
)
def test_mistakes_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(StepScores(HELPER), **changes)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(directory)
    tokenizer = load(directory, chat=chat.ChatFormat(system=None, opening="<think>\n"))
    config = dataclasses.replace(
        TINY,
        text=dataclasses.replace(TINY.text, vocab_size=tokenizer.vocab_size),
        image_token_id=tokenizer.image_token_id,
        end_token_id=tokenizer.end_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return FrozenScores(
        StepScores(HELPER, between=";"),
        build.init(config, Compute()),
        Processor(config, tokenizer),
        prompts=2,
        rows=2,
        room=80,
        tiles=2,
    )


def test_the_scores_are_those_of_each_text_alone(scorer):
    """Another way: each step's text up to its end by itself, and the softmax of two logits."""
    rows = [(source(1), "7+8=15;4+3=7"), (source(2), "a;b;c"), (source(3), "x")]
    rows.insert(1, (source(1), "w" * 99))
    rows.append((source(2), ""))
    found = scorer(rows)
    assert found[1][0] == [] and "the helper has room for 80" in found[1][1]
    assert found[4] == ([], "")
    ((silent, problem),) = scorer.term.grade([(None, [])], Verify(), 1.0)
    assert np.isnan(silent) and problem == ""
    processor = scorer.processor
    good, bad = marks(scorer.term, processor)
    assert good != bad
    for i in (0, 2, 3):
        example, thoughts = rows[i]
        prompt = processor.prompt(example)
        images = scorer.model.encode_images(np.asarray(prompt.tiles))
        ids = prompt.tokens.tolist()
        expected = []
        for step in scorer.term.steps(thoughts):
            ids = ids + processor.tokenizer.encode_text(step)
            tokens = np.asarray([ids], np.int32)
            index = np.where(tokens == processor.config.image_token_id, 0, -1)
            index = np.where(index == 0, np.cumsum(index == 0, axis=1) - 1, -1)
            places = np.arange(len(ids), dtype=np.int32)[None]
            hidden = scorer.model(
                tokens, places, np.ones_like(tokens), images, index.astype(np.int32)
            )
            logits = scorer.model.logits(hidden)[0, -1]
            two = jax.nn.softmax(np.asarray([logits[good], logits[bad]]))
            expected.append(float(two[0]))
        # Sums of float32 in rows of another length.
        np.testing.assert_allclose(found[i][0], expected, rtol=0, atol=1e-5)
        assert found[i][1] == ""
    assert len({*found[2][0]}) == 3


def test_scores_that_are_not_finite_are_a_problem(scorer, monkeypatch):
    """Not silence, which is what thoughts without a step say."""
    broken = np.full((2, 80), np.nan, np.float32)
    monkeypatch.setattr(FrozenScores, "_score", lambda self, examples: broken)
    scores, problem = scorer([(source(1), "a;b")])[0]
    assert scores == [] and problem == "the scores of its steps are [nan, nan]"


def test_its_program_is_compiled_with_nothing_to_score(scorer):
    assert scorer([]) == []
    programs = step_scores._cache_size()
    scorer([(source(i), "a;b") for i in range(3)])
    assert step_scores._cache_size() == programs


def test_a_mark_of_several_tokens_is_refused(scorer):
    term = dataclasses.replace(scorer.term, good="good")
    with pytest.raises(ValueError, match="good is 'good', which is .* tokens"):
        marks(term, scorer.processor)
