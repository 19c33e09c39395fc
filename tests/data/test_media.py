"""Images in turns and fields of records: found, counted once, and in the order of their markers."""

import base64

import pytest
from rows_for_tests import digit

from r1v3_jax.data import fields, media, records

A, B, C = map(digit, range(3))
A64 = base64.b64encode(A).decode()
URI = f"data:image/png;base64,{A64}"
LINES = "\n".join(A64[i : i + 76] for i in range(0, len(A64), 76))
TEXT = {"type": "text", "text": "What?"}


def row_of(record: dict) -> dict:
    row = records.canonical(record)
    records.check(row)
    return row


def problem_of(record: dict) -> tuple[str, str]:
    """Returns the reason and the detail of a record that is refused."""
    with pytest.raises(fields.InvalidRecord) as error:
        row_of(record)
    return error.value.args


def asked(parts, **more) -> dict:
    """A row of TRL whose question has these parts."""
    return {"prompt": [{"role": "user", "content": parts}], "answer": "5", **more}


@pytest.mark.parametrize(
    ("part", "image"),
    [
        ({"type": "image", "image": "a.png"}, "a.png"),
        ({"type": "image", "path": "a.png"}, "a.png"),
        ({"type": "image", "url": "a.png"}, "a.png"),
        ({"type": "image", "image": URI, "text": None}, A),
        ({"type": "image", "image": {"bytes": A, "path": "a.png"}}, A),
        ({"type": "image", "base64": A64}, A),
        ({"type": "image_url", "image_url": "a.png"}, "a.png"),
        ({"type": "image_url", "image_url": {"url": URI, "detail": "high"}}, A),
        ({"type": "input_image", "image_url": URI}, A),
        ({"image": "a.png"}, "a.png"),
        ({"type": "image", "image": "a.png", "max_pixels": 50176}, "a.png"),
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": A64},
            },
            A,
        ),
    ],
)
def test_a_part_of_a_turn_may_hold_its_image(part, image):
    row = row_of(asked([part, TEXT]))
    assert (row["question"], row["images"]) == ("<image>What?", [image])
    row = row_of(asked([TEXT, part, {"text": "And?"}, {"type": "image", "image": B}]))
    assert (row["question"], row["images"]) == ("What?<image>And?<image>", [image, B])


def test_a_turn_may_be_one_part():
    row = row_of(asked({"text": "Which?", "type": "text"}))
    assert row["question"] == "Which?"
    row = row_of(
        {"messages": [{"role": "user", "content": {"image": A}}], "answer": "5"}
    )
    assert (row["question"], row["images"]) == ("<image>", [A])


def test_images_of_earlier_turns_come_first():
    turns = [
        {"role": "user", "content": [{"type": "image", "image": A}, TEXT]},
        {"role": "assistant", "content": [{"type": "text", "text": "This."}]},
        {"role": "user", "content": [{"type": "image", "image": B}, TEXT]},
    ]
    row = row_of({"messages": turns, "answer": "5"})
    assert row["images"] == [A, B] and row["before"][0]["content"] == "<image>What?"
    own = row_of(
        {"question": "<image>?", "answer": "5", "before": turns[:2], "images": [A, B]}
    )
    assert own["images"] == [A, B]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"type": "image", "image": "a.png", "mask": "b.png"}], "mask"),
        ([{"type": "image", "text": "a cat"}], "text"),
        ([{"type": "text", "text": "?", "image": "a.png"}], "image"),
        ([{"type": "video", "video": "a.mp4", "mask": "b.png"}], "mask"),
        ([{"type": "video", "video": "a.mp4", "text": "a cat"}], "text"),
        ([{"type": "audio", "audio": "a.wav"}], "'audio'"),
        ([{"type": "image", "path": "a.png", "url": "b.png"}], "path, url"),
        ([{"type": "image", "image": 3}], "of type int"),
    ],
)
def test_a_part_with_more_than_is_read_is_refused(parts, message):
    reason, detail = problem_of(asked(parts))
    assert reason == "fields" and message in detail


