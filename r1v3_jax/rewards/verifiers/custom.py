"""A rule of one's own: "package.module:function", function(answer, box) -> bool, or 0 to 1.

It runs in a process of `pool`, with its deadline and its memory. Rows are data and choose no code:
which functions they may name is the config's to say (`Verify.custom`).
"""

import importlib
import re
from collections.abc import Callable

is_name = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*").fullmatch


def load(name: str) -> Callable[[str, str], bool | float]:
    """The function; imports its module."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def difference(name: str, answer: str, box: str) -> tuple[str | None, float | None]:
    """None if the function says True or 1, else a few words; and the number, if it is one.

    TypeError or ValueError for anything else, and whatever it raises itself.
    """
    said = load(name)(answer, box)
    if not isinstance(said, bool | int | float):
        raise TypeError(
            f"{name} returned {type(said).__name__}, wanted True, False or 0 to 1"
        )
    if not 0 <= said <= 1:
        raise ValueError(f"{name} returned {said:g}, wanted True, False or 0 to 1")
    worth = round(float(said), 6)
    return None if worth == 1 else f"as {name} says", None if isinstance(
        said, bool
    ) else worth
