"""Films of digits: walks read back from their frames, answers worked out again, levels apart."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from r1v3_jax.config import load_config
from r1v3_jax.processing.processor import Processor
from r1v3_jax.processing.tokenizer import load
from r1v3_jax.rewards.verifiers.boxes import find_tagged
from r1v3_jax.rewards.verify import check_gold
from r1v3_jax.tasks import film_questions, films
from r1v3_jax.tasks.film_questions import KINDS, Walk, possible_moves
from r1v3_jax.tasks.films import Films

WALKS = ("order", "direction", "where")
#    0 1 2 3      The window is at 0 1 / 4 5, then 1 2 / 5 6, then 5 6 / 9 7.
#    4 5 6 7      5 and 6 are also elsewhere; 9 and 7 are new in the last frame.
#    8 9 7 2
#    3 5 6 1
BOARD = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 2, 3, 5, 6, 1)
WALK = Walk(BOARD, ((0, 0), (0, 1), (1, 1)), ("right", "down"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    films.write_tokenizer(directory)
    return load(directory)


def read(example):
    """Reads an example again: the cells of its frames, its asked digits, options and answer.

    The digits are those of `image_labels`, which the test of pictures compares with the pixels.
    """
    names = np.array(example.image_labels).reshape(-1, 2, 2)
    question = next(line for line in example.question.split("\n") if "?" in line)
    digits = [int(digit) for digit in re.findall(r"\d", question)]
    options = dict(re.findall(r"\n\((.)\) (.*)", example.question))
    assert list(options) == list("ABCD") and len(set(options.values())) == 4
    return names, digits, options[example.answer]


def walked(names):
    """Follows the window over pixels' names: the corner of each frame, from (0, 0)."""
    corners = [(0, 0)]
    steps = {(0, 1): "right", (0, -1): "left", (1, 0): "down", (-1, 0): "up"}
    moves = []
    for before, after in itertools.pairwise(names):
        fits = []
        for down, right in steps:
            # The cells that both frames show, in the coordinates of each.
            old = before[max(down, 0) : 2 + down, max(right, 0) : 2 + right]
            new = after[max(-down, 0) : 2 - down, max(-right, 0) : 2 - right]
            if (old == new).all():
                fits.append((down, right))
        (step,) = fits
        moves.append(steps[step])
        corners.append(tuple(np.add(corners[-1], step).tolist()))
    return corners, moves


# --- answers


@pytest.mark.parametrize("kind", WALKS)
def test_answers_about_walks_follow_from_the_frames(kind):
    """Proves: a second reader, which knows no board, comes to the same answers."""
    for index in range(300):
        names, digits, answer = read(Films().example(index, kind))
        corners, moves = walked(names)
        first = {}  # digit -> first frame and place of it
        for number, (corner, frame) in enumerate(zip(corners, names, strict=True)):
            for (i, j), name in np.ndenumerate(frame):
                place = (corner[0] + i, corner[1] + j)
                first.setdefault(int(name), {}).setdefault(place, number)
        # What is asked about is in one place only.
        assert all(len(first[digit]) == 1 for digit in digits)
        frames = {digit: next(iter(first[digit].values())) for digit in digits}
        if kind == "order":
            assert len(set(frames.values())) == 3
            assert answer == " ".join(map(str, sorted(digits, key=frames.get)))
        elif kind == "direction":
            assert answer == moves[-1]
        else:
            ((row, column),) = first[digits[0]]
            up_or_down = ["up", "", "", "down"][np.clip(row, -1, 2) + 1]
            side = ["left", "", "", "right"][np.clip(column, -1, 2) + 1]
            assert answer == f"{up_or_down} {side}".strip()


