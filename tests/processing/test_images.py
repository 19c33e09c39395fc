"""Tiling against an independent count, pixels against transformers and torch, and bad files."""

import errno
import importlib.util
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r1v3_jax.processing import image_files, tiling
from r1v3_jax.processing.video import frame_indices, frame_prompt, video_frames

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="memory is read from /proc"
)
RNG = np.random.default_rng(0)


def noise(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def gradient(width, height):
    y, x = np.mgrid[0:height, 0:width]
    rgb = [255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)]
    return Image.fromarray(np.stack(rgb, axis=-1).astype(np.uint8))


def photos():
    if importlib.util.find_spec("sklearn") is None:
        return []
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(x) for x in load_sample_images().images]


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(kind, data):
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def black_png(width, height, *, rows=None, extra=b""):
    """A grey PNG written row by row: its pixels never exist in memory at once. rows: fewer."""
    z = zlib.compressobj(9)
    data = (
        b"".join(z.compress(bytes(1 + width)) for _ in range(rows or height))
        + z.flush()
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (
        png_chunk(b"IHDR", header),
        extra,
        png_chunk(b"IDAT", data),
        png_chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# Which grid


def grids_by_table(widths, heights, max_tiles, *, tile_size=448):
    """The same rule as a table: of the nearest grids the first, or the last that is filled."""
    order = {
        (i, j)
        for n in range(1, max_tiles + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
    }
    order = sorted(
        (g for g in order if g[0] * g[1] <= max_tiles), key=lambda g: g[0] * g[1]
    )
    columns, rows = np.array(order).T
    distance = np.abs((widths / heights)[:, None] - columns / rows)
    nearest = distance == distance.min(axis=1, keepdims=True)
    filled = (widths * heights)[:, None] > 0.5 * tile_size**2 * columns * rows
    first = nearest.argmax(axis=1)
    last_filled = len(order) - 1 - (nearest & filled)[:, ::-1].argmax(axis=1)
    pick = np.where(
        (nearest & filled).any(axis=1), np.maximum(first, last_filled), first
    )
    return np.stack([columns[pick], rows[pick]], axis=1)


def test_grid_equals_the_table_on_100000_sizes():
    small = RNG.integers(1, 64, (30_000, 2))
    photo_like = RNG.integers(1, 4000, (40_000, 2))
    squares = np.repeat(
        RNG.integers(1, 2000, (15_000, 1)), 2, axis=1
    )  # 1x1, 2x2 and 3x3 tie
    simple = RNG.integers(1, 7, (14_997, 2)) * RNG.integers(1, 600, (14_997, 1))
    extreme = np.array([[1, 20_000], [20_000, 1], [1, 1]])
    sizes = np.concatenate([small, photo_like, squares, simple, extreme])
    assert len(sizes) == 100_000
    ours = [tiling.tile_grid(width, height) for width, height in sizes.tolist()]
    np.testing.assert_array_equal(ours, grids_by_table(*sizes.T, 12))


@pytest.mark.parametrize("max_tiles", range(1, 12))
def test_grid_equals_the_table_for_smaller_budgets(max_tiles):
    sizes = np.concatenate(
        [RNG.integers(1, 40, (500, 2)), RNG.integers(1, 3000, (500, 2))]
    )
    ours = [tiling.tile_grid(*size, max_tiles, tile_size=28) for size in sizes.tolist()]
    np.testing.assert_array_equal(
        ours, grids_by_table(*sizes.T, max_tiles, tile_size=28)
    )


def test_the_35_grids():
    # fmt: off
    grids = [(i, j) for i, rows in [(1, 12), (2, 6), (3, 4), (4, 3), (5, 2), (6, 2), (7, 1), (8, 1),
                                    (9, 1), (10, 1), (11, 1), (12, 1)] for j in range(1, rows + 1)]
    # fmt: on
    assert len(grids) == 35
    assert [tiling.tile_grid(448 * i, 448 * j) for i, j in grids] == grids
    sizes = RNG.integers(1, 5000, (5000, 2)).tolist()
    assert {tiling.tile_grid(width, height) for width, height in sizes} == set(grids)


def test_a_tie_goes_to_the_larger_grid_only_above_half_its_area():
    # 2x2 holds 896 * 896 pixels, half of it is 401,408 = 633.6^2; half of 3x3 is 903,168 = 950.4^2.
    assert tiling.tile_grid(633, 633) == (1, 1)
    assert tiling.tile_grid(634, 634) == (2, 2)
    assert tiling.tile_grid(950, 950) == (2, 2)
    assert tiling.tile_grid(951, 951) == (3, 3)
    # 1.5 lies between 1x1 and 2x1: half of 2x1 is 200,704.
    assert tiling.tile_grid(546, 364, 2) == (1, 1)  # 198,744
    assert tiling.tile_grid(549, 366, 2) == (2, 1)  # 200,934


def test_extreme_shapes():
    assert tiling.tile_grid(1, 20_000) == (1, 12)
    assert tiling.tile_grid(20_000, 1) == (12, 1)
    assert tiling.tile_grid(1, 1) == (1, 1)
    assert tiling.tile_grid(1, 1, min_tiles=2) == (2, 2)
    assert tiling.tile(noise(1, 20_000), tile_size=28).shape == (13, 28, 28, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tiling.tile_grid(0, 5),
        lambda: tiling.tile_grid(5, -1),
        lambda: tiling.tile_grid(5, 5, tile_size=0),
        lambda: tiling.tile_grid(5, 5, 0),
        lambda: tiling.tile_grid(5, 5, 4, min_tiles=5),
        lambda: tiling.tile_grid(5, 5, min_tiles=0),
        lambda: tiling.tile(noise(5, 5), max_tiles=0),
        lambda: tiling.tile_images([noise(5, 5)], max_tiles=0),
        lambda: tiling.tiles_per_image(0),
        lambda: frame_indices(0, 4),
        lambda: frame_indices(4, 0),
        lambda: video_frames([], 4),
    ],
)
def test_senseless_numbers_are_refused(call):
    with pytest.raises(ValueError, match=r"^\w+: got .*, wanted .*; .+$"):
        call()


# Which pixels


def transformers_tiles(image, *, tile_size, max_tiles=12):
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
        GotOcr2ImageProcessorPil,
    )

    processor = GotOcr2ImageProcessorPil(
        size={"height": tile_size, "width": tile_size},
        crop_to_patches=True,
        min_patches=1,
        max_patches=max_tiles,
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
    )
    pixels = processor(image, return_tensors="np")["pixel_values"]  # [I, 3, S, S]
    return pixels.transpose(0, 2, 3, 1)


def assert_same_bits(ours, reference):
    assert ours.dtype == reference.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), reference.view(np.uint32))


