"""Films of records: which fields hold them, in what forms, and which part of them is asked for.

A film of a canonical row is a plain dict. It has its file, `{"video": "a.mp4"}` or bytes, or its
frames, `{"frames": ["1.jpg", "2.jpg"]}`, and of ASKED what the record asks for.
"""

import dataclasses
import re

from r1v3_jax.data import media
from r1v3_jax.data.fields import (
    InvalidRecord,
    first_filled,
    is_empty,
    is_number,
    parse_list,
)
from r1v3_jax.processing import chat
from r1v3_jax.processing.video import frame_prompt
from r1v3_jax.types import Example, Film

VIDEO_MARKER = "<video>"  # in message text: the frames of the next film go here
# Fields that hold films: a path, bytes, base64, frames, an object with one of these, or a list.
VIDEO_FIELD = re.compile(
    r"(?:video|film|movie)s?(?:_?(?:path|file|url|bytes|data|base64)s?)?"
)
FRAME_FIELD = re.compile(r"(?:video_?)?frames?(?:_?(?:path|file)s?)?")
# Fields that are a film's if what they hold ends like the name of one: a.mp4.
NAME_FIELDS = (
    "path file url file_name filename video_id video_uid video_name clip_path".split()
)

# Keys of a film as an object.
CONTENT_KEYS = ("bytes", "data", "base64", "video_bytes")
NAMING_KEYS = "video path file file_name filename video_path video_url url film".split()
FRAME_KEYS = ("frames", "images")
DESCRIBING_KEYS = (
    "type format mime_type media_type name id width height duration size min_pixels max_pixels "
    "total_pixels resized_height resized_width"
).split()
# What an object may ask for: the key of a record -> that of a canonical row.
ASKED = {
    **dict.fromkeys(("num_frames", "nframes"), "num_frames"),
    **dict.fromkeys(("fps", "video_fps"), "fps"),
    "min_frames": "min_frames",
    "max_frames": "max_frames",
    **dict.fromkeys(("start", "video_start", "start_time", "start_sec"), "start"),
    **dict.fromkeys(("end", "video_end", "end_time", "end_sec"), "end"),
    "last": "last",
}
# Keys with [start, end] in seconds.
PART_KEYS = ("clip", "segment", "bound", "time_range", "timestamps")
COUNTS = ("num_frames", "min_frames", "max_frames")
# Beside a film, these may say how the film is as well as how it is to be shown.
AMBIGUOUS = (
    "num_frames nframes fps video_fps sample_fps min_frames max_frames"
).split()

_VIDEO_NAME = media.name_pattern(media.VIDEO_ENDINGS)


@dataclasses.dataclass(frozen=True)
class FilmPart:
    """A film that a part of a turn holds, among the images of the turns."""

    film: dict  # as in a canonical row


# 1. Which fields


def is_film_field(name: str, value) -> bool:
    """Whether a field is read as one with films, by its name and what it holds."""
    name = str(name).lower()
    if name in NAME_FIELDS:
        return isinstance(value, str) and bool(_VIDEO_NAME.fullmatch(value))
    if FRAME_FIELD.fullmatch(name):
        return isinstance(value, list | dict | str | bytes)
    return bool(VIDEO_FIELD.fullmatch(name)) and not media.is_flag(value)


def split_turns(in_turns: list) -> tuple[list, list[dict]]:
    """Splits what the turns of a record hold into (images, films)."""
    films = [part.film for part in in_turns if isinstance(part, FilmPart)]
    images = [part for part in in_turns if not isinstance(part, FilmPart)]
    return images, films


