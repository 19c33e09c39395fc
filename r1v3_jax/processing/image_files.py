"""Reads image files that nobody vouches for: size, format and path are checked before decoding.

`open_image` decodes one image, `StoredImage` does so only where its pixels are wanted, `confined`
keeps the paths of data rows inside a folder. Whatever is wrong with an image becomes an ImageError
with a reason; failures of the disk, the network or the memory stay what they are.

An image is converted in one of two ways. "served": as transformers and vLLM do it for the exported
model. It is turned as its EXIF data say, and transparent pixels show white. "reference": as the
code of Skywork-R1V3 does it, by `convert("RGB")` alone. Transparent pixels then show the colour
that they hide, which is mostly black. Both cut values of 16 bits off at 255.
Pillow only. Knows nothing about tiles, tokens, models or devices.
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

from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # RGB takes 4 bytes a pixel in Pillow: 200 MB
MAX_BYTES = 32 * 2**20
MAX_ASPECT = 200  # Qwen2-VL's smart_resize has the same limit; 1 x 20000 is no picture
# TIFF, EPS and some sixty more stay shut: rare in data, and each is another decoder to attack.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# EXIF orientation -> what turns the image upright. 1 is upright, and so is any other number.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations whose width becomes the height
STRIP_PIXELS = 1_000_000  # that are put on white at a time


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
    conversion: str = "served",
) -> Image.Image:
    """Decodes a path or bytes to a PIL image, mode RGB. Of an animation, the start frame.

    Size in bytes, format and size in pixels are checked on the header, before anything is decoded.
    conversion: "served" or "reference", see above; `changes` tells what was done.
    ImageError (a ValueError) for whatever is wrong with the data; for a missing file the error is
    a FileNotFoundError too. Pillow's own limit of 2 * Image.MAX_IMAGE_PIXELS (179 Mpx) holds even
    if max_pixels is larger.
    """
    name, data = _read(source, max_bytes)
    with _quiet_pillow():
        try:
            image = Image.open(io.BytesIO(data), formats=formats)  # the header only
            problem = _size_problem(image, max_pixels)
            if not problem:
                return _upright_rgb(image, conversion)
        except UnidentifiedImageError as error:
            actual = f"data starting with {data[:8]!r}"
            wanted = f"one of {', '.join(formats)}"
            change = "convert it or allow its format"
            raise _image_error(name, actual, wanted, change, "image_format") from error
        except Image.DecompressionBombError as error:
            actual = repr(error)
            wanted = f"an image of at most {max_pixels} pixels"
            change = "scale it down"
            raise _image_error(name, actual, wanted, change, "image_size") from error
        # Pillow's decoders raise what they trip over: OSError, SyntaxError, struct.error, KeyError.
        except Exception as error:
            raise_machine_error(error)
            actual = repr(error)
            wanted = "an intact image"
            change = "write it again or drop it"
            raise _image_error(name, actual, wanted, change, "image_damaged") from error
    # Raised here and not above, where it would be taken for an error of a decoder.
    raise _image_error(name, *problem, "image_size")


def _size_problem(image: Image.Image, max_pixels: int) -> tuple[str, str, str] | None:
    """Checks the size in a header; returns (actual, wanted, change), or None if it is good."""
    width, height = image.size
    actual = f"{width} x {height} pixels"
    if not 1 <= width * height <= max_pixels:
        wanted = f"1 to max_pixels = {max_pixels}"
        return actual, wanted, "scale it down or raise max_pixels"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return actual, f"sides of at most {MAX_ASPECT} to 1", "crop it or drop the row"
    # 5 bytes for each of 50 million pixels are 250 MB. A WebP takes 16 bytes a pixel while it is
    # decoded, so at most 15,625,000 of its pixels are allowed: 3950 x 3950.
    cost = _decoding_bytes(image)
    if width * height * cost > 5 * max_pixels:
        limit = 5 * max_pixels // cost
        actual = f"{actual} that take {cost} bytes each"
        return actual, f"at most {limit} of such", "scale it down"
    return None


def _decoding_bytes(image: Image.Image) -> int:
    """Bytes of memory a pixel while an image is decoded and made RGB, measured with Pillow 13."""
    if image.format == "WEBP":  # two frames of an animation, their copy, and the image
        return 16
    if image.info.get("progressive"):  # JPEG: the coefficients of the whole image
        return 12
    is_copied = orientation(image) in TURNS or "transparency" in image.info
    if image.mode == "RGB" and is_copied:  # turned, or on white
        return 8
    return {"RGB": 4, "L": 5, "P": 5, "1": 5}.get(image.mode, 8)


def _read(source, max_bytes: int) -> tuple[str, bytes]:
    """Returns (name for messages, bytes) of a path or of bytes, at most max_bytes of them."""
    if isinstance(source, bytes):
        name = "bytes"
        data = source
    else:
        name = repr(str(source))
        with open_file(source) as file:
            data = file.read(max_bytes + 1)  # one more shows that the file is longer
    if not data:
        change = "write the file again or drop the row"
        raise _image_error(name, "0 bytes", "an image", change, "image_damaged")
    if len(data) > max_bytes:
        actual = f"more than {max_bytes} bytes"
        wanted = f"at most max_bytes = {max_bytes}"
        raise _image_error(
            name, actual, wanted, "scale it down or raise it", "image_size"
        )
    return name, data


class StoredImage:
    """An image as a path or as encoded bytes, decoded only where its pixels are wanted.

    Raises the errors of `open_image`, also for `size`.
    """

    def __init__(
        self, source: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS
    ):
        self.source = source
        self.max_pixels = max_pixels

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels as the header says, of the image turned upright."""
        if isinstance(self.source, bytes):
            name = "bytes"
            opened = io.BytesIO(self.read())
        else:
            name = repr(str(self.source))
            opened = open_file(self.source)
        with opened as file, _quiet_pillow():
            # Of a file only the header is read, so its length is taken from the file system.
            if not isinstance(self.source, bytes):
                num_bytes = os.fstat(file.fileno()).st_size
                if not 0 < num_bytes <= MAX_BYTES:
                    self.read()  # raises
            try:
                image = Image.open(file, formats=IMAGE_FORMATS)
            except Exception as error:
                raise_machine_error(error)
                actual = repr(error)
                wanted = f"an image, one of {', '.join(IMAGE_FORMATS)}"
                reason = _reason(error)
                raise _image_error(
                    name, actual, wanted, "drop the row", reason
                ) from error
            problem = _size_problem(image, self.max_pixels)
            if problem:
                raise _image_error(name, *problem, "image_size")
            width, height = image.size
            return (height, width) if orientation(image) in SIDEWAYS else image.size

    def read(self) -> bytes:
        """Returns the bytes of the file."""
        _, data = _read(self.source, MAX_BYTES)
        return data

    def decode(self, conversion: str = "served") -> Image.Image:
        """Decodes the image, mode RGB. By "reference" it is not turned, whatever `size` says."""
        return open_image(
            self.source, max_pixels=self.max_pixels, conversion=conversion
        )


