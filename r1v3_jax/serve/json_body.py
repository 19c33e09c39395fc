r"""Reads the body of a request as JSON: strictly, and in memory that its size bounds.

Python's reader takes NaN, 1e400 and the last of two equal keys; 48 MB of `[],[],` become 2 GB of
lists, and one emoji beside 48 MB of letters becomes 192 MB of text. So first the images, which are
long, are taken out as bytes. What is left is small, and its values are counted before it is read:

    {"url": "data:image/png;base64,iVBO..."}     the body
    {"url": "5c1f0e...:0"}                       what the reader of JSON gets
    {"5c1f0e...:0": b"data:image/png;base64,iVBO..."}     the attachments
"""

import dataclasses
import json
import math
import re
import secrets

from r1v3_jax.serve.problems import Problem, shown

MAX_TEXT = 4 << 20  # bytes of a body without its images
MAX_VALUES = 100_000  # in a body
MAX_QUOTES = 1_000_000
MAX_DEPTH = 64
MAX_DIGITS = 30  # of a whole number
LONG = 4096  # bytes from which on a data URI is taken out

_BEGIN = b'"data:'
# Possessive (+), and a string that never ends is one up to the end of the body: nothing is tried
# twice, whatever the body is.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Body:
    """A JSON object, and the long data URIs that were taken out of it."""

    fields: dict
    attachments: dict[str, bytes]  # by the text that is in their place

    def text_of(self, value: str) -> bytes:
        """Returns what stood in the place of a string."""
        found = self.attachments.get(value)
        return value.encode("utf-8", "replace") if found is None else found


def parse(data: bytes) -> Body:
    """Returns the object of a body. Problem, status 400 or 413, if it is none or too large."""
    # 1. Take the images out.
    quotes = data.count(b'"')
    if quotes > MAX_QUOTES:
        raise _no_json(f"it has {quotes} quotation marks, wanted at most {MAX_QUOTES}")
    short, attachments = _take_out_images(data)
    if len(short) > MAX_TEXT:
        raise Problem(
            413,
            f"the request has {len(short)} bytes besides its images, wanted at most {MAX_TEXT}; "
            "shorten its text",
            code="request_too_large",
        )

    # 2. Count what is left, without its strings.
    _check_shape(_STRING.sub(b"", short))

    # 3. Read it.
    try:
        fields = _DECODER.decode(short.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _no_json(f"{error.msg} at {where}") from None
    except (ValueError, RecursionError) as error:
        raise _no_json(str(error)) from None
    if not isinstance(fields, dict):
        raise _no_json(f"it is {shown(fields)}, wanted an object")
    return Body(fields, attachments)


def _take_out_images(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Returns the body with a short text in place of each long data URI, and the URIs.

    A string that begins with data: begins with a quotation mark that no backslash precedes. Where
    the mark ends a string instead, the body is no JSON, and is none afterwards.
    """
    mark = secrets.token_hex(16)  # nobody can write it into a request
    pieces = []
    attachments = {}
    done = 0  # bytes of the body that are in `pieces`
    start = data.find(_BEGIN)
    while start >= 0:
        end = data.find(b'"', start + 1)
        is_inside = data[start - 1 : start] == b"\\"
        if end - start > LONG and not is_inside:
            # PHP writes a slash as \\/.
            uri = data[start + 1 : end].replace(b"\\/", b"/")
            if b"\\" not in uri:
                name = f"{mark}:{len(attachments)}"
                attachments[name] = uri
                pieces += [data[done : start + 1], name.encode()]
                done = end
        start = data.find(_BEGIN, start + 1)
    return b"".join([*pieces, data[done:]]), attachments


def _check_shape(skeleton: bytes) -> None:
    """Problem if there are too many values, or if they are nested too deep."""
    values = 1 + sum(skeleton.count(mark) for mark in (b",", b"[", b"{"))
    if values > MAX_VALUES:
        raise _no_json(f"it has {values} values, wanted at most {MAX_VALUES}")
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", skeleton):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise _no_json(f"it is nested deeper than {MAX_DEPTH} levels")


def _no_json(reason: str) -> Problem:
    return Problem(400, f"the body is not good JSON: {reason}", code="invalid_json")


def _object(pairs: list[tuple[str, object]]) -> dict:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {shown(name)} is there twice")
            seen.add(name)
    return fields


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; at most {MAX_DIGITS}")
    return int(digits)


def _real(digits: str) -> float:
    # A number of a million digits takes no time, and is one all the same.
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _constant(name: str):
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_whole,
    parse_float=_real,
    parse_constant=_constant,
)