def all_films(record: dict, in_turns: list[dict]) -> list[dict]:
    """Returns the films of a record, those in its turns and those in its fields.

    InvalidRecord if two fields have films that are not the same, for a sound, for what cannot be
    read, and for a number beside a film that may be the film's own.
    """
    columns = [("a part of a turn", in_turns)] if in_turns else []
    for prefix, fields in media.places(record):
        for name, value in fields.items():
            field = f"{prefix}{name}"
            if is_empty(value):
                continue
            if is_film_field(name, value):
                columns.append((field, _read_field(value, field)))
            elif media.SOUND_FIELD.fullmatch(str(name).lower()):
                if not media.is_flag(value):
                    raise media.film_problem(field, "a sound, which is not read")
            elif media.FILM_FIELD.fullmatch(str(name).lower()):
                if not media.is_flag(value):
                    raise media.film_problem(field, "films as a list in videos")
    films = _one_set(columns)
    return _with_part(record, films) if films else []


def _one_set(columns: list[tuple[str, list[dict]]]) -> list[dict]:
    """Returns the films of a record that may have them in several fields."""
    if not columns:
        return []
    # The field with the most films, and among equals the one that asks for the most.
    best_field, best = max(
        columns, key=lambda column: (len(column[1]), sum(map(len, column[1])))
    )
    for field, films in columns:
        if not all(any(_is_part(film, other) for other in best) for film in films):
            raise InvalidRecord(
                "fields",
                f"films in {best_field[:100]} and others in {field[:100]}; keep one of the two",
            )
    return best


def _is_part(film: dict, other: dict) -> bool:
    """Whether a film is the other one, and asks for nothing else."""
    return film.items() <= other.items()


def _with_part(record: dict, films: list[dict]) -> list[dict]:
    """Adds the part that fields beside the one film of a record ask for."""
    for prefix, fields in media.places(record):
        for name, value in fields.items():
            key = str(name).lower()
            if key in AMBIGUOUS and is_number(value):
                raise InvalidRecord(
                    "fields",
                    f"{prefix}{key}: the film's own, or wanted of it? Leave it out, or write it "
                    'into the film: {"video": ..., "fps": 2}',
                )
            is_asked = key in PART_KEYS or ASKED.get(key) in ("start", "end")
            if not is_asked or is_empty(value):
                continue
            asked = _asked(key, value, f"{prefix}{key}")
            if len(films) > 1 and not all(_is_part(asked, film) for film in films):
                raise InvalidRecord(
                    "fields",
                    f"{prefix}{key}: of which film? Write it into its own object",
                )
            films = [_checked(film | asked, f"{prefix}{key}") for film in films]
    return films


# 2. One film


