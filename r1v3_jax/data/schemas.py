"""Layouts of other people's data: the fields of a record -> the fields of a canonical row.

A function for each layout, as its own program reads it: EasyR1, verl, V-Triune, TRL (also
ms-swift), LLaVA/InternVL, MMK12/ViRL39K, and ours; then what they are made of. Nothing in a record
is executed, and nothing is downloaded. A canonical row is a plain dict:

    id, source           text; empty where the record has none
    question             text of the last user turn, `<image>` where an image goes
    answer               what is in the box, without the box; empty in a row that only teaches
    images               paths, or the bytes of files
    before               [{"role", "content"}, ...], the turns in front of the question
    chain                what the assistant says to the question, or None
    level, verifier      as in `types.Example`
    accuracy_weight      of the reward, or None
    metadata             {name: text or number}, whatever else there was that is small
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable

from r1v3_jax.processing import chat
from r1v3_jax.rewards.verifiers import boxes

MAX_TEXT = 200_000  # characters; a prompt of 32,768 tokens has fewer
MAX_METADATA = 32  # entries, of at most 200 characters each
ROLES = {"human": "user", "gpt": "assistant"} | {role: role for role in chat.ROLES}
ANSWERS = ("answer", "solution", "ground_truth")  # where an answer may stand
# What a record that says nothing gives.
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
    """What is wrong with a record: (a word of `types.REASONS`, what was found)."""


def recognise(record: dict) -> str:
    """Which of SCHEMAS a record is in, by the names of the fields it fills. Bad if in none."""
    filled = {name for name, value in record.items() if value is not None}
    if "conversations" in filled:
        return "llava"
    if isinstance(record.get("reward_model"), dict):
        return "vtriune" if record["reward_model"].get("verifier") else "verl"
    if filled & {"prompt", "messages"}:
        return "trl"
    if "problem" in filled:
        return "easyr1"
    if "question" in filled:
        return (
            "mmk12" if filled & {"image", "qid"} and "images" not in filled else "own"
        )
    names = ", ".join(name[:50] for name in sorted(map(str, filled))[:20])
    wanted = "wanted question, problem, prompt, messages or conversations"
    raise InvalidRecord("fields", f"fields {names or 'none'}; {wanted}")


# Layouts. Each takes a record and gives the fields of a canonical row that it has.


def _own(record: dict) -> dict:
    fields = {name: record[name] for name in CANONICAL if record.get(name) is not None}
    if "question" not in fields:
        raise InvalidRecord("fields", "no question")
    given = fields.get("metadata", {})
    if isinstance(
        given, str
    ):  # as it is stored in parquet, where columns have one type
        given = loads(given)
    if not isinstance(given, dict):
        raise InvalidRecord("fields", f"metadata of type {type(given).__name__}")
    return fields | {"metadata": _rest(record, *CANONICAL) | given}


def _easyr1(record: dict) -> dict:
    names = ("problem", "images", "image", "id", "source", *ANSWERS)
    return {
        "id": _first(record, "id"),
        "source": _first(record, "source"),
        "question": _first(record, "problem"),
        "answer": _first(record, *ANSWERS),
        "images": _given_images(record),
        "metadata": _rest(record, *names),
    }


def _mmk12(record: dict) -> dict:
    rest = {
        name: value for name, value in record.items() if name not in ("image", "qid")
    }
    given = {"id": _first(record, "id", "qid"), "images": _given_images(record)}
    return _own(rest | given)


def _verl(record: dict) -> dict:
    model, extra = record.get("reward_model"), record.get("extra_info") or {}
    if not isinstance(model, dict) or not isinstance(extra, dict):
        raise InvalidRecord("fields", "reward_model and extra_info must be objects")
    names = ("data_source", "prompt", "images", "image", "reward_model", "extra_info")
    stored = [] if (path := extra.get("image_path")) is None else [path]
    return _dialogue(record.get("prompt")) | {
        "id": _first(extra, "id"),
        "source": _first(record, "data_source"),
        "answer": _first(model, "ground_truth", "answer"),
        "images": _given_images(record) or stored,
        "metadata": _rest(extra, "id", "question", "answer", "image_path")
        | _rest(record, *names),
    }


def _vtriune(record: dict) -> dict:
    row, model = _verl(record), record["reward_model"]
    verifier, parameters = model.get("verifier"), model.get("verifier_parm") or {}
    ratios = [model.get("accuracy_ratio"), model.get("format_ratio")]
    if not all(ratio is None or is_number(ratio) for ratio in ratios):
        raise InvalidRecord("fields", f"accuracy_ratio and format_ratio are {ratios}")
    if None not in ratios and sum(ratios) > 0:
        row["accuracy_weight"] = ratios[0] / sum(ratios)
    if verifier == "detection":
        parameters = parameters if isinstance(parameters, dict) else {}
        if parameters.get("det_verifier_normalized"):
            # Gold is in thousandths of the image. V-Triune takes answers in pixels and turns them
            # into those; here an answer is compared as it stands: InternVL writes thousandths.
            row["metadata"]["det_verifier_normalized"] = True
        ratio = parameters.get("det_reward_ratio")
        return row | {
            "verifier": f"overlap iou=dynamic completeness={_completeness(ratio)}"
        }
    if verifier != "mathverify":
        raise InvalidRecord(
            "verifier", f"{verifier!r}; V-Triune has mathverify and detection"
        )
    return row | {"verifier": "mathematics"}


def _trl(record: dict) -> dict:
    turns = _first(record, "messages", "prompt")
    turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    said = record.get("completion")
    said = (
        [{"role": "assistant", "content": said}]
        if isinstance(said, str)
        else said or []
    )
    if not isinstance(turns, list) or not isinstance(said, list):
        raise InvalidRecord(
            "fields", "prompt, messages and completion must be lists of turns, or texts"
        )
    row = _dialogue(turns + said)
    names = (
        "prompt",
        "messages",
        "completion",
        "images",
        "image",
        "id",
        "source",
        *ANSWERS,
    )
    answer = _first(record, *ANSWERS)
    return row | {
        "id": _first(record, "id"),
        "source": _first(record, "source", "data_source"),
        "answer": _boxed(row["chain"]) if answer is None else answer,
        "images": _given_images(record),
        "metadata": _rest(record, *names),
    }


def _llava(record: dict) -> dict:
    turns, images = record.get("conversations"), _given_images(record)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InvalidRecord("fields", "conversations must be a list of {from, value}")
    turns = read_turns(
        [{"role": turn.get("from"), "content": turn.get("value")} for turn in turns]
    )
    asked = [turn for turn in turns if turn["role"] == "user"]
    if (
        images
        and asked
        and not any(chat.IMAGE_MARKER in turn["content"] for turn in asked)
    ):
        asked[0]["content"] = (
            f"{chat.IMAGE_MARKER}\n" * len(images) + asked[0]["content"]
        )
    row, answer = _dialogue(turns), _first(record, "answer")
    names = ("id", "image", "images", "conversations", "source", "answer")
    return row | {
        "id": _first(record, "id"),
        "source": _first(record, "source"),
        "answer": _boxed(row["chain"]) if answer is None else answer,
        "images": images,
        "metadata": _rest(record, *names),
    }


SCHEMAS: dict[str, Callable[[dict], dict]] = {
    "own": _own,
    "easyr1": _easyr1,
    "verl": _verl,
    "vtriune": _vtriune,
    "trl": _trl,
    "llava": _llava,
    "mmk12": _mmk12,
}


# Parts of records


def _first(record: dict, *names: str):
    """The first of these fields that is there."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def _given_images(record: dict) -> list:
    if _first(record, "video", "videos"):
        raise InvalidRecord("fields", "a row about a video; cut it into images")
    images = _first(record, "images", "image")
    return [] if images is None else images if isinstance(images, list) else [images]


