"""What tokens looked at, on the page of a run: the colours are the numbers, damage is told."""

import json
import os
import struct
import zlib

import numpy as np
import pytest
from pages_for_tests import Page, heat_sample, row, write_run
from PIL import Image

from r1v3_jax.report import heat
from r1v3_jax.report.page import write_report


@pytest.fixture
def workdir(tmp_path):
    return write_run(tmp_path / "run", {"grpo_000000": [row(0)]}, [])


def test_a_picture_has_the_colours_of_its_numbers():
    """Proves: on pale grey, 2 of 2 nats are violet, -1 orange and half as strong, 0 is none."""
    image = Image.new("L", (56, 56), 128)
    drawn = heat.draw_heat(image, np.array([[2.0, -1.0], [0.0, 0.25]]), 2.0)
    assert drawn.size == (168, 168)
    pixels = np.asarray(drawn, int)
    # 128 of 255 becomes 192 of 128 to 255; the colour covers 0.75 of it at full strength.
    violet = [round(192 * 0.25 + part * 0.75) for part in heat.VIOLET]
    np.testing.assert_allclose(pixels[40, 40], violet, atol=1)
    # Half the strength is half the cover: the alpha of 8 bits is off by a part in 255.
    orange = [round(192 * 0.625 + part * 0.375) for part in heat.ORANGE]
    np.testing.assert_allclose(pixels[40, 120], orange, atol=1)
    assert pixels[120, 40].tolist() == [192, 192, 192]
    # White stays white, and black is half as bright.
    ends = [Image.new("L", (8, 8), value) for value in (255, 0)]
    plain = [np.asarray(heat.draw_heat(image, np.zeros((1, 1)), 1.0)) for image in ends]
    assert (plain[0] == 255).all() and (plain[1] == 128).all()
    # The colours of the legend are those of the pictures.
    css = (heat.Path(heat.__file__).parent / "static" / "page.css").read_text()
    for name, colour in (("up", heat.VIOLET), ("down", heat.ORANGE)):
        written = "#" + "".join(f"{part:02x}" for part in colour)
        assert f".heat.{name} {{ background: {written}; }}" in css


def test_the_page_shows_it_and_says_how_to_make_it(workdir):
    """Proves: without it the command stands there; with it each token has its picture and nats."""
    write_report(workdir)
    (code,) = [
        x for x in Page(workdir / "report/heat.html").elements if x.tag == "code"
    ]
    assert code.text == f"python tools/look.py --workdir={workdir} --samples=4"

    about = {"checkpoint": "runs/digits/grpo/done"}
    heat.write_heat(workdir / "report", [heat_sample()], about)
    write_report(workdir)
    page = Page(workdir / "report" / "heat.html")
    images = [x.attributes for x in page.elements if x.tag == "img"]
    assert [x["src"] for x in images] == ["heat/0_image0.png", "heat/0_0.png"]
    assert images[1]["width"] == "168"
    (token,) = [x for x in page.elements if x.tag == "figcaption"][1:]
    assert token.text == "<b> +1.25 natstoken 0"
    assert page.of_class("verdict", "wrong")
    index = Page(workdir / "report" / "index.html")
    assert "heat.html" in [x.attributes.get("href") for x in index.elements]
    # It stays when the report is written anew, and the numbers are beside the pictures.
    written = json.loads((workdir / "report/heat/heat.json").read_text())
    assert written["samples"][0]["tokens"][0]["heat"] == [[2.0, -1.0], [0.0, 0.25]]
    assert written["samples"][0]["scale"] == 2.0


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("samples"),
        lambda found: found["samples"][0]["tokens"][0].update(picture="../../x.png"),
        lambda found: found["samples"][0]["tokens"][0].update(picture="7_7.png"),
        lambda found: found["samples"][0].update(tokens=3),
        lambda found: found["samples"][0]["tokens"][0].update(nats=10**400),
        lambda found: found["samples"][0]["tokens"][0].update(place=float("inf")),
    ],
    ids="no_samples other_folder no_such_picture no_list no_float no_place".split(),
)
def test_damage_is_told_and_shows_nothing(workdir, damage):
    """Proves: heat.json is read as what anybody may have written."""
    heat.write_heat(workdir / "report", [heat_sample()], {"checkpoint": "x"})
    path = workdir / "report" / "heat" / "heat.json"
    found = json.loads(path.read_text())
    damage(found)
    path.write_text(json.dumps(found))
    write_report(workdir)
    notes = Page(workdir / "report" / "index.html").of_class("notes")
    assert "report/heat cannot be read" in notes[0].text
    page = Page(workdir / "report" / "heat.html")
    assert not [x for x in page.elements if x.tag == "img"]


def test_a_picture_that_could_stop_the_page_is_told(workdir):
    """Proves: a header of 10^10 pixels and a pipe that nobody writes to are damage, too."""
    heat.write_heat(workdir / "report", [heat_sample()], {"checkpoint": "x"})
    path = workdir / "report" / "heat" / "0_0.png"
    path.write_bytes(png_header(100_000, 100_000))
    write_report(workdir)
    notes = Page(workdir / "report" / "index.html").of_class("notes")
    assert "10000000000 pixels" in notes[0].text
    path.unlink()
    os.mkfifo(path)
    write_report(workdir)
    notes = Page(workdir / "report" / "index.html").of_class("notes")
    assert "a folder or device" in notes[0].text


def png_header(width: int, height: int) -> bytes:
    """A PNG file that says its size, and has no pixels."""
    sizes = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", sizes), (b"IDAT", b""), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + body))
        data += struct.pack(">I", len(body)) + kind + body + check
    return data


def test_a_film_shows_the_frame_that_gave_a_token_most(workdir):
    """Proves: a token's picture is the image it names, and the page says which that is."""
    images = [Image.new("RGB", (56, 56), "white"), Image.new("RGB", (84, 56), "black")]
    sample = heat_sample(images=images)
    sample["tokens"][0]["image"] = 2
    heat.write_heat(workdir / "report", [sample], {"checkpoint": "x"})
    write_report(workdir)
    page = Page(workdir / "report" / "heat.html")
    sizes = [
        (x.attributes["width"], x.attributes["height"])
        for x in page.elements
        if x.tag == "img"
    ]
    assert sizes == [("56", "56"), ("84", "56"), ("168", "112")]
    (token,) = [x for x in page.elements if x.tag == "figcaption"][2:]
    assert token.text.endswith("token 0, image 2")
