"""Images and video frames become tiles: what the vision tower eats.

`open_image` reads a file nobody vouches for, `tile` cuts one image the way R1V3 was trained on it,
`tile_images` does so for all images of a prompt, `video_frames` turns a video into images.
Numpy and Pillow only. Knows nothing about tokens, models or devices: the caller writes the
`<image>` marks into its prompt and moves the tiles.

Letters: I tiles, S tile side in pixels. Tiles are channels-last, float32[I, S, S, 3].
"""

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # ImageNet, as InternVL's build_transform
STD = np.array((0.229, 0.224, 0.225), np.float32)

MAX_PIXELS = 50_000_000  # RGB takes 4 bytes a pixel in Pillow: 200 MB
MAX_BYTES = 32 * 2**20
# TIFF, EPS and some sixty more stay shut: rare in data, and each is another decoder to attack.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# FFmpeg demuxers that read one file. Playlists (hls, concat) would open other files and addresses.
VIDEO_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf"


def tile_grid(
    width: int, height: int, max_tiles: int = 12, *, min_tiles: int = 1, tile_size: int = 448
) -> tuple[int, int]:
    """(columns, rows) of the grid whose shape is nearest to width / height.

    Source: `dynamic_preprocess` and `find_closest_aspect_ratio` of Skywork-R1V inference/utils.py
    (the same in InternVL); grids of equal area in the order of transformers' GotOcr2 processor.
    ValueError if a size is not positive or the limits are not 1 <= min_tiles <= max_tiles.
    """
    if min(width, height, tile_size) < 1:
        got = f"{width} x {height} pixels and tile_size {tile_size}"
        raise _refusal("image", got, "positive sizes", "drop the image or set tile_size")
    if not 1 <= min_tiles <= max_tiles:
        got, wanted = f"{min_tiles} to {max_tiles} tiles", "1 <= min_tiles <= max_tiles"
        raise _refusal("image", got, wanted, "change min_tiles or max_tiles")
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
) -> np.ndarray:
    """One PIL image of any mode -> float32[I, S, S, 3], normalised; I <= max_tiles + 1.

    The image is stretched to the grid (bicubic), cut row by row, and followed by a thumbnail of
    the whole if there is more than one tile. Transparency is dropped, not blended, as the
    reference does. Bit-equal to the original script (torchvision), and without transparency to
    transformers' GotOcr2ImageProcessorPil. ValueError as in `tile_grid`.
    """
    S = tile_size
    columns, rows = tile_grid(*image.size, max_tiles, min_tiles=min_tiles, tile_size=S)
    image = _rgb(image)
    canvas = np.asarray(image.resize((columns * S, rows * S), Image.Resampling.BICUBIC))
    # columns = 3, rows = 2:   0 1 2
    #                          3 4 5   then 6 = the thumbnail
    tiles = canvas.reshape(rows, S, columns, S, 3).swapaxes(1, 2).reshape(-1, S, S, 3)
    if thumbnail and len(tiles) > 1:
        whole = np.asarray(image.resize((S, S), Image.Resampling.BICUBIC))
        tiles = np.concatenate([tiles, whole[None]])
    # float32 throughout; the reference's float64 x * (1 / 255) rounds to the same 256 values.
    return (tiles / np.float32(255) - MEAN) / STD


