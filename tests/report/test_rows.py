"""Rows shown to a human: what the model sees, and nothing that a row could make a browser do."""

import base64
import dataclasses
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tools_for_tests import run_tool

from r1v3_jax.config import load_config
from r1v3_jax.data import reader
from r1v3_jax.pipeline import start
from r1v3_jax.processing.processor import Encoded
from r1v3_jax.report import rows
from r1v3_jax.tasks import digits
from r1v3_jax.types import Example, Film

ROOT = Path(__file__).parents[2]
CONFIG = load_config("digits_smoke")
ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "'\"><svg/onload=alert(1)>",
    "</pre></body><iframe src=javascript:alert(1)>",
    "]]><!--<style>*{display:none}</style>",
    "<meta http-equiv=refresh content='0;url=http://x'>",
    "&lt;script&gt;",
)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    digits.write_tokenizer(directory)
    return start.make_processor(CONFIG, directory)


def item(processor, example):
    return reader.Item(0, example, processor.supervised(example))


def test_the_runs_of_an_example_written_out(processor):
    example = digits.Digits().example(0, "read")
    plain = dataclasses.replace(example, image_labels=())
    labelled, unlabelled = (
        rows.runs(item(processor, x).encoded, processor) for x in (example, plain)
    )
    assert unlabelled == [
        ("context", "<|im_start|>user\n<img>"),
        ("image", "<IMG_CONTEXT> x 4"),
        (
            "context",
            f"</img>\n{example.question}<|im_end|>\n<|im_start|>assistant\n<think>\n",
        ),
        ("learnt", f"{example.chain}<|im_end|>"),
        ("context", "\n"),
    ]
    assert [kind for kind, _ in labelled] == [
        "context",
        "label",
        "context",
        "learnt",
        "context",
    ]
    assert [text for _, text in labelled] == [text for _, text in unlabelled]


class Parser(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.texts = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.texts.append(text)


OURS = set(
    "html head meta title style body h1 h2 p pre mark span div figure img table".split()
)
OURS |= set("tr td ul li".split())


def test_nothing_in_a_row_becomes_markup(processor, monkeypatch):
    """Attacks in every field that is shown: all arrive as text, the tags are ours alone."""
    text = " ".join(ATTACKS)
    picture = Image.new("RGB", (56, 56), "red")
    example = Example(
        text, (picture,), "q", text, chain="</think>3", level=text, kind=text, source=text,
        verifier=text, metadata={text: text},
    )  # fmt: skip
    made = item(processor, dataclasses.replace(example, question="q"))
    # The digits' tokenizer spells nothing of an attack; another one would.
    monkeypatch.setattr(rows, "runs", lambda *_: [("context", text), ("learnt", text)])
    drop = {"id": text, "source": text, "reason": "json", "detail": text, "index": 0}
    page = rows.page(text, [text], [made], [drop], processor)
    parsed = Parser(page)
    assert {tag for tag, _ in parsed.tags} <= OURS
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert set(attributes) <= {"lang", "charset", "http-equiv", "content", "class", "style",
                                   "alt", "src"}  # fmt: skip
        if "src" in attributes:
            assert tag == "img" and attributes["src"].startswith(
                "data:image/png;base64,"
            )
    shown = "".join(parsed.texts)
    assert shown.count(ATTACKS[0]) == shown.count(ATTACKS[-1]) >= 10
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    meta = {"http-equiv": "Content-Security-Policy", "content": policy}
    assert ("meta", meta) in parsed.tags and "<script" not in page


def test_what_cannot_be_seen_is_spelled_out():
    text = "a\u202eb\x1b[31m\x00 \u200b\ud800 c\n\td\u2028"
    assert rows.plain(text) == "a\\u202eb\\x1b[31m\\x00 \\u200b\\ud800 c\n\td\\u2028"
    assert rows.escaped("\ud800<").encode() == b"\\ud800&lt;"
    assert rows.escaped("x" * 30_000) == "x" * rows.SHOWN_TEXT + " [...]"


def test_tiles_are_shown_as_they_are(processor):
    noise = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    example = dataclasses.replace(
        digits.Digits().example(0), images=(Image.fromarray(noise),), image_labels=()
    )
    page = rows.page("x", [], [item(processor, example)], [], processor)
    shown = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(shown) == 1
    with Image.open(io.BytesIO(base64.b64decode(shown[0]))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), noise)


