"""One record in anybody's schema -> one canonical row -> `types.Example`.

What a canonical row is, and how each schema becomes one, is in `schemas`. Here: what a row must
have to be trained on, its images, and rows as JSON. Files of records are read by `stores`.
"""

import base64
import functools
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from r1v3_jax.data import fields, films, media, options, pairs, schemas, unread
from r1v3_jax.data.downloads import Downloads, is_address
from r1v3_jax.data.fields import InvalidRecord
from r1v3_jax.data.turns import THOUGHT_END
from r1v3_jax.processing import chat
from r1v3_jax.processing.image_files import ImageError, StoredImage, confined
from r1v3_jax.processing.video import StoredVideo
from r1v3_jax.rewards import verify
from r1v3_jax.rewards.verifiers import boxes, routing
from r1v3_jax.rewards.verifiers.verdict import Verdict
from r1v3_jax.types import DroppedRow, Example

# Tokens that stand for structure in a chat, in every checkpoint of the family. A row with one in
# its text could end its own turn and begin another.
CONTROL = (chat.TURN_START, chat.TURN_END, *chat.IMAGE_TOKENS, "<|endoftext|>")
# Pictures and films as HTML, as Markdown, as data: URIs, and as markers of other programs:
# <|image_pad|>, <ImageHere>, <Image>. Our own marker is <image>.
PICTURE_IN_TEXT = re.compile(
    r"<(?:img|video|audio)\b[^<>]*>|!\[[^\[\]\n]*\]\([^()\s]+\)|\bdata:(?:image|video|audio)/"
    r"|<\|(?:image|vision|video|audio)\w*\|>|<(?!image>)(?i:image(?:here)?)>"
)
DATA_URI = "data:;base64,"
MAX_NAME = 1000  # characters of an id, a source, a level or a verifier


def example(
    record,
    *,
    schema: str = "",
    source: str = "",
    id: str = "",
    root: str | Path | None = None,
    downloads: Downloads | None = None,
) -> Example:
    """Makes the Example that a record holds; DroppedRow, with the reason, if it holds none.

    schema: a key of `schemas.SCHEMAS`; empty: recognised. source, id: for records without their
    own. root: the folder of the images; None: they must be in the record. downloads: the hosts that
    images may be fetched from; None: an address is refused. Of each image the header is read here,
    and the pixels when the example is wanted (`reader.decoded`).
    """
    # A problem is listed under the record's own name, where it has one.
    own_source, own_id = own_names(record)
    source = own_source or source
    id = own_id or id
    try:
        row = canonical(record, schema)
        source = row["source"] or source
        id = row["id"] or id
        check(row)
        images = tuple(_stored(image, root, downloads) for image in row["images"])
        for image in images:
            _ = image.size  # reads the header: most damage is found now
        videos = tuple(_stored_video(video, root) for video in row["videos"])
        for video in videos:
            video.check()
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
        chosen=row["chosen"],
        rejected=row["rejected"],
        level=row["level"],
        verifier=row["verifier"],
        source=source,
        before=tuple((turn["role"], turn["content"]) for turn in row["before"]),
        accuracy_weight=row["accuracy_weight"],
        metadata=row["metadata"],
        videos=videos,
    )


def inline(example: Example) -> dict:
    """Returns the canonical row of an example from a file, with the bytes of images and films."""
    row = {name: getattr(example, name) for name in schemas.CANONICAL}
    row["images"] = [image.read() for image in example.images]
    row["videos"] = []
    for video in example.videos:
        content = {"video" if video.is_file else "frames": video.read()}
        asked = {name: getattr(video, name) for name in films.ASKED.values()}
        row["videos"].append(content | {k: x for k, x in asked.items() if x})
    row["before"] = []
    for role, content in example.before:
        row["before"].append({"role": role, "content": content})
    return row


