"""The two answers of a row of preferences: the one that is preferred, and the other one."""

from r1v3_jax.data.fields import InvalidRecord, is_empty, read_text
from r1v3_jax.data.turns import read_turns

PAIR_FIELDS = ("chosen", "rejected")


def has_pair(record: dict) -> bool:
    """Returns whether a record has two answers to compare: texts, or turns.

    A number in a field `chosen`, and one answer alone, are facts about a row.
    """
    values = [record.get(name) for name in PAIR_FIELDS]
    return all(
        isinstance(value, str | list | dict) and not is_empty(value) for value in values
    )


def add_pair(record: dict, row: dict) -> None:
    """Writes the two answers of a record into a canonical row, as texts.

    The row has its question and the turns before it. An answer is a text, a turn, or a list of
    turns: the assistant's alone, or behind the turns of the prompt. InvalidRecord for others, and
    for a third answer.

        {"chosen": "5", "rejected": "6"}
        {"chosen": [{"role": "assistant", "content": "5"}], "rejected": [...]}
        {"chosen": [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", ...}], ...}
    """
    asked = [turn["content"] for turn in row["before"]] + [row["question"]]
    for name in PAIR_FIELDS:
        row[name] = _answer(record[name], name, asked)
    if row["chain"] not in (None, row["chosen"]):
        raise InvalidRecord(
            "fields", "a reply beside chosen and rejected, which differs from chosen"
        )
    row["chain"] = None


def _answer(value, name: str, asked: list[str]) -> str:
    """Returns the text of an answer. asked: the contents of the turns before it."""
    if isinstance(value, str):
        return read_text(value, name)
    turns, _ = read_turns(value if isinstance(value, list) else [value])
    *prompt, reply = turns
    if reply["role"] != "assistant":
        raise InvalidRecord("fields", f"{name} ends with a turn of the {reply['role']}")
    if prompt and [turn["content"] for turn in prompt] != asked:
        raise InvalidRecord(
            "fields", f"{name} begins with other turns than the row's; leave them out"
        )
    return reply["content"]
