"""Chains from a teacher: what is kept, why the others are not, the way into a cold start."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from r1v3_jax.data import mixtures, reader
from r1v3_jax.distill.filter import Filter, rambles
from r1v3_jax.distill.keeps import Rates, Shortest, keep_all
from r1v3_jax.files import write_jsonl
from r1v3_jax.processing.processor import Encoded
from r1v3_jax.rewards.score import Score
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rollout import sampler as rollout
from r1v3_jax.rollout.group import Group
from r1v3_jax.rollout.sampler import sample
from r1v3_jax.types import DroppedRow, Example

RIGHT = Score(1.0, 1.0, 1.0, Verdict.RIGHT, "1", "")
WRONG = Score(0.2, 0.0, 1.0, Verdict.WRONG, "2", "")
FAILED = Score(None, None, 1.0, Verdict.ERROR, "3", "")
SHAPELESS = Score(0.8, 1.0, 0.0, Verdict.RIGHT, "1", "")


def source(index: int) -> Example:
    return Example(
        f"q{index}",
        (),
        f"question {index}",
        str(index),
        image_labels=("x",),
        source="set",
    )


def group(index, samples):
    """A group of (ids, ended, score)."""
    width = max(len(ids) for ids, _, _ in samples)
    tokens = np.zeros((len(samples), width), np.int32)
    for row, (ids, _, _) in zip(tokens, samples, strict=True):
        row[: len(ids)] = ids
    completions = SimpleNamespace(
        tokens=tokens,
        lengths=np.array([len(ids) for ids, _, _ in samples]),
        ended=np.array([ended for _, ended, _ in samples]),
    )
    texts = [" ".join(map(str, ids)) for ids, _, _ in samples]
    return Group(
        source(index), None, completions, texts, [score for *_, score in samples]
    )


def test_why_a_chain_is_not_kept():
    samples = {
        "kept": ([1, 2, 3], True, RIGHT),
        "wrong": ([1, 2, 3], True, WRONG),
        "verifier failed": ([1], True, FAILED),
        "format": ([1], True, SHAPELESS),
        "rambles": ([1, 2, 9, 1, 2, 8, 1, 2], True, RIGHT),
        "too long": ([1] * 10, True, RIGHT),
    }
    keep = Filter(max_tokens=9, ngram=2, repeats=2)
    candidates = group(0, list(samples.values()))
    assert [keep.verdict(candidates, i) for i in range(len(samples))] == list(samples)
    cut_short = group(0, [([1, 2], False, RIGHT)])
    assert keep.verdict(cut_short, 0) == "too long"


@pytest.mark.parametrize(
    "ids, expected",
    [
        ([1, 2, 3] * 3, True),
        ([1, 2, 3] * 2 + [1, 2], False),
        ([5, 5, 5, 5, 5], True),
        ([], False),
    ],
    ids=str,
)
def test_rambling(ids, expected):
    assert rambles(np.array(ids, np.int32), ngram=3, repeats=2) is expected


class GroupSampler:
    """Answers example i with the prepared samples; records what it is asked."""

    sampling = SimpleNamespace(max_tokens=9)

    def __init__(self, samples):
        self.samples = samples
        self.asked = []

    def reader(self, source, prompts):
        def encode(example):
            return Encoded(np.zeros(1, int), np.zeros(1, int), np.zeros(1, bool), ())

        return reader.Reader(source, encode, tokens=1, tiles=0)

    def groups(self, model, examples, info):
        indices = [int(example.id[1:]) for example in examples]
        self.asked.append(indices)
        return [group(i, self.samples[i % len(self.samples)]) for i in indices]


def test_the_shortest_right_chain_of_each_question_goes_to_the_cold_start(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(rollout, "for_decoding", lambda model: model)
    sampler = GroupSampler(
        [
            [([7, 8, 9], True, RIGHT), ([4, 5], True, RIGHT), ([6], True, WRONG)],
            [([1], True, WRONG), ([2], True, WRONG), ([3], True, FAILED)],
        ]
    )
    groups = sample(sampler, None, source, 3, 2, jax.random.key(0))
    rows, verdicts = keep_all(groups, Shortest(filter=Filter(9)))
    assert rows == [
        {"index": 0, "id": "q0", "chain": "4 5"},
        {"index": 2, "id": "q2", "chain": "4 5"},
    ]
    assert verdicts == {
        "kept": 2,
        "others of its question were better": 2,
        "wrong": 4,
        "verifier failed": 1,
    }
    assert sampler.asked == [[0, 1], [2, 3]]  # the last batch is as large as the others

    write_jsonl(tmp_path / "chains.jsonl", rows)
    read = mixtures.with_chains(source, tmp_path / "chains.jsonl")
    assert [read(i).id for i in range(3)] == ["q0", "q2", "q0"]
    assert read(1) == dataclasses.replace(source(2), chain="4 5")


def rate(index: int, pass_rate, reward_std, samples: int) -> dict:
    return {
        "index": index,
        "id": f"q{index}",
        "source": "set",
        "pass_rate": pass_rate,
        "reward_std": reward_std,
        "samples": samples,
    }


def test_the_share_of_right_answers_of_each_question(monkeypatch):
    """A failed verification is no answer; a bad row is no question."""
    monkeypatch.setattr(rollout, "for_decoding", lambda model: model)
    sampler = GroupSampler(
        [
            [
                ([7, 8], True, RIGHT),
                ([4], True, WRONG),
                ([5], True, FAILED),
                ([6], True, WRONG),
            ],
            [([1], True, RIGHT)] * 4,
            [([1], True, FAILED)] * 4,
        ]
    )

    def with_a_bad_row(index):
        if index == 1:
            raise DroppedRow("set", "q1", "answer")
        return source(index)

    with pytest.warns(
        UserWarning, match="bad rows were left out of the questions: 1 answer"
    ):
        groups = sample(sampler, None, with_a_bad_row, 4, 2, jax.random.key(0))
        rows, _ = keep_all(groups, Rates())
    assert rows == [
        rate(0, 1 / 3, np.std([1.0, 0.2, 0.2]), 3),
        rate(2, None, None, 0),
        rate(3, 1 / 3, np.std([1.0, 0.2, 0.2]), 3),
        rate(4, 1.0, 0.0, 4),
    ]


def test_chains_of_another_source_are_refused(tmp_path):
    path = tmp_path / "chains.jsonl"
    write_jsonl(path, [{"index": 5, "id": "q4", "chain": "x"}])
    with pytest.raises(ValueError, match="example 5 is 'q5' here and was 'q4'"):
        mixtures.with_chains(source, path)(0)
    path.write_text("")
    with pytest.raises(ValueError, match="no chains; distil from a checkpoint"):
        mixtures.with_chains(source, path)
    for text in ('{"index": 5}', "[1]", "<html>"):
        path.write_text(text + "\n")
        with pytest.raises(
            ValueError, match=r"chains.jsonl: not a file of tools/distill.py \("
        ):
            mixtures.with_chains(source, path)
    with pytest.raises(
        FileNotFoundError, match="no such file; tools/distill.py makes one"
    ):
        mixtures.with_chains(source, tmp_path / "none.jsonl")
