"""Digits on a canvas: boxes are those of the ink, answers those of the pixels, splits apart."""

import hashlib
import json
import random
import re
from collections import Counter

import numpy as np
import pytest

from r1v3_jax.config import load_config
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.verifiers import detection
from r1v3_jax.rewards.verify import check_gold
from r1v3_jax.tasks import canvas_chains, canvases, digits
from r1v3_jax.tasks.canvas_chains import Digit
from r1v3_jax.tasks.canvases import KINDS, Canvases

GOLDEN_PIXELS = "ec45abe609488180"
GOLDEN_TEXT = (
    "Detect all digits.",
    "7 6 4\n</think>\n<answer>"
    '[{"bbox_2d":[11,1,16,8],"label":"7"},'
    '{"bbox_2d":[23,7,27,13],"label":"6"},'
    '{"bbox_2d":[22,14,28,21],"label":"4"}]</answer>',
)
SEVEN = Digit(7, (5, 1, 10, 6))
THREE = Digit(3, (20, 11, 28, 16))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    canvases.write_tokenizer(directory)
    return load(directory)


def grey(example):
    return np.asarray(example.images[0])[..., 0]


def tagged(chain):
    (content,) = re.findall("<answer>(.*)</answer>", chain)
    return content


# --- pictures


def test_no_image_is_in_two_splits():
    """Together the splits have every image of the file, each once."""
    shown = []
    for split in canvases.SPLITS:
        images, by_label = canvases.split_images(split)
        shown.append({images[n].tobytes() for ids in by_label for n in ids})
    assert [len(images) for images in shown] == [7000, 1000, 2000]
    assert len(set.union(*shown)) == 10_000
    # The held-out images are those that `digits` holds out.
    of_digits, _ = digits.load_images("home", "held_out")
    assert shown[2] == {image[2:-2, 2:-2].tobytes() for image in of_digits}


def test_boxes_are_the_ink_of_the_pixels():
    """Each box holds its digit's ink, no side has a unit to spare, and all ink is held."""
    for index in range(200):
        example = Canvases().example(index, "detection")
        left = grey(example) >= canvases.INK
        for box in json.loads(example.answer):
            x1, y1, x2, y2 = box["bbox_2d"]
            ink = left[4 * y1 : 4 * y2, 4 * x1 : 4 * x2].copy()
            for side in (ink[:4], ink[-4:], ink[:, :4], ink[:, -4:]):
                assert side.any()
            left[4 * y1 : 4 * y2, 4 * x1 : 4 * x2] = False
        assert not left.any()


def test_a_box_written_out():
    """Ink in the columns 3 to 7 and the rows 0 to 4 of an image at (14, 28)."""
    image = np.zeros((28, 28), np.uint8)
    image[0:5, 3:8] = 200
    image[20, 20] = 63  # too dark for ink
    # Pixels 17 to 22 across are units 4.25 to 5.5, 28 to 33 down are units 7 to 8.25.
    assert canvases.ink_box(image, 14, 28) == (4, 7, 6, 9)


def test_digits_do_not_overlap_and_places_are_all_used():
    places = Counter()
    for index in range(2000):
        rng = np.random.default_rng(index)
        drawn = canvases._places(3, rng)
        places.update(drawn)
        covered = np.zeros((112, 112), int)
        for x, y in drawn:
            covered[y : y + 28, x : x + 28] += 1
        assert covered.max() == 1 and covered.sum() == 3 * 28 * 28
    assert len(places) == 49 and min(places.values()) > 50


def test_image_tokens_are_named_after_what_they_show():
    for index in range(100):
        example = Canvases().example(index, "detection")
        names = np.array(example.image_labels).reshape(4, 4)
        labels = [box["label"] for box in json.loads(example.answer)]
        assert sorted(names[names != "none"]) == sorted(labels)
        # A named token has ink of its own.
        tokens = grey(example).reshape(4, 28, 4, 28).max(axis=(1, 3))
        assert (tokens[names != "none"] >= canvases.INK).all()


def test_digits_are_in_the_order_of_the_image_tokens():
    """Row by row, as the model reads them: the order of the boxes is that of the names."""
    for index in range(100):
        example = Canvases().example(index, "detection")
        named = [name for name in example.image_labels if name != "none"]
        assert [box["label"] for box in json.loads(example.answer)] == named


# --- questions and answers


def test_answers_are_those_of_the_boxes():
    """The same canvas is read by its boxes: number and labels give the other two answers."""
    for kind in ("counting", "mathematics"):
        for index in range(300):
            source = Canvases()
            example = source.example(index, kind)
            read = [digit.label for digit in source._scene(index, kind).digits]
            asked = re.search(r"(\d)s", example.question)
            if kind == "mathematics":
                wanted = sum(read)
            else:
                wanted = read.count(int(asked[1])) if asked else len(read)
            assert example.answer == f"{wanted}"


def test_a_counted_digit_is_there_as_often_as_not():
    """Of three digits 0, 1, 2 or 3 are the one that is counted, each a quarter of the time."""
    rng = np.random.default_rng(0)
    counts = Counter(
        canvases._with_target([0, 0, 0], 7, rng).count(7) for _ in range(4000)
    )
    assert sorted(counts) == [0, 1, 2, 3]
    np.testing.assert_allclose([counts[n] / 4000 for n in range(4)], 0.25, atol=0.035)
    others = {n for _ in range(300) for n in canvases._with_target([0] * 3, 7, rng)}
    assert others == set(range(10))


@pytest.mark.parametrize("kind", KINDS)
def test_reference_answers_verify(kind):
    for index in range(50):
        example = Canvases().example(index, kind)
        assert check_gold(example.answer, example.verifier) is None
        assert (example.kind, example.source) == (kind, kind)
        assert bool(example.verifier) == (kind == "detection")


