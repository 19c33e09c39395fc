"""The demonstration task: what it asks, that its answers and chains are right, its tokenizer."""

import hashlib
import importlib.resources
import itertools
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from r1v3_jax.tasks import digit_chains, digit_questions, digits
from r1v3_jax.tasks.digits import Digits

FILES = importlib.resources.files("r1v3_jax") / "data_files"
SOURCES = [
    Digits(d, s)
    for d, s in itertools.product(("home", "second"), ("train", "held_out"))
]
LEVELS = ("read", "easy", "normal", "hard")
CHAIN = re.compile(
    r"(\d\d \d\d)(?: (stepwise|carefully):(.+))?\n</think>\n\\boxed\{(\d+)\}"
)
GOLDEN_TEXT = (
    "Add the two rows.",
    "76 59 carefully:6+9=15;7+5=12;12+1=12 Wait,12+1=13;135\n</think>\n\\boxed{135}",
)
GOLDEN_PIXELS = "23165a3c724749ee"
DOUBT = r" Wait,| Hmm,| Alternatively,"


def cells(image):
    """uint8[..., 56, 56, 3] -> uint8[..., 4, 28, 28], cut one by one."""
    grey = np.asarray(image)[..., 0]
    corners = [(0, 0), (0, 28), (28, 0), (28, 28)]
    return np.stack([grey[..., y : y + 28, x : x + 28] for y, x in corners], axis=-3)


def stored(domain):
    """{image as the task shows it: its label}, straight from the file."""
    arrays = np.load(
        FILES / {"home": "mnist10k.npz", "second": "uci_digits.npz"}[domain]
    )
    x, y = arrays["x"], arrays["y"].tolist()
    if domain == "home":
        return dict(zip((image.tobytes() for image in x), y, strict=True))
    grey = [
        Image.fromarray(np.rint(i.reshape(8, 8) * 255.0 / 16).astype(np.uint8))
        for i in x
    ]
    shown = [np.zeros((28, 28), np.uint8) for _ in grey]
    for canvas, image in zip(shown, grey, strict=True):
        canvas[4:24, 4:24] = image.resize((20, 20), Image.Resampling.BILINEAR)
    return {canvas.tobytes(): label for canvas, label in zip(shown, y, strict=True)}


def solve(question, read):
    """The answer by the words of the question; not how the task itself computes it."""
    text, numbers = question.lower(), [int(digit) for digit in read]
    if "read" in text or "copy" in text:
        return read
    if "smallest" in text:
        return str(sorted(numbers)[3] - sorted(numbers)[0])
    if "even" in text:
        return str(len([digit for digit in read if digit in "02468"]))
    if "row" in text:
        return str(int(read[:2]) + int(read[2:]))
    assert "all" in text
    return str(value("+".join(read)))


def value(expression):
    return sum(map(int, re.findall(r"[+-]?\d+", expression)))


# --- images


@pytest.mark.parametrize(
    "domain, train, held_out", [("home", 8000, 2000), ("second", 900, 897)]
)
def test_no_image_is_on_both_sides(domain, train, held_out):
    sides = [digits.load_images(domain, split)[0] for split in ("train", "held_out")]
    a, b = ({image.tobytes() for image in side} for side in sides)
    assert [len(side) for side in sides] == [train, held_out] == [len(a), len(b)]
    assert not a & b


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_answers_are_those_of_the_pixels(source, level):
    labels = stored(source.domain)
    allowed = {
        i[2:-2, 2:-2].tobytes()
        for i in digits.load_images(source.domain, source.split)[0]
    }
    for index in range(100):
        example = source.example(index, level)
        assert example.images[0].mode == "RGB" and example.images[0].size == (56, 56)
        shown = [cell.tobytes() for cell in cells(example.images[0])]
        assert allowed.issuperset(shown)
        read = "".join(str(labels[image]) for image in shown)
        assert read == "".join(map(str, source.labels(index, level)))
        assert example.answer == solve(example.question, read)
        assert (example.level, example.kind in digit_questions.LEVELS[level]) == (
            level,
            True,
        )


