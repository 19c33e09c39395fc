"""Images of records: which fields hold them, in what forms, and what else looks like one.

A row must not lose a picture. A field of a known name is read; what looks like a picture or a film
in any other field is refused by the field's name, see `unread`. Films are read by `films`.
"""

import base64
import binascii
import contextlib
import dataclasses
import re
from collections.abc import Iterator

from r1v3_jax.data.fields import (
    InvalidRecord,
    first_filled,
    is_empty,
    loads,
    parse_list,
)
from r1v3_jax.processing import chat

# Fields that hold images: bytes, paths, addresses, data: URIs, base64, or a list of these. Names
# are compared in lower case.
IMAGE_FIELDS = (
    "images image imgs img pictures picture photos photo decoded_images decoded_image image_bytes "
    "image_data image_base64 base64_image img_base64 image_paths image_path img_paths img_path "
    "image_files image_file img_file image_urls image_url img_url png jpg jpeg webp "
    "pixel_values pixels image_array img_array"  # arrays are refused as such
).split()
# Fields that are an image's if what they hold ends like the name of one: a.png.
NAME_FIELDS = (
    "file_name filename image_name img_name image_id img_id image_src path file url coco_url"
).split()
# image_1, image_2, ... as in MMMU: the number is that of the marker <image 2>.
NUMBERED_FIELD = re.compile(r"(image|img|picture|photo|decoded_image)_?(\d{1,3})")
FILM_FIELD = re.compile(
    r"(?:video|audio|film|movie)s?(?:_?(?:path|url|file|bytes|\d+)s?)?"
)
SOUND_FIELD = re.compile(r"audios?(?:_?(?:path|url|file|bytes|data|\d+)s?)?")
# Fields that only name a film, or where it is; it may have been cut into images. And those that
# only name an image. Without any media in its row, a question is about what such a field names.
_NAMING = r"_?(?:id|uid|name|file_?name|basename|link|uri|dir|folder|list)s?"
FILM_NAME_FIELD = re.compile(
    rf"(?:video|audio|film|movie|clip|gif|youtube|(?:video_?)?frame)s?{_NAMING}"
)
IMAGE_NAME_FIELD = re.compile(rf"(?:image|img|picture|photo)s?{_NAMING}")
# Objects in a record that belong to the row as its own fields do.
NESTED = ("extra_info", "metadata")

# Keys of one image as an object: what holds it, what names it, and what only describes it.
CONTENT_KEYS = ("bytes", "data", "base64")
NAMING_KEYS = ("path", "file", "file_name", "filename", "image", "image_url", "url")
DESCRIBING_KEYS = (
    "type media_type mime_type format width height size mode id name alt caption detail index "
    "min_pixels max_pixels resized_width resized_height"
).split()

IMAGE_ENDINGS = (
    "png apng jpg jpeg jpe jfif webp gif bmp tif tiff svg heic heif avif ico jxl jp2 "
    "ppm pgm"
).split()
VIDEO_ENDINGS = "mp4 m4v mov avi mkv webm mpg mpeg flv wmv 3gp ogv ts".split()
SOUND_ENDINGS = "wav mp3 flac m4a ogg opus aac".split()


def name_pattern(endings: list[str]) -> re.Pattern:
    """Matches one line that ends like a file: "a b/c.PNG", "http://x.org/c.png?size=2"."""
    return re.compile(
        rf"[^\n]{{0,1000}}\.(?:{'|'.join(endings)})(?:[?#]\S*)?\s*",
        re.IGNORECASE,
    )


