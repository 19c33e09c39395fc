"""Images and video frames become tiles: what the vision tower eats.

`open_image` reads a file nobody vouches for, `confined` keeps paths of rows inside a folder, `tile`
cuts one image the way R1V3 was trained on it, `tile_images` does so for all images of a prompt,
`video_frames` turns a video into images.
Numpy and Pillow only. Knows nothing about tokens, models or devices: the caller writes the
`<image>` marks into its prompt and moves the tiles.

Letters: I tiles, S tile side in pixels. Tiles are channels-last, float32[I, S, S, 3].
"""

import contextlib
import errno
import functools
import io
import os
import re
import stat
import urllib.parse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # ImageNet, as InternVL's build_transform
STD = np.array((0.229, 0.224, 0.225), np.float32)

MAX_PIXELS = 50_000_000  # RGB takes 4 bytes a pixel in Pillow: 200 MB
MAX_BYTES = 32 * 2**20
MAX_ASPECT = 200  # Qwen2-VL's smart_resize has the same limit; 1 x 20000 is no picture
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
    image, count = _rgb(image), columns * rows
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
        _normalise(np.asarray(image.resize((S, S), Image.Resampling.BICUBIC)), out[count])
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
        raise _refusal("prompt", got, "at least 1 of each", "add an image or raise max_tiles")
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


