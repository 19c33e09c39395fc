"""Images of records: which fields hold them, and in what forms."""

import base64
import binascii

from r1v3_jax.data.fields import InvalidRecord, first_filled


def images_of(record: dict) -> list:
    """Returns the images of a record: a list, or one alone."""
    # Without its frames the question of a video is not the same question: never train on it.
    if first_filled(record, "video", "videos"):
        raise InvalidRecord("fields", "a row about a video; cut it into images")
    images = first_filled(record, "images", "image")
    if images is None:
        return []
    return images if isinstance(images, list) else [images]


def read_images(images) -> list[str | bytes]:
    """Reads images as paths or bytes, from paths, bytes, data: URIs and {"bytes", "path"}."""
    if not isinstance(images, list):
        raise InvalidRecord(
            "fields", f"images of type {type(images).__name__}, wanted a list"
        )
    result = []
    for image in images:
        if isinstance(image, dict):
            # `datasets` stores the path beside the bytes; where there are bytes, it is only a name.
            data = image.get("bytes")
            image = image.get("path") if data is None else data
        if isinstance(image, str) and image[:5].lower() == "data:":
            image = _from_uri(image)
        if not isinstance(image, str | bytes) or not image:
            wanted = "wanted a path, bytes or {bytes, path}"
            raise InvalidRecord(
                "fields", f"an image of type {type(image).__name__}; {wanted}"
            )
        result.append(image)
    return result


def _from_uri(uri: str) -> bytes:
    """Decodes a data: URI, "data:image/png;base64,iVBORw0...", to the bytes of a file."""
    head, _, body = uri.partition(",")
    if not head.endswith(";base64"):
        raise InvalidRecord(
            "image_damaged", f"{head[:50]!r}: wanted data:...;base64,..."
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRecord("image_damaged", f"base64: {error}") from error