@pytest.mark.parametrize(
    "rules, allowed",
    [
        (("up",), {1, 2, 3}),
        (("down",), {7, 8, 9}),
        (("up", "down"), {1, 2, 3, 7, 8, 9}),
    ],
)
def test_counting_goes_on_as_it_began(rules, allowed):
    strides = Counter()
    for index in range(300):
        names, _, answer = read(Films(rules=rules).example(index, "next"))
        shown = [int(name) for frame in names for name in frame.flat if name != "none"]
        assert (names != "none").sum(axis=(1, 2)).tolist() == [1, 1, 1, 1]
        steps = {(b - a) % 10 for a, b in itertools.pairwise([*shown, int(answer)])}
        (stride,) = steps
        strides[stride] += 1
    # 300 draws of 3 or 6: 4 standard deviations below a sixth are 24.
    assert set(strides) == allowed and min(strides.values()) > 24


def test_doubling_written_out():
    starts = Counter()
    for index in range(400):
        names, _, answer = read(Films(rules=("double",)).example(index, "next"))
        shown = [int(name) for frame in names for name in frame.flat if name != "none"]
        starts[shown[0]] += 1
        assert all(
            b == a * 2 % 10 for a, b in itertools.pairwise([*shown, int(answer)])
        )
    assert sorted(starts) == [1, 2, 3, 4, 6, 7, 8, 9]
    doubled = [film_questions.following("double", n, 3) for n in range(10)]
    assert doubled == [0, 2, 4, 6, 8, 0, 2, 4, 6, 8]


def test_a_walk_written_out():
    assert WALK.frames == ((0, 1, 4, 5), (1, 2, 5, 6), (5, 6, 9, 10))
    assert [WALK.labels(n) for n in range(3)] == [
        (0, 1, 4, 5),
        (1, 2, 5, 6),
        (5, 6, 9, 7),
    ]
    assert WALK.first_seen() == {0: 0, 1: 0, 4: 0, 5: 0, 2: 1, 6: 1, 9: 2, 7: 2}
    assert [WALK.place_of(digit) for digit in (2, 6, 9, 7)] == [
        "right",
        "right",
        "down",
        "down right",
    ]
    assert possible_moves((4, 7, 3, 8), (7, 1, 8, 5)) == ["right"]
    # All the same: the window may have gone anywhere.
    assert len(possible_moves((1, 1, 1, 1), (1, 1, 1, 1))) == 4


def test_a_digit_of_two_places_is_not_asked_for():
    twice = Walk((1, 1, 2, 3, 4, 5, 6, 7, 8), ((0, 0),), ())
    assert twice.first_seen() == {3: 0, 4: 0}


@pytest.mark.parametrize("kind", KINDS)
def test_every_letter_is_right_as_often(kind):
    """500 draws of four letters: 4 standard deviations are 39."""
    letters = Counter(Films().example(i, kind).answer for i in range(500))
    assert all(abs(letters[letter] - 125) < 39 for letter in "ABCD")


# --- texts


def test_an_example_written_out():
    film = film_questions.Film(
        digits=(2, 4, 6, 8),
        frames=(
            (0,) + (None,) * 3,
            (None, 1, None, None),
            (2,) + (None,) * 3,
            (3,) + (None,) * 3,
        ),
        question="Which digit comes next?",
        options=("9", "0", "1", "4"),
        right=1,
        thought="2 4+2 6+2 8+2;8+2=0",
    )
    assert film_questions.question_text(film) == (
        "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\nNow: <image>\n"
        "Which digit comes next?\n(A) 9\n(B) 0\n(C) 1\n(D) 4"
    )
    end = "\n</think>\n<answer>B</answer>"
    assert (
        film_questions.chain(film, jumps=False) == "2 4+2 6+2 8+2;8+2=0;A 9;B 0" + end
    )
    assert film_questions.chain(film, jumps=True) == "at a glance" + end