def _read_field(value, field: str) -> list[dict]:
    """Reads a field with films: a list of them, a text that holds a list, or one alone."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        parsed = parse_list(value)
        value = value if parsed is None else parsed
    name = field.rpartition(".")[2].lower()
    if FRAME_FIELD.fullmatch(name):
        return [_frames(value, field)]
    if not isinstance(value, list):
        return [read_film(value, field)]
    # ["1.jpg", "2.jpg"] are the frames of one film; ["a.mp4", "b.mp4"] are two films.
    if all(_is_image(entry) for entry in value):
        return [_frames(value, field)]
    return [read_film(entry, field) for entry in value]


def read_film(film, field: str = "videos") -> dict:
    """Reads a film: a path, bytes, base64, a data: URI, frames, or an object with one of these.

    InvalidRecord, with the field, for anything else.

        {"type": "video", "video": "a.mp4", "nframes": 4}  ->  {"video": "a.mp4", "num_frames": 4}
    """
    if isinstance(film, dict):
        return _from_object(film, field)
    if isinstance(film, list):
        return _frames(film, field)
    if isinstance(film, str) and film.strip():
        if film[:50].lstrip()[:5].lower() == "data:":
            film = media.from_uri(film)
        return {"video": film}
    if isinstance(film, bytes) and film:
        return {"video": film}
    kind = type(film).__name__
    wanted = "wanted a path, bytes, a list of frames, or an object with one of these"
    raise InvalidRecord("fields", f"{field[:100]}: a film of type {kind}; {wanted}")


def _from_object(film: dict, field: str) -> dict:
    """Reads {"video": path}, {"bytes", "path"}, {"frames": [...]}, {"video_url": {"url": ...}}."""
    filled = {key: value for key, value in film.items() if not is_empty(value)}
    known = {*CONTENT_KEYS, *NAMING_KEYS, *FRAME_KEYS, *DESCRIBING_KEYS}
    unknown = [str(k)[:50] for k in filled if k not in {*known, *ASKED, *PART_KEYS}]
    content = first_filled(filled, *CONTENT_KEYS)
    frames = first_filled(filled, *FRAME_KEYS)
    names = [read_film(filled[key], field) for key in NAMING_KEYS if key in filled]
    held = [content is not None, frames is not None, bool(names)]
    if unknown or not any(held) or (frames is not None and sum(held) > 1):
        keys = ", ".join(unknown or map(str, filled)) or "nothing"
        wanted = f"wanted one of {', '.join((*CONTENT_KEYS, *NAMING_KEYS, 'frames'))}"
        raise InvalidRecord("fields", f"{field[:100]}: a film of {keys}; {wanted}")
    if frames is not None:
        read = _frames(frames, field)
    # Where there are bytes, a path is only their name.
    elif content is not None:
        is_text = isinstance(content, str) and content[:5].lower() != "data:"
        content = media.from_base64(content) if is_text else content
        read = read_film(content, field)
    else:
        read = names[0]
        if any(name != read for name in names):
            keys = ", ".join(key for key in NAMING_KEYS if key in filled)
            raise InvalidRecord("fields", f"{field[:100]}: {keys} name different films")
    for key, value in filled.items():
        if key in ASKED or key in PART_KEYS:
            asked = _asked(key, value, f"{field}.{key}")
            twice = [
                name for name in asked if read.get(name, asked[name]) != asked[name]
            ]
            if twice:
                raise InvalidRecord(
                    "fields", f"{field[:100]}: two values of {twice[0]}"
                )
            read |= asked
    return _checked(read, field)


def _frames(frames, field: str) -> dict:
    """Reads the frames of a film: a list of images, each as `media.read_image` reads it."""
    if isinstance(frames, str) and frames.lstrip().startswith("["):
        frames = parse_list(frames)
    if not isinstance(frames, list) or not frames:
        wanted = "wanted a list of images"
        raise InvalidRecord(
            "fields", f"{field[:100]}: frames that are no list; {wanted}"
        )
    return {"frames": [media.read_image(frame, field).data for frame in frames]}


def _is_image(value) -> bool:
    """Whether an entry of a list is a picture, by its name, its keys or its first bytes."""
    if isinstance(value, dict):
        value = first_filled(value, "bytes", "path", "image", "url")
    if isinstance(value, bytes):
        return value.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")) or (
            value[:4] == b"RIFF" and value[8:12] == b"WEBP"
        )
    return isinstance(value, str) and media.is_image_text(value)


def _asked(key: str, value, field: str) -> dict:
    """Reads what is asked of a film under one key, as in a canonical row.

    "nframes", 4 -> {"num_frames": 4};  "clip", [2, 5.5] -> {"start": 2.0, "end": 5.5}
    """
    problem = InvalidRecord(
        "fields", f"{field[:100]} is {str(value)[:50]!r}, no number of it"
    )
    if key in PART_KEYS:
        if not isinstance(value, list) or len(value) != 2:
            raise InvalidRecord(
                "fields", f"{field[:100]} is {str(value)[:50]!r}, wanted [start, end]"
            )
        start, end = value
        return _asked("start", start, field) | _asked("end", end, field)
    name = ASKED[key]
    if name == "last":
        if not isinstance(value, bool):
            raise problem
        return {"last": True} if value else {}
    if not is_number(value) or value < 0:
        raise problem
    if name in COUNTS:
        if value < 1 or value != int(value):
            raise problem
        return {name: int(value)}
    if name == "fps" and value == 0:
        raise problem
    return {name: float(value)}


def _checked(film: dict, field: str) -> dict:
    """Returns a film; InvalidRecord if what is asked of it contradicts itself."""
    start = film.get("start", 0.0)
    end = film.get("end")
    if end is not None and end <= start:
        raise InvalidRecord(
            "fields",
            f"{field[:100]}: from {start:g} s to {end:g} s; wanted end > start",
        )
    if "num_frames" in film and ("fps" in film or "min_frames" in film):
        raise InvalidRecord(
            "fields", f"{field[:100]}: num_frames and fps; keep one of the two"
        )
    if film.get("min_frames", 1) > film.get("max_frames", film.get("min_frames", 1)):
        raise InvalidRecord("fields", f"{field[:100]}: min_frames above max_frames")
    if "frames" in film and film.keys() & {"fps", "start", "end"}:
        raise InvalidRecord(
            "fields", f"{field[:100]}: frames with fps, start or end; leave these out"
        )
    return film


# 3. Where they go


def place_films(row: dict, films: list[dict]) -> None:
    """Sets the films of a row; LLaVA-Video's markers, <image> for a film, become <video>."""
    row["videos"] = films
    if not films or row["images"]:
        return
    asked = [turn for turn in row["before"] if turn["role"] != "assistant"]
    texts = [(turn, "content") for turn in asked] + [(row, "question")]
    texts = [(holder, name) for holder, name in texts if isinstance(holder[name], str)]
    if any(VIDEO_MARKER in holder[name] for holder, name in texts):
        return
    markers = sum(holder[name].count(chat.IMAGE_MARKER) for holder, name in texts)
    if markers == len(films):
        for holder, name in texts:
            holder[name] = holder[name].replace(chat.IMAGE_MARKER, VIDEO_MARKER)


