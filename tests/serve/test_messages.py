"""Messages become turns; images are the client's own bytes and go where the markers say."""

import base64
import json

import pytest
from images_for_tests import PNG, black_png, encoded, noise

from r1v3_jax.serve import json_body
from r1v3_jax.serve.messages import place, read_conversation
from r1v3_jax.serve.problems import Problem

URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


def conversation(*messages, placement="front"):
    body = json_body.parse(json.dumps({"messages": list(messages)}).encode())
    return read_conversation(body, placement)


def user(*parts):
    content = [
        {"type": "image_url", "image_url": {"url": URI}}
        if part == 0
        else {"type": "text", "text": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


# (texts and images in order, front, interleaved); 0, 1, ... are images. Written by hand after
# vLLM's rule for templates of strings and LMDeploy's for InternVL.
PLACES = [
    (["Hi."], ("Hi.",), None),
    (["<image> is a tag."], ("<image> is a tag.",), None),
    (["a", "b"], ("a\nb",), None),
    ([0, "What?"], (0, "What?"), None),
    (["What?", 0], (0, "What?"), ("What?", 0)),
    ([0, 1, "What?"], (0, 1, "What?"), None),
    (["One", 0, "two", 1, "?"], (0, 1, "One\ntwo\n?"), ("One", 0, "two", 1, "?")),
    ([0, "<image>\nWhat?"], ("", 0, "\nWhat?"), None),
    ([0, 1, "A <image> B <image>"], ("A ", 0, " B ", 1), None),
    ([0, "<IMAGE_TOKEN>What?"], ("", 0, "What?"), None),
    ([0, 1, "<image><image>What?"], ("", 0, 1, "What?"), None),
    ([0, 1, "Image-1: <IMAGE_TOKEN>\nImage-2: <IMAGE_TOKEN>\n?"],
     ("Image-1: ", 0, "\nImage-2: ", 1, "\n?"), None),
    ([0], (0,), None),
    (["a", "b", 0, "c", "d"], (0, "a\nb\nc\nd"), ("a\nb", 0, "c\nd")),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "front", "interleaved"), PLACES)
def test_images_go_to_their_places(parts, front, interleaved):
    assert place(parts, "front", "content") == front
    assert place(parts, "interleaved", "content") == (interleaved or front)


@pytest.mark.parametrize("parts", [[0, "<image><image>"], [0, 1, "<image>"]])
def test_another_number_of_markers_than_of_images_is_refused(parts):
    with pytest.raises(Problem, match="markers <image> for"):
        place(parts, "front", "content")


def test_a_chat_is_read_in_order():
    chat = conversation(
        {"role": "developer", "content": "Be short."},
        user(0, "What?"),
        {
            "role": "assistant",
            "content": "A cat.",
            "reasoning_content": "Hm.",
            "refusal": None,
        },
        user("And this?", 0),
    )
    assert [(turn.role, turn.parts) for turn in chat.turns] == [
        ("system", ("Be short.",)),
        ("user", (0, "What?")),
        ("assistant", ("A cat.",)),
        ("user", (1, "And this?")),
    ]
    assert [image.read() for image in chat.images] == [PNG, PNG]
    assert chat.unknown == ()


def test_images_of_any_size_and_spelling_are_their_bytes():
    large = encoded(noise(100, 80), "PNG")  # 24 kB: taken out of the body
    for data in (PNG, large):
        plain = base64.b64encode(data).decode()
        lines = "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
        for text in (
            plain,
            lines,
            plain.rstrip("="),
            plain.replace("+", "-").replace("/", "_"),
        ):
            part = {"type": "image_url", "image_url": f"data:image/png;base64,{text}"}
            chat = conversation({"role": "user", "content": [part, "What?"]})
            assert chat.images[0].read() == data


def test_settings_of_an_image_are_read_or_counted():
    image = {"url": URI, "detail": "auto", "max_dynamic_patch": 6, "quality": 3}
    chat = conversation(
        {"role": "user", "content": [{"type": "image_url", "image_url": image}]}
    )
    assert chat.max_tiles == 6
    assert chat.unknown == ("image_url.quality",)


def image(url):
    return [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    ]


def text(content, role="user"):
    return [{"role": role, "content": content}]


REFUSED = [
    (None, "messages: got null, wanted a filled array"),
    ([], "messages: got an empty array"),
    ("Hi.", "messages: got 'Hi.', wanted"),
    (["Hi."], "messages[0]: got 'Hi.', wanted an object"),
    ([{}], "messages[0].role: got null"),
    (text("Hi.", "tool"), "messages[0].role: got 'tool', wanted one of system"),
    (text("Hi.", ["user"]), "messages[0].role: got an array"),
    (text(None), "messages[0].content: got null"),
    (text([]), "messages[0].content: got an empty array"),
    (text(7), "messages[0].content: got 7"),
    (text([{"type": "text", "text": 7}]), "messages[0].content[0].text: got 7, wanted a text"),
    (text([{"type": "input_audio", "input_audio": {}}]), "got 'input_audio', wanted 'text'"),
    (text([{"type": "image_url"}]), "image_url: got null, wanted an object with a url"),
    (text([{"type": "image_url", "image_url": 5}]), "image_url: got 5"),
    (text([{"type": "image_url", "image_url": {"url": {}}}]), "url: got an object"),
    (text("a\x00b"), "character 1 is '\\x00', which is no text"),
    (text("a\ud800"), "character 1 is '\\ud800'"),
    (text("A cat.", "assistant"), "messages[0].role: got 'assistant'; the last message must"),
    (text("Hi.") + text("Be short.", "system") + text("Hi."), "a system message can only be"),
    (text("x") * 1001, "messages: got 1001, wanted at most 1000"),
    ([{"role": "user", "content": "x", "tool_calls": [{}]}], "messages[0].tool_calls"),
    (image("http://127.0.0.1:1/a.png"), "nothing is fetched"),
    (image("https://example.com/a.png"), "nothing is fetched"),
    (image("file:///etc/passwd"), "nothing is fetched"),
    (image("ftp://example.com/a.png"), "nothing is fetched"),
    (image("/etc/passwd"), "nothing is fetched"),
    (image(""), "nothing is fetched"),
    (image("data:text/html;base64,QUJD"), "wanted data:image/png;base64"),
    (image("data:image/png,QUJD"), "wanted data:image/png;base64"),
    (image("data:image/png;base64,"), "got 0 bytes, wanted an image"),
    (image("data:image/png;base64,!!!!"), "not base64"),
    (image("data:image/png;base64,QUJDRA"), "wanted an image, one of PNG"),
    (image("data:image/svg+xml;base64,PHN2Zy8+"), "wanted an image, one of PNG"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "said"), REFUSED)
def test_what_cannot_be_asked_is_refused_by_its_name(messages, said):
    body = json_body.parse(json.dumps({"messages": messages}).encode())
    with pytest.raises(Problem) as caught:
        read_conversation(body, "front")
    assert caught.value.status == 400
    assert said in caught.value.message
    assert caught.value.param.startswith("messages")


def test_too_many_images_and_pixels_are_refused():
    with pytest.raises(Problem, match="more than 64 images"):
        conversation(user(*[0] * 65))
    wide = base64.b64encode(black_png(5001, 5000)).decode()
    with pytest.raises(Problem, match="wanted 1 to max_pixels = 25000000"):
        conversation(*image(f"data:image/png;base64,{wide}"))


@pytest.mark.parametrize("value", [0, 65, "6", True, 6.5])
def test_a_limit_of_tiles_is_a_small_whole_number(value):
    part = {"type": "image_url", "image_url": {"url": URI, "max_dynamic_patch": value}}
    with pytest.raises(Problem, match="wanted 1 to 64"):
        conversation({"role": "user", "content": [part]})