def tiles_per_image(num_images: int, max_tiles: int = 12) -> int:
    """Tiles each of `num_images` images in one prompt may have, thumbnail not counted.

    Source: InternVL internvl_chat_finetune.py, multi_modal_multi_image_get_item.
    """
    if num_images < 1 or max_tiles < 1:
        got = f"{num_images} images and max_tiles {max_tiles}"
        raise _refusal("prompt", got, "at least 1 of each", "add an image or raise max_tiles")
    return max(1, max_tiles // num_images)


def count_tiles(
    images: Sequence[Image.Image], *, tile_size: int = 448, max_tiles: int = 12
) -> list[int]:
    """How many tiles `tile_images` cuts of each image, from the sizes alone."""
    if not images:
        return []
    limit = tiles_per_image(len(images), max_tiles)
    grids = [tile_grid(*image.size, limit, tile_size=tile_size) for image in images]
    counts = [columns * rows for columns, rows in grids]
    return [count + (count > 1) for count in counts]  # the thumbnail


def tile_images(
    images: Sequence[Image.Image],
    *,
    tile_size: int = 448,
    max_tiles: int = 12,
    thumbnail: bool = True,
    share: bool = True,
) -> tuple[np.ndarray, list[int]]:
    """All images of one prompt -> (float32[I, S, S, 3], list of tiles per image), in order.

    They share `max_tiles` as in InternVL's training (`tiles_per_image`); share=False gives each all
    of it, as Skywork-R1V's inference script does. Video frames want max_tiles=1, one tile each.
    No images give float32[0, S, S, 3] and [].
    """
    if not images:
        return np.zeros((0, tile_size, tile_size, 3), np.float32), []
    limit = tiles_per_image(len(images), max_tiles) if share else max_tiles
    images = [x.decode() if isinstance(x, StoredImage) else x for x in images]
    tiles = [tile(x, tile_size=tile_size, max_tiles=limit, thumbnail=thumbnail) for x in images]
    return np.concatenate(tiles), [len(x) for x in tiles]


def open_image(
    source: str | os.PathLike | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    formats: tuple[str, ...] = IMAGE_FORMATS,
) -> Image.Image:
    """Path or bytes -> decoded PIL image, mode RGB. The first frame of an animation.

    Size in bytes, format and size in pixels are checked on the header, before anything is decoded.
    EXIF rotation is not applied: the reference does not apply it, so the model never saw it.
    ValueError for whatever is wrong with the data, FileNotFoundError for a missing file. Pillow's
    own limit of 2 * Image.MAX_IMAGE_PIXELS (179 Mpx) holds even if max_pixels is larger.
    """
    if isinstance(source, bytes):
        name, data = "bytes", source
    else:
        name = repr(str(source))
        with _open_file(source) as file:
            data = file.read(max_bytes + 1)
    if not data:
        raise _refusal(name, "0 bytes", "an image", "write the file again or drop the row")
    if len(data) > max_bytes:
        limit = f"at most max_bytes = {max_bytes}"
        raise _refusal(name, f"more than {max_bytes} bytes", limit, "scale it down or raise it")
    with _quiet_pillow():
        try:
            image = Image.open(io.BytesIO(data), formats=formats)  # the header only
            width, height = image.size
            if 1 <= width * height <= max_pixels:
                image.load()
                return _rgb(image)
        except UnidentifiedImageError as error:
            got, wanted = f"data starting with {data[:8]!r}", f"one of {', '.join(formats)}"
            raise _refusal(name, got, wanted, "convert it or allow its format") from error
        # Pillow's decoders raise what they trip over: OSError, SyntaxError, struct.error, KeyError.
        except Exception as error:
            wanted = f"an intact image of at most {max_pixels} pixels"
            raise _refusal(name, repr(error), wanted, "write it again or drop it") from error
    got, wanted = f"{width} x {height} pixels", f"1 to max_pixels = {max_pixels}"
    raise _refusal(name, got, wanted, "scale it down or raise max_pixels")


class StoredImage:
    """An image file that is decoded where its pixels are wanted. size: (width, height), as its
    header says. Errors as in `open_image`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        with _open_file(self.path) as file, _quiet_pillow():
            try:
                return Image.open(file, formats=IMAGE_FORMATS).size
            except Exception as error:
                wanted = f"an image, one of {', '.join(IMAGE_FORMATS)}"
                raise _refusal(repr(str(self.path)), repr(error), wanted, "drop the row") from error

    def decode(self) -> Image.Image:
        return open_image(self.path)


def frame_indices(total: int, num_frames: int) -> list[int]:
    """The middle of each of `num_frames` equal segments of frames 0 .. total - 1, list of int.

    A video shorter than that repeats frames. Source: `get_index` in InternVL's model card.
    """
    if total < 1 or num_frames < 1:
        got = f"{total} frames and num_frames {num_frames}"
        raise _refusal("video", got, "at least 1 of each", "drop the video or raise num_frames")
    segment = (total - 1) / num_frames
    return [int(segment / 2 + round(segment * k)) for k in range(num_frames)]


def frame_prompt(num_frames: int) -> str:
    """The text before a question about a video: "Frame1: <image>\\nFrame2: <image>\\n"."""
    return "".join(f"Frame{k + 1}: <image>\n" for k in range(num_frames))


def video_frames(
    source: str | os.PathLike | Sequence[Image.Image],
    num_frames: int,
    *,
    max_pixels: int = MAX_PIXELS,
) -> list[Image.Image]:
    """`num_frames` PIL images, evenly spaced, from a list of PIL images or from a video file.

    A file is decoded in order and only the frames returned are kept; they are turned upright as
    the container says (so does decord, which the reference reads with). ValueError for a bad video,
    FileNotFoundError for a missing one, ImportError without the extra "video" (PyAV).
    """
    if isinstance(source, list | tuple):
        return [source[k] for k in frame_indices(len(source), num_frames)]
    name = repr(str(source))
    with _open_file(source) as file:
        with _video_stream(file, name, max_pixels) as (container, stream):
            total = sum(packet.size > 0 for packet in container.demux(stream))
        # Once, if every packet becomes a frame. Else (hidden, damaged) by what really came out.
        for _ in range(3 if total else 0):
            wanted, kept, decoded = frame_indices(total, num_frames), {}, 0
            with _video_stream(file, name, max_pixels) as (container, stream):
                for frame in container.decode(stream):
                    if decoded in wanted:
                        kept[decoded] = frame.to_image().rotate(frame.rotation, expand=True)
                    decoded += 1
            if decoded == total:
                return [kept[k] for k in wanted]
            if decoded == 0:
                break
            total = decoded
    got = "no frames, or never the same number"
    raise _refusal(name, got, "an intact video", "write it again or drop it")


@contextlib.contextmanager
def _video_stream(file, name, max_pixels):
    """The (container, stream) of an open video file, from its start; whatever fails is refused."""
    try:
        import av  # optional, and only needed for files
    except ImportError:
        raise ImportError("a video file needs PyAV: pip install r1v3_jax[video]") from None
    file.seek(0)
    options = {"format_whitelist": VIDEO_FORMATS}
    try:
        # The open file, not its name: FFmpeg would follow names such as http:// and concat:.
        with av.open(file, options=options, metadata_errors="replace") as container:
            stream = next(iter(container.streams.video), None)
            codec = stream and stream.codec_context  # None if there is no decoder for it
            width, height = (codec.width, codec.height) if codec else (0, 0)
            if 1 <= width * height <= max_pixels:
                codec.options = {"max_pixels": str(max_pixels)}  # should it grow midway
                yield container, stream
                return
    # PyAV trips over damage in its own ways too: OSError, IndexError, UnicodeDecodeError.
    except Exception as error:
        wanted = f"an intact video ({VIDEO_FORMATS})"
        raise _refusal(name, repr(error), wanted, "convert it or write it again") from error
    got = f"video of {width} x {height} pixels" if width else "no video stream to decode"
    wanted = f"video of at most max_pixels = {max_pixels}"
    raise _refusal(name, got, wanted, "scale it, convert it or raise max_pixels")


def _refusal(name, got, wanted, change):
    return ValueError(f"{name}: got {got}, wanted {wanted}; {change}")


def _open_file(source):
    """A file opened for reading; a device or a pipe could block or never end."""
    if not os.path.exists(source):
        raise FileNotFoundError(f"{str(source)!r}: got no such file, wanted one; check the path")
    if not os.path.isfile(source):
        raise _refusal(repr(str(source)), "a folder or device", "a regular file", "check the path")
    return open(source, "rb")


@contextlib.contextmanager
def _quiet_pillow():
    """No warnings from Pillow (bombs, odd palettes): what matters here is raised instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _rgb(image):
    if image.mode == "RGB":  # convert() would copy
        return image
    with _quiet_pillow():
        return image.convert("RGB")
