"""Image files and paths that nobody vouches for: decoded, or refused for a reason in one line."""

import errno
import json
import os
import random
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from images_for_tests import (
    JPEG,
    PNG,
    RNG,
    assert_same_bits,
    black_png,
    encoded,
    linux_only,
    noise,
    open_files,
    png_chunk,
    run_measured,
)
from PIL import Image

from r1v3_jax.processing import image_files, tiling
from r1v3_jax.processing.video import video_frames


def test_good_files_open_as_rgb_from_path_and_bytes(tmp_path):
    before = open_files()
    image = noise(40, 30)
    for format in ("PNG", "BMP"):  # lossless
        data = encoded(image, format)
        path = tmp_path / f"image.{format}"
        path.write_bytes(data)
        for source in (data, path, str(path)):
            opened = image_files.open_image(source)
            assert (opened.mode, opened.size) == ("RGB", (40, 30))
            np.testing.assert_array_equal(np.asarray(opened), np.asarray(image))
    for format in ("JPEG", "WEBP", "GIF"):
        opened = image_files.open_image(encoded(image, format))
        assert (opened.mode, opened.size) == ("RGB", (40, 30))
    assert open_files() == before


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image_files.open_image(data).getpixel((4, 4)) == (255, 0, 0)


STROKES = Image.new("RGBA", (64, 48))  # black on nothing, and black where nothing is
STROKES.paste((0, 0, 0, 255), (8, 8, 24, 12))
PALETTE = Image.new("P", (64, 48))
PALETTE.putpalette(bytes(6))
PALETTE.paste(1, (8, 8, 24, 12))
TRANSPARENT = {
    "RGBA": encoded(STROKES, "PNG"),
    "LA": encoded(STROKES.convert("LA"), "PNG"),
    "WebP": encoded(STROKES, "WEBP", lossless=True),
    "palette": encoded(PALETTE, "PNG", transparency=b"\x00\xff"),
    "GIF": encoded(STROKES, "GIF"),
    "colour key": encoded(noise(64, 48), "PNG", transparency=(1, 2, 3)),
    "half": encoded(noise(64, 48).convert("RGBA").rotate(30), "PNG"),
}
DEEP = encoded(Image.fromarray(RNG.integers(0, 999, (48, 64)).astype("uint16")), "PNG")


def with_orientation(number: int, format: str = "JPEG", mode: str = "RGB") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(noise(64, 48).convert(mode), format, exif=exif)


OPAQUE = {
    **{f"JPEG {number}": with_orientation(number) for number in range(10)},
    **{f"{format} 6": with_orientation(6, format) for format in ("PNG", "WEBP")},
    "16 bits": DEEP,
    "grey": with_orientation(8, mode="L"),
    "CMYK": encoded(noise(64, 48).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("name", [*TRANSPARENT, *OPAQUE])
def test_images_become_rgb_as_transformers_makes_them(name, tmp_path):
    """Proves: an exported model is shown the pixels that it was trained on, bit by bit."""
    from transformers.image_transforms import convert_to_rgb
    from transformers.image_utils import load_image

    data = (TRANSPARENT | OPAQUE)[name]
    (tmp_path / "a").write_bytes(data)
    opened = image_files.open_image(data)
    if name in OPAQUE:
        expected = load_image(str(tmp_path / "a"))
    else:  # what its image processors do with an image that has an alpha channel
        expected = convert_to_rgb(Image.open(tmp_path / "a"), return_numpy=True)
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(expected))
    stored = image_files.StoredImage(data)
    assert stored.size == stored.decode().size == opened.size
    reference = Image.open(tmp_path / "a").convert("RGB")
    np.testing.assert_array_equal(
        np.asarray(stored.decode("reference")), np.asarray(reference)
    )


def test_black_ink_on_nothing_is_black_on_white():
    expected = np.full((48, 64, 3), 255)
    expected[8:12, 8:24] = 0
    for name in ("RGBA", "LA", "WebP", "palette", "GIF"):
        opened = image_files.open_image(TRANSPARENT[name])
        np.testing.assert_array_equal(np.asarray(opened), expected, name)
        assert image_files.changes(opened) == ("transparent pixels on white",)
        hidden = image_files.open_image(TRANSPARENT[name], conversion="reference")
        assert not image_files.changes(hidden)
    pixels = np.asarray(tiling.to_rgb(STROKES))  # one that was never a file
    np.testing.assert_array_equal(pixels, expected)


def test_what_is_done_to_an_image_is_told():
    turned = image_files.open_image(with_orientation(6))
    assert turned.size == (48, 64)
    assert image_files.changes(turned) == ("turned by EXIF orientation 6",)
    cut_off = ("mode I;16: values above 255 cut off",)
    assert image_files.changes(image_files.open_image(DEEP)) == cut_off
    opaque = encoded(noise(9, 9).convert("RGBA"), "PNG")
    assert image_files.changes(image_files.open_image(opaque)) == ()
    text = png_chunk(b"tEXt", b"changes\0nothing")
    forged = image_files.open_image(black_png(9, 9, extra=text))
    assert image_files.changes(forged) == ()


def test_damaged_exif_data_turn_nothing():
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x" * 99):
        data = encoded(noise(40, 30), "JPEG", exif=exif)
        assert image_files.open_image(data).size == (40, 30)
        assert image_files.StoredImage(data).size == (40, 30)


def test_opening_and_tiling_an_odd_palette_does_not_warn():
    palette = noise(40, 30).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    palette.info["transparency"] = b"\x00\x80\xff\x10"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = image_files.open_image(
            encoded(palette, "PNG", transparency=b"\x00\x80\xff\x10")
        )
        assert_same_bits(
            tiling.tile(opened, tile_size=28), tiling.tile(palette, tile_size=28)
        )


ZIPPED_TEXT = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))


