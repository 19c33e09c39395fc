"""Schemas of other people's data: the fields of a record -> the fields of a canonical row.

One function for each schema, as its own program reads it: EasyR1, verl, V-Triune, TRL (also
ms-swift), LLaVA/InternVL, MMK12/ViRL39K, and ours; then the parts they are made of. Nothing in a
record is executed, and nothing is downloaded. A canonical row is a plain dict:

    id, source           text; empty if the record has none
    question             text of the last user turn, `<image>` where an image goes
    answer               the content of the box, without the box; empty in a row that only teaches
    images               paths, or the bytes of files
    before               [{"role", "content"}, ...], the turns before the question
    chain                the assistant's reply to the question, or None
    level, verifier      as in `types.Example`
    accuracy_weight      of the reward, or None
    metadata             {name: text or number}, the other fields of the record that are small
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable

from r1v3_jax.processing import chat
from r1v3_jax.rewards.verifiers import boxes

# Limits keep a hostile or broken row from filling the memory of every process.
MAX_TEXT = 200_000  # characters; a prompt of 32,768 tokens has fewer
MAX_METADATA = 32  # entries, of at most 200 characters each
# What a turn may name its speaker, and the role that is meant.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    **{role: role for role in chat.ROLES},
}
# The fields that may hold an answer; the first that is filled counts.
ANSWERS = ("answer", "solution", "ground_truth")
# The canonical row of a record that fills no field.
CANONICAL = {
    "id": "",
    "source": "",
    "question": "",
    "answer": "",
    "images": [],
    "before": [],
    "chain": None,
    "level": "normal",
    "verifier": "",
    "accuracy_weight": None,
    "metadata": {},
}


class InvalidRecord(Exception):
    """The problem of a record: (a key of `types.REASONS`, what was found in the record)."""


def recognise(record: dict) -> str:
    """Returns which of SCHEMAS a record is in, by the names of the fields it fills.

    InvalidRecord if in none.
    """
    # A table of several data sets has the columns of all of them, and a row leaves most empty.
    filled = {name for name, value in record.items() if value is not None}
    # From the most particular field to the least: "question" is in many schemas.
    if "conversations" in filled:
        return "llava"
    if isinstance(record.get("reward_model"), dict):
        return "vtriune" if record["reward_model"].get("verifier") else "verl"
    if filled & {"prompt", "messages"}:
        return "trl"
    if "problem" in filled:
        return "easyr1"
    if "question" in filled:
        is_mmk12 = filled & {"image", "qid"} and "images" not in filled
        return "mmk12" if is_mmk12 else "own"
    # A record may have thousands of fields, with names as long as it likes.
    some_names = sorted(str(name) for name in filled)[:20]
    names = ", ".join(name[:50] for name in some_names)
    wanted = "wanted question, problem, prompt, messages or conversations"
    raise InvalidRecord("fields", f"fields {names or 'none'}; {wanted}")


# Schemas. Each function takes a record and returns the fields of a canonical row that it has.


def _from_own(record: dict) -> dict:
    """Reads a row of ours; fields we do not know become metadata.

    {"question": "Which? <image>", "answer": "3", "images": ["a.png"], "level": "easy"}
    """
    fields = {}
    for name in CANONICAL:
        if record.get(name) is not None:
            fields[name] = record[name]
    if "question" not in fields:
        raise InvalidRecord("fields", "no question")
    metadata = fields.get("metadata", {})
    # In parquet a column has one type, so metadata is stored there as a text of JSON.
    if isinstance(metadata, str):
        metadata = loads(metadata)
    if not isinstance(metadata, dict):
        raise InvalidRecord("fields", f"metadata of type {type(metadata).__name__}")
    return fields | {"metadata": _small_fields(record, *CANONICAL) | metadata}


def _from_easyr1(record: dict) -> dict:
    """Reads a row of EasyR1.

    {"problem": "<image>Which?", "answer": "A", "images": [{"bytes": ..., "path": None}]}
    """
    used = ("problem", "images", "image", "id", "source", *ANSWERS)
    return {
        "id": _first_filled(record, "id"),
        "source": _first_filled(record, "source"),
        "question": _first_filled(record, "problem"),
        "answer": _first_filled(record, *ANSWERS),
        "images": _images(record),
        "metadata": _small_fields(record, *used),
    }


def _from_mmk12(record: dict) -> dict:
    r"""Reads a row of MMK12 or ViRL39K: ours, with an `image` or a `qid`.

    {"qid": "Processed-1", "question": "<image>Which?", "answer": "\\boxed{2}", "image": ["a.png"]}
    """
    fields = dict(record)
    fields.pop("image", None)
    fields.pop("qid", None)
    fields["id"] = _first_filled(record, "id", "qid")
    fields["images"] = _images(record)
    return _from_own(fields)


def _from_verl(record: dict) -> dict:
    """Reads a row of verl.

    {"data_source": "geometry3k", "prompt": [{"role": "user", "content": "<image>Which?"}],
     "images": [{"bytes": ...}], "reward_model": {"style": "rule", "ground_truth": "2"},
     "extra_info": {"split": "train", "index": 7}}
    """
    model = record.get("reward_model")
    extra = record.get("extra_info") or {}
    if not isinstance(model, dict) or not isinstance(extra, dict):
        raise InvalidRecord("fields", "reward_model and extra_info must be objects")
    # V-Triune's rows name the file of an image that is not in the row.
    path = extra.get("image_path")
    stored = [] if path is None else [path]
    used = ("data_source", "prompt", "images", "image", "reward_model", "extra_info")
    # extra_info repeats the question and the answer, sometimes in other words.
    metadata = _small_fields(extra, "id", "question", "answer", "image_path")
    return _dialogue(record.get("prompt")) | {
        "id": _first_filled(extra, "id"),
        "source": _first_filled(record, "data_source"),
        "answer": _first_filled(model, "ground_truth", "answer"),
        "images": _images(record) or stored,
        "metadata": metadata | _small_fields(record, *used),
    }


def _from_vtriune(record: dict) -> dict:
    """Reads a row of V-Triune: verl's, with a verifier and the weights of its rewards.

    {"data_source": "coco", "prompt": [...], "images": [...], "reward_model": {
     "ground_truth": "[{...}]", "verifier": "detection", "accuracy_ratio": 0.9,
     "format_ratio": 0.1, "verifier_parm": {"det_reward_ratio": {"iou_completeness": 0.3}}}}
    """
    row = _from_verl(record)
    model = record["reward_model"]
    ratios = [model.get("accuracy_ratio"), model.get("format_ratio")]
    if not all(ratio is None or is_number(ratio) for ratio in ratios):
        raise InvalidRecord("fields", f"accuracy_ratio and format_ratio are {ratios}")
    # Their ratios need not add up to 1: 1.0 and 1.0 weigh accuracy and format 0.5 each.
    if None not in ratios and sum(ratios) > 0:
        row["accuracy_weight"] = ratios[0] / sum(ratios)

    verifier = model.get("verifier")
    if verifier == "mathverify":
        return row | {"verifier": "mathematics"}
    if verifier != "detection":
        raise InvalidRecord(
            "verifier", f"{verifier!r}; V-Triune has mathverify and detection"
        )
    parameters = model.get("verifier_parm") or {}
    parameters = parameters if isinstance(parameters, dict) else {}
    if parameters.get("det_verifier_normalized"):
        # The reference boxes are in thousandths of the image. V-Triune takes answers in pixels and
        # converts them; here an answer is compared as it is: InternVL writes thousandths.
        row["metadata"]["det_verifier_normalized"] = True
    completeness = _completeness(parameters.get("det_reward_ratio"))
    return row | {"verifier": f"overlap iou=dynamic completeness={completeness}"}


def _from_trl(record: dict) -> dict:
    r"""Reads a row of TRL or ms-swift: prompt and answer, or a conversation to learn from.

    {"prompt": "Which?", "image": {"bytes": ...}, "answer": "0"}
    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},
     {"role": "assistant", "content": "It.\n</think>\n\\boxed{0}"}], "images": ["a.png"]}
    """
    turns = _first_filled(record, "messages", "prompt")
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    # `messages` end with the reply; `prompt` may have it apart, as `completion`.
    completion = record.get("completion")
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    completion = completion or []
    if not isinstance(turns, list) or not isinstance(completion, list):
        raise InvalidRecord(
            "fields", "prompt, messages and completion must be lists of turns, or texts"
        )
    row = _dialogue(turns + completion)
    inputs = ("prompt", "messages", "completion", "images", "image")
    return row | {
        "id": _first_filled(record, "id"),
        "source": _first_filled(record, "source", "data_source"),
        "answer": _answer_or_box(_first_filled(record, *ANSWERS), row["chain"]),
        "images": _images(record),
        "metadata": _small_fields(record, *inputs, "id", "source", *ANSWERS),
    }


def _from_llava(record: dict) -> dict:
    """Reads a row of LLaVA or InternVL.

    {"id": 12, "image": "coco/a.png", "conversations": [
     {"from": "human", "value": "<image>\\nWhich?"}, {"from": "gpt", "value": "Zero."}]}
    """
    turns = record.get("conversations")
    images = _images(record)
    if not _are_objects(turns):
        raise InvalidRecord("fields", "conversations must be a list of {from, value}")
    turns = [{"role": turn.get("from"), "content": turn.get("value")} for turn in turns]
    turns = read_turns(turns)
    # Without a marker of the user's, images belong to the first question and not to the last one,
    # before which they would go otherwise. A marker in a reply is only text.
    user_turns = [turn for turn in turns if turn["role"] == "user"]
    has_marker = any(chat.IMAGE_MARKER in turn["content"] for turn in user_turns)
    if images and user_turns and not has_marker:
        markers = f"{chat.IMAGE_MARKER}\n" * len(images)
        user_turns[0]["content"] = markers + user_turns[0]["content"]
    row = _dialogue(turns)
    used = ("id", "image", "images", "conversations", "source", "answer")
    return row | {
        "id": _first_filled(record, "id"),
        "source": _first_filled(record, "source"),
        "answer": _answer_or_box(_first_filled(record, "answer"), row["chain"]),
        "images": images,
        "metadata": _small_fields(record, *used),
    }


SCHEMAS: dict[str, Callable[[dict], dict]] = {
    "own": _from_own,
    "easyr1": _from_easyr1,
    "verl": _from_verl,
    "vtriune": _from_vtriune,
    "trl": _from_trl,
    "llava": _from_llava,
    "mmk12": _from_mmk12,
}


# Parts of records


def _first_filled(record: dict, *names: str):
    """Returns the first of these fields that is not empty; None if all are."""
    for name in names:
        if record.get(name) is not None:
            return record[name]
    return None


def _images(record: dict) -> list:
    """Returns the images of a record: a list, or one alone."""
    # Without its frames the question of a video is not the same question: never train on it.
    if _first_filled(record, "video", "videos"):
        raise InvalidRecord("fields", "a row about a video; cut it into images")
    images = _first_filled(record, "images", "image")
    if images is None:
        return []
    return images if isinstance(images, list) else [images]


def _small_fields(record: dict, *used: str) -> dict:
    """Returns the fields of a record that are not used and small enough for metadata."""
    return {
        name: value
        for name, value in record.items()
        if name not in used and _is_small(value)
    }


def _is_small(value) -> bool:
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


def _completeness(ratio) -> float:
    """Returns the share of completeness in V-Triune's detection reward, 0 to 1.

    V-Triune can weigh two ways to pair boxes, by label first and by overlap first. Here they are
    one: the closest first, among equal labels.
    """
    ratio = {} if ratio is None else ratio
    problem = InvalidRecord("fields", f"det_reward_ratio is {str(ratio)[:100]}")
    if not isinstance(ratio, dict):
        raise problem
    for weight in ratio.values():
        if weight is not None and not is_number(weight):
            raise problem
    # Another reward than the one we have would be worse than none.
    if any(ratio.get(name) for name in ("map", "map50", "map75")):
        raise InvalidRecord(
            "verifier",
            "det_reward_ratio asks for mean average precision; IoU is available",
        )
    completeness = float(ratio.get("iou_completeness") or 0.0)
    if not 0 <= completeness <= 1:
        raise InvalidRecord(
            "fields", f"iou_completeness is {completeness:g}, wanted 0 to 1"
        )
    return completeness


def _dialogue(turns) -> dict:
    """Splits turns into question, before and chain.

    [system, user, assistant, user, assistant] -> before: the first three, question: the second
    user turn, chain: the last turn. Without the last turn the chain is None.
    """
    turns = read_turns(turns)
    # A reply at the end is what is learnt; replies before the question are part of the prompt.
    chain = None
    if turns and turns[-1]["role"] == "assistant":
        chain = turns.pop()["content"]
    if not turns or turns[-1]["role"] != "user":
        raise InvalidRecord(
            "fields", "the last turn, except for an answer, must be the user's"
        )
    *before, question = turns
    return {"question": question["content"], "before": before, "chain": chain}


def _are_objects(turns) -> bool:
    return isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)


def read_turns(turns) -> list[dict]:
    """Reads turns as [{"role", "content"}, ...] with contents as text.

    Parts that are images become markers. InvalidRecord for other parts and other roles.
    """
    if not _are_objects(turns):
        raise InvalidRecord("fields", "turns must be a list of objects")
    result = []
    for i, turn in enumerate(turns):
        # The role may be of any type: a list cannot be looked up in a dict.
        role = turn.get("role")
        role = ROLES.get(role) if isinstance(role, str) else None
        if role is None or (role == "system" and i):
            speaker = str(turn.get("role"))[:50]
            raise InvalidRecord(
                "fields",
                f"turn {i} is by {speaker!r}; system is first, or user, assistant",
            )
        content = turn.get("content")
        if isinstance(content, list):
            content = "".join(_part(part) for part in content)
        content = read_text(content, f"turn {i}")
        result.append({"role": role, "content": content})
    return result


def _part(part) -> str:
    """Reads one part of a turn: {"type": "image"} or {"type": "text", "text": "Sum?"}."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return chat.IMAGE_MARKER
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise InvalidRecord(
        "fields", f"a part of a turn of type {str(kind)[:50]!r}; wanted text or image"
    )


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
    """Reads metadata: the first MAX_METADATA entries that are small, checked as texts."""
    entries = {}
    for name, value in metadata.items():
        if _is_small(value):
            entries[str(name)[:200]] = value
    # All of them are checked: a NUL in an entry beyond the limit is damage as well.
    for name, value in entries.items():
        read_text(name, "metadata")
        read_text(str(value), "metadata")
    return dict(list(entries.items())[:MAX_METADATA])


def _answer_or_box(answer, chain: str | None):
    """Returns the answer of a record, or else the content of the last box in its chain."""
    if answer is not None:
        return answer
    contents, _ = boxes.find_boxes(chain) if chain else ([], False)
    return contents[-1] if contents else ""


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