def test_every_image_and_grid_position_is_used():
    source = Digits("second", "held_out")
    images = cells(source.images(range(4000), "read"))
    assert [len({i.tobytes() for i in images[:, cell]}) for cell in range(4)] > [
        850
    ] * 4
    digit_counts = np.bincount(
        np.ravel([source.labels(i, "read") for i in range(4000)])
    )
    np.testing.assert_allclose(
        digit_counts / 16000, 0.1, atol=0.012
    )  # 5 standard deviations


def test_augmented_digits_are_shifted_and_nothing_else():
    plain, moved = Digits(), Digits(augment=True)
    shifts = Counter()
    for index in range(150):
        a, b = plain.example(index), moved.example(index)
        assert (a.question, a.answer, a.chain) == (b.question, b.answer, b.chain)
        for before, after in zip(cells(a.images[0]), cells(b.images[0]), strict=True):
            wide = np.pad(before, 2)
            fits = [
                (down, right)
                for down, right in itertools.product(range(-2, 3), repeat=2)
                if np.array_equal(wide[2 - down :, 2 - right :][:28, :28], after)
            ]
            assert len(fits) == 1
            shifts[fits[0]] += 1
    assert len(shifts) == 25 and max(shifts.values()) < 3 * min(shifts.values())
    with pytest.raises(ValueError, match="held-out images stay as they are"):
        Digits(split="held_out", augment=True)


# --- a pure function of the index


def test_an_example_is_a_function_of_its_index():
    source = Digits(augment=True)
    forward = [source.example(i, level) for level in LEVELS for i in range(50)]
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    other = Digits(augment=True)
    backward = [
        other.example(i, level) for level in LEVELS[::-1] for i in range(49, -1, -1)
    ][::-1]
    assert forward == backward
    assert len({example.id for example in forward}) == len(forward)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    for start, level in zip(range(0, 200, 50), LEVELS, strict=True):
        together = [
            np.asarray(example.images[0]) for example in forward[start : start + 50]
        ]
        np.testing.assert_array_equal(source.images(range(50), level), together)


def test_other_fields_give_other_examples():
    base = [Digits().labels(i, "read") for i in range(50)]
    for other in (Digits(seed=1), Digits("second"), Digits(split="held_out")):
        assert sum(other.labels(i, "read") == base[i] for i in range(50)) < 3
    ids = {source.example(0).id for source in (*SOURCES, Digits(seed=1))}
    assert len(ids) == 5


def test_styles_change_the_chain_alone():
    direct, checked = Digits(styles=(1, 0, 0)), Digits(styles=(0, 0, 1))
    for index in range(50):
        a, b = direct.example(index), checked.example(index)
        assert a.chain != b.chain
        assert (a.images, a.question, a.answer, a.id) == (
            b.images,
            b.question,
            b.answer,
            b.id,
        )


def test_examples_stay_what_they_are():
    """A change here changes every run: do not make it in passing."""
    example = Digits(split="held_out").example(7, "hard")
    assert example.id == "digits/home/held_out/0/hard/7"
    assert (example.question, example.chain) == GOLDEN_TEXT
    assert hashlib.sha256(example.images[0].tobytes()).hexdigest()[:16] == GOLDEN_PIXELS


def test_mix_draws_levels_by_weight():
    source = Digits().mix(easy=1, normal=3)
    examples = [source(i) for i in range(800)]
    share = sum(example.level == "normal" for example in examples) / 800
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 800) ** 0.5
    assert {example.level for example in examples} == {"easy", "normal"}
    assert examples[13] == Digits().mix(easy=1, normal=3)(13)
    assert examples[13] == Digits().example(13, examples[13].level)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Digits("mnist"),
        lambda: Digits(split="test"),
        lambda: Digits(styles=(0, 0, 0)),
        lambda: Digits(styles=(1, 1)),
        lambda: Digits().example(0, "harder"),
        lambda: Digits().mix(harder=1),
        lambda: Digits().mix(easy=0),
        lambda: digits.answer_prior("harder"),
    ],
)
def test_what_does_not_exist_is_refused(make):
    with pytest.raises(ValueError):
        make()


# --- questions and answers