BAD_IMAGES = {
    "empty": (b"", {}, "got 0 bytes, wanted an image"),
    "heavy": (
        PNG,
        {"max_bytes": 100},
        "got more than 100 bytes, wanted at most max_bytes = 100",
    ),
    "text": (
        b"hello" * 9,
        {},
        "got data starting with b'hellohel', wanted one of PNG, JPEG",
    ),
    "html": (b"<html><body>404</body></html>", {}, "wanted one of PNG"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, "wanted one of PNG"),
    "eps": (encoded(noise(9, 9), "EPS"), {}, "wanted one of PNG"),
    "tiff": (encoded(noise(9, 9), "TIFF"), {}, "wanted one of PNG"),
    "format": (
        PNG,
        {"formats": ("JPEG",)},
        "wanted one of JPEG; convert it or allow its format",
    ),
    "large": (
        PNG,
        {"max_pixels": 2399},
        "got 60 x 40 pixels, wanted 1 to max_pixels = 2399",
    ),
    "warned": (
        black_png(10_000, 10_000, rows=1),
        {},
        "got 10000 x 10000 pixels, wanted 1 to",
    ),
    "bomb": (black_png(2**15, 2**15, rows=1), {}, "DecompressionBombError"),
    "png cut": (PNG[: len(PNG) // 2], {}, "wanted an intact image"),
    "png header cut": (PNG[:20], {}, "wanted"),
    "png damaged": (PNG[:-30] + b"x" + PNG[-29:], {}, "wanted an intact image"),
    "jpeg cut": (JPEG[: len(JPEG) // 2], {}, "image file is truncated"),
    "text bomb": (
        black_png(9, 9, extra=ZIPPED_TEXT),
        {},
        "Decompressed data too large",
    ),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused_in_one_line(name, tmp_path, capfd):
    data, options, message = BAD_IMAGES[name]
    path = tmp_path / "bad\nname.png"  # a name must not break the line either
    path.write_bytes(data)
    before = open_files()
    for source, label in [(data, "bytes"), (path, repr(str(path)))]:
        with (
            warnings.catch_warnings(record=True) as caught,
            pytest.raises(ValueError) as error,
        ):
            warnings.simplefilter("always")
            image_files.open_image(source, **options)
        text = str(error.value)
        assert text.startswith(f"{label}: got ") and message in text
        assert ", wanted " in text and "; " in text and "\n" not in text
        assert not caught
    assert open_files() == before
    assert capfd.readouterr() == ("", "")


def test_missing_files_and_folders(tmp_path):
    for read in (image_files.open_image, lambda path: video_frames(path, 4)):
        with pytest.raises(FileNotFoundError, match=r"nothing\.png': got no such file"):
            read(tmp_path / "nothing.png")
        with pytest.raises(FileNotFoundError, match=r"http://127\.0\.0\.1/a\.png"):
            read("http://127.0.0.1/a.png")
        with pytest.raises(
            ValueError, match="got a folder or device, wanted a regular file"
        ):
            read(tmp_path)


def test_damaged_images_open_or_are_refused():
    dice = random.Random(0)
    outcomes = {"opened": 0, "refused": 0}
    for format in image_files.IMAGE_FORMATS:
        data = encoded(noise(60, 40), format)
        for k in range(120):
            if k % 2:
                damaged = data[: dice.randrange(len(data))]
            else:
                damaged = bytearray(data)
                for _ in range(5):
                    damaged[dice.randrange(len(data) if k % 4 else 100)] = (
                        dice.randrange(256)
                    )
            try:
                assert image_files.open_image(bytes(damaged)).mode == "RGB"
                outcomes["opened"] += 1
            except ValueError as error:
                assert str(error).startswith("bytes: got ") and "\n" not in str(error)
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 100


@linux_only
def test_a_13000_x_13000_png_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(black_png(13_000, 13_000))
    assert path.stat().st_size < 200_000  # and decodes to 169 MB as grey, 676 MB as RGB
    code = """
before, start = peak_mb(), time.perf_counter()
try:
    image_files.open_image(sys.argv[1])
except ValueError:
    print(peak_mb() - before, time.perf_counter() - start)
"""
    growth_mb, seconds = map(float, run_measured(code, path))
    assert growth_mb < 100 and seconds < 1


def big(width, height, mode, format, **options):
    image = Image.new(mode, (width, height))
    return encoded(image, format, **options)


def hostile_images():
    """{name: (bytes, size that it decodes to or the reason that it is refused)}."""
    small, rgba = noise(60, 40), noise(60, 40).convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [small.resize((50, 50)).quantize(16)] * 51
    deep = Image.fromarray(RNG.integers(0, 65536, (40, 60), dtype=np.uint16))
    flipped = bytearray(JPEG)
    flipped[len(JPEG) // 2] ^= 8
    flipped_png = bytearray(PNG)
    flipped_png[len(PNG) // 2] ^= 8
    damaged, form, size = "image_damaged", "image_format", "image_size"
    nearly, vast = (
        {"compress_level": 1},
        struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0),
    )
    return {
        "bomb 13000": (black_png(13_000, 13_000, rows=1), size),
        "bomb 14000": (black_png(14_000, 14_000, rows=1), size),
        "bomb 2^15": (black_png(2**15, 2**15, rows=1), size),
        "bomb 2^31": (PNG[:8] + png_chunk(b"IHDR", vast) + PNG[33:], size),
        "text bomb": (black_png(9, 9, extra=ZIPPED_TEXT), damaged),
        "webp bomb": (big(4000, 4000, "RGB", "WEBP", method=0), size),
        "gif without frames": (b"GIF89a" + struct.pack("<HH", 2**16 - 1, 2**16 - 1), form),
        "bmp header": (b"BM" + struct.pack("<IHHII", 99, 0, 0, 54, 40), (form, damaged)),
        "largest grey": (black_png(7070, 7070), (7070, 7070)),
        "largest colour": (big(7070, 7070, "RGB", "PNG", **nearly), (7070, 7070)),
        "largest with alpha": (big(5590, 5590, "RGBA", "PNG", **nearly), (5590, 5590)),
        "too large with alpha": (big(5600, 5600, "LA", "PNG", **nearly), size),
        "largest turned": (big(5590, 5590, "RGB", "JPEG", exif=exif), (5590, 5590)),
        "too large turned": (big(5600, 5600, "RGB", "JPEG", exif=exif), size),
        "too large with a key": (
            big(5600, 5600, "RGB", "PNG", transparency=(1, 2, 3), **nearly), size),
        "largest progressive": (big(4560, 4560, "CMYK", "JPEG", progressive=True), (4560, 4560)),
        "too large progressive": (big(4570, 4570, "L", "JPEG", progressive=True), size),
        "largest webp": (big(3950, 3950, "RGB", "WEBP", method=0), (3950, 3950)),
        "largest webp with alpha": (big(3950, 3950, "RGBA", "WEBP", method=0), (3950, 3950)),
        "largest palette with a key": (
            big(7070, 7070, "P", "PNG", transparency=0, **nearly), (7070, 7070)),
        "1 x 20000": (black_png(1, 20_000), size),
        "20000 x 1": (black_png(20_000, 1), size),
        "1 x 201": (black_png(1, 201), size),
        "1 x 200": (black_png(1, 200), (1, 200)),
        "1 x 1": (black_png(1, 1), (1, 1)),
        "0 x 5": (black_png(0, 5), form),
        "empty": (b"", damaged),
        "one byte": (b"\x89", form),
        "png cut": (PNG[: len(PNG) // 2], damaged),
        "png header cut": (PNG[:20], damaged),
        "png flipped": (bytes(flipped_png), damaged),
        "jpeg cut": (JPEG[: len(JPEG) // 2], damaged),
        "jpeg flipped": (bytes(flipped), (60, 40)),  # no checksum: nobody can tell
        "jpeg of zeros": (JPEG[:200] + bytes(2000), damaged),
        "html": (b"<!DOCTYPE html><html><body>404</body></html>", form),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", form),
        "eps": (encoded(small, "EPS"), form),
        "tiff": (encoded(small, "TIFF"), form),
        "pdf": (encoded(small, "PDF"), form),
        "gif of 51": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), (50, 50)),
        "cmyk": (encoded(small.convert("CMYK"), "JPEG"), (60, 40)),
        "16 bit": (encoded(deep, "PNG"), (60, 40)),
        "palette and alpha": (
            encoded(small.quantize(4), "PNG", transparency=b"\x00\x80\xff\x10"), (60, 40)),
        "alpha": (encoded(rgba, "PNG"), (60, 40)),
        "turned by exif": (encoded(small, "JPEG", exif=exif), (40, 60)),
        "heavy": (PNG + bytes(image_files.MAX_BYTES), size),
        "zip": (b"PK\x03\x04" + bytes(100), form),
    }  # fmt: skip


@linux_only
def test_40_hostile_images_are_decoded_or_refused_in_little_memory_and_time(tmp_path):
    """Each in a fresh process's peak above its start, at the sizes the limits allow and beyond."""
    hostile = hostile_images()
    assert len(hostile) >= 40
    for number, (data, _) in enumerate(hostile.values()):
        (tmp_path / str(number)).write_bytes(data)
    code = """
from PIL import Image
Image.init()
for number in range(int(sys.argv[2])):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = peak_mb(), time.perf_counter()
    found = []
    path = Path(sys.argv[1]) / str(number)
    for source in (path, path.read_bytes()):
        try:
            image = image_files.StoredImage(source)
            size = image.size
            assert image.decode().size == size
            found.append("{}x{}".format(*size))
        except image_files.ImageError as error:
            found.append(error.reason)
            assert len(str(error).splitlines()) == 1
    assert found[0] == found[1], found
    print(found[0], peak_mb() - before, (time.perf_counter() - start) / 2)
"""
    printed = run_measured(code, tmp_path, len(hostile))
    growth, times = (max(map(float, printed[i::3])) for i in (1, 2))
    print(
        f"{len(hostile)} hostile images: {growth:.0f} MB at most, {times:.2f} s at most"
    )
    for at, (name, (_, expected)) in enumerate(hostile.items()):
        found, growth_mb, seconds = printed[3 * at : 3 * at + 3]
        if isinstance(expected, tuple) and isinstance(expected[0], int):
            expected = "{}x{}".format(*expected)
        wanted = expected if isinstance(expected, tuple) else (expected,)
        assert found in wanted, (name, found)
        assert float(growth_mb) < 300 and float(seconds) < 2, (name, growth_mb, seconds)


def test_paths_stay_below_the_root(tmp_path):
    root, secret = tmp_path / "data", tmp_path / "secret.png"
    (root / "in").mkdir(parents=True)
    for path in (
        secret,
        root / "in/good.png",
        root / "50%25 off.png",
        root / "a\u202fb.png",
    ):
        path.write_bytes(PNG)
    (root / "inner").symlink_to(root / "in")
    (root / "outer").symlink_to(tmp_path)
    (root / "secret.png").symlink_to(secret)
    (root / "absolute.png").symlink_to("/etc/passwd")
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2/x.png").write_bytes(PNG)
    good = ["in/good.png", "./in//good.png", "inner/good.png", f"{root}/in/good.png",
            "50%25 off.png", "a\u202fb.png"]  # fmt: skip
    attacks = [
        "/etc/passwd", "//etc/passwd", str(secret), f"{root}/../secret.png", "../secret.png",
        f"{tmp_path}/data2/x.png", "in/../../secret.png", "in/../in/good.png", "..",
        "....//../secret.png", "secret.png", "outer/secret.png", "absolute.png",
        "outer/data/../secret.png", "%2e%2e/secret.png", "%2e%2e%2fsecret.png", "..%2fsecret.png",
        "%252e%252e/secret.png", "..\\secret.png", "in\\..\\..\\secret.png",
        "C:\\Windows\\win.ini", "..%5csecret.png", "file:///etc/passwd", "file:/etc/passwd",
        "FILE:secret.png", "http://127.0.0.1/a.png", "http://169.254.169.254/latest/meta-data/",
        "https://example.com/a.png", "gs://bucket/a.png", "ftp://127.0.0.1/a", "good.png\0.txt",
        "in/good.png%00.txt", "~/secret.png", "~root/.ssh/id", "\ud800.png", "in/good.png\n",
        " http://127.0.0.1/a.png", "/proc/self/environ", "/dev/zero",
    ]  # fmt: skip
    assert len(attacks) >= 30
    code = """
import json
root, good, attacks = Path(sys.argv[1]), *json.loads(sys.argv[2])
opened = []
# Once before the watch begins: what Pillow imports is imported.
image_files.StoredImage(image_files.confined(root, good[0])).decode()
sys.addaudithook(lambda event, args: event in ("open", "socket.connect") and opened.append(args[0]))
for name in good:
    assert image_files.StoredImage(image_files.confined(root, name)).decode().size == (60, 40)
for name in attacks:
    try:
        image_files.StoredImage(image_files.confined(root, name)).size
        print("accepted", repr(name))
    except image_files.ImageError as error:
        assert error.reason == "image_path", (name, error)
        assert len(str(error).splitlines()) == 1
for name in ("none.png", "loop/a.png", "x" * 5000, "in"):
    try:
        image_files.StoredImage(image_files.confined(root, name)).size
        print("accepted", repr(name))
    except image_files.ImageError as error:
        assert error.reason in ("image_missing", "image_path")
print(len(opened), *{path for path in map(str, opened) if not path.startswith(str(root) + "/")})
"""
    found = run_measured(code, root, json.dumps([good, attacks]))
    assert found == [str(len(good))]  # the good ones, and nothing else


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE]
)
def test_a_failing_disk_is_no_bad_image(tmp_path, monkeypatch, number):
    """A row left out on one host alone would move all rows behind it there."""
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    for look in (
        lambda path: image_files.StoredImage(path).size,
        image_files.open_image,
    ):
        with pytest.raises(image_files.ImageError):  # of the file
            image_files.open_image(tmp_path / "b.png")
        with pytest.raises(image_files.MissingImage):
            look(tmp_path / "c.png")

        def fail(*_, **__):
            raise OSError(number, os.strerror(number))

        def exhaust(*_, **__):
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", exhaust)
            with pytest.raises(MemoryError):
                look(tmp_path / "a.png")
        for place in ((os, "stat"), (Image, "open")):
            with monkeypatch.context() as patch:
                patch.setattr(*place, fail)
                with pytest.raises(
                    OSError, match=re.escape(os.strerror(number))
                ) as raised:
                    look(tmp_path / "a.png")
            assert not isinstance(raised.value, image_files.ImageError)