# --- chains


@pytest.mark.parametrize(
    "kind, target, thought, answer",
    [
        (
            "detection",
            None,
            "7 3",
            '[{"bbox_2d":[5,1,10,6],"label":"7"},{"bbox_2d":[20,11,28,16],"label":"3"}]',
        ),
        ("counting", None, "7 3;2", "2"),
        ("counting", 3, "7 3;1", "1"),
        ("counting", 8, "7 3;0", "0"),
        ("mathematics", None, "7 3 7+3=10", "10"),
    ],
)
def test_chains_written_out(kind, target, thought, answer):
    def written(jumps):
        return canvas_chains.chain(
            kind, [SEVEN, THREE], target, jumps=jumps, slack=None, size=28
        )

    end = f"\n</think>\n<answer>{answer}</answer>"
    assert written(jumps=False) == thought + end
    assert written(jumps=True) == "at a glance" + end
    assert canvas_chains.answer(kind, [SEVEN, THREE], target) == answer


def test_loose_boxes_hold_the_exact_ones_and_stay_on_the_canvas():
    source = Canvases(loose=1.0)
    offs = Counter()
    for index in range(300):
        example = source.example(index, "detection")
        exact = detection.read(example.answer)
        loose = detection.read(tagged(example.chain))
        for a, b in zip(exact, loose, strict=True):
            assert a.label == b.label
            assert min(b.corners) >= 0 and max(b.corners) <= 28
            steps = np.subtract(a.corners, b.corners) * (1, 1, -1, -1)
            assert set(steps) <= {0, 1}
            offs.update(steps)
    # Half of the sides stand off: 5 standard deviations. Sides on the edge cannot.
    assert abs(offs[1] / offs.total() - 0.5) < 0.06
    edge = canvas_chains._loosen(Digit(1, (0, 0, 28, 28)), random.Random(0), 28)
    assert edge.box == (0, 0, 28, 28)


def test_imperfect_chains_change_the_chain_alone():
    exact = Canvases()
    imperfect = Canvases(jumps=0.4, loose=0.7)
    jumps = loose = 0
    for index in range(1000):
        a = exact.example(index, "detection")
        b = imperfect.example(index, "detection")
        assert (a.images, a.question, a.answer) == (b.images, b.question, b.answer)
        assert tagged(a.chain) == a.answer
        jumps += b.chain.startswith(canvas_chains.JUMP)
        loose += tagged(b.chain) != b.answer
    # 5 standard deviations. A loose box may by chance be exact, hardly ever three of them.
    assert abs(jumps / 1000 - 0.4) < 0.08 and abs(loose / 1000 - 0.7) < 0.08


# --- a pure function of the index


def test_an_example_is_a_function_of_its_index():
    source = Canvases(jumps=0.5, loose=0.5).mix()
    forward = [source(i) for i in range(60)]
    other = Canvases(jumps=0.5, loose=0.5).mix()
    assert forward == [other(i) for i in range(59, -1, -1)][::-1]
    assert len({example.id for example in forward}) == 60
    assert {example.kind for example in forward} == set(KINDS)
    for changed in (Canvases(seed=1), Canvases("held_out"), Canvases("validation")):
        same = [
            changed.example(i, kind).answer == Canvases().example(i, kind).answer
            for kind in ("detection", "mathematics")
            for i in range(100)
        ]
        assert sum(same) < 30


def test_examples_stay_what_they_are():
    """A change here changes every run: do not make it in passing."""
    example = Canvases(split="held_out", loose=1.0).example(7, "detection")
    assert example.id == "canvases/held_out/0/detection/7"
    assert (example.question, example.chain) == GOLDEN_TEXT
    assert hashlib.sha256(grey(example).tobytes()).hexdigest()[:16] == GOLDEN_PIXELS


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: Canvases("test"), "choose from train, validation, held_out"),
        (lambda: Canvases(jumps=1.5), "jumps is 1.5, wanted 0 to 1"),
        (lambda: Canvases(loose=-1), "loose is -1, wanted 0 to 1"),
        (lambda: Canvases().example(0, "sums"), "choose from detection, counting"),
        (lambda: Canvases().mix(counting=0), "the weight of counting is 0"),
    ],
)
def test_what_does_not_exist_is_refused(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


# --- tokens


def test_a_coordinate_is_one_token_and_text_comes_back(tokenizer):
    assert tokenizer.vocab_size == len(canvases.vocabulary())
    assert len(set(canvases.vocabulary())) == len(canvases.vocabulary())
    for number in (0, 9, 10, 27, 28):
        assert len(tokenizer.encode_text(f"{number}")) == 1
    # [{"bbox_2d":[ 5 , 1 , 10 , 6 ],"label":" 7 "}]
    assert len(tokenizer.encode_text(canvas_chains.write_boxes([SEVEN]))) == 11
    unknown = tokenizer.control_ids["<unk>"]
    source = Canvases(jumps=0.3, loose=0.5).mix()
    for index in range(500):
        example = source(index)
        for text in (example.question, example.chain):
            ids = tokenizer.encode_text(text)
            assert unknown not in ids
            assert tokenizer.decode(ids, skip_special=False) == text


def test_lengths_fit_the_config(tokenizer):
    """Prompts with an image of 16 tokens; completions with their <|im_end|>."""
    grpo = load_config("canvases").stages["grpo"]
    source = Canvases(split="held_out").mix()
    for index in range(1500):
        example = source(index)
        turns = [
            {"role": "user", "content": example.question},
            {"role": "assistant", "content": example.chain},
        ]
        _, mask = tokenizer.encode_example(turns, [16])
        assert mask.index(True) <= grpo.max_prompt_tokens
        assert sum(mask) <= grpo.max_completion_tokens