def test_pixels_equal_transformers_at_448():
    for image in [*photos(), noise(700, 300), gradient(1000, 1000)]:
        ours = tiling.tile(image)
        assert_same_bits(ours, transformers_tiles(image, tile_size=448))


def test_pixels_equal_transformers_on_many_sizes():
    sources = photos() or [gradient(640, 427)]
    for k in range(150):
        width, height = RNG.integers(1, 400, 2).tolist()
        image = (
            noise(width, height)
            if k % 3
            else sources[k % len(sources)].resize((width, height))
        )
        max_tiles = int(RNG.integers(1, 13))
        ours = tiling.tile(image, tile_size=42, max_tiles=max_tiles)
        assert_same_bits(
            ours, transformers_tiles(image, tile_size=42, max_tiles=max_tiles)
        )


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_pixels_equal_transformers_in_mode(mode):
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65536, (70, 200), dtype=np.uint16))
    elif mode in ("HSV", "LAB"):
        image = Image.frombytes(mode, (200, 70), RNG.bytes(200 * 70 * 3))
    else:
        image = gradient(200, 70).convert(mode)
    assert image.mode == mode
    assert_same_bits(
        tiling.tile(image, tile_size=56), transformers_tiles(image, tile_size=56)
    )


def torch_tiles(image):
    """Skywork-R1V inference/utils.py, with torchvision's arithmetic spelled out."""
    import torch

    image = image.convert("RGB")
    columns, rows = tiling.tile_grid(*image.size)
    canvas = image.resize((columns * 448, rows * 448))
    corners = [(448 * i, 448 * j) for j in range(rows) for i in range(columns)]
    crops = [canvas.crop((x, y, x + 448, y + 448)) for x, y in corners]
    if len(crops) > 1:
        crops.append(image.resize((448, 448)))
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    tensors = [
        torch.from_numpy(np.array(crop)).to(torch.float32).div(255) for crop in crops
    ]
    return torch.stack(tensors).sub_(mean).div_(std).numpy()


