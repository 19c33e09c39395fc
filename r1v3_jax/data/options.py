"""Options of a multiple-choice question that a record has beside the question.

They are written below the question, one a line, as "(A) cat", unless it shows them already.
"""

import hashlib
import re

import numpy as np

from r1v3_jax.data import media
from r1v3_jax.data.fields import (
    InvalidRecord,
    is_empty,
    is_number,
    parse_list,
    read_text,
)
from r1v3_jax.rewards.verifiers import boxes

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Fields that hold all options: a list, {"A": ...}, or a text with either in it.
LIST_FIELDS = (
    "options choices option answer_choices multiple_choices candidates endings"
).split()
# Fields that hold one option each, by letter or number: A, option_a, choiceB, opa, answerA.
SINGLE_FIELD = re.compile(
    r"([A-J])|(?i:(?:options?|choices?|op)[ _]?([A-J]|\d{1,2}))|answer_?([A-J])"
)
# Keys of an option that is an object: {"label": "A", "text": "cat"}.
LABEL_KEYS = ("label", "id", "key", "letter", "option")
TEXT_KEYS = ("text", "content", "value")
# What may stand between the letter of an option and its text.
_AFTER_LETTER = r"[*]*\s*[).:）：、．\]]\s*[*]*\s*"
_OWN_LABEL = re.compile(rf"[(\[*]*([A-Z]){_AFTER_LETTER}(.*)", re.DOTALL)
_LABEL_IN_TEXT = re.compile(rf"(?:^|\s)[(\[*]*([A-J]){_AFTER_LETTER}")

Options = list[tuple[str, str]]  # (letter, text) each


def option_fields(fields: dict, is_nested: bool = False) -> list[str]:
    """Lists the fields of a record, or of an object in it, that hold options."""
    filled = [name for name, value in fields.items() if not is_empty(value)]
    lists = [
        name
        for name in filled
        # {"choices": 4} counts them.
        if str(name).lower() in LIST_FIELDS and not is_number(fields[name])
    ]
    single = [name for name in filled if SINGLE_FIELD.fullmatch(str(name))]
    # In metadata, A and B may be anything.
    single = [name for name in single if len(name) > 1 or not is_nested]
    # A column that is called A alone is no option.
    return lists + single if len(single) > 1 else lists


def add_options(record: dict, row: dict) -> None:
    """Writes the options of a record into the question of a row.

    An answer that is the text of an option becomes its letter, for the letter is what is asked for.
    InvalidRecord for options that cannot be read, or that differ from field to field.
    """
    found = _options(record)
    question = row["question"]
    if not found or not isinstance(question, str):
        return
    # A question that lists the texts alone asks for a text.
    if _lists_texts(question, found):
        return
    if not _shows(question, found):
        row["question"] = "\n".join([question.rstrip(), *map(_line, found)])
    row["answer"] = _letter(row, found)


def drawn_options(record: dict, count: int = 4) -> dict:
    """Draws options from an answer and its negative answers, as SEED-Bench-R1 does for training.

    Returns the question with the options below it, and the letter of the answer. A row has the same
    options each time: they are drawn by its name and texts. InvalidRecord for too few negatives.

        answer "boil water", negatives ["cut bread", "open fridge", "wash cup", "close tap"]
        ->   "(A) wash cup\n(B) boil water\n(C) cut bread\n(D) close tap", answer "B"
    """
    answer = _text(record.get("answer"), "answer")
    negatives = record.get("negative_answers")
    if not isinstance(negatives, list):
        raise _problem("negative_answers", negatives)
    texts = [_text(text, "negative_answers") for text in negatives]
    # The same wrong answer twice is one option.
    others = [text for text in dict.fromkeys(texts) if text and text != answer]
    if not answer or len(others) < count - 1:
        raise InvalidRecord(
            "fields",
            f"negative_answers: {len(others)} that differ from the answer, wanted {count - 1}",
        )
    question = read_text(record.get("question"), "question").rstrip()
    name = "\0".join([str(record.get("sample_id")), question, answer])
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    drawn = [others[i] for i in rng.choice(len(others), count - 1, replace=False)]
    drawn.insert(int(rng.integers(count)), answer)
    lines = map(_line, zip(LETTERS, drawn, strict=False))
    return {
        "question": "\n".join([question, *lines]),
        "answer": LETTERS[drawn.index(answer)],
    }


