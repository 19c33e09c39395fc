"""The reference's dynamic tiling and normalisation."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from r1v3_jax.processing.image_files import StoredImage, to_rgb
from r1v3_jax.processing.video import refusal

MEAN = np.array(
    (0.485, 0.456, 0.406), np.float32
)  # ImageNet, as InternVL's build_transform


STD = np.array((0.229, 0.224, 0.225), np.float32)


def tile_grid(
    width: int,
    height: int,
    max_tiles: int = 12,
    *,
    min_tiles: int = 1,
    tile_size: int = 448,
) -> tuple[int, int]:
    """(columns, rows) of the grid whose shape is nearest to width / height.

    Source: `dynamic_preprocess` and `find_closest_aspect_ratio` of Skywork-R1V inference/utils.py
    (the same in InternVL); grids of equal area in the order of transformers' GotOcr2 processor.
    ValueError if a size is not positive or the limits are not 1 <= min_tiles <= max_tiles.
    """
    if min(width, height, tile_size) < 1:
        got = f"{width} x {height} pixels and tile_size {tile_size}"
        raise refusal("image", got, "positive sizes", "drop the image or set tile_size")
    if not 1 <= min_tiles <= max_tiles:
        got, wanted = f"{min_tiles} to {max_tiles} tiles", "1 <= min_tiles <= max_tiles"
        raise refusal("image", got, wanted, "change min_tiles or max_tiles")
    sides = range(1, max_tiles + 1)
    grids = [(i, j) for i in sides for j in sides if min_tiles <= i * j <= max_tiles]
    best, best_distance = None, float("inf")
    for i, j in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(width / height - i / j)
        # 1x1, 2x2 and 3x3 tie: the larger one only for an image that fills over half of it.
        fills = width * height > 0.5 * tile_size * tile_size * i * j
        if distance < best_distance or (distance == best_distance and fills):
            best, best_distance = (i, j), distance
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
    """One PIL image of any mode -> float32[I, S, S, 3], normalised; I <= max_tiles + 1.

    The image is stretched to the grid (bicubic), cut row by row, and followed by a thumbnail of
    the whole if there is more than one tile. Transparency is dropped, not blended, as the
    reference does. Bit-equal to the original script (torchvision), and without transparency to
    transformers' GotOcr2ImageProcessorPil. ValueError as in `tile_grid`.

    out: contiguous memory for them, which is also what is returned.
    """
    S = tile_size
    columns, rows = tile_grid(*image.size, max_tiles, min_tiles=min_tiles, tile_size=S)
    image, count = to_rgb(image), columns * rows
    thumbnail = thumbnail and count > 1
    if out is None:
        out = np.empty((count + thumbnail, S, S, 3), np.float32)
    canvas = np.asarray(image.resize((columns * S, rows * S), Image.Resampling.BICUBIC))
    # columns = 3, rows = 2:   0 1 2
    #                          3 4 5   then 6 = the thumbnail
    cut = canvas.reshape(rows, S, columns, S, 3).swapaxes(1, 2)
    for n in range(count):
        _normalise(cut[n // columns, n % columns], out[n])
    if thumbnail:
        _normalise(
            np.asarray(image.resize((S, S), Image.Resampling.BICUBIC)), out[count]
        )
    return out


def _normalise(pixels: np.ndarray, out: np.ndarray) -> None:
    """uint8[S, S, 3] -> float32[S, S, 3], written into out.

    float32 throughout; the reference's float64 x * (1 / 255) rounds to the same 256 values.
    """
    S = len(pixels)
    # In long rows of the three colours over and over: numpy is slow where the last axis is short.
    mean, std = np.tile(MEAN, S), np.tile(STD, S)
    out = out.reshape(S, S * 3)
    np.divide(pixels.reshape(S, S * 3), np.float32(255), out=out)
    out -= mean
    out /= std


def tiles_per_image(num_images: int, max_tiles: int = 12) -> int:
    """Tiles each of `num_images` images in one prompt may have, thumbnail not counted.

    Source: InternVL internvl_chat_finetune.py, multi_modal_multi_image_get_item.
    """
    if num_images < 1 or max_tiles < 1:
        got = f"{num_images} images and max_tiles {max_tiles}"
        raise refusal(
            "prompt", got, "at least 1 of each", "add an image or raise max_tiles"
        )
    return max(1, max_tiles // num_images)


def count_tiles(
    images: Sequence[Image.Image],
    *,
    tile_size: int = 448,
    max_tiles: int = 12,
    thumbnail: bool = True,
    share: bool = True,
) -> list[int]:
    """How many tiles `tile_images` cuts of each image, from the sizes alone."""
    if not images:
        return []
    limit = tiles_per_image(len(images), max_tiles) if share else max_tiles
    grids = [tile_grid(*image.size, limit, tile_size=tile_size) for image in images]
    counts = [columns * rows for columns, rows in grids]
    return [count + (thumbnail and count > 1) for count in counts]


def tile_images(
    images: Sequence[Image.Image],
    *,
    tile_size: int = 448,
    max_tiles: int = 12,
    thumbnail: bool = True,
    share: bool = True,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, list[int]]:
    """All images of one prompt -> (float32[I, S, S, 3], list of tiles per image), in order.

    They share `max_tiles` as in InternVL's training (`tiles_per_image`); share=False gives each all
    of it, as Skywork-R1V's inference script does. Video frames want max_tiles=1, one tile each.
    No images give float32[0, S, S, 3] and []. out: as in `tile`.
    """
    how = {"tile_size": tile_size, "max_tiles": max_tiles, "thumbnail": thumbnail}
    images = [x.decode() if isinstance(x, StoredImage) else x for x in images]
    counts = count_tiles(images, **how, share=share)
    if out is None:
        out = np.empty((sum(counts), tile_size, tile_size, 3), np.float32)
    if share and images:
        how["max_tiles"] = tiles_per_image(len(images), max_tiles)
    at = 0
    for image, count in zip(images, counts, strict=True):
        tile(image, **how, out=out[at : at + count])
        at += count
    return out, counts
