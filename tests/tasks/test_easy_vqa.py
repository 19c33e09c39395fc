"""easy-VQA: what its questions tell of a picture, and the words of its tokenizer."""

import importlib.util

import numpy as np
import pytest

from r1v3_jax.processing.tokenizer import load
from r1v3_jax.tasks import easy_vqa
from r1v3_jax.tasks.easy_vqa import EasyVQA, facts_of

installed = pytest.mark.skipif(
    importlib.util.find_spec("easy_vqa") is None, reason="needs pip install easy-vqa"
)


def test_what_questions_tell_written_out():
    questions = [
        ("is there not a red shape?", "no", 1),  # it is red
        ("what color is the circle?", "red", 1),
        ("does the image contain a triangle?", "no", 2),
        ("is no rectangle present?", "yes", 2),  # neither: a circle
        ("what is the color of the shape?", "teal", 2),
        ("is a blue shape present?", "no", 3),  # of its colour nothing else is told
        ("what shape is present?", "circle", 3),
    ]
    told = {1: ("red", "circle"), 2: ("teal", "circle"), 3: ("", "circle")}
    assert facts_of(questions) == told


def test_questions_of_a_missing_package_are_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    easy_vqa._folder.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="pip install easy-vqa"):
        easy_vqa._folder("train")


@installed
def test_the_published_questions(tmp_path):
    """9,673 are asked, each with its own picture, and 35,541 learnt from."""
    easy_vqa._folder.cache_clear()
    train, held_out = EasyVQA(), EasyVQA(split="held_out")
    assert (len(train), len(held_out)) == (35_541, 9_673)
    assert len({held_out(i).id for i in range(len(held_out))}) == 9_673
    assert held_out(0).id == held_out(9_673).id

    easy_vqa.write_tokenizer(tmp_path)
    tokenizer = load(tmp_path)
    for i in range(200):
        example = train(i)
        assert np.asarray(example.images[0].decode()).shape[:2] == (64, 64)
        assert example.chain.endswith(f"</think>\n\\boxed{{{example.answer}}}")
        for text in (example.question, example.chain):
            ids = tokenizer.encode_text(text)
            assert tokenizer.decode(ids, skip_special=False) == text
            assert tokenizer.control_ids["<|endoftext|>"] not in ids
