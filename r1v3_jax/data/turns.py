"""Turns of a conversation in a record: who speaks, what is said, which images and films are shown.

A turn is {"role", "content"} or LLaVA's {"from", "value"}. What else a turn holds is refused by its
name, unless it says nothing: a row must not lose a weight, a tool or a thought.
"""

from r1v3_jax.data import films, media
from r1v3_jax.data.fields import InvalidRecord, first_filled, is_empty, read_text
from r1v3_jax.processing import chat

# What a turn may name its speaker, and the role that is meant.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    **{role: role for role in chat.ROLES},
}
# Keys of a turn, and of a record, that hold what the assistant thought before its reply.
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
# Keys of a turn that weigh it in the loss; all assistant's turns are learnt from, no others.
WEIGHT_KEYS = "weight loss_weight loss train trainable learn loss_mask".split()
THOUGHT_END = "</think>"
# Fields of a record beside its turns that hold the system turn, as ms-swift has it.
SYSTEM_FIELDS = ("system", "system_prompt")
# ms-swift fills these in from the field `objects`.
PLACEHOLDERS = ("<ref-object>", "<bbox>")
# Types of a part of a turn, as TRL, OpenAI and Qwen write them; a part may leave its type out.
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image", "image_url", "input_image")
VIDEO_PARTS = ("video", "video_url", "input_video")


def dialogue(turns) -> dict:
    """Splits turns into question, before, chain and images.

    [system, user, assistant, user, assistant] -> before: the first three, question: the second
    user turn, chain: the last turn. Without the last turn the chain is None. images: those that
    the turns hold themselves.
    """
    turns, images = read_turns(turns)
    # A reply at the end is what is learnt; replies before the question are part of the prompt.
    chain = None
    if turns and turns[-1]["role"] == "assistant":
        chain = turns.pop()["content"]
    if not turns or turns[-1]["role"] != "user":
        raise InvalidRecord(
            "fields", "the last turn, except for an answer, must be the user's"
        )
    *before, question = turns
    return {
        "question": question["content"],
        "before": before,
        "chain": chain,
        "images": images,
    }


def with_system(record: dict, turns: list[dict]) -> list[dict]:
    """Puts the system turn that stands in a field of a record in front of its turns.

    InvalidRecord if the turns begin with another one.
    """
    system = read_text(first_filled(record, *SYSTEM_FIELDS), "system")
    if not system.strip():
        return turns
    own = [turn["content"] for turn in turns if turn["role"] == "system"]
    if own and own != [system]:
        raise InvalidRecord(
            "fields", "system and a system turn that differ; keep one of the two"
        )
    return turns if own else [{"role": "system", "content": system}, *turns]


def check_beside(record: dict, turns: list[dict]) -> None:
    """InvalidRecord if fields beside the turns change what a chat template shows of them."""
    if not is_empty(record.get("tools")):
        raise InvalidRecord(
            "fields",
            "tools are not shown to the model; leave them out, or write them into a turn",
        )
    shown = {name for name in PLACEHOLDERS for turn in turns if name in turn["content"]}
    if shown and not is_empty(record.get("objects")):
        raise InvalidRecord(
            "fields",
            f"objects are not written into {', '.join(sorted(shown))}; put the values there",
        )


def are_objects(turns) -> bool:
    return isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)


def read_turns(turns) -> tuple[list[dict], list]:
    """Reads turns as [{"role", "content"}, ...] with contents as text, and the images in them.

    A film among the images is a `films.FilmPart`. Parts that are either become markers.
    InvalidRecord for other parts, other roles, and other keys of a turn that say something.
    """
    if not are_objects(turns):
        raise InvalidRecord("fields", "turns must be a list of objects")
    result = []
    images = []
    for i, turn in enumerate(turns):
        name = f"turn {i}"
        # 1. Who speaks. The role may be of any type: a list cannot be looked up in a dict.
        speaker = first_filled(turn, "role", "from")
        role = ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None or (role == "system" and i):
            raise InvalidRecord(
                "fields",
                f"{name} is by {str(speaker)[:50]!r}; system is first, or user, assistant",
            )
        _check_keys(turn, role, name)

        # 2. What is said.
        content = first_filled(turn, "content", "value")
        if isinstance(content, list | dict):
            content = content if isinstance(content, list) else [content]
            parts = [_part(part, role, name, images) for part in content]
            content = "".join(parts)
        content = read_text(content, name)
        thought = read_text(first_filled(turn, *THOUGHT_KEYS), f"{name}: a thought")
        if thought.strip():
            content = with_thought(thought, content, name)
        result.append({"role": role, "content": content})
    return result, images


