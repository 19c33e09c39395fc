"""Schemas of other people's data: the fields of a record -> the fields of a canonical row.

One function for each schema, as its own program reads it: EasyR1, WeThink, verl, V-Triune, TRL
(also ms-swift), LLaVA/InternVL, MMK12/ViRL39K, EgoPlan, knights and knaves, and ours. The parts
they are made of are read by `fields`, `turns`, `media` and `films`. Nothing in a record is
executed, and nothing is downloaded. A canonical row is a plain dict:

    id, source           text; empty if the record has none
    question             text of the last user turn, `<image>` where an image goes
    answer               the content of the box, without the box; empty in a row that only teaches
    images               paths, or the bytes of files
    videos               films, as `films` has them; `<video>` in the question where one goes
    before               [{"role", "content"}, ...], the turns before the question
    chain                the assistant's reply to the question, or None
    chosen, rejected     two replies, of which the first is preferred, or None; read by `pairs`
    level, verifier      as in `types.Example`
    accuracy_weight      of the reward, or None
    metadata             {name: text or number}, the other fields of the record that are small
"""

from collections.abc import Callable

from r1v3_jax.data.fields import (
    InvalidRecord,
    first_filled,
    is_empty,
    is_number,
    loads,
    parse_list,
    read_text,
)
from r1v3_jax.data.films import FilmPart, all_films
from r1v3_jax.data.media import base_name, column_images, film_problem, has_marker
from r1v3_jax.data.options import drawn_options
from r1v3_jax.data.turns import (
    SYSTEM_FIELDS,
    THOUGHT_END,
    are_objects,
    check_beside,
    dialogue,
    read_turns,
    with_system,
)
from r1v3_jax.data.unread import unread_fields
from r1v3_jax.processing import chat
from r1v3_jax.rewards.verifiers import boxes

# The fields that may hold an answer; the first that is filled counts.
ANSWERS = ("clean_answer", "answer", "solution", "ground_truth")
# Fields of EgoPlan with a film, and with the view that a question is about.
EGOPLAN_MEDIA = ("video_basename", "current_observation_basename")
# The fields that a schema is recognised by.
RECOGNISED = "quiz conversations reward_model prompt messages problem question".split()
# The canonical row of a record that fills no field.
CANONICAL = {
    "id": "",
    "source": "",
    "question": "",
    "answer": "",
    "images": [],
    "videos": [],
    "before": [],
    "chain": None,
    "chosen": None,
    "rejected": None,
    "level": "normal",
    "verifier": "",
    "accuracy_weight": None,
    "metadata": {},
}


def recognise(record: dict) -> str:
    """Returns which of SCHEMAS a record is in, by the names of the fields it fills.

    InvalidRecord if in none.
    """
    # A table of several data sets has the columns of all of them, and a row leaves most empty.
    filled = {name for name, value in record.items() if not is_empty(value)}
    if not filled & set(RECOGNISED):
        # "question": "" says at least which schema it is.
        filled = {name for name, value in record.items() if value is not None}
    # From the most particular field to the least: "question" is in many schemas.
    if "quiz" in filled:
        return "knights"
    if "conversations" in filled:
        return "llava"
    if "reward_model" in filled and isinstance(record["reward_model"], dict):
        return "vtriune" if record["reward_model"].get("verifier") else "verl"
    if filled & {"prompt", "messages"}:
        return "trl"
    if "problem" in filled:
        is_wethink = "refined_cot" in filled or {"category", "reward"} <= filled
        return "wethink" if is_wethink else "easyr1"
    if "question" in filled and _is_egoplan(filled):
        return "egoplan"
    if "question" in filled:
        is_mmk12 = filled & {"image", "qid"} and "images" not in filled
        return "mmk12" if is_mmk12 else "own"
    # A record may have thousands of fields, with names as long as it likes.
    some_names = sorted(str(name) for name in filled)[:20]
    names = ", ".join(name[:50] for name in some_names)
    wanted = "wanted question, problem, prompt, messages, conversations or quiz"
    raise InvalidRecord("fields", f"fields {names or 'none'}; {wanted}")


