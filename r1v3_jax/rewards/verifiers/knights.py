"""Compares who is a knight and who is a knave, as Logic-RL reads it (arXiv 2502.14768).

An answer can be read if it has as many of the words "knight" and "knave" as there are people, and
each person stands in it as "NAME is a knight" or "NAME is a knave". Numbers, order and what stands
between do not count, nor does the case of letters.
"""

import re

from r1v3_jax.rewards.verifiers.verdict import UNREADABLE

WRONG = "another role"

_STATED = re.compile(
    r"(?<![\w'-])([^\W\d_][\w'-]*)\s+is\s+a\s+(knight|knave)\b", re.IGNORECASE
)
_ROLE = re.compile("knight|knave", re.IGNORECASE)


def difference(answer: str, box: str) -> str | None:
    """Says how a box differs from the answer; None if everybody has the right role.

    UNREADABLE if it cannot be read, WRONG if somebody has another role. ValueError for an answer
    that names nobody, or somebody in two roles.
    """
    wanted = roles_of_reference(answer)
    roles = read_roles(box, list(wanted))
    if roles is None:
        return UNREADABLE
    return None if roles == wanted else WRONG


def roles_of_reference(answer: str) -> dict[str, str]:
    r"""Returns the role of each person in a reference answer.

    "(1) Ada is a knight\n(2) Ben is a knave"   ->   {"Ada": "knight", "Ben": "knave"}
    """
    stated = _STATED.findall(answer)
    roles = {name: role.lower() for name, role in stated}
    if not roles or len(roles) != len(_ROLE.findall(answer)):
        raise ValueError(
            f"got the answer {answer[:200]!r}, wanted everybody's role once, as "
            "(1) Ada is a knight (2) Ben is a knave"
        )
    return roles


def read_roles(text: str, names: list[str]) -> dict[str, str] | None:
    """Returns the role that a text gives to each of these people; None if it cannot be read."""
    if len(_ROLE.findall(text)) != len(names):
        return None
    roles = {}
    for name in names:
        stated = re.search(
            rf"(?<![\w'-]){re.escape(name)}\s+is\s+a\s+(knight|knave)\b",
            text,
            re.IGNORECASE,
        )
        if stated is None:
            return None
        roles[name] = stated[1].lower()
    return roles