def test_pixels_equal_the_original_script():
    for image in [*photos(), noise(900, 500)]:
        assert_same_bits(tiling.tile(image), torch_tiles(image))


def test_transparency_is_dropped_as_in_the_original_script():
    image = noise(500, 300)
    clear = image.copy()
    clear.putalpha(0)  # transformers 5 would make this one white
    assert_same_bits(tiling.tile(clear), torch_tiles(clear))
    assert_same_bits(tiling.tile(clear), tiling.tile(image))


def test_tiles_run_row_by_row_and_the_thumbnail_is_last():
    grey = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)  # 3 columns, 2 rows
    image = Image.fromarray(np.kron(grey, np.ones((8, 8), np.uint8))).convert("RGB")
    tiles = tiling.tile(image, tile_size=8)
    assert tiles.shape == (7, 8, 8, 3)
    values = tiles * tiling.STD + tiling.MEAN
    expected = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    # 1e-6: undoing the normalisation in float32
    np.testing.assert_allclose(
        values[:6],
        np.broadcast_to(np.reshape(expected, (6, 1, 1, 1)), (6, 8, 8, 3)),
        atol=1e-6,
    )
    assert_same_bits(tiles[6], tiling.tile(image, tile_size=8, max_tiles=1)[0])
    assert_same_bits(tiling.tile(image, tile_size=8, thumbnail=False), tiles[:6])


def test_one_tile_gets_no_thumbnail():
    assert tiling.tile(noise(300, 300)).shape == (1, 448, 448, 3)


def test_budget_for_several_images():
    assert [tiling.tiles_per_image(n) for n in range(1, 15)] == [
        12, 6, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]  # fmt: skip
    wide, square = noise(600, 50), noise(50, 50)
    tiles, counts = tiling.tile_images([wide, square, wide], tile_size=28)
    assert counts == [
        5,
        5,
        5,
    ]  # 4 tiles and a thumbnail each; 28 px tiles make the square 2x2
    one_by_one = [
        tiling.tile(x, tile_size=28, max_tiles=4) for x in (wide, square, wide)
    ]
    assert_same_bits(tiles, np.concatenate(one_by_one))
    _, counts = tiling.tile_images([wide, square, wide], tile_size=28, share=False)
    assert counts == [13, 5, 13]
    tiles, counts = tiling.tile_images([wide] * 20, tile_size=28)
    assert (len(tiles), counts) == (20, [1] * 20)


def test_tiles_are_cut_into_memory_of_the_caller():
    pictures = [noise(90, 30), noise(30, 30), noise(40, 70)]
    for options in ({}, {"thumbnail": False}, {"share": False}):
        wanted, counts = tiling.tile_images(pictures, tile_size=28, **options)
        out = np.full((len(wanted) + 2, 28, 28, 3), 7, np.float32)
        _, again = tiling.tile_images(pictures, tile_size=28, **options, out=out[1:-1])
        assert counts == again == tiling.count_tiles(pictures, tile_size=28, **options)
        assert_same_bits(out[1:-1], wanted)
        assert (out[0] == 7).all() and (out[-1] == 7).all()