def _is_egoplan(filled: set[str]) -> bool:
    others = {"negative_answers", "golden_choice_idx", "task_progress_metadata"}
    is_plan = "task_goal" in filled and filled & others
    return bool(is_plan or filled & set(EGOPLAN_MEDIA))


# Schemas. Each function takes a record and returns the fields of a canonical row that it has.
# Images, films and options in fields of the record are read in the same way for every schema,
# after these functions. Of what they return, `images` are the images and films in the turns,
# `metadata` is what the record has besides its other small fields, and `read` are the names of the
# fields that were read.


def _from_own(record: dict) -> dict:
    """Reads a row of ours; fields we do not know become metadata.

    {"question": "Which? <image>", "answer": "3", "images": ["a.png"], "level": "easy"}
    """
    row = {}
    for name in CANONICAL:
        if record.get(name) is not None and name not in ("images", "videos"):
            row[name] = record[name]
    if "question" not in row:
        raise InvalidRecord("fields", "no question")
    images = record.get("images")
    if isinstance(images, str) and images and parse_list(images) is None:
        raise InvalidRecord("fields", "images of type str, wanted a list")
    metadata = row.get("metadata", {})
    # In parquet a column has one type, so metadata is stored there as a text of JSON.
    if isinstance(metadata, str):
        metadata = loads(metadata) if metadata else {}
    if not isinstance(metadata, dict):
        raise InvalidRecord("fields", f"metadata of type {type(metadata).__name__}")
    row["before"], row["images"] = read_turns(row.get("before", []))
    return row | {
        "answer": first_filled(record, "clean_answer", "answer"),
        "metadata": unread_fields(metadata, (), is_nested=True),
        "read": (*CANONICAL, "clean_answer"),
    }


def _from_easyr1(record: dict) -> dict:
    """Reads a row of EasyR1.

    {"problem": "<image>Which?", "answer": "A", "images": [{"bytes": ..., "path": None}]}
    """
    return {
        "id": first_filled(record, "id"),
        "source": first_filled(record, "source"),
        "question": first_filled(record, "problem"),
        "answer": first_filled(record, *ANSWERS),
        "read": ("problem", "id", "source", *ANSWERS),
    }


def _from_wethink(record: dict) -> dict:
    """Reads a row of WeThink (arXiv 2506.07905): EasyR1's, with how it is rewarded and a thought.

    {"problem": "Which?", "answer": "B", "category": "multiple choice", "abilities": "counting",
     "refined_cot": "<think>It is B.</think>", "image_path": "a.png", "reward": "rule"}
    """
    row = _from_easyr1(record)
    answer = read_text(row["answer"], "answer").strip()
    abilities = record.get("abilities")
    is_list = isinstance(abilities, list) and all(isinstance(x, str) for x in abilities)
    return row | {
        "verifier": _wethink_verifier(record, answer),
        "chain": _wethink_chain(record.get("refined_cot"), answer),
        # A list is no metadata, a text is.
        "metadata": {"abilities": ", ".join(abilities)} if is_list else {},
        "read": (*row["read"], "refined_cot"),
    }