def test_chains_read_the_frames_and_end_in_the_answer():
    """Proves: each step is what the second reader sees; options are read up to the right one."""
    for kind in WALKS:
        for index in range(100):
            example = Films().example(index, kind)
            names, digits, answer = read(example)
            _, moves = walked(names)
            *steps, result, options = thought_of(example)
            assert result == answer and options == options_up_to(example)
            # A chain that asks for a place ends with the frame that shows the digit.
            if kind != "where":
                assert len(steps) == len(names)
            else:
                shows = [f"{digits[0]}" in frame for frame in names]
                assert len(steps) == shows.index(True) + 1
            new = []
            for number, step in enumerate(steps):
                (a, b), (c, d) = names[number]
                rows, *rest = re.match(r"(.. ..) ?(.*)", step).groups()
                assert rows == f"{a}{b} {c}{d}"
                words = rest[0].split()
                if number:
                    assert words.pop(0) == moves[number - 1]
                new += words
            assert " ".join(new) == (answer if kind == "order" else "")


@pytest.mark.parametrize(
    "rule, shown, thought",
    [
        ("up", "7 9 1 3", "7 9+2 1+2 3+2;3+2=5"),
        ("down", "4 1 8 5", "4 1-3 8-3 5-3;5-3=2"),
        ("double", "3 6 2 4", "3 6+3 2-4 4+2;4x2=8"),
        ("double", "9 8 6 2", "9 8-1 6-2 2-4;2x2=4"),
    ],
)
def test_chains_of_counting_written_out(rule, shown, thought):
    source = Films(rules=(rule,))
    matching = []
    for index in range(300):
        example = source.example(index, "next")
        names = [name for name in example.image_labels if name != "none"]
        if " ".join(names) == shown:
            matching.append(example)
    assert matching
    for example in matching:
        *steps, options = thought_of(example)
        assert ";".join(steps) == thought
        assert options == options_up_to(example)


def thought_of(example) -> list[str]:
    """Returns the steps of a chain; the options that it reads at the end are one of them."""
    thought, _, rest = example.chain.partition("\n</think>")
    assert find_tagged(rest) == ([example.answer], False)
    steps = thought.split(";")
    first = next(n for n, step in enumerate(steps) if step.startswith("A "))
    return [*steps[:first], ";".join(steps[first:])]


def options_up_to(example) -> str:
    """Writes the options up to the right one, from the question: "A 9;B 0"."""
    listed = re.findall(r"\n\((.)\) (.*)", example.question)
    letters = "ABCD"[: "ABCD".index(example.answer) + 1]
    return ";".join(f"{letter} {option}" for letter, option in listed[: len(letters)])


def test_habits_change_the_chain_alone():
    exact, lazy = Films(), Films(jumps=0.4)
    jumps = 0
    for index in range(1000):
        a = exact.example(index, "next")
        b = lazy.example(index, "next")
        assert (a.images, a.question, a.answer) == (b.images, b.question, b.answer)
        jumps += b.chain.startswith(film_questions.JUMP)
    # 5 standard deviations.
    assert abs(jumps / 1000 - 0.4) < 0.08


# --- pictures


@pytest.mark.parametrize("level", films.LEVELS)
def test_cells_show_images_of_their_names(level):
    """Proves: every cell is an image of its split with the label it is named by, or black."""
    source = films.LEVELS[level]
    images, by_label = films.split_images(source.domain, source.split)
    labels = {
        images[n].tobytes(): f"{digit}" for digit in range(10) for n in by_label[digit]
    }
    labels[bytes(28 * 28)] = "none"
    for kind in ("where", "next"):
        for index in range(20):
            example = source.example(index, kind)
            frames = np.stack([np.asarray(image)[..., 0] for image in example.images])
            cells = frames.reshape(-1, 2, 28, 2, 28).swapaxes(2, 3).reshape(-1, 28, 28)
            read = [labels[np.ascontiguousarray(cell).tobytes()] for cell in cells]
            assert tuple(read) == example.image_labels


