"""A rule of the user's: "package.module:function", function(answer, box) -> bool, or 0 to 1.

It runs in a process of `pool`, with the deadline and the memory limit of that process. Rows are
data and must not choose code: the config lists the functions that they may name
(`Verify.custom`).
"""

import importlib
import re
from collections.abc import Callable

is_name = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*").fullmatch


def load(name: str) -> Callable[[str, str], bool | float]:
    """Imports the module of "package.module:function" and returns the function."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def difference(name: str, answer: str, box: str) -> tuple[str | None, float | None]:
    """Calls the function; returns the difference it sees (None: the box is right) and the credit.

    The box is right if the function returns True or 1. The credit is None if it returns a bool,
    else its number, rounded to six digits.

    TypeError or ValueError for anything else than True, False or 0 to 1, and whatever the function
    raises itself.
    """
    result = load(name)(answer, box)
    if not isinstance(result, bool | int | float):
        raise TypeError(
            f"{name} returned {type(result).__name__}, wanted True, False or 0 to 1"
        )
    if not 0 <= result <= 1:
        raise ValueError(f"{name} returned {result:g}, wanted True, False or 0 to 1")
    # Other processes learn credits through float32, which holds six digits.
    worth = round(float(result), 6)
    problem = None if worth == 1 else f"as {name} says"
    return problem, None if isinstance(result, bool) else worth
