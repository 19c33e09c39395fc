"""Shapes on a grid: pictures are measured again, answers worked out again, kinds kept apart."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from r1v3_jax.config import load_config
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards import terms
from r1v3_jax.rewards.answered import Answered
from r1v3_jax.rewards.verify import check_gold
from r1v3_jax.tasks import shape_questions, shapes
from r1v3_jax.tasks.shape_questions import KINDS, Scene, Shape
from r1v3_jax.tasks.shapes import CELL, FILL, INK, LINE, Shapes

SQUARE = Shape("square", (3,), 0, 0)
CIRCLE = Shape("circle", (2,), 1, 1)
TRIANGLE = Shape("triangle", (2, 4), 2, 2)
# A1, B2 and C3: from the square, B2 is at 1 + 1 and C3 at 4 + 4.
SCENE = Scene((SQUARE, CIRCLE, TRIANGLE), SQUARE)
CAPTION = "<caption>A1: square 3;B2: circle 2;C3: triangle 2 4</caption>\n"
WRITTEN = {
    "read": ("A1: square 3;B2: circle 2;C3: triangle 2 4", "at a glance"),
    "area": ("25", "A1 area 9;B2 area 12;C3 area 4;9+12=21;21+4=25"),
    "place": ("B2", "from A1;B2 off 2;C3 off 8"),
    "both": (
        "21",
        "from A1;B2 off 2;C3 off 8;A1 area 9;B2 area 12;9+12=21",
    ),
    "largest": ("12", "A1 area 9;B2 area 12;C3 area 4"),
    "farthest": ("C3", "from A1;B2 off 2;C3 off 8"),
    "larger": ("9", "from A1;B2 off 2;C3 off 8;A1 area 9;C3 area 4"),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    shapes.write_tokenizer(directory)
    return load(directory)


def measured(pixels: np.ndarray) -> str | None:
    """Reads one place by its pixels alone: "triangle 2 4", or None where nothing is.

    The kind is how much of its box the grey fills, the sides are the box in units of 3 pixels.
    """
    rows, columns = np.nonzero(pixels == FILL)
    if not len(rows):
        return None
    height = int(np.ptp(rows)) + 1
    width = int(np.ptp(columns)) + 1
    assert height % 3 == 0 and width % 3 == 0
    share = len(rows) / (height * width)
    if share == 1:
        assert height == width
        return f"square {width // 3}"
    # A triangle's lower left corner is filled, its upper right one is not; a circle has none.
    corner = pixels[rows.max(), columns.min()] == FILL
    if corner:
        assert pixels[rows.min(), columns.max()] != FILL and 0.5 < share < 0.7
        return f"triangle {width // 3} {height // 3}"
    assert height == width and 0.6 < share < 0.9
    return f"circle {width // 6}"


def places(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Cuts the nine places out of a picture, without the lines between them."""
    return {
        f"{'ABC'[column]}{row + 1}": pixels[
            CELL * (row + 1) + 1 : CELL * (row + 2),
            CELL * (column + 1) + 1 : CELL * (column + 2),
        ]
        for row, column in itertools.product(range(3), repeat=2)
    }


def grey(example):
    return np.asarray(example.images[0])[..., 0]


def read(text: str) -> dict[str, str]:
    """Reads a description: {"A1": "square 3"}."""
    return dict(part.split(": ") for part in text.split(";"))


# --- pictures


def test_pictures_measured_again_are_what_the_caption_says():
    for kind in ("read", "both"):
        for index in range(300):
            example = Shapes().example(index, kind)
            measurements = {
                place: name
                for place, pixels in places(grey(example)).items()
                if (name := measured(pixels))
            }
            caption = re.search("<caption>(.*)</caption>", example.chain)[1]
            assert measurements == read(caption)


def test_every_side_has_its_label():
    """Proves: equal sides have equal glyphs, other sides other ones, and none are missing."""
    glyphs = {}  # the white pixels of a place, cut to their box -> the labels they are for
    for index in range(400):
        for pixels in places(grey(Shapes().example(index, "area"))).values():
            name = measured(pixels)
            if not name:
                assert set(np.unique(pixels)) == {0}
                continue
            kind, *sides = name.split()
            white = pixels == INK
            below, right = np.argwhere(pixels == FILL).max(axis=0) + 1
            # Height, side and radius at the right of a shape, the base below it.
            parts = [(sides[-1], white[:, right:])]
            if kind == "triangle":
                parts.append((sides[0], white[below:, :right]))
            for side, part in parts:
                glyphs.setdefault(glyph(part), set()).add(side)
    assert sorted(map(sorted, glyphs.values())) == [["1"], ["2"], ["3"], ["4"]]