def _line(option: tuple[str, str]) -> str:
    letter, text = option
    # Options that are only letters are explained in the picture.
    return f"({letter})" if text == letter else f"({letter}) {text}"


def _options(record: dict) -> Options:
    """Returns the options of a record; [] if it has none."""
    by_field = {}
    for prefix, fields in media.places(record):
        single = {}
        for name in option_fields(fields, is_nested=bool(prefix)):
            match = SINGLE_FIELD.fullmatch(str(name))
            if match is None:
                read = _read(fields[name], prefix + name)
                by_field |= {prefix + name: read} if read else {}
            else:
                label = (match[1] or match[2] or match[3]).upper()
                if single.setdefault(label, fields[name]) != fields[name]:
                    raise InvalidRecord(
                        "fields", f"{prefix}{name}: another field is option {label}"
                    )
        if single:
            shown = f"{prefix}options {', '.join(single)}"
            by_field[shown] = _by_label(single, shown)
    fields = list(by_field)
    for field in fields[1:]:
        if by_field[field] != by_field[fields[0]]:
            raise InvalidRecord(
                "fields", f"other options in {fields[0]} than in {field}; keep one"
            )
    return by_field[fields[0]] if fields else []


def _read(value, field: str) -> Options:
    """Reads the options of one field.

    ["cat", "dog"], {"A": "cat", "B": "dog"}, "['cat', 'dog']", "A. cat\\nB. dog",
    {"label": ["A", "B"], "text": ["cat", "dog"]}, [{"label": "A", "text": "cat"}, ...]
    """
    if isinstance(value, str):
        parsed = parse_list(value)
        value = _split(value) if parsed is None else parsed
    # MMMU writes "[]" where a question has no options.
    if value == []:
        return []
    if isinstance(value, dict):
        labels = _entry(value, LABEL_KEYS)
        texts = _entry(value, TEXT_KEYS)
        if not (isinstance(labels, list) and isinstance(texts, list)):
            return _by_label(value, field)
        value = [
            {"label": label, "text": text}
            for label, text in zip(labels, texts, strict=False)
        ]
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        raise _problem(field, value)
    if all(isinstance(option, dict) for option in value):
        return _by_label(dict(_labelled(option, field) for option in value), field)
    return _by_letter([_text(option, field) for option in value], field)


def _split(text: str) -> list[str] | None:
    """Cuts a text into its options: "(A) cat (B) dog", or one a line; None if it has none."""
    matches = list(_LABEL_IN_TEXT.finditer(text))
    if len(matches) > 1 and not text[: matches[0].start()].strip():
        ends = [match.start() for match in matches[1:]] + [len(text)]
        pairs = zip(matches, ends, strict=True)
        return [text[match.start() : end].strip(" \n;,") for match, end in pairs]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 else None


def _entry(value: dict, keys: tuple[str, ...]):
    """Returns the first of these entries that is there."""
    return next((value[key] for key in keys if key in value), None)


def _labelled(option: dict, field: str) -> tuple:
    """Returns (label, text) of {"label": "A", "text": "cat"} or of {"A": "cat"}."""
    label = _entry(option, LABEL_KEYS)
    text = _entry(option, TEXT_KEYS)
    if label is not None and text is not None and isinstance(label, str | int):
        return label, text
    if len(option) == 1:
        return next(iter(option.items()))
    raise _problem(field, option)


