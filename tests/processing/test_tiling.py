"""Grids against an independent table, pixels against transformers and the original script."""

import numpy as np
import pytest
from images_for_tests import RNG, assert_same_bits, gradient, noise, photos
from PIL import Image

from r1v3_jax.processing import tiling


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
    ],
)
def test_senseless_numbers_are_refused(call):
    with pytest.raises(ValueError, match=r"^\w+: got .*, wanted .*; .+$"):
        call()


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


def test_transparent_pixels_are_white_or_as_in_the_original_script():
    """transformers 5 makes such an image white; the original script shows what it hides."""
    image = noise(500, 300)
    clear = image.copy()
    clear.putalpha(0)
    white = Image.new("RGB", image.size, "white")
    assert_same_bits(tiling.tile(clear), torch_tiles(white))
    half = noise(500, 300)
    half.putalpha(noise(500, 300).getchannel("R"))
    for image_with_alpha in (clear, half, half.convert("LA")):
        theirs = transformers_tiles(image_with_alpha, tile_size=448)
        assert_same_bits(tiling.tile(image_with_alpha), theirs)
    reference = tiling.to_rgb(clear, "reference")
    assert_same_bits(tiling.tile(reference), torch_tiles(clear))
    assert_same_bits(tiling.tile(reference), tiling.tile(image))


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
