"""Films of rows: in the order of their markers, as frames, or refused by reason."""

import dataclasses
import json

import numpy as np
import pytest
from film_rows import film
from PIL import Image
from rows_for_tests import digit

from r1v3_jax.config import TINY, Data, Video
from r1v3_jax.data import Rows, fields, films, records
from r1v3_jax.data.reader import Reader, decoded
from r1v3_jax.processing import tiling
from r1v3_jax.processing.processor import Encoded, Processor, Tiles
from r1v3_jax.processing.video import Frames, StoredVideo
from r1v3_jax.types import DroppedRow, Example


def shown(example) -> list[int]:
    """Returns the greys of an example's images."""
    return [int(np.asarray(image)[5, 5, 0]) for image in example.images]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.mkv").write_bytes(film(range(0, 200, 2)))  # 100 frames: 10 s
    (tmp_path / "b.mkv").write_bytes(film(range(200, 204)))
    for number in range(3):
        Image.new("RGB", (20, 10), (240 + number,) * 3).save(tmp_path / f"{number}.png")
    (tmp_path / "digit.png").write_bytes(digit(0))
    return tmp_path


def example_of(folder, **row):
    return records.example({"question": "Which?", "answer": "3", **row}, root=folder)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, [24, 74, 124, 172]),  # 12, 37, 62 and 86: segments of 24.75 frames
        ({"num_frames": 2}, [48, 148]),
        ({"fps": 0.2}, [48, 148]),  # 10 s: two frames
        ({"fps": 5, "max_frames": 1}, [98]),
        ({"fps": 0.01, "min_frames": 2}, [48, 148]),
        ({"start": 2, "end": 4}, [44, 54, 64, 74]),  # frames 20 to 40
        ({"start": 9.52, "num_frames": 1}, [194]),  # 95 to 99
        ({"clip": [0, 0.24], "num_frames": 3}, [0, 2, 2]),
        ({"last": True}, [198]),
    ],
)
def test_a_row_says_which_frames_of_its_film_are_shown(folder, asked, wanted):
    example = example_of(folder, videos=[{"video": "a.mkv", **asked}])
    example = decoded(example, video=Video(frames=4))
    assert shown(example) == wanted


def test_the_numbers_are_those_of_internvl(folder):
    """Two ways: ours, and `get_index` of InternVL's model card with its numpy, on a part."""
    example = example_of(folder, videos=[{"video": "a.mkv", "start": 1.3, "end": 7.8}])
    ours = shown(decoded(example, video=Video(frames=8)))
    first, last, fps = 13, 78, 10.0
    assert (round(1.3 * fps), round(7.8 * fps)) == (first, last)
    segment = float(last - first) / 8
    theirs = [int(first + segment / 2 + np.round(segment * k)) for k in range(8)]
    assert ours == [2 * k for k in theirs]


def test_frames_stand_where_the_marker_is(folder):
    row = {
        "question": "Now <image>, after <video>\nand <image>?",
        "images": ["0.png", "1.png"],
        "videos": ["b.mkv"],
    }
    example = decoded(example_of(folder, **row), video=Video(frames=2))
    assert example.question == (
        "Now <image>, after Frame1: <image>\nFrame2: <image>\nand <image>?"
    )
    assert shown(example) == [240, 200, 202, 241]
    assert example.videos == ()
    (film,) = example.films
    assert (film.first, film.frames, film.seconds, film.tiles) == (1, 2, (0.0, 0.2), 1)


@pytest.mark.parametrize(
    ("question", "before", "wanted"),
    [
        ("Which?", (), "Frame1: <image>\nFrame2: <image>\n<image>\nWhich?"),
        ("<image>?", (), "Frame1: <image>\nFrame2: <image>\n<image>?"),
        ("<video>?", (), "<image>\nFrame1: <image>\nFrame2: <image>\n?"),
    ],
)
def test_without_a_marker_films_come_first_and_then_images(question, before, wanted):
    video = StoredVideo(())
    example = Example("", ("a",), question, "3", before=before, videos=(video,))
    example = films.with_frames(example, [Frames(["f", "g"], ())], tiles=0)
    assert example.question == wanted
    images = ("a", "f", "g") if question == "<video>?" else ("f", "g", "a")
    assert example.images == images