def with_frames(example: Example, shown: list, tiles: int) -> Example:
    """Returns an example with the frames of its films among its images.

    shown: a `processing.video.Frames` for each film. tiles: of one film, see `config.Video`.

        question "<video>Then <image>?", 2 frames
        ->   "Frame1: <image>\\nFrame2: <image>\\nThen <image>?", images (frame, frame, image)
    """
    texts = [content for _, content in example.before] + [example.question]
    roles = [role for role, _ in example.before] + ["user"]
    asked = [i for i, role in enumerate(roles) if role != "assistant"]
    # 1. Without markers, films and then images go in front of the first question.
    first = roles.index("user")
    for marker, count in (
        (chat.IMAGE_MARKER, len(example.images)),
        (VIDEO_MARKER, len(example.videos)),
    ):
        if count and not any(marker in texts[i] for i in asked):
            texts[first] = f"{marker}\n" * count + texts[first]

    # 2. The markers in order, each with its images.
    images = []
    films = []
    left_images = iter(example.images)
    left_films = iter(zip(example.videos, shown, strict=True))

    def replace(match: re.Match) -> str:
        if match[0].startswith(chat.IMAGE_MARKER):
            images.append(next(left_images))
            return match[0]
        video, frames = next(left_films)
        count = len(frames.images)
        limit = max(1, tiles // count)
        films.append(Film(len(images), frames.seconds, count, limit))
        images.extend(frames.images)
        # One frame that is an image of its own, as the view that a question is about.
        if video.last:
            return match[0].replace(VIDEO_MARKER, chat.IMAGE_MARKER)
        return frame_prompt(count)

    pattern = re.compile(rf"{chat.IMAGE_MARKER}|{VIDEO_MARKER}\n?")
    for i in asked:
        texts[i] = pattern.sub(replace, texts[i])
    before = tuple(zip(roles[:-1], texts[:-1], strict=True))
    return dataclasses.replace(
        example,
        images=tuple(images),
        question=texts[-1],
        before=before,
        videos=(),
        films=tuple(films),
    )