def test_a_prompt_without_images_has_no_tiles():
    tiles, counts = tiling.tile_images([], tile_size=28)
    assert (tiles.shape, tiles.dtype, counts) == ((0, 28, 28, 3), np.float32, [])


# Files


def open_files():
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


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


def test_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    assert image_files.open_image(encoded(noise(40, 30), "JPEG", exif=exif)).size == (
        40,
        30,
    )


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


PNG, JPEG = encoded(noise(60, 40), "PNG"), encoded(noise(60, 40), "JPEG")
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


def run_measured(code, *arguments):
    """Runs code in a fresh process; returns what it prints, split at spaces."""
    prelude = """
import sys, time
from pathlib import Path
from r1v3_jax import images

def peak_mb():  # ru_maxrss would start at the size of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

"""
    root = Path(image_files.__file__).parents[1]
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


@linux_only
def test_a_13000_x_13000_png_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(black_png(13_000, 13_000))
    assert path.stat().st_size < 200_000  # and decodes to 169 MB as grey, 676 MB as RGB
    code = """
before, start = peak_mb(), time.perf_counter()
try:
    images.open_image(sys.argv[1])
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
        "largest progressive": (big(4560, 4560, "CMYK", "JPEG", progressive=True), (4560, 4560)),
        "too large progressive": (big(4570, 4570, "L", "JPEG", progressive=True), size),
        "largest webp": (big(3950, 3950, "RGB", "WEBP", method=0), (3950, 3950)),
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
        "turned by exif": (encoded(small, "JPEG", exif=exif), (60, 40)),
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
            image = images.StoredImage(source)
            size = image.size
            assert image.decode().size == size
            found.append("{}x{}".format(*size))
        except images.ImageError as error:
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


# Paths


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
images.StoredImage(images.confined(root, good[0])).decode()  # what Pillow imports is imported
sys.addaudithook(lambda event, args: event in ("open", "socket.connect") and opened.append(args[0]))
for name in good:
    assert images.StoredImage(images.confined(root, name)).decode().size == (60, 40)
for name in attacks:
    try:
        images.StoredImage(images.confined(root, name)).size
        print("accepted", repr(name))
    except images.ImageError as error:
        assert error.reason == "image_path", (name, error)
        assert len(str(error).splitlines()) == 1
for name in ("none.png", "loop/a.png", "x" * 5000, "in"):
    try:
        images.StoredImage(images.confined(root, name)).size
        print("accepted", repr(name))
    except images.ImageError as error:
        assert error.reason in ("image_missing", "image_path")
print(len(opened), *{path for path in map(str, opened) if not path.startswith(str(root) + "/")})
"""
    found = run_measured(code, root, json.dumps([good, attacks]))
    assert found == [str(len(good))]  # the good ones, and nothing else


# Videos


def write_video(path, pictures, *, codec="ffv1", pixels="bgr0", title="", b_frames=0):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=10, options={"bf": str(b_frames)})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size = pixels, 12
        for picture in pictures:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            )
        container.mux(stream.encode())
    return path


def write_sound(path):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def solid(*greys):
    return [np.full((48, 64, 3), grey, np.uint8) for grey in greys]


def greys(frames):
    return [int(np.asarray(frame)[24, 32, 0]) for frame in frames]


def test_frames_are_the_middles_of_equal_segments():
    # segment = 99 / 4 = 24.75, half of it is 12.375; then + 0, 25, 50 (round(49.5)), 74
    assert frame_indices(100, 4) == [12, 37, 62, 86]
    assert frame_indices(9, 1) == [4]
    assert frame_indices(1, 3) == [0, 0, 0]
    assert frame_indices(3, 6) == [0, 0, 1, 1, 1, 2]
    for total in (1, 7, 100, 1799):
        for num_frames in (1, 8, 32):
            segment = (
                float(total - 1) / num_frames
            )  # InternVL's get_index, with its numpy
            indices = [
                int(segment / 2 + np.round(segment * k)) for k in range(num_frames)
            ]
            assert frame_indices(total, num_frames) == indices


