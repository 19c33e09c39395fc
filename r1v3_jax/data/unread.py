"""What a record holds and nothing reads: refused by its name where a row would lose something.

Pictures, films and sounds, thoughts and weights are refused. Other small fields are metadata, and
other long ones are not read: a caption, a worked solution.
"""

from r1v3_jax.data import films, media, turns
from r1v3_jax.data.fields import InvalidRecord, is_empty, parse_list
from r1v3_jax.data.options import LIST_FIELDS, option_fields

# Fields of a record with a thought that is in no turn, besides `turns.THOUGHT_KEYS`.
THOUGHT_FIELDS = (
    *turns.THOUGHT_KEYS,
    *"think thought thoughts rationale rationales cot chain_of_thought".split(),
    *"thinking_trajectory thinking_trajectories deepseek_thinking_trajectory".split(),
)
# Fields of a record that weigh it or its turns in the loss. A number in `weight` may be a fact.
WEIGHT_FIELDS = "loss_weight loss_weights sample_weight loss_mask".split()
LIST_WEIGHT_FIELDS = "weight weights message_weights turn_weights train_on".split()


def unread_fields(fields: dict, read: tuple[str, ...], is_nested: bool = False) -> dict:
    """Returns the fields of a record, or of an object in it, that nothing reads.

    read: the names that its schema reads.
    """
    known = {*read, *option_fields(fields, is_nested)}
    return {
        name: value
        for name, value in fields.items()
        if name not in known
        and not is_empty(value)
        and not media.is_image_field(name, value)
        and not films.is_film_field(name, value)
    }


def check_unread(record: dict, chain, read: tuple[str, ...]) -> None:
    """InvalidRecord if a record holds what a row must not lose, in a field that nothing reads.

    chain: the reply of the row; a thought that is in it is not lost.
    """
    places = dict(media.places(record))
    # The nested objects have turns of their own in this loop.
    nested = [prefix.removesuffix(".") for prefix in places]
    for prefix, fields in places.items():
        names = () if prefix else (*read, *nested)
        left = unread_fields(fields, names, is_nested=bool(prefix))
        for name, value in left.items():
            _check_text_field(f"{prefix}{name}"[:100], str(name).lower(), value, chain)
        _refuse_media(left, prefix)


def _check_text_field(path: str, name: str, value, chain) -> None:
    """InvalidRecord if a field is a thought, or a weight that is not 1."""
    if name in THOUGHT_FIELDS and not isinstance(value, bool | int | float):
        thought, end, _ = str(chain).partition(turns.THOUGHT_END)
        is_in_chain = end and isinstance(value, str) and value.strip() in thought
        if not is_in_chain:
            raise InvalidRecord(
                "fields",
                f"{path}: a thought that is in no reply; write it into the chain, as "
                r"thought\n</think>\n\nreply",
            )
    is_weight = name in WEIGHT_FIELDS
    if is_weight or (name in LIST_WEIGHT_FIELDS and isinstance(value, list)):
        weights = value if isinstance(value, list) else [value]
        if any(weight != 1 for weight in weights):
            raise InvalidRecord(
                "fields",
                f"{path}: weights of the loss, which are not read; leave them out",
            )


def _refuse_media(fields: dict, prefix: str) -> None:
    """InvalidRecord for a picture, a film or a sound in these fields, however deep."""
    # A list and not a recursion: a record may be nested as deep as Python's stack.
    waiting = [(f"{prefix}{name}", "", value) for name, value in fields.items()]
    while waiting:
        path, key, value = waiting.pop()
        problem = ""
        if isinstance(value, bytes | bytearray) and value:
            problem = "bytes"
        elif isinstance(value, str) and value:
            problem = media.media_in(value)
            waiting.append((path, key, parse_list(value)))
        elif isinstance(value, dict):
            waiting += [(f"{path[:150]}.{name}", name, x) for name, x in value.items()]
        elif isinstance(value, list):
            waiting += [(path, key, entry) for entry in value]
        # Numbers are counts: {"images": 2}.
        if isinstance(value, str | list | dict) and not is_empty(value):
            problem = problem or _by_name(key, value)
        if problem:
            raise InvalidRecord(
                "fields", f"{path[:150]}: {problem}, in a field that is not read"
            )


def _by_name(key, value) -> str:
    """Says what the key of an object in a field promises; "" for other keys."""
    key = str(key).lower()
    if key in media.IMAGE_FIELDS or media.NUMBERED_FIELD.fullmatch(key):
        return "an image, by its name"
    if media.FILM_FIELD.fullmatch(key):
        return "a film or a sound, by its name"
    # Frames as a list of numbers are times.
    is_list = isinstance(value, list) and any(isinstance(x, str | dict) for x in value)
    if is_list and films.FRAME_FIELD.fullmatch(key):
        return "frames of a film, by their name"
    if key in LIST_FIELDS:
        return "options, by their name"
    return "a thought" if key in turns.THOUGHT_KEYS else ""
