"""Charts: bars are measured in the picture, answers worked out again, tables read a second time."""

import dataclasses
import importlib.util
import itertools
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from r1v3_jax.rewards.verify import check_gold
from r1v3_jax.tasks import charts
from r1v3_jax.tasks.chart_tables import load_groups
from r1v3_jax.tasks.charts import BARS_OF_HARD, COLOURS, KINDS, LEVELS, Chart, Charts
from r1v3_jax.types import Example

installed = pytest.mark.skipif(
    importlib.util.find_spec("vega_datasets") is None,
    reason="needs pip install vega_datasets",
)
TABLES = {
    "barley",
    "cars",
    "iowa-electricity",
    "seattle-weather",
    "us-employment",
    "wheat",
}
# Red stands left of blue and green; the question names red, and then blue.
TENTHS = {"red": 4, "blue": 9, "green": 7}
SEEN = "red 4;blue 9;green 7"
WRITTEN = {
    "list": (SEEN, SEEN),
    "count": ("3", "1 red;2 blue;3 green"),
    "tallest": ("blue", f"{SEEN};9>7>4"),
    "shortest": ("red", f"{SEEN};4<7<9"),
    "taller": ("no", "red 4;blue 9;4<9"),
    "shorter": ("yes", "red 4;blue 9;4<9"),
    "second": ("green", f"{SEEN};9>7>4"),
    "above": ("2", "red 4;blue 9>4 1;green 7>4 2"),
}


def measured(picture, size: int = 112) -> dict[str, float]:
    """Reads a picture by its pixels alone: {colour: height in tenths}, from left to right.

    The chart ends 6 pixels of 112 above the picture's lower edge, and is 100 of 112 high.
    """
    pixels = np.asarray(picture)
    found = []
    for name, code in COLOURS.items():
        rgb = [int(code[i : i + 2], 16) for i in (1, 3, 5)]
        rows, columns = np.nonzero((pixels == rgb).all(axis=-1))
        if len(rows):
            floor = size - size * 6 // 112
            height = (floor - rows.min()) / (size * 10 / 112)
            found.append((columns.min(), name, height))
    return {name: height for _, name, height in sorted(found)}


def answered(question: str, heights: dict[str, float]) -> str:
    """Answers a question by its words and by heights that were measured."""
    named = [word for word in re.findall("[a-z]+", question.lower()) if word in COLOURS]
    from_tallest = sorted(heights, key=lambda name: -heights[name])
    match question.lower().rstrip("?.").split():
        case ["list" | "name", *_]:
            return ";".join(f"{name} {height:.0f}" for name, height in heights.items())
        case ["how", "many", "bars", "are", "there"] | ["count", "the", "bars"]:
            return str(len(heights))
        case ["how" | "count", *_]:
            return str(from_tallest.index(named[0]))
        case ["is", *words]:
            difference = heights[named[0]] - heights[named[1]]
            sign = 1 if {"taller", "higher"} & set(words) else -1
            return "yes" if sign * difference > 0 else "no"
        case [_, *words] if "second" in words:
            return from_tallest[1]
        case [_, *words]:
            return from_tallest[0 if {"tallest", "highest"} & set(words) else -1]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_chains_written_out(kind):
    asked = ("red", "blue")
    answer = charts.answer(kind, TENTHS, asked)
    chain = charts.chain(kind, TENTHS, asked)
    assert (answer, chain) == WRITTEN[kind]


@installed
def test_an_example_written_out():
    """72, 97 and 53 horsepower; the tallest bar has eight tenths: 5.9, 8 and 4.4."""
    example = Charts().example(4, "hard")
    picture = example.images[0]
    assert dataclasses.replace(example, images=()) == Example(
        id="charts/train/0/hard/4",
        images=(),
        question="Count the bars that are higher than the green bar.",
        answer="1",
        chain="green 6;blue 8>6 1;red 4<6 1\n</think>\n\\boxed{1}",
        level="hard",
        kind="above",
        verifier="number",
        source="charts",
        metadata={
            "table": "cars",
            "title": "Horsepower of cars of 1975",
            "bars": {
                "green": "ford maverick",
                "blue": "ford pinto",
                "red": "honda civic cvcc",
            },
            "values": {"green": 72.0, "blue": 97.0, "red": 53.0},
        },
    )
    assert measured(picture) == {"green": 5.9, "blue": 8.0, "red": 4.4}