def test_a_cell_of_the_board_keeps_its_picture():
    """Proves: what two frames share is pixel-equal, so a move is seen and not guessed."""
    for index in range(50):
        example = Films().example(index, "direction")
        _, moves = walked(read(example)[0])
        frames = [np.asarray(image) for image in example.images]
        for move, (before, after) in zip(
            moves, itertools.pairwise(frames), strict=True
        ):
            shared = {
                "right": (before[:, 28:], after[:, :28]),
                "left": (before[:, :28], after[:, 28:]),
                "down": (before[28:], after[:28]),
                "up": (before[:28], after[28:]),
            }
            np.testing.assert_array_equal(*shared[move])


def test_no_image_is_in_two_splits_and_levels_are_other_digits():
    """Proves: L1 has no image that is trained on, L2 and L3 none by the same writers."""
    shown = {}
    for domain, split in itertools.product(("home", "second"), films.SPLITS):
        if (domain, split) != ("second", "validation"):
            images, by_label = films.split_images(domain, split)
            shown[domain, split] = {
                images[n].tobytes() for ids in by_label for n in ids
            }
    for a, b in itertools.combinations(shown.values(), 2):
        assert not a & b
    sources = films.LEVELS
    assert [(x.domain, x.split, x.rules) for x in sources.values()] == [
        ("home", "held_out", ("up",)),
        ("second", "held_out", ("up",)),
        ("second", "held_out", ("down", "double")),
    ]


# --- a pure function of the index, and the config


def test_an_example_is_a_function_of_its_index():
    forward = [Films(jumps=0.5).mix()(i) for i in range(40)]
    assert forward == [Films(jumps=0.5).mix()(i) for i in range(39, -1, -1)][::-1]
    assert {example.kind for example in forward} == set(KINDS)
    for other in (Films(seed=1), Films(split="held_out"), Films(split="validation")):
        same = [
            other.example(i, "next").question == Films().example(i, "next").question
            for i in range(100)
        ]
        assert sum(same) < 10


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: Films("third"), "choose from home, second"),
        (lambda: Films(split="test"), "choose from train, validation, held_out"),
        (lambda: Films("second", "validation"), "domain 'second' does not have"),
        (lambda: Films(moves=9), "moves is 9, wanted 2 to 8"),
        (lambda: Films(side=2), "side is 2"),
        (lambda: Films(rules=()), "rules is empty"),
        (lambda: Films(rules=("halve",)), "choose from up, down, double"),
        (lambda: Films(jumps=2), "jumps is 2, wanted 0 to 1"),
        (lambda: Films().example(0, "sums"), "choose from order, direction"),
        (lambda: Films().mix(next=0), "the weight of next is 0"),
    ],
)
def test_what_does_not_exist_is_refused(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


def test_prompts_and_chains_fit_the_config(tokenizer):
    """Proves: a frame is one tile, a cell one token, and text comes back from its tokens."""
    config = load_config("films")
    grpo = config.stages["grpo"]
    processor = Processor(config.model, tokenizer)
    unknown = tokenizer.control_ids["<unk>"]
    for source in (Films(jumps=0.3), films.LEVELS["L3"]):
        for index in range(200):
            example = source.mix()(index)
            assert check_gold(example.answer, example.verifier) is None
            prompt = processor.prompt(example)
            assert prompt.tiles.counts == [1] * len(example.images)
            assert len(prompt.tokens) <= grpo.max_prompt_tokens
            rows = processor.supervised(example)
            assert len(rows.tokens) - len(prompt.tokens) <= grpo.max_completion_tokens
            for text in (example.question.replace("<image>", ""), example.chain):
                ids = tokenizer.encode_text(text)
                assert unknown not in ids
                assert tokenizer.decode(ids, skip_special=False) == text


def test_a_long_walk_has_a_name_for_each_frame(tokenizer):
    example = Films(moves=8, side=6).example(0, "where")
    assert len(example.images) == films.MAX_FRAMES
    assert len(tokenizer.encode_text("Frame9: ")) == 1
