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
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # RGB takes 4 bytes a pixel in Pillow: 200 MB
MAX_BYTES = 32 * 2**20
MAX_ASPECT = 200  # Qwen2-VL's smart_resize has the same limit; 1 x 20000 is no picture
# TIFF, EPS and some sixty more stay shut: rare in data, and each is another decoder to attack.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


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
                return to_rgb(image)
        except UnidentifiedImageError as error:
            got, wanted = (
                f"data starting with {data[:8]!r}",
                f"one of {', '.join(formats)}",
            )
            change = "convert it or allow its format"
            raise _image_error(name, got, wanted, change, "image_format") from error
        except Image.DecompressionBombError as error:
            wanted = f"an image of at most {max_pixels} pixels"
            raise _image_error(
                name, repr(error), wanted, "scale it down", "image_size"
            ) from error
        # Pillow's decoders raise what they trip over: OSError, SyntaxError, struct.error, KeyError.
        except Exception as error:
            _raise_of_the_machine(error)
            wanted, change = "an intact image", "write it again or drop it"
            raise _image_error(
                name, repr(error), wanted, change, "image_damaged"
            ) from error
    raise _image_error(name, *problem, "image_size")


def _size_problem(image: Image.Image, max_pixels: int) -> tuple[str, str, str] | None:
    """What is (got, wanted, to change) about the size in a header; None if nothing is."""
    width, height = image.size
    got = f"{width} x {height} pixels"
    if not 1 <= width * height <= max_pixels:
        return (
            got,
            f"1 to max_pixels = {max_pixels}",
            "scale it down or raise max_pixels",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        return got, f"sides of at most {MAX_ASPECT} to 1", "crop it or drop the row"
    cost = _decoding_bytes(image)
    if width * height * cost > 5 * max_pixels:
        most = 5 * max_pixels // cost
        return (
            f"{got} that take {cost} bytes each",
            f"at most {most} of such",
            "scale it down",
        )
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
        with open_file(source) as file:
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
        opened = (
            io.BytesIO(_read(self.source, MAX_BYTES)[1])
            if inline
            else open_file(self.source)
        )
        with opened as file, _quiet_pillow():
            if not inline and not 0 < os.fstat(file.fileno()).st_size <= MAX_BYTES:
                _read(self.source, MAX_BYTES)  # raises
            try:
                image = Image.open(file, formats=IMAGE_FORMATS)
            except Exception as error:
                _raise_of_the_machine(error)
                wanted = f"an image, one of {', '.join(IMAGE_FORMATS)}"
                unknown, bomb = UnidentifiedImageError, Image.DecompressionBombError
                reason = (
                    "image_format" if isinstance(error, unknown) else "image_damaged"
                )
                reason = "image_size" if isinstance(error, bomb) else reason
                raise _image_error(
                    name, repr(error), wanted, "drop the row", reason
                ) from error
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
    if (
        ".." in parts
        or "\\" in plain
        or _CONTROL.search(plain)
        or plain.startswith("~")
    ):
        change = "write it relative to that folder"
        got = '"..", a backslash, "~" or a control character'
        raise _image_error(repr(name[:200]), got, wanted, change, "image_path")
    top = os.path.realpath(root)
    path = os.path.realpath(os.path.join(top, name))  # reads links, opens nothing
    if not Path(path).is_relative_to(top):
        change = "move the file, or set root to a folder that holds it"
        raise _image_error(
            repr(name[:200]), f"one outside {top!r}", wanted, change, "image_path"
        )
    return Path(path)


def _image_error(name, got, wanted, change, reason):
    return ImageError(f"{name}: got {got}, wanted {wanted}; {change}", reason)


def open_file(source):
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


def to_rgb(image):
    if image.mode == "RGB":  # convert() would copy
        return image
    with _quiet_pillow():
        return image.convert("RGB")