def canonical(record, schema: str = "") -> dict:
    """Converts a record to a canonical row.

    InvalidRecord if a field is missing or of the wrong type; ValueError for a schema that does not
    exist.
    """
    if not isinstance(record, dict):
        raise InvalidRecord("json", f"wanted an object, got {type(record).__name__}")
    schema = schema or schemas.recognise(record)
    check_schema(schema)
    try:
        row = _assembled(record, schema)
    except RecursionError as error:
        raise InvalidRecord("json", "nested too deep") from error
    for name in ("id", "source"):
        row[name] = fields.read_text(row[name], name, MAX_NAME)
    row["question"] = fields.read_text(row["question"], "question").strip()
    # A chain of thought of spaces says as little as an empty column.
    chain = fields.read_text(row["chain"], "chain")
    row["chain"] = chain if chain.strip() else None
    for name in ("level", "verifier"):
        row[name] = fields.read_text(row[name], name, MAX_NAME)
    row["level"] = row["level"] or "normal"
    # \boxed{3} and 3 are one answer; of a text that is read off an image "Answer: 72" is all.
    answer = fields.read_text(row["answer"], "answer")
    row["answer"] = boxes.unboxed(answer, row["verifier"])
    row["accuracy_weight"] = fields.read_weight(row["accuracy_weight"])
    row["metadata"] = fields.read_metadata(row["metadata"])
    return row


def _assembled(record: dict, schema: str) -> dict:
    """Puts a row together from what its schema reads and what every schema has; texts unchecked."""
    # 1. What the schema reads.
    row = schemas.CANONICAL | schemas.SCHEMAS[schema](record)
    read = row.pop("read")
    # Ours reads every field that a canonical row has: what is no pair is a fact, as a number.
    row |= dict.fromkeys(pairs.PAIR_FIELDS)
    read = tuple(name for name in read if name not in pairs.PAIR_FIELDS)
    if pairs.has_pair(record):
        pairs.add_pair(record, row)
        read = (*read, *pairs.PAIR_FIELDS)

    # 2. Options go into the question before its markers are counted: an option may have one.
    options.add_options(record, row)
    images, videos = films.split_turns(row["images"])
    images = media.all_images(record, images)
    media.order_images(row, images)
    films.place_films(row, films.all_films(record, videos))
    if not row["images"] and not row["videos"]:
        media.check_media_names(record)

    # 3. What is left: facts about the row, or something that must not be lost.
    unread.check_unread(record, row["chain"], read)
    left = unread.unread_fields(record, read)
    row["metadata"] = left | row["metadata"]
    return row


def own_names(record) -> tuple[str, str]:
    """Returns the source and the id that a record names, also where nothing else in it is good."""
    if not isinstance(record, dict):
        return "", ""
    extra = record.get("extra_info")
    extra = extra if isinstance(extra, dict) else {}
    source = fields.first_filled(record, "source", "data_source")
    id = fields.first_filled(record | {"extra": extra.get("id")}, "id", "qid", "extra")
    return _name(source), _name(id)


def _name(value) -> str:
    """Reads a name; "" for what cannot be one."""
    try:
        return fields.read_text(value, "name", MAX_NAME)
    except InvalidRecord:
        return ""


def check_schema(schema: str) -> None:
    """ValueError if there is no such schema."""
    if schema not in schemas.SCHEMAS:
        raise ValueError(
            f"schema {schema!r}: choose from {', '.join(schemas.SCHEMAS)}, or leave it empty"
        )


def check(row: dict) -> None:
    """InvalidRecord if a canonical row cannot be trained on, whatever the model.

    Reasons: an empty question or answer, control tokens, a picture or film that is named in a text,
    more or fewer markers than images or films, a verifier that does not exist, an answer that does
    not verify against itself, a chain that ends in another answer.
    """
    if not row["question"]:
        raise InvalidRecord("no_question", "")
    # A row with a chain or a pair and no answer can still teach; nothing can be rewarded for it.
    if not row["answer"] and row["chain"] is None and row["chosen"] is None:
        wanted = f"wanted one of {', '.join(schemas.ANSWERS)}, a chain, or chosen and rejected"
        raise InvalidRecord("no_answer", wanted)

    asked_texts = [*_contents(row, by_assistant=False), row["question"]]
    replies = [row[name] or "" for name in ("chain", *pairs.PAIR_FIELDS)]
    answer_texts = [*_contents(row, by_assistant=True), *replies]
    for text in asked_texts + answer_texts:
        for control in CONTROL:
            if control in text:
                raise InvalidRecord("text", f"the control token {control} in a text")
    for text in asked_texts:
        # Without films, <video> is a film that is only written.
        if row["videos"]:
            text = text.replace(films.VIDEO_MARKER, "")
        if picture := PICTURE_IN_TEXT.search(text):
            shown = picture[0][:50]
            raise InvalidRecord(
                "text", f"{shown!r} in a text shows no picture; put it into images"
            )

    # Images go where the user and the system put markers. Without any marker they go in front of
    # the question; an assistant that writes "<image>" shows none.
    markers = sum(text.count(chat.IMAGE_MARKER) for text in asked_texts)
    images = len(row["images"])
    if markers not in (0, images):
        raise InvalidRecord("markers", f"{markers} markers, {images} images")
    markers = sum(text.count(films.VIDEO_MARKER) for text in asked_texts)
    videos = len(row["videos"])
    if markers not in (0, videos):
        raise InvalidRecord("markers", f"{markers} <video> markers, {videos} films")

    try:
        routing.parse(row["verifier"])
    except ValueError as error:
        raise InvalidRecord("verifier", str(error)) from error
    if row["answer"]:
        problem = _gold_problem(row["answer"], row["verifier"])
        if problem:
            raise InvalidRecord("answer", problem)
    if row["answer"] and row["chain"]:
        _check_chain(row["chain"], row["answer"], row["verifier"])


