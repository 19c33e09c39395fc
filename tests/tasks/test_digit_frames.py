"""Short films: answers by another way, pixels of the right digits in order, shuffled or not."""

import dataclasses

import numpy as np
import pytest

from r1v3_jax.config import load_config
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.rewards.verify import verify
from r1v3_jax.tasks import digits
from r1v3_jax.tasks.digit_frames import KINDS, Frames, solve, steps
from r1v3_jax.tasks.digits import Digits, load_images

FILMS = Frames(Digits(seed=5))


def shown_digits(example):
    """Finds out which digits the frames show: each is one of the images, in one cell."""
    images, by_label = load_images("home", "train")
    label_of = {
        images[n][2:30, 2:30].tobytes(): label
        for label, numbers in enumerate(by_label)
        for n in numbers
    }
    seen = []
    for frame in example.images:
        grey = np.asarray(frame)[..., 0]
        cells = [
            grey[y : y + 28, x : x + 28].tobytes() for y in (0, 28) for x in (0, 28)
        ]
        empty = bytes(28 * 28)
        (digit,) = (label_of[cell] for cell in cells if cell != empty)
        seen.append(digit)
    return seen


def test_work_is_written_out():
    assert solve("ends", (4, 7, 3)) == 7
    assert steps("ends", (4, 7, 3)) == ["4+3=7"]
    assert solve("next", (2, 4, 6)) == 8
    assert steps("next", (2, 4, 6)) == ["4-2=2", "6+2=8"]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_frames(kind):
    for index in range(40):
        example = FILMS.example(index, kind)
        a, b, c = shown_digits(example)
        if kind == "next":
            assert b - a == c - b in (1, 2, 3)
        else:
            assert len({a, b, c}) == 3
        assert example.answer == f"{a + c if kind == 'ends' else c + (c - b)}"
        assert example.chain.startswith(f"{a} {b} {c} stepwise:")
        verdict = verify(example.chain, example.answer, verifier="number").verdict
        assert verdict is Verdict.RIGHT


def test_shuffled_films_have_the_same_frames_and_answers():
    """All six orders occur, and nothing but the order is another."""
    shuffled = dataclasses.replace(FILMS, shuffled=True)
    moved = 0
    for index in range(60):
        ours = FILMS.example(index, "ends")
        theirs = shuffled.example(index, "ends")
        frames = [[frame.tobytes() for frame in one.images] for one in (ours, theirs)]
        assert sorted(frames[0]) == sorted(frames[1])
        same = dataclasses.replace(theirs, images=ours.images)
        assert same == ours
        moved += frames[0] != frames[1]
    # Five of six orders move a frame: 50 of 60, four standard deviations around.
    assert 38 < moved < 60


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="Frames.reading"):
        Frames(Digits(), reading=1.5)
    with pytest.raises(ValueError, match="kind is 'order'"):
        FILMS.mix(order=1)
    with pytest.raises(ValueError, match="weight of next is -1"):
        FILMS.mix(next=-1)


def test_prompts_and_chains_fit_the_recipe(tmp_path):
    digits.write_tokenizer(tmp_path)
    config = load_config("recipes/video_r1")
    processor = Processor(config.model, load(tmp_path))
    tuning = config.stages["tuning"]
    for kind in KINDS:
        example = FILMS.example(1, kind)
        whole = processor.supervised(example)
        prompt = processor.prompt(example)
        assert len(prompt.tokens) <= tuning.max_prompt_tokens
        assert len(whole.tokens) - len(prompt.tokens) <= tuning.max_completion_tokens