def _check_keys(turn: dict, role: str, name: str) -> None:
    """InvalidRecord if a turn holds something that is not read."""
    for key, value in turn.items():
        is_known = key in ("role", "from", "content", "value")
        is_thought = key in THOUGHT_KEYS and role == "assistant"
        if is_known or is_thought or is_empty(value):
            continue
        # 1 and True are what is done anyway; 0 and False are, where nothing is learnt.
        if str(key).lower() in WEIGHT_KEYS:
            usual = (True,) if role == "assistant" else (True, False)
            if isinstance(value, bool | int | float) and value in usual:
                continue
        shown = str(value)[:50]
        raise InvalidRecord(
            "fields",
            f"{name} has {str(key)[:50]!r} ({shown!r}), which is not read; leave it out",
        )
    for pair in (("role", "from"), ("content", "value")):
        filled = [turn[key] for key in pair if not is_empty(turn.get(key))]
        if len(filled) == 2 and filled[0] != filled[1]:
            raise InvalidRecord("fields", f"{name} has two of {', '.join(pair)}")


def with_thought(thought: str, reply: str, name: str) -> str:
    r"""Joins a thought and a reply as the model writes them: "because\n</think>\n\nIt is 5."

    InvalidRecord if the reply has another thought already.
    """
    thought = thought.strip().removeprefix("<think>").removesuffix(THOUGHT_END).strip()
    if THOUGHT_END in reply:
        # Some data have the thought twice, in a field of its own and in the reply.
        if thought in reply.partition(THOUGHT_END)[0]:
            return reply
        raise InvalidRecord(
            "fields",
            f"{name} has a thought, and another one before {THOUGHT_END} in its reply; keep one",
        )
    return f"{thought}\n{THOUGHT_END}\n\n{reply.lstrip()}"


def _part(part, role: str, name: str, images: list) -> str:
    """Reads one part of a turn as text; adds the image or the film that it holds to `images`.

    {"type": "text", "text": "Sum?"} -> "Sum?"
    {"type": "image"} -> "<image>", the next image of the record
    {"type": "image", "index": 1} -> "<image 2>", the second image of the record
    {"type": "image", "image": "a.png"}, {"type": "image_url", "image_url": {"url": "a.png"}}
    {"type": "video", "video": "a.mp4", "fps": 2} -> "<video>"
    """
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        part = {"type": type(part).__name__}
    filled = {key: value for key, value in part.items() if not is_empty(value)}
    text = filled.pop("text", "")
    index = filled.pop("index", None)
    kind = filled.pop("type", None)
    if kind is None:
        is_video = any(key in VIDEO_PARTS for key in filled)
        kind = "video" if is_video else "image" if filled else "text"
        kind = "text" if text else kind
    if kind in TEXT_PARTS and isinstance(text, str):
        unread = filled
    elif kind in IMAGE_PARTS and role != "assistant":
        unread = {"text": text} if text else {}
        marker = chat.IMAGE_MARKER
        image = {k: v for k, v in filled.items() if k not in media.DESCRIBING_KEYS}
        if image:
            images.append(_part_image(image))
        elif isinstance(index, int):
            marker = f"<image {index + 1}>"
        text = marker
    elif kind in VIDEO_PARTS and role != "assistant" and index is None:
        unread = {"text": text} if text else {}
        video = {k: v for k, v in filled.items() if k not in films.DESCRIBING_KEYS}
        video.pop("cache_control", None)
        if video:
            film = films.read_film(video, f"{name}: a part of type {kind!r}")
            images.append(films.FilmPart(film))
        text = films.VIDEO_MARKER
    else:
        raise InvalidRecord(
            "fields",
            f"{name}, by the {role}: a part of type {str(kind)[:50]!r}; "
            "wanted text, image or video",
        )
    unread = [str(key)[:50] for key in unread if key != "cache_control"]
    if unread:
        raise InvalidRecord(
            "fields", f"{name}: a part of type {kind!r} with {', '.join(unread)}"
        )
    return text


def _part_image(image: dict):
    """Returns what a part shows; Anthropic's have it one level deeper.

    {"source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0..."}}
    """
    source = image.get("source")
    return source if isinstance(source, dict) and len(image) == 1 else image