def glyph(white: np.ndarray) -> tuple:
    """Cuts the white pixels to their box: (shape, bytes)."""
    rows, columns = np.nonzero(white)
    box = white[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return box.shape, box.tobytes()


def test_the_board_is_named_and_ruled():
    pixels = grey(Shapes().example(0, "area"))
    lines = [CELL, 2 * CELL, 3 * CELL]
    assert (pixels[lines] >= LINE).all() and (pixels[:, lines] >= LINE).all()
    heads = [pixels[:CELL, edge + 1 : edge + CELL] for edge in lines]
    sides = [pixels[edge + 1 : edge + CELL, :CELL] for edge in lines]
    names = {glyph(cell == INK) for cell in (*heads, *sides)}
    assert len(names) == 6
    assert not pixels[:CELL, :CELL].any()


def test_shapes_are_moved_within_their_places():
    lefts = Counter()
    for index in range(300):
        for pixels in places(grey(Shapes().example(index, "area"))).values():
            if measured(pixels) == "square 1":
                lefts[int(np.nonzero(pixels == FILL)[1].min())] += 1
    # A place has 27 pixels without its line; square and label need 3 + 2 + 6.
    assert min(lefts) >= 0 and max(lefts) <= 16 and len(lefts) > 12


def test_image_tokens_are_named_after_what_they_show():
    for index in range(50):
        example = Shapes().example(index, "area")
        names = np.array(example.image_labels).reshape(4, 4)
        assert names[0].tolist() == ["none", "A", "B", "C"]
        assert names[1:, 0].tolist() == ["1", "2", "3"]
        measurements = [
            measured(pixels) or "none" for pixels in places(grey(example)).values()
        ]
        assert names[1:, 1:].ravel().tolist() == measurements


# --- answers


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_written_out(kind):
    answer, work = WRITTEN[kind]
    assert shape_questions.answer(kind, SCENE) == answer
    end = f"\n</think>\n<answer>{answer}</answer>"

    def chain(captioned, jumps):
        return shape_questions.chain(kind, SCENE, captioned=captioned, jumps=jumps)

    assert chain(captioned=True, jumps=False) == CAPTION + work + end
    assert chain(captioned=False, jumps=False) == work + end
    assert chain(captioned=False, jumps=True) == "at a glance" + end


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "read"])
def test_answers_follow_from_the_words(kind):
    """Proves: another program, which only has the question in words, comes to the same answers."""
    for index in range(300):
        example = Shapes(form="words").example(index, kind)
        text, question = example.question.split(". ")
        areas = {}
        kinds = {}
        for place, name in read(text).items():
            shape, *sides = name.split()
            a, b = (int(side) for side in (sides * 2)[:2])
            areas[place] = {
                "square": a * b,
                "circle": 3 * a * b,
                "triangle": a * b / 2,
            }[shape]
            kinds[place] = shape
        if kind in ("area", "largest"):
            total = sum(areas.values()) if kind == "area" else max(areas.values())
            assert float(example.answer) == total
            continue
        (asked,) = (shape for shape in shape_questions.SIDES if shape in question)
        (target,) = (place for place, shape in kinds.items() if shape == asked)
        # As complex numbers; a real distance in place of its square.
        point = {place: "ABC".index(place[0]) + 1j * int(place[1]) for place in areas}
        far = {
            place: abs(point[place] - point[target])
            for place in areas
            if place != target
        }
        assert len(set(far.values())) == len(far) == 2
        near, distant = sorted(far, key=far.get)
        if kind == "both":
            assert float(example.answer) == areas[target] + areas[near]
        elif kind == "larger":
            assert float(example.answer) == max(areas[target], areas[distant])
        else:
            assert example.answer == (near if kind == "place" else distant)


def test_both_forms_ask_the_same_about_the_same_shapes():
    for kind in KINDS:
        for index in range(50):
            picture = Shapes().example(index, kind)
            words = Shapes(form="words").example(index, kind)
            assert picture.answer == words.answer and not words.images
            assert words.question.endswith(f". {picture.question}")
            caption = re.search("<caption>(.*)</caption>", picture.chain)[1]
            assert words.question.startswith(caption)
            assert "<caption>" not in words.chain


def test_areas_are_whole_and_exact():
    areas = {
        Shape(kind, sides, 0, 0).name: Shape(kind, sides, 0, 0).area
        for kind, all_sides in shape_questions.SIDES.items()
        for sides in all_sides
    }
    assert areas["square 4"] == 16 and areas["circle 3"] == 27
    assert areas["triangle 3 4"] == areas["triangle 4 3"] == 6
    assert len(areas) == 15


# --- facts


