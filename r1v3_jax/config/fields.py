"""What the fields of a config may hold, and a config in words."""

import dataclasses
import functools


def require(config, names: str, holds, wanted: str) -> None:
    """ValueError unless `holds(value)` of each of the fields `names`; wanted: what that means."""
    for name in names.split():
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(
                f"{type(config).__name__}.{name} is {value!r}; it must be {wanted}"
            )


def one_of(config, name: str, choices: tuple[str, ...]) -> None:
    """ValueError unless the field is one of the choices."""
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(
            f"{type(config).__name__}.{name} is {value!r}; choose from {', '.join(choices)}"
        )


def positive(n) -> bool:
    return n >= 1


def flatten_fields(config, prefix: str = "") -> dict[str, str]:
    """{"grpo.optimizer.lr": "1e-05", ...}: every field, the same words in every process: functions
    by name and by what they enclose.
    """
    if not dataclasses.is_dataclass(config):
        return {prefix: _format_value(config)}
    out = {}
    for field in dataclasses.fields(config):
        name = f"{prefix}.{field.name}" if prefix else field.name
        out |= flatten_fields(getattr(config, field.name), name)
    return out


def _format_value(value) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_format_value, value))}{',' * (len(value) == 1)})"
    if dataclasses.is_dataclass(value):
        inner = (
            f"{f.name}={_format_value(getattr(value, f.name))}"
            for f in dataclasses.fields(value)
        )
        return f"{type(value).__name__}({', '.join(inner)})"
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.items()]
        return f"partial({', '.join(map(_format_value, parts))})"
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_format_value(k)}: {_format_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, str | int | float | bytes | None):
        return repr(value)
    # A function, or an object of one's own: its name, and what it holds.
    holds = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    holds += getattr(value, "__defaults__", None) or ()
    if (owner := getattr(value, "__self__", None)) is not None:
        holds.append(owner)
    if not hasattr(value, "__qualname__"):
        holds += [vars(value)] if hasattr(value, "__dict__") else []
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{name}({', '.join(map(_format_value, holds))})" if holds else name
