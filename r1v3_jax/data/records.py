"""One record of anybody's layout -> one canonical row -> `types.Example`.

What a canonical row is, and how layouts become one, is in `layouts`. Here: what a row must be to be
trained on, its images, and rows as JSON. Knows no files of records: `stores` reads those.
"""

import base64
import functools
import json
import threading
from pathlib import Path

from r1v3_jax.data import schemas
from r1v3_jax.data.downloads import Downloads, is_address
from r1v3_jax.data.schemas import InvalidRecord
from r1v3_jax.processing import chat
from r1v3_jax.processing.image_files import ImageError, StoredImage, confined
from r1v3_jax.rewards import verify
from r1v3_jax.rewards.verifiers import boxes, routing
from r1v3_jax.types import DroppedRow, Example

# What stands for structure in a chat, in every checkpoint of the family.
CONTROL = (chat.TURN_START, chat.TURN_END, *chat.IMAGE_TOKENS, "<|endoftext|>")
DATA_URI = "data:;base64,"


def example(
    record,
    *,
    schema: str = "",
    source: str = "",
    id: str = "",
    root: str | Path | None = None,
    downloads: Downloads | None = None,
) -> Example:
    """The Example that a record holds; Dropped, with the reason, if it holds none.

    schema: of `layouts.SCHEMAS`, or recognised. source, id: where the record has none of its own.
    root: the folder that its images are in; without one they must be in the record. downloads:
    where images may be fetched from; without it an address is refused. Of images the
    headers are read here, the pixels where an example is drawn (`feed.decoded`).
    """
    try:
        row = canonical(record, schema)
        source, id = row["source"] or source, row["id"] or id
        check(row)
        images = tuple(_stored(image, root, downloads) for image in row["images"])
        for image in images:
            _ = image.size  # of the header: whatever is wrong there is found now
    except InvalidRecord as error:
        raise DroppedRow(source, id, *error.args) from error
    except ImageError as error:
        raise DroppedRow(source, id, error.reason, str(error)) from error
    return Example(
        id=id,
        images=images,
        question=row["question"],
        answer=row["answer"],
        chain=row["chain"],
        level=row["level"],
        verifier=row["verifier"],
        source=source,
        before=tuple((turn["role"], turn["content"]) for turn in row["before"]),
        accuracy_weight=row["accuracy_weight"],
        metadata=row["metadata"],
    )


def inline(example: Example) -> dict:
    """The canonical row of an example whose images are stored, with the bytes of these."""
    row = {name: getattr(example, name) for name in schemas.CANONICAL}
    row["images"] = [image.read() for image in example.images]
    row["before"] = [
        {"role": role, "content": content} for role, content in example.before
    ]
    return row


def canonical(record, schema: str = "") -> dict:
    """The canonical row of a record. Bad if a field is missing or of the wrong type.

    ValueError for a schema that there is not.
    """
    if not isinstance(record, dict):
        raise InvalidRecord("json", f"wanted an object, got {type(record).__name__}")
    schema = schema or schemas.recognise(record)
    check_schema(schema)
    row = schemas.CANONICAL | schemas.SCHEMAS[schema](record)
    row["id"] = schemas.read_text(row["id"], "id", 1000)
    row["source"] = schemas.read_text(row["source"], "source", 1000)
    row["question"] = schemas.read_text(row["question"], "question").strip()
    row["answer"] = boxes.unboxed(schemas.read_text(row["answer"], "answer"))
    row["images"] = schemas.read_images(row["images"])
    row["before"] = schemas.read_turns(row["before"])
    row["chain"] = schemas.read_text(row["chain"], "chain")
    row["chain"] = row["chain"] if row["chain"].strip() else None
    row["level"] = schemas.read_text(row["level"], "level", 1000) or "normal"
    row["verifier"] = schemas.read_text(row["verifier"], "verifier", 1000)
    row["accuracy_weight"] = schemas.read_weight(row["accuracy_weight"])
    row["metadata"] = schemas.read_metadata(row["metadata"])
    return row


def check_schema(schema: str) -> None:
    """ValueError if there is no such layout."""
    if schema not in schemas.SCHEMAS:
        raise ValueError(
            f"schema {schema!r}: choose from {', '.join(schemas.SCHEMAS)}, or leave it empty"
        )


def check(row: dict) -> None:
    """Bad if a canonical row cannot be trained on, whatever the model: empty texts, markers, and an
    answer that does not verify against itself.
    """
    if not row["question"]:
        raise InvalidRecord("no_question", "")
    if not row["answer"] and row["chain"] is None:
        raise InvalidRecord("no_answer", "")
    asked = [
        *(t["content"] for t in row["before"] if t["role"] != "assistant"),
        row["question"],
    ]
    said = [
        *(t["content"] for t in row["before"] if t["role"] == "assistant"),
        row["chain"] or "",
    ]
    for text in asked + said:
        if found := next((word for word in CONTROL if word in text), None):
            raise InvalidRecord("text", f"the control token {found} in a text")
    markers, images = (
        sum(text.count(chat.IMAGE_MARKER) for text in asked),
        len(row["images"]),
    )
    if markers not in (0, images):
        raise InvalidRecord("markers", f"{markers} markers, {images} images")
    try:
        routing.parse(row["verifier"])
    except ValueError as error:
        raise InvalidRecord("verifier", str(error)) from error
    if row["answer"] and (problem := _gold_problem(row["answer"], row["verifier"])):
        raise InvalidRecord("answer", problem)


_parsing = threading.Lock()  # sympy's caches are not made for threads


@functools.lru_cache(65536)
def _gold_problem(answer: str, verifier: str) -> str | None:
    """As `rewards.check_gold`; letters, text and plain numbers do not wait for their turn."""
    if routing.is_quick(routing.parse(verifier).rules, answer, answer):
        return verify.check_gold(answer, verifier)
    with _parsing:
        return verify.check_gold(answer, verifier)


def _stored(image: str | bytes, root, downloads: Downloads | None) -> StoredImage:
    if isinstance(image, bytes):
        return StoredImage(image)
    if downloads is not None and is_address(image.strip()):
        return StoredImage(downloads.fetch(image.strip()))
    if root is None:
        detail = f"{image[:100]!r}: rows from there hold their images; or set root, a folder here"
        raise InvalidRecord("image_missing", detail)
    return StoredImage(confined(root, image))


def dumps(row: dict) -> str:
    """A canonical row as one line of JSON, images inline as data: URIs; `canonical` reads it."""
    images = [
        _to_uri(image) if isinstance(image, bytes) else image for image in row["images"]
    ]
    return json.dumps(row | {"images": images}, ensure_ascii=False)


def _to_uri(data: bytes) -> str:
    return DATA_URI + base64.b64encode(data).decode()
