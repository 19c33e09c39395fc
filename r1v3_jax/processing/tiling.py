"""Cuts images into tiles, which the vision tower eats: the reference's dynamic tiling.

`tile` cuts one image the way R1V3 was trained on it, `tile_images` all images of a prompt.
Numpy and Pillow only. Knows nothing about tokens, models or devices: the caller writes the
`<image>` markers into its prompt and moves the tiles.

Letters: I tiles, S tile side in pixels. Tiles are channels-last, float32[I, S, S, 3].
"""

import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from r1v3_jax.processing.image_files import StoredImage, refusal, to_rgb

# ImageNet's, of red, green and blue, as in InternVL's build_transform.
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def tile_grid(
    width: int,
    height: int,
    max_tiles: int = 12,
    *,
    min_tiles: int = 1,
    tile_size: int = 448,
) -> tuple[int, int]:
    """Chooses (columns, rows) of the grid whose shape is nearest to width / height.

    Source: `dynamic_preprocess` and `find_closest_aspect_ratio` of Skywork-R1V inference/utils.py
    (the same in InternVL); grids of equal area in the order of transformers' GotOcr2 processor.
    ValueError if a size is not positive or the limits are not 1 <= min_tiles <= max_tiles.
    """
    if min(width, height, tile_size) < 1:
        actual = f"{width} x {height} pixels and tile_size {tile_size}"
        change = "drop the image or set tile_size"
        raise refusal("image", actual, "positive sizes", change)
    if not 1 <= min_tiles <= max_tiles:
        actual = f"{min_tiles} to {max_tiles} tiles"
        wanted = "1 <= min_tiles <= max_tiles"
        raise refusal("image", actual, wanted, "change min_tiles or max_tiles")

    sides = range(1, max_tiles + 1)
    pairs = itertools.product(sides, sides)
    grids = [(i, j) for i, j in pairs if min_tiles <= i * j <= max_tiles]
    grids.sort(key=lambda grid: grid[0] * grid[1])
    best = None
    best_distance = float("inf")
    for columns, rows in grids:
        distance = abs(width / height - columns / rows)
        # 1x1, 2x2 and 3x3 tie: the larger one only for an image that fills over half of it.
        # Tiles of 448: 2x2 is half full with 401,408 pixels, so a square image gets it from
        # 634 x 634 on; 633 x 633 is one tile.
        area = tile_size * tile_size * columns * rows
        is_half_full = width * height > 0.5 * area
        is_tie = distance == best_distance
        if distance < best_distance or (is_tie and is_half_full):
            best = (columns, rows)
            best_distance = distance
    return best


