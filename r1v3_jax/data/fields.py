"""Fields of records, read one by one: texts, numbers, metadata, JSON.

Whatever is wrong with a record becomes an InvalidRecord. Nothing in a record is executed.
"""

import contextlib
import json
import math
import re

from r1v3_jax.literals import parse_literal

# Limits keep a hostile or broken row from filling the memory of every process.
MAX_TEXT = 200_000  # characters; a prompt of 32,768 tokens has fewer
MAX_METADATA = 32  # entries, of at most 200 characters each
MAX_LIST = 20_000  # characters of a text that holds a list


class InvalidRecord(Exception):
    """The problem of a record: (a key of `types.REASONS`, what was found in the record)."""


def is_empty(value) -> bool:
    """Whether a field says nothing: None, NaN, nothing in it, or an object of such fields."""
    # A table has every column in every row, and a struct all entries, as {"path": None}.
    # Deeper is not looked: a hostile record may be nested as deep as Python's stack.
    values = value.values() if isinstance(value, dict) else [value]
    return all(x is None or x in ("", b"", [], {}) or x != x for x in values)


def first_filled(record: dict, *names: str):
    """Returns the first of these fields that is not empty; None if all are."""
    for name in names:
        if not is_empty(record.get(name)):
            return record[name]
    return None


def parse_list(text: str):
    """Reads a text that holds a list or an object, as JSON or as Python writes it.

    "['cat', 'dog']" -> ["cat", "dog"].    None if it is neither. Nothing is executed.
    """
    if not text.lstrip().startswith(("[", "{")) or len(text) > MAX_LIST:
        return None
    for parse in (loads, parse_literal):
        # Python's parser may run out of stack or memory on a hostile text; it says so.
        with contextlib.suppress(
            InvalidRecord, ValueError, SyntaxError, RecursionError, MemoryError
        ):
            return parse(text.strip())
    return None


def is_small(value) -> bool:
    # A longer text is content, not a fact about the row: a solution, a caption.
    if isinstance(value, str):
        return len(value) <= 200
    return isinstance(value, bool) or is_number(value)


def is_number(value) -> bool:
    """Whether a value is an integer of 64 bits or a finite float; True and False are not."""
    if isinstance(value, bool):
        return False
    # JSON allows integers of any length; no column of a table does.
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def read_text(value, name: str, limit: int = MAX_TEXT) -> str:
    """Reads a text; a number becomes text, None becomes "".

    InvalidRecord for other types, and for a text that is too long or cannot be stored as UTF-8.
    """
    if value is None:
        return ""
    if is_number(value):
        value = str(value)
    if not isinstance(value, str):
        raise InvalidRecord(
            "fields", f"{name} of type {type(value).__name__}, wanted a text"
        )
    if len(value) > limit:
        raise InvalidRecord(
            "text", f"{name} has {len(value)} characters, at most {limit} are read"
        )
    # "\ud800" is what JSON makes of half a character; writing it down would fail much later.
    if "\0" in value or re.search("[\ud800-\udfff]", value):
        raise InvalidRecord("text", f"{name} has a NUL or half of a surrogate pair")
    return value


def read_weight(value) -> float | None:
    """Reads the weight of accuracy in the reward, 0 to 1 or None."""
    if value is not None and not (is_number(value) and 0 <= value <= 1):
        raise InvalidRecord(
            "fields", f"accuracy_weight is {str(value)[:50]}, wanted 0 to 1"
        )
    return None if value is None else float(value)


def read_metadata(metadata: dict) -> dict:
    """Reads metadata: the first MAX_METADATA entries that are small, checked as texts.

    One entry may be a list: `facts`, which a reward looks for in the thoughts.
    """
    entries = {}
    for name, value in metadata.items():
        if is_small(value):
            entries[str(name)[:200]] = value
    # All of them are checked: a NUL in an entry beyond the limit is damage as well.
    for name, value in entries.items():
        read_text(name, "metadata")
        read_text(str(value), "metadata")
    small = dict(list(entries.items())[:MAX_METADATA])
    facts = read_facts(metadata.get("facts"))
    return small | {"facts": facts} if facts else small


def read_facts(value) -> list[str]:
    """Reads a list of texts or numbers, or one alone; [] for anything else.

    ["area 9", 4], or the same as a text   ->   ["area 9", "4"];    "area 9"   ->   ["area 9"]
    """
    if isinstance(value, str):
        value = parse_list(value) or value
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) or is_number(entry) for entry in entries):
        return []
    facts = [read_text(entry, "facts").strip() for entry in entries]
    length = sum(map(len, facts))
    if length > MAX_LIST:
        raise InvalidRecord(
            "text", f"facts have {length} characters, at most {MAX_LIST} are read"
        )
    return [fact for fact in facts if fact]


# JSON


def loads(text: str | bytes):
    """Reads a JSON value.

    InvalidRecord for what is not JSON, for NaN and infinite numbers, which Python's reader would
    take, and for nesting too deep to read.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("json", f"{type(error).__name__}: {error}") from error


def _refuse(constant: str):
    """Called by the reader for NaN, Infinity and -Infinity."""
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    """Called by the reader for each float; 1e999 would be infinite."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:30]} is no number")
    return value