def test_frames_of_a_conversation_go_to_its_first_question():
    before = (("system", "Be brief."), ("user", "Who?"), ("assistant", "<video>"))
    example = Example("", (), "Which?", "3", before=before, videos=(StoredVideo(()),))
    example = films.with_frames(example, [Frames(["f"], ())], tiles=0)
    assert example.before[1:] == (
        ("user", "Frame1: <image>\nWho?"),
        ("assistant", "<video>"),
    )
    assert example.question == "Which?"


def test_a_list_of_frames_is_a_film_and_is_shown_whole(folder):
    names = ["0.png", "1.png", "2.png"]
    example = example_of(folder, videos=[names])
    assert shown(decoded(example, video=Video(frames=2))) == [240, 241, 242]
    few = decoded(example, video=Video(frames=2, max_frames=2))
    assert shown(few) == [240, 241]  # the middles of [0, 1] and [1, 2]
    asked = example_of(folder, videos=[{"frames": names, "num_frames": 1}])
    assert shown(decoded(asked)) == [241]


def test_a_view_is_an_image_and_no_frame(folder):
    """SEED-Bench-R1: the progress as a film, and the last frame as what is seen now."""
    row = {
        "task_goal": "tea",
        "negative_answers": ["b", "c", "d"],
        "video": "b.mkv",
    }
    example = decoded(example_of(folder, **row), video=Video(frames=2))
    begin = "Frame1: <image>\nFrame2: <image>\n<image>\nWhich?\n(A) "
    assert example.question.startswith(begin)
    assert shown(example) == [200, 202, 203]


class OneTile:
    """Encodes an example as its tiles alone."""

    def __call__(self, example):
        return Encoded(
            np.zeros(1, np.int32),
            np.zeros(1, np.int32),
            np.zeros(1, bool),
            Tiles([1] * len(example.images), 1, lambda out: None),
        )


def test_bad_films_are_left_out_by_row_and_by_reason(folder):
    (folder / "empty.mkv").write_bytes(film([]))
    (folder / "page.mkv").write_text("<html>404</html>")
    good = {"question": "<video>?", "answer": "3", "videos": ["b.mkv"]}
    rows = [
        (good, None),
        (good | {"question": "?"}, None),
        (good | {"question": "<video><video>?"}, "markers"),
        (good | {"videos": ["b.mkv", "b.mkv"]}, "markers"),
        (good | {"videos": []}, "text"),
        (good | {"videos": ["none.mkv"]}, "image_missing"),
        (good | {"videos": ["../b.mkv"]}, "image_path"),
        (good | {"videos": ["http://x.org/b.mkv"]}, "image_path"),
        (good | {"videos": ["page.mkv"]}, "video_format"),
        (good | {"videos": ["empty.mkv"]}, "video_damaged"),
        (good | {"videos": ["a.mkv"]}, "video_size"),  # 9.9 s
        (good | {"videos": [{"video": "b.mkv", "num_frames": 65}]}, "video_size"),
        (good | {"videos": [{"video": "b.mkv", "start": 5}]}, "video_damaged"),
        (good | {"videos": [{"video": "b.mkv", "fps": "2"}]}, "fields"),
        (good | {"fps": 2}, "fields"),
        (good | {"sample_fps": 2.0}, "fields"),
        (good | {"videos": ["b.mkv"], "video": "a.mkv"}, "fields"),
        (good | {"videos": [["0.png", "none.png"]]}, "image_missing"),
        (good | {"videos": [{"bytes": [1, 2]}]}, "fields"),
    ]
    path = folder / "rows.jsonl"
    lines = [json.dumps(row | {"id": str(i)}) for i, (row, _) in enumerate(rows)]
    path.write_text("\n".join(lines))
    data = Data(video=Video(frames=2, max_seconds=5), max_drop_fraction=0.99, threads=1)
    source = Rows(str(path))
    reader = Reader(source, OneTile(), tokens=9, tiles=9, data=data)
    outcomes = {}
    for index in range(len(rows)):
        made = reader.make(index)
        is_bad = isinstance(made, dict)
        name = made["id"] if is_bad else made.example.id
        outcomes[int(name)] = made["reason"] if is_bad else None
    reader.close()
    assert outcomes == {i: reason for i, (_, reason) in enumerate(rows)}