def tile(
    image: Image.Image,
    *,
    tile_size: int = 448,
    max_tiles: int = 12,
    min_tiles: int = 1,
    thumbnail: bool = True,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Cuts one PIL image of any mode into normalised float32[I, S, S, 3]; I <= max_tiles + 1.

    The image is stretched to the grid (bicubic), cut row by row, and followed by a thumbnail of
    the whole if there is more than one tile. Transparent pixels show white, as `to_rgb` says.
    Bit-equal to transformers' GotOcr2ImageProcessorPil, and for images in mode RGB to the original
    script (torchvision). ValueError as in `tile_grid`.

    out: contiguous memory to write the tiles into; it is also what is returned.
    """
    S = tile_size
    width, height = image.size
    columns, rows = tile_grid(
        width, height, max_tiles, min_tiles=min_tiles, tile_size=S
    )
    count = columns * rows
    has_thumbnail = thumbnail and count > 1
    if out is None:
        out = np.empty((count + has_thumbnail, S, S, 3), np.float32)

    # The aspect ratio is not kept: the grid was chosen so that it changes as little as possible.
    image = to_rgb(image)
    stretched = image.resize((columns * S, rows * S), Image.Resampling.BICUBIC)
    # columns = 3, rows = 2:   0 1 2
    #                          3 4 5   then 6 = the thumbnail
    cells = np.asarray(stretched).reshape(rows, S, columns, S, 3).swapaxes(1, 2)
    for n in range(count):
        _normalise(cells[n // columns, n % columns], out[n])
    if has_thumbnail:
        shrunk = image.resize((S, S), Image.Resampling.BICUBIC)
        _normalise(np.asarray(shrunk), out[count])
    return out


def _normalise(pixels: np.ndarray, out: np.ndarray) -> None:
    """Writes uint8[S, S, 3] as normalised float32[S, S, 3] into `out`.

    float32 throughout; the reference's float64 x * (1 / 255) rounds to the same 256 values.
    """
    S = len(pixels)
    # As long rows r g b r g b ...: numpy is slow if the innermost axis has three entries.
    mean = np.tile(MEAN, S)
    std = np.tile(STD, S)
    out = out.reshape(S, S * 3)
    np.divide(pixels.reshape(S, S * 3), np.float32(255), out=out)
    out -= mean
    out /= std


def tiles_per_image(num_images: int, max_tiles: int = 12) -> int:
    """Returns how many tiles each image of a prompt may have, its thumbnail not counted.

    Source: InternVL internvl_chat_finetune.py, multi_modal_multi_image_get_item.
    """
    if num_images < 1 or max_tiles < 1:
        actual = f"{num_images} images and max_tiles {max_tiles}"
        change = "add an image or raise max_tiles"
        raise refusal("prompt", actual, "at least 1 of each", change)
    # max_tiles = 12: 3 images have 4 tiles each, 5 images 2, and 13 images still 1 each.
    return max(1, max_tiles // num_images)


def count_tiles(
    images: Sequence[Image.Image],
    *,
    tile_size: int = 448,
    max_tiles: int | Sequence[int] = 12,
    thumbnail: bool = True,
    share: bool = True,
) -> list[int]:
    """Counts the tiles that `tile_images` cuts of each image, from the sizes alone."""
    counts = []
    limits = _limits(len(images), max_tiles, share)
    for image, limit in zip(images, limits, strict=True):
        width, height = image.size
        columns, rows = tile_grid(width, height, limit, tile_size=tile_size)
        count = columns * rows
        has_thumbnail = thumbnail and count > 1  # one tile is its own thumbnail
        counts.append(count + has_thumbnail)
    return counts


def _limits(num_images: int, max_tiles: int | Sequence[int], share: bool) -> list[int]:
    """Returns how many tiles each image may have, its thumbnail not counted."""
    if not isinstance(max_tiles, int):
        return list(max_tiles)
    if share and num_images:
        max_tiles = tiles_per_image(num_images, max_tiles)
    return [max_tiles] * num_images


def tile_images(
    images: Sequence[Image.Image],
    *,
    tile_size: int = 448,
    max_tiles: int | Sequence[int] = 12,
    thumbnail: bool = True,
    share: bool = True,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Cuts all images of one prompt into (float32[I, S, S, 3], tiles per image), in order.

    The images share `max_tiles` as in InternVL's training (`tiles_per_image`); with share=False
    each may have all of it, as in Skywork-R1V's inference script. Video frames want max_tiles=1,
    one tile each. max_tiles may be a limit for each image. No images give float32[0, S, S, 3] and
    []. out: as in `tile`.
    """
    images = [x.decode() if isinstance(x, StoredImage) else x for x in images]
    counts = count_tiles(
        images,
        tile_size=tile_size,
        max_tiles=max_tiles,
        thumbnail=thumbnail,
        share=share,
    )
    if out is None:
        out = np.empty((sum(counts), tile_size, tile_size, 3), np.float32)
    limits = _limits(len(images), max_tiles, share)
    # counts = [5, 1]: the images write into out[0:5] and out[5:6].
    start = 0
    for image, count, limit in zip(images, counts, limits, strict=True):
        tile(
            image,
            tile_size=tile_size,
            max_tiles=limit,
            thumbnail=thumbnail,
            out=out[start : start + count],
        )
        start += count
    return out, counts