def _rest(record: dict, *used: str) -> dict:
    """What is small of the fields that are not used."""
    return {
        name: value
        for name, value in record.items()
        if name not in used and _small(value)
    }


def _small(value) -> bool:
    if isinstance(value, str):
        return len(value) <= 200
    return isinstance(value, bool) or is_number(value)


def is_number(value) -> bool:
    whole = isinstance(value, int) and abs(value) < 2**63
    return (whole and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _completeness(ratio) -> float:
    """Its share of V-Triune's detection reward. The two ways to pair boxes that its data can weigh
    are one here: the closest first, of equal labels.
    """
    ratio = {} if ratio is None else ratio
    if not isinstance(ratio, dict) or not all(
        x is None or is_number(x) for x in ratio.values()
    ):
        raise InvalidRecord("fields", f"det_reward_ratio is {str(ratio)[:100]}")
    if any(ratio.get(name) for name in ("map", "map50", "map75")):
        raise InvalidRecord(
            "verifier",
            "det_reward_ratio asks for mean average precision; IoU is to be had",
        )
    if not 0 <= (completeness := float(ratio.get("iou_completeness") or 0.0)) <= 1:
        raise InvalidRecord(
            "fields", f"iou_completeness is {completeness:g}, wanted 0 to 1"
        )
    return completeness


def _dialogue(turns) -> dict:
    """question, before and chain of turns that end with the user's or with one answer to it."""
    turns = read_turns(turns)
    chain = (
        turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else None
    )
    if not turns or turns[-1]["role"] != "user":
        raise InvalidRecord(
            "fields", "the last turn but for an answer must be the user's"
        )
    return {"question": turns[-1]["content"], "before": turns[:-1], "chain": chain}


def read_turns(turns) -> list[dict]:
    """[{"role", "content"}, ...] with contents as text; parts that are images become markers."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InvalidRecord("fields", "turns must be a list of objects")
    out = []
    for i, turn in enumerate(turns):
        role, content = turn.get("role"), turn.get("content")
        role = ROLES.get(role) if isinstance(role, str) else None
        if role is None or (role == "system" and i):
            found = str(turn.get("role"))[:50]
            raise InvalidRecord(
                "fields",
                f"turn {i} is by {found!r}; system is first, or user, assistant",
            )
        if isinstance(content, list):
            content = "".join(_part(part) for part in content)
        out.append({"role": role, "content": read_text(content, f"turn {i}")})
    return out


def _part(part) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return chat.IMAGE_MARKER
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise InvalidRecord(
        "fields", f"a part of a turn of type {str(kind)[:50]!r}; wanted text or image"
    )


def read_text(value, name: str, limit: int = MAX_TEXT) -> str:
    """A text as it stands, a number as text, None as none. Bad for anything else."""
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
    if "\0" in value or re.search("[\ud800-\udfff]", value):
        raise InvalidRecord("text", f"{name} has a NUL or half of a surrogate pair")
    return value


def read_weight(value) -> float | None:
    if value is not None and not (is_number(value) and 0 <= value <= 1):
        raise InvalidRecord(
            "fields", f"accuracy_weight is {str(value)[:50]}, wanted 0 to 1"
        )
    return None if value is None else float(value)


def read_metadata(value: dict) -> dict:
    small = {str(name)[:200]: x for name, x in value.items() if _small(x)}
    for name, x in small.items():
        read_text(name, "metadata"), read_text(str(x), "metadata")
    return dict(list(small.items())[:MAX_METADATA])


def _boxed(chain: str | None) -> str:
    """What the last box of a chain of thought holds."""
    found = boxes.find_boxes(chain)[0] if chain else []
    return found[-1] if found else ""


def read_images(images) -> list[str | bytes]:
    """Paths or bytes, from paths, bytes, data: URIs and {"bytes", "path"}."""
    if not isinstance(images, list):
        raise InvalidRecord(
            "fields", f"images of type {type(images).__name__}, wanted a list"
        )
    out = []
    for image in images:
        if isinstance(image, dict):
            image = (
                image["bytes"] if image.get("bytes") is not None else image.get("path")
            )
        if isinstance(image, str) and image[:5].lower() == "data:":
            image = _from_uri(image)
        if not isinstance(image, str | bytes) or not image:
            wanted = "wanted a path, bytes or {bytes, path}"
            raise InvalidRecord(
                "fields", f"an image of type {type(image).__name__}; {wanted}"
            )
        out.append(image)
    return out


def _from_uri(uri: str) -> bytes:
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
    """A JSON value; Bad for what only Python takes for JSON, and what would hurt it."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("json", f"{type(error).__name__}: {error}") from error


def _refuse(constant: str):
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:30]} is no number")
    return value