def _reason(error: Exception) -> str:
    """Returns the word of `types.REASONS` for an error of Pillow about a header."""
    if isinstance(error, Image.DecompressionBombError):
        return "image_size"
    if isinstance(error, UnidentifiedImageError):
        return "image_format"
    return "image_damaged"


_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


def confined(root: str | os.PathLike, name: str) -> Path:
    """Resolves a row's path to a file below `root`, wherever links may lead.

    Nothing is opened. ImageError for an address, a path with "..", a backslash, a NUL or "~", also
    if they are url-encoded (no file of good data is called so), and for one that leads out of root.
    """
    decoded = _url_decoded(name)
    shown = repr(name[:200])
    wanted = "a path below the data's folder"
    # Addresses: //host/a.png, http://host/a.png, also C:\a.png. Nothing is ever fetched.
    if decoded.startswith("//") or _SCHEME.match(decoded.strip()):
        change = "store the file, or have tools/convert_data.py --download=HOST do it"
        raise _image_error(shown, "an address", wanted, change, "image_path")
    climbs = ".." in re.split(r"[/\\]", decoded)
    if climbs or "\\" in decoded or _CONTROL.search(decoded) or decoded.startswith("~"):
        actual = '"..", a backslash, "~" or a control character'
        change = "write it relative to that folder"
        raise _image_error(shown, actual, wanted, change, "image_path")
    # The name as written, not as decoded, is looked up: "50%25 off.png" is a good name of a file.
    folder = os.path.realpath(root)
    path = os.path.realpath(os.path.join(folder, name))  # reads links, opens nothing
    if not Path(path).is_relative_to(folder):
        actual = f"one outside {folder!r}"
        change = "move the file, or set root to a folder that holds it"
        raise _image_error(shown, actual, wanted, change, "image_path")
    return Path(path)


def _url_decoded(name: str) -> str:
    """Undoes up to four layers of url-encoding: %252e is %2e is "."."""
    for _ in range(4):
        decoded = urllib.parse.unquote(name)
        if decoded == name:
            break
        name = decoded
    return name


