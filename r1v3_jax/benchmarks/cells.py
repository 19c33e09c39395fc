"""Cells of a benchmark's file: lists and images. Nothing in a cell is ever executed."""

import base64
import binascii
import json
import re
from pathlib import Path

from r1v3_jax.benchmarks.question import BadCell
from r1v3_jax.literals import parse_literal
from r1v3_jax.processing.image_files import ImageError, StoredImage, confined

MAX_LIST = 100_000  # characters of a list of texts, as of choices
MAX_IMAGE_CELL = 64 << 20  # characters of an image cell
MAX_IMAGES = 60  # of a row, as the server of the report allows
# A shorter image cell is the index of the row that holds the image.
REFERENCE = 64

# The quantifiers of these patterns are possessive (`*+` gives nothing back), so the time is linear
# in the length of the cell, whether it matches or not.
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]++={0,2}\s*+")

# A flat list of quoted texts and numbers.
_TEXT = r"""'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+\""""
_NUMBER = r"[-+]?\d++(?:\.\d*+)?(?:[eE][-+]?\d++)?"
_ITEM = rf"(?:{_TEXT}|{_NUMBER})\s*+"
_FLAT_LIST = re.compile(rf"\[\s*+(?:{_ITEM}(?:,\s*+{_ITEM})*+,?\s*+)?\]", re.DOTALL)


def parse_list(cell: str) -> list[str]:
    """Reads a list of texts, as JSON or as Python writes it: "['3/11', '8/11']".

    BadCell for anything else. The text is parsed, not run. Only a flat list of quoted texts and
    numbers comes to a parser: brackets in brackets and sums of numbers, which cost Python's parser
    time and memory, do not.
    """
    if len(cell) > MAX_LIST:
        raise BadCell(f"a list of {len(cell)} characters; at most {MAX_LIST} are read")
    text = cell.strip()
    if _FLAT_LIST.fullmatch(text):
        for parse in (json.loads, parse_literal):
            try:
                return [str(item) for item in parse(text)]
            # Both refuse a number of 5000 digits, and the escape \x without digits.
            except (ValueError, SyntaxError):
                continue
    raise BadCell(f"{cell[:60]!r}: wanted a list of texts, as ['3/11', '8/11']")


def split_images(cell: str) -> list[str]:
    """Returns the base64 texts of an image cell: one, or a list of them in quotes."""
    if len(cell) > MAX_IMAGE_CELL:
        raise BadCell(
            f"an image cell of {len(cell)} characters; at most {MAX_IMAGE_CELL} are read"
        )
    text = cell.strip()
    if not text.startswith("["):
        return [text]
    # Base64 has no commas, brackets or quotes, so a list of it needs no parser.
    if not text.endswith("]"):
        raise BadCell(f"an image cell that begins with [ and ends with {text[-1:]!r}")
    if text.count(",") > MAX_IMAGES:
        raise BadCell(f"{text.count(',') + 1} images; at most {MAX_IMAGES} are read")
    pieces = [piece.strip() for piece in text[1:-1].split(",")]
    pieces = [piece for piece in pieces if piece]
    if len(pieces) > MAX_IMAGES:
        raise BadCell(f"{len(pieces)} images; at most {MAX_IMAGES} are read")
    for piece in pieces:
        if len(piece) < 2 or piece[0] not in "'\"" or piece[-1] != piece[0]:
            raise BadCell(f"{piece[:40]!r} in a list of images; wanted quoted base64")
    return [piece[1:-1] for piece in pieces]


def decode_image(text: str) -> StoredImage:
    """Returns an image of base64, whose pixels are read where they are used; BadCell if none."""
    # A data: URI is base64 behind a comma.
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    if not _BASE64.fullmatch(text):
        raise BadCell(f"{text[:40]!r} is no base64")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadCell(f"base64: {error}") from None
    return StoredImage(data)


def image_file(cell: str, folders: list[Path]) -> list[StoredImage]:
    """Returns the images of an `image_path` cell: a path or a list, below one of the folders."""
    names = parse_list(cell) if cell.strip().startswith("[") else [cell.strip()]
    images = []
    for name in names:
        try:
            paths = [confined(folder, name) for folder in folders]
        except (ImageError, ValueError) as error:
            raise BadCell(f"image_path: {error}") from None
        there = [path for path in paths if path.is_file()]
        if not there:
            raise BadCell(f"image_path {name[:100]!r}: no such file below {folders[0]}")
        images.append(StoredImage(there[0]))
    return images


def check_images(images: list[StoredImage]) -> None:
    """BadCell unless the header of every image says that it can be used."""
    if len(images) > MAX_IMAGES:
        raise BadCell(f"{len(images)} images; at most {MAX_IMAGES} are read")
    for image in images:
        try:
            image.size  # noqa: B018, reads the header
        except (ImageError, OSError) as error:
            raise BadCell(f"image: {error}") from None
