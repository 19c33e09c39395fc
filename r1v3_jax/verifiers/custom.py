"""A rule of one's own: "package.module:function", function(answer, box) -> bool.

It runs in a process of `pool`, with its deadline and its memory. Rows are data and choose no code:
which functions they may name is the config's to say (`Verify.custom`).
"""

import importlib
import re
from collections.abc import Callable

is_name = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*").fullmatch


def load(name: str) -> Callable[[str, str], bool]:
    """The function; imports its module."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def difference(name: str, answer: str, box: str) -> str | None:
    """None if the function says True, a few words if it says False; TypeError for anything else,
    and whatever it raises itself.
    """
    verdict = load(name)(answer, box)
    if not isinstance(verdict, bool):
        raise TypeError(f"{name} returned {type(verdict).__name__}, wanted True or False")
    return None if verdict else f"as {name} says"