def open_file(source):
    """Opens a regular file for reading; a device or a pipe could block or never end."""
    try:
        status = os.stat(source)
    except (OSError, ValueError) as error:  # ValueError: no path at all
        raise_machine_error(error)
        text = f"{str(source)!r}: got no such file, wanted one; check the path"
        raise MissingImage(text, "image_missing") from error
    if not stat.S_ISREG(status.st_mode):
        name = repr(str(source))
        actual = "a folder or device"
        raise _image_error(
            name, actual, "a regular file", "check the path", "image_path"
        )
    return open(source, "rb")


# Error numbers of the disk, the network or the process; they say nothing about a file.
_MACHINE_ERRORS = {
    getattr(errno, name)
    for name in (
        "EIO ESTALE ENOTCONN ETIMEDOUT ECONNRESET ECONNABORTED ECONNREFUSED EHOSTDOWN EHOSTUNREACH "
        "ENETDOWN ENETUNREACH EREMOTEIO ENOMEM EMFILE ENFILE EAGAIN EINTR EBUSY"
    ).split()
    if hasattr(errno, name)
}


def raise_machine_error(error: Exception) -> None:
    """Raises `error` again if the machine failed and not the image.

    The row must not be dropped for it: a row dropped on one host alone would shift all rows after
    it on that host, and the hosts would no longer read the same rows.
    """
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number in _MACHINE_ERRORS:
        raise error


@contextlib.contextmanager
def _quiet_pillow():
    """Silences Pillow's warnings (bombs, odd palettes): what matters here is raised instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def orientation(image: Image.Image) -> int:
    """Reads how an image is turned, 1 to 8, off its header; 1 if it does not say."""
    # EXIF data behind the pixels of a PNG are not looked for: all pixels would have to be decoded
    # for the size. The method of PngImageFile does so; that of every other image is used.
    try:
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # whatever damaged EXIF data make of Pillow's reader
        raise_machine_error(error)
        return 1
    return value if value in TURNS else 1


def _upright_rgb(image: Image.Image, conversion: str) -> Image.Image:
    """Decodes an opened image, and converts it; see the head of this file."""
    image.load()
    notes = ()
    turn = orientation(image)
    if conversion == "served" and turn in TURNS:
        image = image.transpose(TURNS[turn])
        notes = (f"turned by EXIF orientation {turn}",)
    rgb = to_rgb(image, conversion)
    if rgb is not image:
        notes += changes(rgb)
    # A PNG may bring an entry of any name: none of the file's is kept.
    rgb.info = {"changes": notes}
    return rgb


def to_rgb(image: Image.Image, conversion: str = "served") -> Image.Image:
    """Returns the image in mode RGB; without a copy if it is RGB and opaque already."""
    is_opaque = "A" not in image.getbands() and "transparency" not in image.info
    if image.mode == "RGB" and is_opaque:  # convert() would copy
        return image
    with _quiet_pillow():
        if conversion == "served" and not is_opaque:
            rgb, is_changed = _on_white(image)
            notes = ("transparent pixels on white",) if is_changed else ()
        else:
            rgb = image.convert("RGB")
            notes = ()
    if image.mode.startswith(("I", "F")):
        notes += (f"mode {image.mode}: values above 255 cut off",)
    # Without the other entries: what meant "transparent" in the file is only a colour here.
    rgb.info = {"changes": notes}
    return rgb


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Returns the image on white, mode RGB, and whether any pixel was transparent."""
    width, height = image.size
    rgb = Image.new("RGB", image.size)
    is_changed = False
    # In strips: of a whole image Pillow would hold four copies at a time.
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image.crop((0, top, width, bottom)).convert("RGBA")
        lowest_alpha, _ = strip.getextrema()[3]
        is_changed |= lowest_alpha < 255
        white = Image.new("RGBA", strip.size, "white")
        rgb.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return rgb, is_changed


def changes(image: Image.Image) -> tuple[str, ...]:
    """Tells how a decoded image differs from its file, as ("turned by EXIF orientation 6",)."""
    return image.info.get("changes", ())


def refusal(name: str, actual: str, wanted: str, change: str) -> ValueError:
    """Returns the error for senseless numbers and bad videos: actual, wanted, what to change."""
    return ValueError(f"{name}: got {actual}, wanted {wanted}; {change}")


def _image_error(name, actual, wanted, change, reason) -> ImageError:
    return ImageError(f"{name}: got {actual}, wanted {wanted}; {change}", reason)