@pytest.mark.parametrize("source", SOURCES[:2], ids=str)
def test_large_sums_that_carry_are_hard(source):
    def carries(example, index):
        a, b, c, d = source.labels(index, example.level)
        assert int(example.answer) == 10 * a + b + 10 * c + d
        return b + d >= 10, int(example.answer) >= 130

    hard = [source.example(i, "hard") for i in range(2000)]
    normal = [(i, source.example(i, "normal")) for i in range(4000)]
    assert {carries(example, i) for i, example in enumerate(hard)} == {(True, True)}
    rows = {carries(example, i) for i, example in normal if example.kind == "rows"}
    assert rows == {(False, False), (False, True), (True, False)}
    assert {e.question for e in hard} < {e.question for _, e in normal}


def test_sums_are_text_and_true():
    source = Digits()
    assert source.example(0, "sums").question == source.example(0, "sums").question
    all_terms = set()
    for index in range(1000):
        example = source.example(index, "sums")
        assert example.images == () and example.level == "sums"
        terms = re.findall(r"(\d+)\+(\d+)", example.question)
        all_terms |= set(terms)
        steps = ";".join(f"{x}+{y}={int(x) + int(y)}" for x, y in terms)
        largest = max(int(x) + int(y) for x, y in terms)
        assert example.question == f"Largest of {' '.join('+'.join(p) for p in terms)}?"
        assert example.chain == f"{steps};{largest}\n</think>\n\\boxed{{{largest}}}"
        assert example.answer == str(largest)
    assert {(str(x), str(y)) for x in range(28) for y in range(10)} == all_terms


def test_blind_answers():
    for level in ("easy", "normal", "hard"):
        source, priors = Digits(), digits.answer_prior(level)
        answers = {kind: Counter() for kind in priors}
        for index in range(4000):
            read = "".join(map(str, source.labels(index, level)))
            kind, question = (
                source.example(index, level).kind,
                source.example(index, level).question,
            )
            answers[kind][solve(question, read)] += 1
        for kind, counts in answers.items():
            total = sum(counts.values())
            # At the mode, 5 standard deviations; the most frequent of many answers is a bit more.
            slack = 5 * (priors[kind] / total) ** 0.5
            assert abs(max(counts.values()) / total - priors[kind]) < slack
    assert digits.answer_prior("easy") == pytest.approx({"spread": 0.177, "even": 0.2})
    assert digits.answer_prior("normal") == pytest.approx(
        {"rows": 90 / 6840, "total": 0.067}
    )
    assert digits.answer_prior("hard") == pytest.approx({"rows": 63 / 1260})
    assert digits.answer_prior("read") == pytest.approx({"read": 1e-4})


# --- chains


@pytest.mark.parametrize("level", LEVELS)
def test_chains_are_true(level):
    """Read digits first, no false statement but one corrected at once, the answer in the box."""
    slips = doubts = 0
    for source in SOURCES:
        for index in range(1000):
            example = source.example(index, level)
            read, style, body, boxed = CHAIN.fullmatch(example.chain).groups()
            assert read == "{}{} {}{}".format(*source.labels(index, level))
            assert boxed == example.answer
            assert (
                example.chain.count("\\boxed{") == example.chain.count("</think>") == 1
            )
            if body is None:
                continue
            parts = re.split(f"(;|{DOUBT})", body.removesuffix(" ok"))
            statements, marks = parts[::2], [*parts[1::2], ""]
            assert style == "carefully" or set(marks) <= {";", ""}
            assert style == "stepwise" or re.search(DOUBT, body)
            doubts += bool(re.search(DOUBT, body))
            for i, (statement, mark) in enumerate(zip(statements, marks, strict=True)):
                left, equals, right = statement.partition("=")
                if equals and value(left) != int(right):
                    assert mark == " Wait," and statements[i + 1].startswith(f"{left}=")
                    slips += 1
            if not body.endswith(" ok"):  # where the work arrives
                assert re.findall(r"\d+", body)[-1] == example.answer
    assert (doubts > 1000 and slips > doubts / 8) if level != "read" else doubts == 0


