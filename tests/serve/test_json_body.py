"""Bodies as JSON: strict, and bounded whatever they are."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1v3_jax.serve import json_body
from r1v3_jax.serve.problems import Problem

LONG = b"A" * 5000
URI = b"data:image/png;base64," + LONG


def test_images_are_taken_out_and_the_rest_is_read():
    body = json_body.parse(b'{"url": "%s", "n": 2, "text": "data:short"}' % URI)
    assert body.fields["n"] == 2
    assert body.fields["text"] == "data:short"
    assert body.text_of(body.fields["url"]) == URI
    assert len(body.fields["url"]) < 50


def test_a_slash_may_be_escaped_as_php_does():
    escaped = URI.replace(b"/", b"\\/").replace(b"AAAA", b"A\\/AA")
    body = json_body.parse(b'{"url": "%s"}' % escaped)
    assert body.text_of(body.fields["url"]) == escaped.replace(b"\\/", b"/")


def test_an_image_within_a_text_stays_text():
    text = json.dumps({"url": URI.decode()}) + " is a part of a message"
    body = json_body.parse(json.dumps({"text": text}).encode())
    assert body.fields["text"] == text
    assert not body.attachments


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), VALUES), st.booleans())
def test_what_python_reads_is_read_alike(value, is_ascii):
    text = json.dumps(value, ensure_ascii=is_ascii)
    assert json_body.parse(text.encode()).fields == json.loads(text)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Expecting value at line 1"),
        (b"[]", "it is an array, wanted an object"),
        (b'"data:x"', "wanted an object"),
        (b"{", "not good JSON"),
        (b'{"a": "b', "Unterminated string"),
        (b'{"a": 1} {"b": 2}', "Extra data"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": 1e400}', "the number 1e400 is too large"),
        (b'{"a": %s}' % (b"9" * 5000), "a number of 5000 digits; at most 30"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b'{"x": {"\\u0061": 1, "a": 2}}', "the key 'a' is there twice"),
        (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "nested deeper than 64"),
        (b"[" * 99_000, "nested deeper than 64"),
        (b"\xff{}", "not UTF-8, at byte 0"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'{"a": "%s"b"}' % URI, "not good JSON"),
    ],
)
def test_what_is_no_good_json_is_refused_in_a_sentence(body, said):
    with pytest.raises(Problem) as caught:
        json_body.parse(body)
    assert caught.value.status == 400
    assert said in caught.value.message


SIZE = 16 << 20
BOMBS = {
    "escaped quotes": b'"' + b'\\"' * (SIZE // 2),
    "backslashes": b'"' + b"\\" * SIZE,
    "lists": b"[" + b"[]," * (SIZE // 3) + b"1]",
    "texts": b"[" + b'"",' * (SIZE // 3) + b'""]',
    "spaces": b" " * SIZE,
    "one emoji": '{"a": "\U0001f600'.encode() + b"a" * SIZE + b'"}',
    "brackets": b"[" * SIZE,
    "beginnings": b'"data:' * (SIZE // 6),
    "zeros": bytes(SIZE),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name):
    """No pattern is tried twice at a place: 16 MB take far below a second."""
    start = time.process_time()
    with pytest.raises(Problem):
        json_body.parse(BOMBS[name])
    assert time.process_time() - start < 0.5
