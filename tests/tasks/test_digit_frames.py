"""Short films: answers by another way, pixels of the right digits in order, shuffled or not."""

import dataclasses

import numpy as np
import pytest

from r1v3_jax.config import load_config
from r1v3_jax.data.reworded import described
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


def test_a_still_camera_shows_each_digit_for_some_frames():
    """Without noise every frame would be one of the three; key frames are those that change."""
    still = dataclasses.replace(FILMS, stays=3)
    keys = dataclasses.replace(still, key_frames=True)
    lengths = set()
    for index in range(40):
        film = still.example(index, "ends")
        shown = film.metadata["shown"].split()
        lengths.add(len(shown))
        assert len(film.images) == len(shown) == film.question.count("<image>")
        moving = FILMS.example(index, "ends")
        assert (film.answer, film.chain) == (moving.answer, moving.chain)

        # The frames are those of the moving film, a little noisy, each one to three times.
        clean = [np.asarray(image, np.int16) for image in moving.images]
        frames = [np.asarray(image, np.int16) for image in film.images]
        nearest = [
            int(np.argmin([np.abs(frame - one).mean() for one in clean]))
            for frame in frames
        ]
        assert nearest == sorted(nearest)
        assert all(1 <= nearest.count(place) <= 3 for place in range(3))
        digits = moving.metadata["shown"].split()
        assert shown == [digits[place] for place in nearest]
        changes = [
            k for k in range(len(shown)) if k == 0 or nearest[k] != nearest[k - 1]
        ]
        last = len(shown) - 1
        kept = changes if changes[-1] == last else [*changes, last]
        key = keys.example(index, "ends")
        assert key.images == tuple(film.images[k] for k in kept)
        assert key.metadata["shown"].split() == [shown[k] for k in kept]
    assert lengths == set(range(3, 10))


def test_films_are_read_aloud_and_stand_in_words():
    still = dataclasses.replace(FILMS, stays=3)
    words = dataclasses.replace(still, form="words")
    for index in range(10):
        film = still.mix(ends=1, next=1)(index)
        read = still.readings(ends=1, next=1)(index)
        told = words.mix(ends=1, next=1)(index)
        shown = film.metadata["shown"]
        # One film under one id, whatever is asked of it.
        assert read.id == told.id == film.id
        assert read.images == film.images and told.images == ()
        assert read.question.endswith("<image>\nRead the digits.")
        assert read.answer == shown
        assert verify(read.chain, shown, verifier="string").verdict is Verdict.RIGHT
        asked = film.question.rpartition("\n")[2]
        assert told.question == f"{shown}\n\n{asked}"
        assert told.answer == film.answer
        # What a perceiver says of it, put in its place, is the film in words.
        said = dataclasses.replace(film, metadata={"said": read.chain})
        assert described(heading="")(said).question == told.question


@pytest.mark.parametrize("kind", KINDS)
def test_chains_with_a_wrong_result(kind):
    """Of slips the answer is right all the same; who is misled answers what the thought says."""
    slips = dataclasses.replace(FILMS, slipping=1.0)
    misled = dataclasses.replace(FILMS, misled=1.0)
    results = set()
    for index in range(60):
        right = FILMS.example(index, kind)
        slip = slips.example(index, kind)
        wrong = misled.example(index, kind)
        result = slip.chain.partition("\n</think>")[0].rpartition("=")[2]
        results.add(int(result))
        assert result != right.answer == slip.answer
        assert slip.chain.endswith(f"\\boxed{{{right.answer}}}")
        assert wrong.answer != right.answer
        assert wrong.chain.endswith(
            f"={wrong.answer}\n</think>\n\\boxed{{{wrong.answer}}}"
        )
        for other in (slip, wrong):
            assert (other.question, other.images) == (right.question, right.images)
    assert results <= set(range(19)) and len(results) > 12


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="Frames.reading"):
        Frames(Digits(), reading=1.5)
    with pytest.raises(ValueError, match="Frames.misled"):
        Frames(Digits(), slipping=0.6, misled=0.6)
    with pytest.raises(ValueError, match="form is 'text'"):
        Frames(Digits(), form="text")
    with pytest.raises(ValueError, match="stays is 0"):
        Frames(Digits(), stays=0)
    with pytest.raises(ValueError, match="shuffled and stays"):
        Frames(Digits(), stays=2, shuffled=True)
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