def _from_mmk12(record: dict) -> dict:
    r"""Reads a row of MMK12 or ViRL39K: ours, with an `image` or a `qid`.

    {"qid": "Processed-1", "question": "<image>Which?", "answer": "\\boxed{2}", "image": ["a.png"]}
    """
    row = _from_own(record)
    return row | {
        "id": first_filled(record, "id", "qid"),
        "read": (*row["read"], "qid"),
    }


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
    # extra_info repeats the question and the answer, sometimes in other words.
    return dialogue(record.get("prompt")) | {
        "id": first_filled(extra, "id"),
        "source": first_filled(record, "data_source"),
        "answer": first_filled(model, "ground_truth", "answer"),
        "metadata": unread_fields(extra, ("id", "question", "answer"), is_nested=True),
        "read": ("data_source", "prompt", "reward_model", "extra_info"),
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
    name = "prompt" if is_empty(record.get("messages")) else "messages"
    turns = record.get(name)
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
    turns, in_turns = read_turns(turns + completion)
    check_beside(record, turns)
    row = dialogue(with_system(record, turns)) | {"images": in_turns}
    return row | {
        "id": first_filled(record, "id"),
        "source": first_filled(record, "source", "data_source"),
        "answer": _answer_or_box(first_filled(record, *ANSWERS), row["chain"]),
        "read": (name, "completion", "id", "source", *SYSTEM_FIELDS, *ANSWERS),
    }


def _from_llava(record: dict) -> dict:
    """Reads a row of LLaVA or InternVL.

    {"id": 12, "image": "coco/a.png", "conversations": [
     {"from": "human", "value": "<image>\\nWhich?"}, {"from": "gpt", "value": "Zero."}]}
    """
    conversation = record.get("conversations")
    if not are_objects(conversation):
        raise InvalidRecord("fields", "conversations must be a list of {from, value}")
    turns, in_turns = read_turns(conversation)
    images = column_images(record)
    # Without a marker of the user's, images belong to the first question and not to the last one,
    # before which they would go otherwise. A marker in a reply is only text.
    user_turns = [turn for turn in turns if turn["role"] == "user"]
    is_marked = any(has_marker(turn["content"]) for turn in user_turns)
    # Films go there by themselves, see `films.with_frames`.
    if images and user_turns and not is_marked:
        markers = f"{chat.IMAGE_MARKER}\n" * len(images)
        user_turns[0]["content"] = markers + user_turns[0]["content"]
    check_beside(record, turns)
    row = dialogue(with_system(record, turns)) | {"images": in_turns}
    return row | {
        "id": first_filled(record, "id"),
        "source": first_filled(record, "source"),
        "answer": _answer_or_box(first_filled(record, *ANSWERS), row["chain"]),
        "read": ("id", "conversations", "source", *SYSTEM_FIELDS, *ANSWERS),
    }


def _from_egoplan(record: dict) -> dict:
    """Reads a row of SEED-Bench-R1 (arXiv 2503.24376), which is made of EgoPlan-Bench.

    {"sample_id": 3, "task_goal": "make tea", "question": "What next?", "answer": "boil water",
     "negative_answers": ["cut bread", "open fridge", "wash cup", "close tap"],
     "video_source": "EpicKitchens", "video_basename": "a.mp4",
     "current_observation_basename": "a.png", "task_progress_metadata": [{...}]}

    The film of the progress, if there is any, comes first; then the view of now, which is the
    film's last frame if the row has no image of it. Of the negative answers three are drawn, by
    the row's name, as their program does.
    """
    row = _from_own(record)
    names = ("video_source", *EGOPLAN_MEDIA)
    source, film, view = (read_text(record.get(name), name) for name in names)
    films = all_films(record, [])
    if film and not films and not is_empty(record.get("task_progress_metadata", 1)):
        path = "/".join(part for part in ("videos", source, film) if part)
        films = [{"video": path}]
    shown: list = [FilmPart(one) for one in films]
    if view:
        path = "/".join(part for part in ("images", source, view) if part)
        shown.append(path)
    elif shown and not column_images(record):
        shown.append(FilmPart(films[-1] | {"last": True}))
    _check_film_is_shown(record, film, films, shown)
    if not is_empty(record.get("negative_answers")):
        row |= drawn_options(record)
    return row | {
        "id": first_filled(record, "id", "sample_id"),
        "source": first_filled(record, "source", "video_source"),
        "images": shown,
        "read": (
            *(*row["read"], *EGOPLAN_MEDIA, "sample_id", "negative_answers"),
            *("video_source", "task_progress_metadata"),
        ),
    }


def _from_knights(record: dict) -> dict:
    r"""Reads a row of knights and knaves, as arXiv 2410.23123 and Logic-RL have them.

    {"quiz": "A very special island ...", "names": ["Zoey", "Ben"],
     "solution_text_format": "(1) Zoey is a knight\n(2) Ben is a knave"}
    """
    # Logic-RL's rows also have verl's fields: the same question inside a prompt for one model.
    return {
        "id": first_filled(record, "id", "index"),
        "source": first_filled(record, "source", "data_source"),
        "question": first_filled(record, "quiz"),
        "answer": first_filled(record, "solution_text_format", *ANSWERS),
        "verifier": "knights",
        "read": (
            *("quiz", "solution_text_format", "id", "index", "source", "data_source"),
            *("prompt", "reward_model", "extra_info", *ANSWERS),
        ),
    }


SCHEMAS: dict[str, Callable[[dict], dict]] = {
    "own": _from_own,
    "easyr1": _from_easyr1,
    "wethink": _from_wethink,
    "verl": _from_verl,
    "vtriune": _from_vtriune,
    "trl": _from_trl,
    "llava": _from_llava,
    "mmk12": _from_mmk12,
    "egoplan": _from_egoplan,
    "knights": _from_knights,
}


# Parts of records


def _check_film_is_shown(record: dict, film: str, films: list, shown: list) -> None:
    """InvalidRecord if a row of EgoPlan would lose the film that it names.

    film: video_basename. films: of the row. shown: they, and the view of now.
    """
    paths = [one["video"] for one in films if isinstance(one.get("video"), str)]
    if film and paths and not any(base_name(path) == base_name(film) for path in paths):
        raise InvalidRecord(
            "fields",
            f"films in video_basename, {film[:50]}, and others in another field; keep one of the "
            "two",
        )
    # A row without progress is about its view alone.
    if film and not shown and not column_images(record):
        raise film_problem(
            "video_basename",
            "current_observation_basename, the view that is asked about, or "
            "task_progress_metadata, if the film is",
        )


def _wethink_verifier(record: dict, answer: str) -> str:
    """Returns the verifier of a row of WeThink; InvalidRecord if its words name none.

    The data set prints no list of its words. The paper has a language model for descriptions, and
    rules for multiple choice and for blanks.
    """
    reward = read_text(record.get("reward"), "reward").lower()
    category = read_text(record.get("category"), "category").lower()

    def says(text: str, *words: str) -> bool:
        return any(word in text for word in words)

    # A "model" in a category may be what the question is about.
    if says(reward, "model", "judge", "llm") or says(category, "descri", "open-end"):
        return "model"
    if says(reward + category, "choice"):
        return "choice"
    if says(reward + category, "fill", "blank"):
        return "mathematics"
    if says(reward, "rule"):
        return "choice" if answer in [*"ABCDEFGH"] else "mathematics"
    # A row that only teaches.
    if not reward and not category:
        return ""
    raise InvalidRecord(
        "verifier",
        f"reward {reward[:50]!r}, category {category[:50]!r}; wanted 'rule' or 'model' as reward",
    )


def _wethink_chain(thought, answer: str) -> str | None:
    """Writes the thought of a row, with or without tags, and its answer as a reply.

    "<think>It is B.</think><answer>B</answer>", "B"   ->   "It is B.\n</think>\n\n\\boxed{B}"
    """
    text = read_text(thought, "refined_cot")
    text = text.partition(THOUGHT_END)[0].partition("<answer>")[0]
    text = text.replace("<think>", "").strip()
    if not text or not answer:
        return None
    value = boxes.unboxed(answer)
    return f"{text}\n{THOUGHT_END}\n\n\\boxed{{{value}}}"


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


def _answer_or_box(answer, chain: str | None):
    """Returns the answer of a record, or else the content of the last box in its chain."""
    if answer is not None:
        return answer
    contents, _ = boxes.find_boxes(chain) if chain else ([], False)
    return contents[-1] if contents else ""
