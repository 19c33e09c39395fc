"""Reads the messages of a request: turns of text and images, and where the images go.

Images come as data URIs. Nothing is ever fetched or opened: an address of any other kind is
refused, so that a request reads no file and reaches no other machine.
"""

import base64
import binascii
import dataclasses
import re
from typing import Literal

from r1v3_jax.engine.requests import Turn
from r1v3_jax.processing.image_files import MAX_BYTES, ImageError, StoredImage
from r1v3_jax.serve.json_body import Body
from r1v3_jax.serve.problems import bad, shown

# Where images go whose message has no marker. front: before its texts, as vLLM does for a template
# that takes strings. interleaved: in the order of its parts.
Placement = Literal["front", "interleaved"]
MAX_MESSAGES = 1000
MAX_IMAGES = 64  # of a request
MAX_PIXELS = 25_000_000  # of an image: decoding takes up to 5 bytes for each
MAX_ALL_PIXELS = 100_000_000  # of all images of a request; they are decoded one by one
MAX_PATCHES = 64  # of max_dynamic_patch
# What kits write for an image: this program's marker and vLLM's, and that of LMDeploy.
_MARKER = re.compile("<image>|<IMAGE_TOKEN>")
_HEAD = re.compile(
    rb"data:(image/[\w.+-]{1,40})((?:;[\w=.+-]{1,60}){0,4});base64,", re.IGNORECASE
)
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_OF_A_MESSAGE = {
    "role",
    "content",
    "name",
    # What this and other servers send beside an answer, and clients send back. Thoughts of earlier
    # answers are not read again.
    "reasoning",
    "reasoning_content",
    "refusal",
    "annotations",
    "audio",
    "tool_calls",
    "function_call",
}


@dataclasses.dataclass(frozen=True)
class Conversation:
    """The turns of a request, and its images by the numbers that the turns name."""

    turns: tuple[Turn, ...]
    images: tuple[StoredImage, ...]
    max_tiles: int | None  # of each image, where the request says so
    unknown: tuple[str, ...]  # fields that were ignored


class _Reader:
    """What is known of a request while its messages are read in order."""

    def __init__(self, body: Body, placement: Placement):
        self.body = body
        self.placement = placement
        self.images: list[StoredImage] = []
        self.pixels = 0
        self.max_tiles: int | None = None
        self.unknown: list[str] = []

    def turn(self, message, name: str) -> Turn:
        """Returns a message as a turn. name: of the message in the request."""
        if not isinstance(message, dict):
            raise bad(
                name, f"got {shown(message)}, wanted an object with role and content"
            )
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise bad(
                f"{name}.role", f"got {shown(role)}, wanted one of {', '.join(ROLES)}"
            )
        for field in ("tool_calls", "function_call", "audio"):
            if message.get(field):
                raise bad(
                    f"{name}.{field}", "this model calls no tools and knows no sound"
                )
        self.unknown += [
            f"messages.{field}" for field in message.keys() - _OF_A_MESSAGE
        ]
        content = message.get("content")
        if isinstance(content, str):
            return Turn(ROLES[role], (self.text(content, f"{name}.content"),))
        if not isinstance(content, list) or not content:
            raise bad(
                f"{name}.content",
                f"got {shown(content) if content != [] else 'an empty array'}, wanted a text or "
                "a filled array of parts",
            )
        parts = []
        for number, part in enumerate(content):
            parts.append(self.part(part, f"{name}.content[{number}]", ROLES[role]))
        return Turn(ROLES[role], place(parts, self.placement, f"{name}.content"))

    def text(self, value, name: str) -> str:
        """Returns a text. Problem if it cannot be text."""
        if not isinstance(value, str):
            raise bad(name, f"got {shown(value)}, wanted a text")
        # A data URI as a text: it was taken out, and is the text that the request has.
        if value in self.body.attachments:
            value = self.body.attachments[value].decode("utf-8", "replace")
        if found := re.search("[\x00\ud800-\udfff]", value):
            raise bad(
                name,
                f"character {found.start()} is {ascii(found[0])}, which is no text; remove it",
            )
        return value

    def part(self, part, name: str, role: str) -> str | int:
        """Returns a part of a message: a text, or the number of an image."""
        if isinstance(part, str):
            return self.text(part, name)
        if not isinstance(part, dict):
            raise bad(name, f"got {shown(part)}, wanted an object with a type")
        kind = part.get("type")
        if kind == "text":
            return self.text(part.get("text"), f"{name}.text")
        if kind != "image_url":
            raise bad(
                f"{name}.type", f"got {shown(kind)}, wanted 'text' or 'image_url'"
            )
        if role != "user":
            raise bad(
                name, f"an image in a message of the {role}; give it to the user's"
            )
        return self.image(part.get("image_url"), f"{name}.image_url")

    def image(self, value, name: str) -> int:
        """Adds an image, and returns its number."""
        # The address alone is what several clients send.
        settings = {"url": value} if isinstance(value, str) else value
        if not isinstance(settings, dict):
            raise bad(name, f"got {shown(value)}, wanted an object with a url")
        url = settings.get("url")
        if not isinstance(url, str):
            raise bad(f"{name}.url", f"got {shown(url)}, wanted a data URI")
        if len(self.images) == MAX_IMAGES:
            raise bad(
                name, f"more than {MAX_IMAGES} images in a request; leave some out"
            )
        patches = settings.get("max_dynamic_patch")
        if patches is not None:
            self.limit_tiles(patches, f"{name}.max_dynamic_patch")
        known = {"url", "detail", "max_dynamic_patch"}
        self.unknown += [f"image_url.{field}" for field in settings.keys() - known]
        data = decode_uri(self.body.text_of(url), f"{name}.url")
        image = StoredImage(data, max_pixels=MAX_PIXELS)
        try:
            width, height = image.size
        except (ImageError, OSError) as error:
            raise bad(f"{name}.url", str(error), "invalid_image") from None
        self.pixels += width * height
        if self.pixels > MAX_ALL_PIXELS:
            raise bad(
                name,
                f"the images have more than {MAX_ALL_PIXELS} pixels together; scale them down",
                "invalid_image",
            )
        self.images.append(image)
        return len(self.images) - 1

    def limit_tiles(self, value, name: str) -> None:
        """Notes how many tiles each image may have; all images of a request have one limit."""
        if type(value) is not int or not 1 <= value <= MAX_PATCHES:
            raise bad(name, f"got {shown(value)}, wanted 1 to {MAX_PATCHES}")
        if self.max_tiles not in (None, value):
            raise bad(
                name,
                f"got {value}, and {self.max_tiles} before; one limit for all images",
            )
        self.max_tiles = value