def test_frame_prompt():
    assert frame_prompt(3) == "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\n"
    assert frame_prompt(0) == ""


def test_a_list_of_frames_is_sampled():
    frames = [noise(4, 4) for _ in range(100)]
    sampled = video_frames(frames, 4)
    assert [id(frame) for frame in sampled] == [id(frames[k]) for k in (12, 37, 62, 86)]
    tiles, counts = tiling.tile_images(sampled, tile_size=28, max_tiles=1)
    assert (tiles.shape, counts) == ((4, 28, 28, 3), [1, 1, 1, 1])


def test_a_lossless_video_gives_back_its_frames(tmp_path):
    path = write_video(tmp_path / "video.mkv", solid(*range(100)))
    before = open_files()
    sampled = video_frames(path, 4)
    assert greys(sampled) == [12, 37, 62, 86]
    assert all((frame.mode, frame.size) == ("RGB", (64, 48)) for frame in sampled)
    assert greys(video_frames(str(path), 64)) == frame_indices(100, 64)
    short = write_video(tmp_path / "short.mkv", solid(0, 100, 200))
    assert greys(video_frames(short, 6)) == [0, 0, 100, 100, 100, 200]
    assert open_files() == before


@pytest.mark.parametrize("name", ["video.mp4", "video.mov", "video.avi", "video.ts"])
def test_an_mpeg4_video_gives_back_its_frames(name, tmp_path):
    path = write_video(
        tmp_path / name, solid(*range(0, 240, 6)), codec="mpeg4", pixels="yuv420p"
    )
    expected = [6 * k for k in frame_indices(40, 8)]  # 30 apart
    # 6: the codec is lossy, and the neighbouring frame is 6 away
    np.testing.assert_allclose(greys(video_frames(path, 8)), expected, atol=5)