@pytest.mark.parametrize(
    "kind, worked, checked",
    [
        (
            "rows",
            "7+8=15;4+3=7;7+1=8;85",
            """
            7+8=14 Wait,7+8=15;4+3=7;7+1=8;85
            7+8=16 Wait,7+8=15;4+3=7;7+1=8;85
            7+8=15;4+3=6 Wait,4+3=7;7+1=8;85
            7+8=15;4+3=8 Wait,4+3=7;7+1=8;85
            7+8=15;4+3=7;7+1=7 Wait,7+1=8;85
            7+8=15;4+3=7;7+1=9 Wait,7+1=8;85
            7+8=15;4+3=7;75 Hmm,7+1=8;85
            7+8=15;4+3=7;7+1=8;85 Wait,85-38=47 ok
            7+8=15;4+3=7;7+1=8;85 Alternatively,40+30=70;70+15=85
            """,
        ),
        (
            "total",
            "4+7=11;11+3=14;14+8=22",
            """
            4+7=10 Wait,4+7=11;11+3=14;14+8=22
            4+7=12 Wait,4+7=11;11+3=14;14+8=22
            4+7=11;11+3=13 Wait,11+3=14;14+8=22
            4+7=11;11+3=15 Wait,11+3=14;14+8=22
            4+7=11;11+3=14;14+8=21 Wait,14+8=22
            4+7=11;11+3=14;14+8=23 Wait,14+8=22
            4+7=11;11+3=14;14+8=22 Wait,22-8=14 ok
            4+7=11;11+3=14;14+8=22 Alternatively,3+8=11;11+11=22
            """,
        ),
        (
            "spread",
            "8-3=5",
            """
            8-3=4 Wait,8-3=5
            8-3=6 Wait,8-3=5
            7-3=4 Hmm,8-3=5
            8-3=5 Wait,3+5=8 ok
            """,
        ),
        (
            "even",
            "4,8;2",
            """
            4,8;1 Wait,2
            4,8;3 Wait,2
            4 Hmm,4,8;2
            4,8;2 Alternatively,7,3;4-2=2
            """,
        ),
    ],
)
def test_all_chains_of_one_grid(kind, worked, checked):
    rng = np.random.default_rng(0)
    end = {"rows": 85, "total": 22, "spread": 5, "even": 2}[kind]
    for style, begins, bodies in (
        ("direct", "47 38", [""]),
        ("worked", "47 38 stepwise:", [worked]),
        ("checked", "47 38 carefully:", checked.split("\n")[1:-1]),
    ):
        made = {
            digit_chains.chain(kind, (4, 7, 3, 8), style, rng.random(3))
            for _ in range(300)
        }
        assert made == {
            f"{begins}{b.strip()}\n</think>\n\\boxed{{{end}}}" for b in bodies
        }


def test_styles_come_as_often_as_wanted():
    source, n = Digits(styles=(1, 2, 5)), 4000
    counts = Counter(digit_chains.style_of(source.example(i).chain) for i in range(n))
    for style, p in {"direct": 1 / 8, "worked": 2 / 8, "checked": 5 / 8}.items():
        assert abs(counts[style] / n - p) < 4 * (p * (1 - p) / n) ** 0.5
    texts = [
        "47 38 7+8=15",
        "4 7 3 8",
        "",
        "Wait",
        "47 38 stepwise:",
        "47 38\n</think>\n\\boxed{8",
    ]
    names = ["other", "other", "other", "other", "worked", "direct"]
    assert [digit_chains.style_of(text) for text in texts] == names


# --- files


def test_data_files_are_small_and_have_their_notices():
    text = (FILES / "README.md").read_text(encoding="utf-8")
    for name in ("mnist10k.npz", "uci_digits.npz"):
        data = (FILES / name).read_bytes()
        assert len(data) < 3_000_000
        assert hashlib.sha256(data).hexdigest() in text
    for notice in (
        "Copyright (c) 2015 Juan Cazala",
        "The MIT License",
        "BSD 3-Clause License",
    ):
        assert notice in text


def test_contact_sheet(tmp_path):
    examples = [source.example(i) for source in SOURCES for i in range(2)]
    digits.contact_sheet(examples, tmp_path / "sheet.png", columns=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    first = np.asarray(examples[0].images[0].resize((112, 112)))
    np.testing.assert_array_equal(sheet[8:120, 8:120], first)
    assert (sheet[120:210, :380] < 128).any()  # text underneath