def read_conversation(body: Body, placement: Placement) -> Conversation:
    """Returns the messages of a request. Problem if they are none."""
    messages = body.fields.get("messages")
    if not isinstance(messages, list) or not messages:
        given = "an empty array" if messages == [] else shown(messages)
        raise bad("messages", f"got {given}, wanted a filled array of messages")
    if len(messages) > MAX_MESSAGES:
        raise bad("messages", f"got {len(messages)}, wanted at most {MAX_MESSAGES}")
    reader = _Reader(body, placement)
    turns = []
    for number, message in enumerate(messages):
        turn = reader.turn(message, f"messages[{number}]")
        if turn.role == "system" and number > 0:
            raise bad(
                f"messages[{number}].role", "a system message can only be the first one"
            )
        turns.append(turn)
    if turns[-1].role != "user":
        last = f"messages[{len(turns) - 1}].role"
        raise bad(last, f"got {turns[-1].role!r}; the last message must be the user's")
    return Conversation(
        tuple(turns), tuple(reader.images), reader.max_tiles, tuple(reader.unknown)
    )


def place(
    parts: list[str | int], placement: Placement, name: str
) -> tuple[str | int, ...]:
    """Returns the parts of one message with its images in their places.

    ["Look: <image>", 0]  the marker is the place:  ("Look: ", 0)
    ["<image>Look.", 0]   also in front:            ("", 0, "Look.")
    ["Look.", 0]          no marker, front:         (0, "Look.")
    ["Look.", 0]          no marker, interleaved:   ("Look.", 0)
    ["<image>?"]          no image: the marker is a text

    The engine puts images that nothing precedes on lines of their own. An empty text leaves them
    where a marker has them. Texts are joined by a newline, as vLLM joins them. Problem for another
    number of markers than of images.
    """
    images = [part for part in parts if isinstance(part, int)]
    texts = [part for part in parts if isinstance(part, str)]
    text = "\n".join(texts)
    if not images:
        return (text,)
    markers = len(_MARKER.findall(text))
    if markers == len(images):
        first, *pieces = _MARKER.split(text)
        # Behind each image stands a piece of text.
        placed = [first]
        for image, piece in zip(images, pieces, strict=True):
            placed += [image, piece] if piece else [image]
        return tuple(placed)
    if markers:
        raise bad(
            name,
            f"{markers} markers <image> for {len(images)} images; write one for each, or none",
        )
    is_in_front = all(isinstance(part, int) for part in parts[: len(images)])
    if placement == "front" or is_in_front:
        return (*images, text) if text else tuple(images)
    placed = []
    for part in parts:
        follows_text = isinstance(part, str) and placed and isinstance(placed[-1], str)
        if follows_text:
            placed[-1] += f"\n{part}"
        else:
            placed.append(part)
    return tuple(placed)


def decode_uri(uri: bytes, name: str) -> bytes:
    """Returns the bytes of an image in a data URI. Problem for any other address."""
    head = _HEAD.match(uri[:400])
    if not head:
        given = shown(uri[:60].decode("latin-1"))
        raise bad(
            name,
            f"got {given}, wanted data:image/png;base64,...; nothing is fetched, so send the "
            "image itself",
            "invalid_image",
        )
    encoded = uri[head.end() :]
    if len(encoded) > MAX_BYTES // 3 * 4 + 4:
        raise bad(
            name,
            f"an image of more than {MAX_BYTES} bytes; scale it down",
            "invalid_image",
        )
    try:
        # Lines of base64 are common; so is the alphabet for addresses.
        if b"-" in encoded or b"_" in encoded:
            encoded = encoded.translate(bytes.maketrans(b"-_", b"+/"))
        encoded = encoded.translate(None, b" \t\r\n").rstrip(b"=")
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        reason = str(error)[:80]
        raise bad(
            name, f"not base64: {reason}; encode the file again", "invalid_image"
        ) from None