def test_the_assistant_shows_no_images():
    reply = {"role": "assistant", "content": [{"type": "image"}, TEXT]}
    record = asked([TEXT])
    record["prompt"].append(reply)
    assert "turn 1, by the assistant" in problem_of(record)[1]


def test_images_in_parts_and_in_a_field_are_one_or_refused():
    named = {"type": "image", "image": "x/a.png"}
    assert row_of(asked([named, TEXT], images=["y/a.png"]))["images"] == ["y/a.png"]
    # Bytes are kept where a part only names the file.
    stored = {"bytes": A, "path": "a.png"}
    assert row_of(asked([named, TEXT], images=[stored]))["images"] == [A]
    assert "images" in problem_of(asked([named, TEXT], images=["b.png"]))[1]
    assert "images" in problem_of(asked([named, TEXT], images=[A, B]))[1]


def test_a_part_may_have_the_number_of_its_image():
    first, second = ({"type": "image", "index": i, "text": None} for i in (0, 1))
    row = row_of(asked([second, TEXT, first, second], images=[A, B]))
    assert row["question"] == "<image>What?<image><image>"
    assert row["images"] == [B, A, B]


MMMU = {
    "answer": "B",
    "image_1": {"bytes": A},
    "image_2": {"bytes": B},
    "image_3": None,
}


def test_numbered_markers_give_order_and_repetition():
    question = "Is <image 2> or <image 1> larger, and <image2>?"
    row = row_of(MMMU | {"question": question})
    assert row["question"] == "Is <image> or <image> larger, and <image>?"
    assert row["images"] == [B, A, B]
    row = row_of(MMMU | {"question": "<|image_2|>, <Image 1>?"})
    assert (row["question"], row["images"]) == ("<image>, <image>?", [B, A])
    options = "['<image 2>', 'none']"
    row = row_of(MMMU | {"question": "<image 1> is like", "options": options})
    assert row["question"] == "<image> is like\n(A) <image>\n(B) none"
    assert row["images"] == [A, B]
    listed = {"question": "<image 2>?", "answer": "B", "images": [A, B]}
    assert problem_of(listed) == ("markers", "<image 2>, and images 1, 2")


def test_numbered_columns_without_numbered_markers_come_in_order():
    columns = {f"image_{number}": f"{number}.png" for number in (10, 2, 1)}
    for question in ("Which?", "<image><image><image>?"):
        row = row_of({"question": question, "answer": "B", **columns})
        assert row["images"] == ["1.png", "2.png", "10.png"]


def test_numbered_markers_of_llava_are_not_joined_by_plain_ones():
    turns = [{"from": "human", "value": "<image 2> or <image 1>?"}]
    row = row_of({"conversations": turns, "image": [A, B], "answer": "B"})
    assert (row["question"], row["images"]) == ("<image> or <image>?", [B, A])


def test_one_number_is_one_image():
    ask = {"question": "Which?", "answer": "B"}
    twice = ask | {"image_1": A, "image1": A, "image_2": B, "Image_01": A}
    assert row_of(twice)["images"] == [A, B]
    assert "number" in problem_of(ask | {"image_1": A, "image1": B})[1]
    sets = {
        "image_1": "a.png",
        "image_2": "b.png",
        "decoded_image_2": B,
        "decoded_image_1": A,
    }
    assert row_of(ask | sets)["images"] == [A, B]
    other = {"image_1": A, "img_1": B}
    assert (
        "image_1" in problem_of(ask | other)[1]
        and "img_1" in problem_of(ask | other)[1]
    )


@pytest.mark.parametrize(
    ("question", "columns"),
    [
        ("<image 1>", {}),  # no image
        ("<image 3>", {"image_1": A, "image_2": B}),
        ("<image 1>", {"image_1": A, "image_2": B}),  # one that is not shown
        ("<image 1> <image>", {"image_1": A, "image_2": B}),
        ("<image>", {"image_1": A, "image_2": B}),
    ],
)
def test_markers_that_do_not_fit_are_refused(question, columns):
    assert problem_of({"question": question, "answer": "B", **columns})[0] == "markers"