def _check_chain(chain: str, answer: str, verifier: str) -> None:
    """InvalidRecord if the box of a chain is not the row's answer; a chain may have no box."""
    thinking = THOUGHT_END in chain
    box = boxes.extract(chain, thinking=thinking)
    # Most boxes are the answer letter by letter, and need no parser.
    if box is None or box == answer:
        return
    with _parsing:
        check = verify.verify(chain, answer, thinking=thinking, verifier=verifier)
    # With partial credit an answer may be near.
    if check.verdict is Verdict.WRONG and not check.credit:
        raise InvalidRecord(
            "chain", f"the box {box[:80]!r}, the answer {answer[:80]!r}: {check.reason}"
        )


def _contents(row: dict, by_assistant: bool) -> Iterator[str]:
    """Yields the texts of the earlier turns, the assistant's or the others'."""
    for turn in row["before"]:
        if (turn["role"] == "assistant") == by_assistant:
            yield turn["content"]


_parsing = threading.Lock()  # sympy's caches are not made for threads


# Rows of one data set have few answers: letters, small numbers, the same fractions.
@functools.lru_cache(65536)
def _gold_problem(answer: str, verifier: str) -> str | None:
    """Returns why an answer does not verify against itself; None if it does."""
    # Letters, texts and plain numbers are compared without sympy: they need not wait their turn.
    if routing.is_quick(routing.parse(verifier).rules, answer, answer):
        return verify.check_gold(answer, verifier)
    with _parsing:
        return verify.check_gold(answer, verifier)


def _stored(image: str | bytes, root, downloads: Downloads | None) -> StoredImage:
    """Returns where the bytes of an image are: in the record, at an address, or below `root`."""
    if isinstance(image, bytes):
        return StoredImage(image)
    # Only tools/convert_data.py passes hosts. In a run, `confined` refuses an address.
    if downloads is not None and is_address(image.strip()):
        return StoredImage(downloads.fetch(image.strip()))
    if root is None:
        detail = f"{image[:100]!r}: rows from there hold their images; or set root, a folder here"
        raise InvalidRecord("image_missing", detail)
    return StoredImage(confined(root, image))


def _stored_video(video: dict, root) -> StoredVideo:
    """Returns where the file or the frames of a film are: in the record, or below `root`."""
    asked = {key: x for key, x in video.items() if key not in ("video", "frames")}
    if "frames" in video:
        frames = tuple(_stored(frame, root, None) for frame in video["frames"])
        return StoredVideo(frames, **asked)
    source = video["video"]
    if isinstance(source, bytes):
        return StoredVideo(source, **asked)
    if root is None:
        detail = f"{source[:100]!r}: rows from there hold their films; or set root, a folder here"
        raise InvalidRecord("image_missing", detail)
    if is_address(source.strip()):
        detail = (
            f"{source[:100]!r}: films are not downloaded; store the file below the root"
        )
        raise InvalidRecord("image_path", detail)
    return StoredVideo(confined(root, source), **asked)


def dumps(row: dict) -> str:
    """Writes a canonical row as one line of JSON, its images and films as data: URIs.

    `canonical` reads it back.
    """
    images = [_as_text(image) for image in row["images"]]
    videos = []
    for video in row["videos"]:
        if "frames" in video:
            video = video | {"frames": [_as_text(frame) for frame in video["frames"]]}
        else:
            video = video | {"video": _as_text(video["video"])}
        videos.append(video)
    return json.dumps(row | {"images": images, "videos": videos}, ensure_ascii=False)


def _as_text(image: str | bytes) -> str:
    """Returns what JSON can hold of an image or a film: a path, or a data: URI of bytes."""
    if isinstance(image, str):
        return image
    return DATA_URI + base64.b64encode(image).decode()