_IMAGE_NAME = name_pattern(IMAGE_ENDINGS)
# "ts" ends scripts as well.
_MEDIA_NAME = name_pattern(IMAGE_ENDINGS + VIDEO_ENDINGS[:-1] + SOUND_ENDINGS)
_DATA_URI = re.compile(
    r"\bdata:(?:(?:image|video|audio)/|[\w.+/-]{0,99};base64,)", re.IGNORECASE
)
# The first bytes of PNG, JPEG, GIF, WebP and BMP in base64. No path has 100 such characters.
_BASE64 = re.compile(
    r"\s*(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-9A-Za-z+/])[A-Za-z0-9+/\s]{90,}[=\s]*"
)
_NUMBERED_MARKER = re.compile(r"<\|?image[ _]?(\d{1,3})\|?>", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image of a record."""

    data: str | bytes  # a path, an address, or the bytes of a file
    name: str  # of its file, without folders; empty if the record does not say


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The images of one field of a record."""

    field: str  # as a message names it: "image", "extra_info.image_path"
    by_number: dict[int, Picture]  # 1 for the first, as in the marker <image 1>


# 1. Which fields


def places(record: dict) -> Iterator[tuple[str, dict]]:
    """Yields (prefix of names, object) of a record itself and of its NESTED objects."""
    yield "", record
    for name in NESTED:
        nested = record.get(name)
        # In parquet a column has one type, so metadata is stored there as a text of JSON.
        if isinstance(nested, str) and nested.lstrip().startswith("{"):
            with contextlib.suppress(InvalidRecord):
                nested = loads(nested)
        if isinstance(nested, dict):
            yield f"{name}.", nested


def is_image_field(name: str, value) -> bool:
    """Whether a field is read as one with images, by its name and what it holds."""
    name = str(name).lower()
    if name in NAME_FIELDS:
        return isinstance(value, str) and bool(_IMAGE_NAME.fullmatch(value))
    return name in IMAGE_FIELDS or bool(NUMBERED_FIELD.fullmatch(name))


def column_images(record: dict) -> dict[int, Picture]:
    """Returns the images in the fields of a record, by number.

    InvalidRecord if two fields have images that are not the same.
    """
    return _one_set(list(_columns(record)))


def all_images(record: dict, in_turns: list) -> dict[int, Picture]:
    """Returns the images of a record by number, those in its turns and those in its fields."""
    columns = list(_columns(record))
    if in_turns:
        columns.append(_pictures("a part of a turn", in_turns))
    return _one_set(columns)


def check_media_names(record: dict) -> None:
    """InvalidRecord for a record, without images and films, that names one all the same."""
    for prefix, fields in places(record):
        for name, value in fields.items():
            if is_empty(value):
                continue
            if FILM_NAME_FIELD.fullmatch(str(name).lower()):
                raise film_problem(f"{prefix}{name}", "its file, or cut it into images")
            if IMAGE_NAME_FIELD.fullmatch(str(name).lower()):
                raise InvalidRecord(
                    "fields",
                    f"{prefix[:50]}{name[:50]}: a row about an image; wanted its file in images",
                )


def film_problem(field: str, wanted: str) -> InvalidRecord:
    """Returns the error for a row that would lose its film or its sound."""
    # Without its frames the question of a film is not the same question.
    detail = f"{field[:100]}: a row about a video or a sound; wanted {wanted}"
    return InvalidRecord("fields", detail)


def _columns(record: dict) -> Iterator[Pictures]:
    """Yields the fields that have images."""
    for prefix, fields in places(record):
        numbered: dict[str, dict[int, Picture]] = {}
        # `images` before `image` before `image_path`; then what only names a file.
        for name, value in sorted(fields.items(), key=_rank):
            field = f"{prefix}{name}"
            if is_empty(value):
                continue
            if not is_image_field(name, value):
                continue
            match = NUMBERED_FIELD.fullmatch(str(name).lower())
            if match is None:
                yield _pictures(field, value)
                continue
            # image_1, image_2 and img_1, img_2 are two sets, image1 and image_01 are one image.
            images = numbered.setdefault(f"{prefix}{match[1]}", {})
            picture = _read_named(value, field)
            number = int(match[2])
            if images.setdefault(number, picture).data != picture.data:
                raise InvalidRecord("fields", f"{field}: another field has its number")
        for stem, images in numbered.items():
            names = ", ".join(f"{stem}_{number}" for number in sorted(images))
            yield Pictures(names[:100], dict(sorted(images.items())))


def _rank(item: tuple) -> int:
    name = str(item[0]).lower()
    known = [*IMAGE_FIELDS, *NAME_FIELDS]
    return known.index(name) if name in known else len(known)


def is_flag(value) -> bool:
    """Whether a value only says yes or no."""
    # "video": 4010069381 is a number of a film.
    return isinstance(value, bool | int | float) and value in (0, 1)


def _pictures(field: str, value) -> Pictures:
    """Reads a field with images: a list of them, a text that holds a list, or one alone."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        parsed = parse_list(value)
        value = value if parsed is None else parsed
    images = value if isinstance(value, list) else [value]
    pictures = [_read_named(image, field) for image in images]
    return Pictures(field, dict(enumerate(pictures, start=1)))


def _read_named(image, field: str) -> Picture:
    """Reads an image; one of `decoded_image` is what `image` names, whatever its own name is."""
    picture = read_image(image, field)
    is_decoded = "decoded" in field.lower()
    return dataclasses.replace(picture, name="") if is_decoded else picture


def _one_set(columns: list[Pictures]) -> dict[int, Picture]:
    """Returns the images of a record that may have them in several fields, as bytes and by name.

    InvalidRecord if the fields differ: one of them would be lost.
    """
    columns = [column for column in columns if column.by_number]
    if len(columns) < 2:
        return columns[0].by_number if columns else {}
    # Bytes are better than names, and among equals the longest field.
    best = max(columns, key=lambda column: (_has_bytes(column), len(column.by_number)))
    kept = list(best.by_number.values())
    for column in columns:
        others = list(column.by_number.values())
        pairs = zip(kept, others, strict=False)
        is_same = len(kept) == len(others) and all(
            _may_be_same(*pair) for pair in pairs
        )
        is_part = {other.data for other in others} <= {image.data for image in kept}
        if not (is_same or is_part):
            raise InvalidRecord(
                "fields",
                f"images in {best.field} and others in {column.field}; keep one of the two fields",
            )
    return best.by_number


def _has_bytes(column: Pictures) -> bool:
    return all(isinstance(image.data, bytes) for image in column.by_number.values())


def _may_be_same(a: Picture, b: Picture) -> bool:
    """Whether two images may be one, as bytes and as a name."""
    if a.data == b.data:
        return True
    if isinstance(a.data, bytes) and isinstance(b.data, bytes):
        return False
    return not a.name or not b.name or a.name == b.name


# 2. One image


def read_image(image, field: str = "images") -> Picture:
    """Reads an image: a path, an address, bytes, base64, a data: URI or an object with one.

    InvalidRecord, with the field, for anything else.
    """
    if isinstance(image, dict):
        return _from_object(image, field)
    if isinstance(image, str):
        text = image
        if image[:50].lstrip()[:5].lower() == "data:":
            image = from_uri(image)
        elif len(image) >= 100 and _BASE64.fullmatch(image):
            image = from_base64(image)
        name = "" if isinstance(image, bytes) else base_name(text)
        if image:
            return Picture(image, name)
    elif isinstance(image, bytes) and image:
        return Picture(image, "")
    wanted = "wanted a path, bytes or {bytes, path}"
    kind = type(image).__name__
    raise InvalidRecord("fields", f"{field[:100]}: an image of type {kind}; {wanted}")


def _from_object(image: dict, field: str) -> Picture:
    """Reads {"bytes", "path"} of `datasets`, {"image": path}, {"image_url": {"url": ...}}."""
    filled = {key: value for key, value in image.items() if not is_empty(value)}
    known = (*CONTENT_KEYS, *NAMING_KEYS, *DESCRIBING_KEYS)
    unknown = [str(key)[:50] for key in filled if key not in known]
    content = first_filled(filled, *CONTENT_KEYS)
    names = [read_image(filled[key], field) for key in NAMING_KEYS if key in filled]
    if unknown or (content is None and not names):
        keys = ", ".join(unknown) or "nothing"
        wanted = ", ".join((*CONTENT_KEYS, *NAMING_KEYS))
        raise InvalidRecord(
            "fields", f"{field[:100]}: an image of {keys}; wanted one of {wanted}"
        )
    # Where there are bytes, a path is only their name.
    if content is not None:
        data = content
        if isinstance(content, str) and content[:5].lower() != "data:":
            data = from_base64(content)
        picture = read_image(data, field)
        name = names[0].name if names else ""
        return Picture(picture.data, name)
    if not all(_may_be_same(names[0], other) for other in names):
        keys = ", ".join(key for key in NAMING_KEYS if key in filled)
        raise InvalidRecord("fields", f"{field[:100]}: {keys} name different images")
    return names[0]


def is_image_text(text: str) -> bool:
    """Whether a text is one image: the name of a file, a data: URI, or base64."""
    if text[:50].lstrip()[:11].lower() == "data:image/":
        return True
    if len(text) >= 100 and _BASE64.fullmatch(text):
        return True
    return bool(_IMAGE_NAME.fullmatch(text))


def base_name(path: str) -> str:
    """Returns the last part of a path or address: "a.png" of "http://x.org/b/a.png?size=2"."""
    path = re.split(r"[?#]", path.strip())[0] if "://" in path else path.strip()
    return re.split(r"[/\\]", path)[-1]


def from_uri(uri: str) -> bytes:
    """Decodes a data: URI, "data:image/png;base64,iVBORw0...", to the bytes of a file."""
    head, _, body = uri.partition(",")
    if not head.strip().lower().endswith(";base64"):
        raise InvalidRecord(
            "image_damaged", f"{head[:50]!r}: wanted data:...;base64,..."
        )
    return from_base64(body)


def from_base64(text: str) -> bytes:
    """Decodes base64, which may be broken into lines."""
    # Most have no line ends, and looking for them takes longer than decoding.
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(text, validate=True)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRecord("image_damaged", f"base64: {error}") from error


# 3. Where they go


def has_marker(text: str) -> bool:
    """Whether a text says where an image goes, by <image> or <image 1>."""
    return chat.IMAGE_MARKER in text or _NUMBERED_MARKER.search(text) is not None


def order_images(row: dict, images: dict[int, Picture]) -> None:
    """Sets the images of a row, in the order of its markers.

    Numbered markers become plain ones; an image that is shown twice is there twice.

        "<image 2> or <image 1>, not <image 2>"   ->   "<image> or <image>, not <image>", [2, 1, 2]
    """
    texts = [turn for turn in row["before"] if turn["role"] != "assistant"]
    shown = []
    is_plain = False

    def replace(match: re.Match) -> str:
        shown.append(int(match[1]))
        return chat.IMAGE_MARKER

    for fields, name in [*((turn, "content") for turn in texts), (row, "question")]:
        # Another type than text is refused later, where all fields are checked.
        if isinstance(fields[name], str):
            is_plain |= chat.IMAGE_MARKER in fields[name]
            fields[name] = _NUMBERED_MARKER.sub(replace, fields[name])

    # Without numbers, images go to the markers in order.
    if not shown:
        row["images"] = [picture.data for _, picture in sorted(images.items())]
        return
    numbers = ", ".join(map(str, sorted(images)))
    if is_plain:
        raise InvalidRecord("markers", "both <image> and <image 1>; number all or none")
    if set(shown) != set(images):
        markers = ", ".join(f"<image {number}>" for number in sorted(set(shown))[:20])
        raise InvalidRecord(
            "markers", f"{markers}, and images {numbers[:100] or 'none'}"
        )
    row["images"] = [images[number].data for number in shown]


# 4. What else looks like an image


def media_in(text: str) -> str:
    """Says what medium a text names or holds; "" for a plain text."""
    if any(_MEDIA_NAME.fullmatch(line) for line in text[:5000].splitlines()):
        return "the name of a picture, a film or a sound"
    if _DATA_URI.search(text):
        return "the data of a picture, a film or a sound"
    if len(text) >= 100 and _BASE64.match(text[:400]):
        return "a picture in base64"
    return ""