def test_chains_say_all_facts_and_captions_none():
    """Proves: the progress reward is 1 for a worked chain and 0 for a jump with a caption."""
    for kind in [kind for kind in KINDS if kind != "read"]:
        for index in range(50):
            worked = Shapes().example(index, kind)
            jump = Shapes(jumps=1.0).example(index, kind)
            assert fact_share(worked, worked.chain) == 1
            assert fact_share(jump, jump.chain) == 0
            assert captioned(worked, worked.chain) == captioned(jump, jump.chain) == 1
            # With one number less it is one fact less.
            fact = worked.metadata["facts"][0]
            count = len(worked.metadata["facts"])
            assert (
                fact_share(worked, worked.chain.replace(fact, ""))
                == (count - 1) / count
            )


def answered(example, text):
    return Answered(example=example, text=text, ids=[], ended=True, limit=64)


def fact_share(example, text):
    return terms.facts(answered(example, text))


def captioned(example, text):
    return terms.captioned(answered(example, text))


# --- splits, and a pure function of the index


def test_no_arrangement_is_in_two_splits():
    seen = {}
    for split in shapes.SPLITS:
        for form, kind in itertools.product(("picture", "words"), KINDS):
            for index in range(100):
                scene = Shapes(form=form, split=split).scene(index, kind)
                name = shape_questions.described(scene.shapes)
                assert seen.setdefault(name, split) == split
    assert Counter(seen.values()).keys() == set(shapes.SPLITS)


def test_habits_change_the_chain_alone():
    counts = Counter()
    for index in range(1000):
        a = Shapes().example(index, "area")
        b = Shapes(captions=0.3, jumps=0.4).example(index, "area")
        assert (a.images, a.question, a.answer) == (b.images, b.question, b.answer)
        counts["caption"] += b.chain.startswith("<caption>")
        counts["jump"] += shape_questions.JUMP in b.chain
    # 5 standard deviations.
    assert abs(counts["caption"] / 1000 - 0.3) < 0.08
    assert abs(counts["jump"] / 1000 - 0.4) < 0.08


def test_an_example_is_a_function_of_its_index():
    forward = [Shapes(jumps=0.5).mix()(i) for i in range(60)]
    assert forward == [Shapes(jumps=0.5).mix()(i) for i in range(59, -1, -1)][::-1]
    assert {example.kind for example in forward} == set(KINDS)
    for other in (Shapes(seed=1), Shapes(split="held_out")):
        same = [other.scene(i, "area") == Shapes().scene(i, "area") for i in range(100)]
        assert not any(same)


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: Shapes("film"), "choose from picture, words"),
        (lambda: Shapes(split="test"), "choose from train, validation, held_out"),
        (lambda: Shapes(captions=1.5), "captions is 1.5, wanted 0 to 1"),
        (lambda: Shapes(jumps=-1), "jumps is -1, wanted 0 to 1"),
        (lambda: Shapes().example(0, "sum"), "choose from read, area, place"),
        (lambda: Shapes().mix(area=0), "the weight of area is 0"),
    ],
)
def test_what_does_not_exist_is_refused(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


# --- tokens, and the config


def test_prompts_and_chains_fit_the_config(tokenizer):
    """Proves: a shape, a place and a sum are one token, and text comes back from its tokens."""
    config = load_config("shapes")
    grpo = config.stages["grpo"]
    processor = Processor(config.model, tokenizer)
    unknown = tokenizer.control_ids["<unk>"]
    assert len(set(shapes.vocabulary())) == len(shapes.vocabulary())
    for text in ("triangle 2 4", "B2", "81"):
        assert len(tokenizer.encode_text(text)) == 1
    # Within a sentence too: B2, a colon, the shape.
    assert len(tokenizer.encode_text("B2: triangle 2 4")) == 3
    for form in ("picture", "words"):
        for index in range(300):
            example = Shapes(form=form, jumps=0.3).mix()(index)
            assert check_gold(example.answer, example.verifier) is None
            prompt = processor.prompt(example)
            assert len(prompt.tokens) <= grpo.max_prompt_tokens
            rows = processor.supervised(example)
            assert len(rows.tokens) - len(prompt.tokens) <= grpo.max_completion_tokens
            for text in (example.question, example.chain):
                ids = tokenizer.encode_text(text)
                assert unknown not in ids
                assert tokenizer.decode(ids, skip_special=False) == text


def test_the_later_kinds_are_in_no_stage_of_pictures():
    """Proves: composition is held out of what the cold start and reinforcement see."""
    config = load_config("shapes")
    for name in ("cold_start", "grpo"):
        train = config.stages[name].train
        assert {train(i).kind for i in range(200)} == {"area", "place"}
        assert all(train(i).images for i in range(20))
    base = [config.stages["base"].train(i) for i in range(200)]
    assert {example.kind for example in base if example.images} == {"read"}