def _by_label(labelled: dict, field: str) -> Options:
    """Reads {label: text}. Labels are A, B, ... or numbers from 0 or 1, in any order."""
    filled = {
        str(key).strip("(). "): x for key, x in labelled.items() if not is_empty(x)
    }
    labels = sorted(filled, key=lambda label: (len(label), label))
    count = len(labels)
    from_a = list(LETTERS[:count])
    counted = [[str(i + start) for i in range(count)] for start in (0, 1)]
    if count < 2 or [label.upper() for label in labels] not in (from_a, *counted):
        raise _problem(field, labelled)
    return _by_letter([_text(filled[label], field) for label in labels], field)


def _by_letter(texts: list[str], field: str) -> Options:
    """Gives texts the letters A, B, ...; letters that all of them bring are taken off first."""
    letters = LETTERS[: len(texts)]
    matches = [_OWN_LABEL.fullmatch(text) for text in texts]
    own = [match[1] for match in matches if match]
    if own == list(letters):
        texts = [match[2].strip() or match[1] for match in matches]
    # "B. 3" as the first option: nobody could tell which letter is meant.
    elif len(own) == len(texts):
        raise _problem(field, texts)
    return list(zip(letters, texts, strict=True))


def _text(option, field: str) -> str:
    """Reads the text of one option; InvalidRecord for one that is a picture."""
    if not isinstance(option, str) and not is_number(option):
        raise _problem(field, option)
    text = read_text(option, field).strip()
    if problem := media.media_in(text):
        raise InvalidRecord("fields", f"{field}: an option is {problem}; wanted a text")
    return text


def _problem(field: str, value) -> InvalidRecord:
    wanted = 'wanted a list of 2 to 26 texts, or {"A": text, ...}'
    return InvalidRecord("fields", f"{field}: options {str(value)[:80]!r}; {wanted}")


def _pattern(text: str) -> str:
    """Matches a text whatever its spaces, also between dollars."""
    words = text.strip("$ ").split()
    return r"\$?" + r"\s+".join(map(re.escape, words)) + r"\$?(?!\w)"


def _shows(question: str, options: Options) -> bool:
    """Whether a question shows all options in order with their letters: "A. cat  B. dog"."""
    position = 0
    for letter, text in options:
        text = "" if text == letter else _pattern(text)
        option = re.compile(rf"(?<!\w){letter}{_AFTER_LETTER}{text}")
        match = option.search(question, position)
        if match is None:
            return False
        position = match.end()
    return True


def _lists_texts(question: str, options: Options) -> bool:
    """Whether a question lists the texts of all options in order: "Options: cat, dog"."""
    between = r"\s*(?:[,;|/\n]|\bor\b|,\s*or\b)\s*"
    texts = between.join(_pattern(text) for _, text in options)
    return re.search(rf"(?<!\w){texts}", question) is not None


def _letter(row: dict, options: Options):
    """Returns the letter of the option that the answer is; another answer as it is.

    InvalidRecord for a number that is no option: an index from 0 or from 1, nobody knows.
    """
    answer = row["answer"]
    if is_empty(answer) or not (isinstance(answer, str) or is_number(answer)):
        return answer
    text = boxes.unboxed(str(answer)).strip("$ ")
    letters = [letter for letter, option in options if option.strip("$ ") == text]
    is_letter = text in [letter for letter, _ in options]
    # A verifier that the row names compares what the row has, and a chain may end in the text.
    reply = row["chain"] if isinstance(row["chain"], str) else ""
    is_kept = row["verifier"] or text in boxes.find_boxes(reply)[0]
    if len(letters) == 1 and not is_letter and not is_kept:
        return letters[0]
    if re.fullmatch(r"\d+", text) and not letters:
        raise InvalidRecord(
            "answer",
            f"{text[:20]} is neither the letter nor the text of an option; write the letter",
        )
    # Nobody who sees two options answers E.
    if re.fullmatch("[A-Z]", text) and not letters and not is_letter:
        last = options[-1][0]
        raise InvalidRecord("answer", f"{text} is no option: they are A to {last}")
    return answer
