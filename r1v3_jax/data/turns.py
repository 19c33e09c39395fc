"""Turns of a conversation in a record: who speaks, and what is said."""

from r1v3_jax.data.fields import InvalidRecord, read_text
from r1v3_jax.processing import chat

# What a turn may name its speaker, and the role that is meant.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    **{role: role for role in chat.ROLES},
}


def dialogue(turns) -> dict:
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


def are_objects(turns) -> bool:
    return isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)


def read_turns(turns) -> list[dict]:
    """Reads turns as [{"role", "content"}, ...] with contents as text.

    Parts that are images become markers. InvalidRecord for other parts and other roles.
    """
    if not are_objects(turns):
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