def test_a_film_is_a_strip_of_frames_with_their_seconds(processor, monkeypatch):
    """Image, two frames of a film, image: three boxes, and the one in the middle is a film's."""
    monkeypatch.setattr(rows, "runs", lambda *_: [("context", "q")])
    pictures = tuple(Image.new("RGB", (56, 56), (k, k, k)) for k in range(4))
    film = Film(1, (0.5, 12.25), 2)
    example = Example("r", pictures, "q", "3", films=(film,))
    made = reader.Item(0, example, encoded_of(processor, example))
    page = rows.page("x", [], [made], [], processor)
    boxes = re.findall(r"<div( class=film)?>(.*?)</div>", page)
    assert [bool(kind) for kind, _ in boxes] == [False, True, False]
    assert [content.count("<figure>") for _, content in boxes] == [1, 2, 1]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions == ["0.5 s", "12.25 s"]
    assert "film 1: 2 frames, 0.5 s to 12.25 s" in page
    unknown = dataclasses.replace(example, films=(Film(1, (), 1),))
    assert rows.image_changes(reader.Item(0, unknown, made.encoded)) == [
        "film 1: 1 frame"
    ]


def encoded_of(processor, example) -> Encoded:
    """Encodes the images of an example alone: its text is in no vocabulary."""
    ids = np.zeros(1, np.int32)
    return Encoded(ids, ids, np.zeros(1, bool), processor.tiles(example))


def test_the_tool_shows_a_file_and_what_is_wrong_with_it(tmp_path):
    Image.new("RGB", (56, 56), "red").save(tmp_path / "a.png")
    chain = "12 34\\n</think>\\n\\\\boxed{12}"
    row = (
        '{"question": "Copy all four digits.", "answer": "12", "images": ["a.png"], '
        f'"chain": "{chain}"}}'
    )
    lines = [row, "{", row.replace("a.png", "b.png"), row]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "page.html"
    flags = [
        "--config=digits_smoke",
        "--stage=cold_start",
        f"--data={tmp_path}/rows.jsonl",
    ]
    done = run_tool("inspect_data", *flags, f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "4 rows looked at, 2 left out: " in done.stdout
    assert "1 json" in done.stdout and "1 image_missing" in done.stdout
    page = out.read_text()
    assert page.count("data:image/png;base64,") == 2 and "no JSON object" in page
    assert "schemas of some rows: own (3), none (1)" in done.stdout


def test_the_tool_says_what_it_did_to_images_and_what_chains_lack(tmp_path):
    """Proves: nothing is turned, put on white, cut off or left out without a word."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (56, 28), "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (56, 56)).save(tmp_path / "clear.png")
    Image.new("I;16", (56, 56), 300).save(tmp_path / "deep.png")
    row = {"question": "Copy all four digits.", "answer": "12"}
    good = "12 34\n</think>\n\\boxed{12}"
    rows_of_file = [
        row | {"id": "turned", "images": ["turned.jpg"], "chain": good},
        row | {"id": "clear", "images": ["clear.png"], "chain": good},
        row | {"id": "deep", "images": ["deep.png"], "chain": good},
        row | {"id": "open", "images": ["clear.png"], "chain": "12 34 \\boxed{12}"},
        row | {"id": "other", "chain": good.replace("{12}", "{13}")},
        row | {"id": "bare", "images": ["clear.png"], "chain": "12\n</think>\n12"},
    ]
    lines = [json.dumps(line) for line in rows_of_file]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    flags = ["--config=digits_smoke", "--stage=cold_start"]
    done = run_tool("inspect_data", *flags, f"--data={tmp_path}/rows.jsonl")
    assert done.returncode == 0, done.stderr
    assert "6 rows looked at, 2 left out: " in done.stdout
    assert "1 open_thought" in done.stdout and "1 chain" in done.stdout
    changes = {
        "turned": "turned by EXIF orientation 6",
        "clear": "transparent pixels on white",
        "deep": "mode I;16: values above 255 cut off",
    }
    shown = done.stdout.splitlines()
    for name, change in changes.items():
        (line,) = (line for line in shown if line.startswith(f"{name}: "))
        assert line.endswith(f"tiles; image 1 {change}")
    assert "an image transparent pixels on white: 2 rows" in shown
    assert "a chain without a box, beside an answer: 1 rows" in shown