def test_without_pyav_a_row_with_a_film_says_what_to_install(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)  # import av now fails
    with pytest.raises(ImportError, match=r"pip install r1v3_jax\[video\]"):
        example_of(folder, videos=["b.mkv"])
    assert example_of(folder, videos=[["0.png"]]).videos  # needs none


def test_a_part_beside_two_films_is_of_neither():
    row = {"question": "q", "answer": "3", "videos": ["a.mp4", "b.mp4"], "start": 2}
    with pytest.raises(fields.InvalidRecord, match="start: of which film"):
        records.canonical(row)
    row["videos"] = ["a.mp4"]
    assert records.canonical(row)["videos"] == [{"video": "a.mp4", "start": 2.0}]


class Counted(Processor):
    """A processor of which only the tiles are wanted."""

    def __init__(self):
        self.config = dataclasses.replace(TINY, max_tiles=6)


@pytest.mark.parametrize(
    ("tiles", "wanted"),
    [
        (0, [7, 1, 1, 1]),  # the photo: 6 tiles and a thumbnail
        (3, [7, 1, 1, 1]),
        (9, [7, 3, 3, 3]),  # 64 x 48: two tiles and a thumbnail
    ],
)
def test_frames_share_the_tiles_of_their_film_and_images_those_of_the_model(
    folder, tiles, wanted
):
    Image.new("RGB", (900, 600)).save(folder / "wide.png")
    Image.new("RGB", (200, 100)).save(folder / "frame.png")
    row = {"images": ["wide.png"], "videos": [["frame.png"] * 3], "question": "<image>"}
    example = decoded(example_of(folder, **row), video=Video(tiles=tiles))
    counts = Counted().tiles(example).counts
    assert counts == [*wanted[1:], wanted[0]]


def test_a_frame_that_is_stretched_at_once_gives_the_same_tile(folder):
    """Two ways to one tile: of the whole frame, and of the frame that was made small at once."""
    example = example_of(folder, videos=["a.mkv"])
    whole = decoded(example)
    small = decoded(example, tile_size=28)
    assert {image.size for image in small.images} == {(28, 28)}
    pairs = zip(whole.images, small.images, strict=True)
    for first, second in pairs:
        tiles = [tiling.tile(x, tile_size=28, max_tiles=1) for x in (first, second)]
        np.testing.assert_array_equal(*tiles)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_converted_row_shows_the_same_frames(folder, as_bytes):
    """Inline and as JSON: what is converted is what is trained on."""
    row = {"videos": [{"video": "a.mkv", "start": 1, "num_frames": 3}, ["0.png"]]}
    if as_bytes:
        row["videos"][0]["video"] = (folder / "a.mkv").read_bytes()
    example = example_of(folder, **row)
    again = records.example(json.loads(records.dumps(records.inline(example))))
    first, second = decoded(example), decoded(again)
    assert first.question == second.question and first.films == second.films
    assert shown(first) == shown(second) and len(shown(first)) == 4
    with pytest.raises(DroppedRow, match="set root"):
        records.example({"question": "q", "answer": "3", "videos": ["a.mkv"]})