def test_one_image_in_several_fields_is_one_image():
    ask = {"question": "Which?", "answer": "B"}
    for more, kept in (
        ({"image": "images/1.jpg", "decoded_image": {"bytes": A, "path": "x.jpg"}}, A),
        ({"image": A, "file_name": "a.png"}, A),
        ({"image": {"bytes": A, "path": "a.png"}, "image_path": "x/a.png"}, A),
        ({"image": "x/a.png", "image_url": "http://y.org/a.png?size=2"}, "x/a.png"),
        ({"images": ["a.png"], "image": "a.png"}, "a.png"),
        ({"image": "", "images": [], "img": "a.png"}, "a.png"),
        ({"image": None, "picture": "a.png", "images": "[]"}, "a.png"),
    ):
        assert row_of(ask | more)["images"] == [kept], more
    both = {"images": [A, B], "image": A, "image_1": A}
    assert row_of(ask | both)["images"] == [A, B]
    for more in (
        {"image": A, "picture": B},
        {"image": "a.png", "image_path": "b.png"},
        {"image": {"bytes": A, "path": "a.png"}, "image_path": "b.png"},
        {"images": [A], "image_1": "a.png", "image_2": "b.png"},
    ):
        reason, detail = problem_of(ask | more)
        assert reason == "fields" and all(name in detail for name in more)


@pytest.mark.parametrize(
    "image",
    [
        A,
        {"bytes": A, "path": "a.png"},
        {"bytes": LINES},
        {"data": A64, "mime_type": "image/png"},
        {"base64": LINES},
        {"url": URI},
        {"image": URI},
        {"image_url": {"url": URI}},
        {"file": {"bytes": A}},
        f"data:image/png;base64,{LINES}\n",
        f"data:image/png;base64, {A64}",
        LINES,
        LINES.replace("\n", "\r\n"),
    ],
)
def test_an_image_comes_in_many_forms(image):
    assert media.read_image(image).data == A
    for form in ([image], image):
        record = {"question": "q", "image": form, "answer": "5"}
        assert row_of(record)["images"] == [A]


@pytest.mark.parametrize("key", ["image", "path", "url", "file", "file_name"])
def test_an_object_may_name_its_image(key):
    record = {"question": "q", "images": [{key: "a.png"}], "answer": "5"}
    assert row_of(record)["images"] == ["a.png"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"picture": "a.png"}, "an image of picture; wanted one of bytes"),
        ({"array": [[0]]}, "array"),
        ({"bytes": None, "path": ""}, "an image of nothing"),
        (["a.png"], "images: an image of type list"),
        ("", "of type str"),
        (None, "of type NoneType"),
    ],
)
def test_another_form_is_refused_by_its_keys(image, message):
    record = {"question": "q", "images": [image], "answer": "5"}
    reason, detail = problem_of(record)
    assert reason == "fields" and message in detail


@pytest.mark.parametrize(
    "text",
    [
        '<img src="a.png"> Which?',
        "![figure](a.png) Which?",
        f"Look: {URI}",
        "<video>Which?",
        "<audio>\nWhich?",
        "<|vision_start|><|image_pad|><|vision_end|>Which?",
        "<ImageHere>Which?",
        "<Image>Which?",
    ],
)
def test_a_picture_that_is_only_written_in_the_question_is_refused(text):
    assert problem_of({"question": text, "answer": "B"})[0] == "text"


def test_a_film_that_was_cut_into_images_may_keep_its_name():
    row = row_of({"question": "q", "answer": "5", "video_id": "v-1", "images": [A, B]})
    assert row["images"] == [A, B] and row["metadata"] == {"video_id": "v-1"}


def test_a_text_about_files_is_a_text():
    text = "Which of a.png and b.png is larger?"
    row = row_of(
        {"question": text, "answer": "B", "caption": "a.png is. The other is not."}
    )
    assert row["metadata"] == {"caption": "a.png is. The other is not."}