def test_a_video_that_lost_its_start_is_spaced_by_what_decodes(tmp_path):
    pictures = solid(*range(0, 240, 6))
    path = tmp_path / "video.ts"
    write_video(path, pictures, codec="mpeg2video", pixels="yuv420p", b_frames=2)
    data = path.read_bytes()
    path.write_bytes(
        data[len(data) // 4 // 188 * 188 :]
    )  # 30 packets, of which 28 decode
    expected = [6 * (12 + k) for k in frame_indices(28, 8)]
    np.testing.assert_allclose(greys(video_frames(path, 8)), expected, atol=5)  # lossy


def test_a_title_in_another_encoding_does_no_harm(tmp_path):
    path = write_video(tmp_path / "video.mkv", solid(1, 2, 3), title="caf#")
    path.write_bytes(path.read_bytes().replace(b"caf#", b"caf\xe9"))
    assert greys(video_frames(path, 3)) == [1, 2, 2]


def test_a_phone_video_is_turned_upright(tmp_path):
    picture = solid(0)[0]
    picture[:24] = 250  # the upper half is bright
    path = write_video(
        tmp_path / "v.mp4", [picture] * 4, codec="mpeg4", pixels="yuv420p"
    )
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # ISO 14496-12, 8.3.2, version 0
    data[matrix : matrix + 36] = struct.pack(
        ">9i", 0, 2**16, 0, -(2**16), 0, 0, 0, 0, 2**30
    )
    path.write_bytes(data)
    frame = video_frames(path, 1)[0]
    assert frame.size == (48, 64)
    # turned clockwise by 90 degrees: what was above is now on the right
    assert frame.getpixel((40, 32))[0] > 200 > 50 > frame.getpixel((8, 32))[0]


def test_bad_videos_are_refused_in_one_line(tmp_path, monkeypatch, capfd):
    good = write_video(
        tmp_path / "v.mp4", solid(*range(20)), codec="mpeg4", pixels="yuv420p"
    )
    data = good.read_bytes()
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{good}\n#EXT-X-ENDLIST\n"
    bad = {
        "empty.mp4": b"",
        "text.mp4": b"hello" * 100,
        "cut.mp4": data[: len(data) // 2],
        "image.mp4": PNG,
        "playlist.m3u8": playlist.encode(),  # would read whatever file or address it names
        "concat.txt": f"ffconcat version 1.0\nfile '{good}'\n".encode(),
    }
    before = open_files()
    for name, content in bad.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            video_frames(path, 4)
        text = str(error.value)
        assert text.startswith(f"{str(path)!r}: got ") and ", wanted " in text
        assert "\n" not in text
    # The name is a file's, but FFmpeg would take it for an order to read v.mp4.
    monkeypatch.chdir(tmp_path)
    Path("concat:v.mp4").write_bytes(b"hello" * 100)
    with pytest.raises(ValueError, match=r"'concat:v\.mp4': got InvalidDataError"):
        video_frames("concat:v.mp4", 4)
    with pytest.raises(ValueError, match="got no video stream to decode"):
        video_frames(write_sound(tmp_path / "sound.mkv"), 4)
    with pytest.raises(
        ValueError, match="got video of 64 x 48 pixels, wanted video of at most"
    ):
        video_frames(good, 4, max_pixels=3071)
    assert open_files() == before
    assert capfd.readouterr() == ("", "")


def test_damaged_videos_open_or_are_refused(tmp_path):
    dice = random.Random(0)
    outcomes = {"opened": 0, "refused": 0}
    path = tmp_path / "damaged"
    for name, codec, pixels in [("v.mp4", "mpeg4", "yuv420p"), ("v.mkv", "ffv1", "bgr0"),
                                ("v.ts", "mpeg2video", "yuv420p")]:  # fmt: skip
        video = write_video(
            tmp_path / name, solid(*range(40)), codec=codec, pixels=pixels
        )
        data = video.read_bytes()
        for k in range(60):
            damaged = bytearray(data)
            for _ in range(10):
                damaged[dice.randrange(len(data))] = dice.randrange(256)
            path.write_bytes(damaged[: dice.randrange(len(data))] if k % 2 else damaged)
            try:
                assert len(video_frames(path, 8)) == 8
                outcomes["opened"] += 1
            except ValueError as error:
                assert str(error).startswith(
                    f"{str(path)!r}: got "
                ) and "\n" not in str(error)
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def test_a_video_that_grows_midway_is_refused(tmp_path):
    options = {"codec": "mpeg2video", "pixels": "yuv420p"}
    small = write_video(tmp_path / "small.ts", solid(*range(20)), **options)
    large = [np.zeros((480, 640, 3), np.uint8)] * 20
    large = write_video(tmp_path / "large.ts", large, **options)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert video_frames(path, 4)[3].size == (640, 480)
    with pytest.raises(ValueError, match="got .*, wanted an intact video"):
        video_frames(path, 4, max_pixels=10_000)


@linux_only
def test_a_long_video_is_never_held_whole(tmp_path):
    options = {"codec": "mpeg4", "pixels": "yuv420p"}
    pictures = [np.full((360, 640, 3), grey, np.uint8) for grey in (50, 200)]
    short = write_video(tmp_path / "short.mp4", pictures * 4, **options)
    long = write_video(tmp_path / "long.mp4", pictures * 200, **options)
    code = """
images.video_frames(sys.argv[1], 8)
before = peak_mb()
print(len(images.video_frames(sys.argv[2], 8)), peak_mb() - before)
"""
    num_frames, growth_mb = run_measured(code, short, long)
    assert int(num_frames) == 8
    assert float(growth_mb) < 50  # all 400 frames would take 276 MB


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


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "av", None)  # import av now fails
    with pytest.raises(ImportError, match=r"pip install r1v3_jax\[video\]"):
        video_frames(path, 4)