def test_bars_too_alike_or_between_two_tenths_are_not_drawn():
    assert charts._are_clear([7.0, 3.2, 2.1])
    assert not charts._are_clear([7.0, 3.2, 2.3])  # 0.9 apart
    assert not charts._are_clear([7.0, 0.8])  # hardly there
    assert not charts._are_clear([7.0, 3.48])  # 3 or 4


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load_groups.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"^the package.*vega_datasets$"):
        Charts().mix(easy=1)(0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: Charts(split="test"), "'test'; choose from train, held_out"),
        (lambda: Charts(size=20), "20 pixels"),
        (lambda: Charts().example(0, "simple"), "'simple'; choose from read"),
        (lambda: Charts().mix(hard=0), "hard is 0, wanted a positive number"),
    ],
)
def test_what_is_wrong_is_said(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@installed
@pytest.mark.parametrize("size", [112, 224])
def test_a_picture_written_out(size):
    """A tenth is 10 of 112 pixels, the floor is the row 106, places are a third of 100 pixels."""
    chart = Chart("", "", (), (), (), ("red", "blue", "green"), (4.0, 9.0, 2.5))
    picture = charts.draw(chart, size)
    assert picture.size == (size, size) and picture.mode == "RGB"
    assert measured(picture, size) == {"red": 4.0, "blue": 9.0, "green": 2.5}
    pixels = np.asarray(picture.resize((112, 112)))
    assert (pixels[:5] == 255).all() and (pixels[:, 108:] == 255).all()
    # The middle of each place; a grid line at six tenths goes behind the blue bar.
    for x, rgb in ((22, (214, 39, 40)), (56, (31, 90, 220)), (89, (44, 160, 44))):
        assert tuple(pixels[90, x]) == rgb
    grid_row = pixels[44:48].astype(int).min(axis=0)
    assert tuple(grid_row[56]) == (31, 90, 220)
    assert 200 < grid_row[22].min() < 250


@installed
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", charts.SPLITS)
def test_answers_follow_from_the_pixels(split, level):
    """75 questions of each level and split: heights of the picture, and words of the question."""
    source = Charts(split=split, seed=3)
    for index in range(75):
        example = source.example(index, level)
        chart = source.chart(index, level)
        heights = measured(example.images[0])
        assert list(heights) == list(chart.colours)
        # A bar ends at a whole pixel, half a pixel at most from where it should.
        far = np.abs(np.subtract(list(heights.values()), chart.heights)).max()
        assert far <= 0.05 + 1e-9
        assert example.answer == answered(example.question, heights), example.id
        assert example.chain.endswith(f"\n</think>\n\\boxed{{{example.answer}}}")
        assert example.kind in LEVELS[level]
        assert check_gold(example.answer, example.verifier) is None


@installed
def test_an_index_is_one_example_in_every_thread():
    source = Charts(seed=5).mix(read=1, easy=1, normal=1, hard=1)
    alone = [source(index) for index in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(source, range(24)))
    for a, b in zip(alone, together, strict=True):
        assert a.images[0].tobytes() == b.images[0].tobytes()
        assert (a.id, a.question, a.chain, a.metadata) == (
            b.id,
            b.question,
            b.chain,
            b.metadata,
        )
    assert len({example.chain for example in alone}) > 20


@installed
def test_no_row_is_in_both_splits():
    rows = {}
    for split in charts.SPLITS:
        groups = load_groups(split)
        assert set(groups) == TABLES
        members = itertools.chain.from_iterable(groups.values())
        rows[split] = {row for group in members for row in group.rows}
        drawn = [Charts(split=split).chart(i, "hard").rows for i in range(200)]
        assert set(itertools.chain.from_iterable(drawn)) <= rows[split]
    assert not rows["train"] & rows["held_out"]
    assert 0.1 < len(rows["held_out"]) / len(rows["train"] | rows["held_out"]) < 0.3


@installed
def test_tables_are_those_that_the_package_itself_reads():
    """Yields and prices by vega_datasets' own reader, and rain by pandas."""
    from vega_datasets import data

    read = {}
    for split in charts.SPLITS:
        for group in itertools.chain.from_iterable(load_groups(split).values()):
            for label, value in zip(group.labels, group.values, strict=True):
                read[group.title, label] = value
    for row in data.barley().to_dict("records"):
        title = f"yield at {row['site']} in {row['year']}"
        assert read[title, row["variety"]] == row["yield"]
    for row in data.wheat().to_dict("records"):
        title = f"price of wheat in years from {row['year'] // 100}00 on"
        assert read[title, str(row["year"])] == row["wheat"]
    rain = data.seattle_weather().set_index("date").precipitation
    for date, total in rain.resample("MS").sum().items():
        if total > 0:
            title = f"rain in Seattle in {date.year}"
            assert read[title, f"{date.month:02}"] == pytest.approx(total)


@installed
def test_guessing_blindly_achieves_what_the_prior_says():
    """The best constant answer of 800 held-out questions, within four standard deviations."""
    source = Charts(split="held_out", seed=1)
    for level in ("easy", "normal", "hard"):
        answers = {kind: Counter() for kind in LEVELS[level]}
        for index in range(800):
            kind, _, chart, asked = source._problem(index, level)
            answers[kind][charts.answer(kind, chart.tenths, asked)] += 1
        for kind, prior in charts.answer_prior(level).items():
            total = answers[kind].total()
            share = max(answers[kind].values()) / total
            assert abs(share - prior) < 4 * (prior * (1 - prior) / total) ** 0.5, kind
    assert charts.answer_prior("hard")["above"] == pytest.approx(
        (1 / 3 + 1 / 4 + 1 / 5) / len(BARS_OF_HARD)
    )