class ImageError(ValueError):
    """An image that is not used. reason: a word of `types.REASONS`."""

    def __init__(self, text: str, reason: str):
        super().__init__(text, reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.args[0]


class MissingImage(ImageError, FileNotFoundError):
    """There is no such file."""


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
    ImageError (a ValueError) for whatever is wrong with the data, and it is a FileNotFoundError for
    a missing file. Pillow's own limit of 2 * Image.MAX_IMAGE_PIXELS (179 Mpx) holds even if
    max_pixels is larger.
    """
    name, data = _read(source, max_bytes)
    with _quiet_pillow():
        try:
            image = Image.open(io.BytesIO(data), formats=formats)  # the header only
            if not (problem := _size_problem(image, max_pixels)):
                image.load()
                return _rgb(image)
        except UnidentifiedImageError as error:
            got, wanted = f"data starting with {data[:8]!r}", f"one of {', '.join(formats)}"
            change = "convert it or allow its format"
            raise _image_error(name, got, wanted, change, "image_format") from error
        except Image.DecompressionBombError as error:
            wanted = f"an image of at most {max_pixels} pixels"
            raise _image_error(name, repr(error), wanted, "scale it down", "image_size") from error
        # Pillow's decoders raise what they trip over: OSError, SyntaxError, struct.error, KeyError.
        except Exception as error:
            _raise_of_the_machine(error)
            wanted, change = "an intact image", "write it again or drop it"
            raise _image_error(name, repr(error), wanted, change, "image_damaged") from error
    raise _image_error(name, *problem, "image_size")


def _size_problem(image: Image.Image, max_pixels: int) -> tuple[str, str, str] | None:
    """What is (got, wanted, to change) about the size in a header; None if nothing is."""
    width, height = image.size
    got = f"{width} x {height} pixels"
    if not 1 <= width * height <= max_pixels:
        return got, f"1 to max_pixels = {max_pixels}", "scale it down or raise max_pixels"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return got, f"sides of at most {MAX_ASPECT} to 1", "crop it or drop the row"
    cost = _decoding_bytes(image)
    if width * height * cost > 5 * max_pixels:
        most = 5 * max_pixels // cost
        return f"{got} that take {cost} bytes each", f"at most {most} of such", "scale it down"
    return None


def _decoding_bytes(image: Image.Image) -> int:
    """Bytes of memory a pixel while an image is decoded and made RGB, measured with Pillow 13."""
    if image.format == "WEBP":  # two frames of an animation, their copy, and the image
        return 16
    if image.info.get("progressive"):  # JPEG: the coefficients of the whole image
        return 12
    return {"RGB": 4, "L": 5, "P": 5, "1": 5}.get(image.mode, 8)


def _read(source, max_bytes: int) -> tuple[str, bytes]:
    """(what to call it, its bytes), at most max_bytes of them."""
    name, data = "bytes", source
    if not isinstance(source, bytes):
        name = repr(str(source))
        with _open_file(source) as file:
            data = file.read(max_bytes + 1)
    if not data:
        change = "write the file again or drop the row"
        raise _image_error(name, "0 bytes", "an image", change, "image_damaged")
    if len(data) > max_bytes:
        got, wanted = f"more than {max_bytes} bytes", f"at most max_bytes = {max_bytes}"
        raise _image_error(name, got, wanted, "scale it down or raise it", "image_size")
    return name, data


class StoredImage:
    """An image, in a file or as the bytes of one, that is decoded where its pixels are wanted.

    size: (width, height), as its header says. Errors, also of size: as of `open_image`.
    """

    def __init__(self, source: str | os.PathLike | bytes):
        self.source = source

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        inline = isinstance(self.source, bytes)
        name = "bytes" if inline else repr(str(self.source))
        opened = io.BytesIO(_read(self.source, MAX_BYTES)[1]) if inline else _open_file(self.source)
        with opened as file, _quiet_pillow():
            if not inline and not 0 < os.fstat(file.fileno()).st_size <= MAX_BYTES:
                _read(self.source, MAX_BYTES)  # raises
            try:
                image = Image.open(file, formats=IMAGE_FORMATS)
            except Exception as error:
                _raise_of_the_machine(error)
                wanted = f"an image, one of {', '.join(IMAGE_FORMATS)}"
                unknown, bomb = UnidentifiedImageError, Image.DecompressionBombError
                reason = "image_format" if isinstance(error, unknown) else "image_damaged"
                reason = "image_size" if isinstance(error, bomb) else reason
                raise _image_error(name, repr(error), wanted, "drop the row", reason) from error
            if problem := _size_problem(image, MAX_PIXELS):
                raise _image_error(name, *problem, "image_size")
            return image.size

    def read(self) -> bytes:
        """The bytes of the file."""
        return _read(self.source, MAX_BYTES)[1]

    def decode(self) -> Image.Image:
        return open_image(self.source)


_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


def confined(root: str | os.PathLike, name: str) -> Path:
    """The file that a row's path means: below `root`, wherever links may lead.

    Nothing is opened. ImageError for an address, a path with "..", a backslash, a NUL or "~", also
    if they are url-encoded (no file of good data is called so), and for one that leads out of root.
    """
    plain = name
    for _ in range(4):  # %252e is %2e is .
        if (decoded := urllib.parse.unquote(plain)) == plain:
            break
        plain = decoded
    wanted = "a path below the data's folder"
    if plain.startswith("//") or _SCHEME.match(plain.strip()):
        change = "store the file, or have tools/convert_data.py --download=HOST do it"
        raise _image_error(repr(name[:200]), "an address", wanted, change, "image_path")
    parts = re.split(r"[/\\]", plain)
    if ".." in parts or "\\" in plain or _CONTROL.search(plain) or plain.startswith("~"):
        change = "write it relative to that folder"
        got = '"..", a backslash, "~" or a control character'
        raise _image_error(repr(name[:200]), got, wanted, change, "image_path")
    top = os.path.realpath(root)
    path = os.path.realpath(os.path.join(top, name))  # reads links, opens nothing
    if not Path(path).is_relative_to(top):
        change = "move the file, or set root to a folder that holds it"
        raise _image_error(repr(name[:200]), f"one outside {top!r}", wanted, change, "image_path")
    return Path(path)


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


def _image_error(name, got, wanted, change, reason):
    return ImageError(f"{name}: got {got}, wanted {wanted}; {change}", reason)


def _open_file(source):
    """A file opened for reading; a device or a pipe could block or never end."""
    try:
        there = os.stat(source)
    except (OSError, ValueError) as error:  # the latter: no path at all
        _raise_of_the_machine(error)
        text = f"{str(source)!r}: got no such file, wanted one; check the path"
        raise MissingImage(text, "image_missing") from error
    if not stat.S_ISREG(there.st_mode):
        name, got = repr(str(source)), "a folder or device"
        raise _image_error(name, got, "a regular file", "check the path", "image_path")
    return open(source, "rb")


# Of the disk, the network or the process, not of a file.
_MACHINE = {
    getattr(errno, name)
    for name in (
        "EIO ESTALE ENOTCONN ETIMEDOUT ECONNRESET ECONNABORTED ECONNREFUSED EHOSTDOWN EHOSTUNREACH "
        "ENETDOWN ENETUNREACH EREMOTEIO ENOMEM EMFILE ENFILE EAGAIN EINTR EBUSY"
    ).split()
    if hasattr(errno, name)
}


def _raise_of_the_machine(error: Exception) -> None:
    """Raises what says nothing of the image: a row left out on one host alone would put all rows
    behind it in other places there than on the other hosts.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _MACHINE:
        raise error


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
