"""What the fields of a config may hold, and a config in words."""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

from r1v3_jax.losses.schedules import Number

TABLE = {"table": True}  # metadata of a field that holds configs by name
# Of a field that says where something is and not what: no flag, and in no identity.
PLACE = {"place": True}
# Of a field that came later than states which runs go on from: at its default it is in no
# identity, so that a state without it is of the same run.
LATER = {"later": True}


@dataclasses.dataclass(frozen=True)
class Limit:
    """What the values of a field must satisfy, written into its annotation."""

    holds: Callable[[Any], bool]
    wanted: str  # in words, for the error: "at least 1"


def at_least(low: float, why: str = "") -> Limit:
    """Allows values from `low` on; `why` goes into the error."""
    reason = f": {why}" if why else ""
    return Limit(lambda value: value >= low, f"at least {low}{reason}")


def positive(why: str = "") -> Limit:
    """Allows values above 0; `why` goes into the error."""
    reason = f": {why}" if why else ""
    return Limit(lambda value: value > 0, f"positive{reason}")


PositiveInt = Annotated[int, at_least(1)]  # of what there must be at least one
NonNegativeInt = Annotated[int, at_least(0)]  # 0 switches something off
PositiveFloat = Annotated[float, positive()]
NonNegativeFloat = Annotated[float, at_least(0)]
Share = Annotated[float, Limit(lambda value: 0 <= value <= 1, "between 0 and 1")]


def check(config) -> None:
    """Raises ValueError for the first field whose value its annotation does not allow.

    Reads two kinds of annotations: `Annotated[int, at_least(1)]`, and the choices of a
    `Literal["constant", "cosine"]`.
    """
    kind = type(config).__name__
    for name, hint in annotations(type(config)).items():
        value = getattr(config, name)
        # Annotated[int, at_least(1)] keeps its limits in `__metadata__`; other hints have none.
        for limit in getattr(hint, "__metadata__", ()):
            if isinstance(limit, Limit) and not limit.holds(value):
                raise ValueError(
                    f"{kind}.{name} is {value!r}; it must be {limit.wanted}"
                )
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            if value not in choices:
                raise ValueError(
                    f"{kind}.{name} is {value!r}; choose from {', '.join(choices)}"
                )


@functools.cache
def annotations(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass by field, in the order of its fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def children(config) -> dict[str, Any]:
    """The fields of a config by the names they have on the command line.

    A field that is a table of configs, as `Run.stages`, is replaced by what the table holds:
    --config.grpo.steps, not --config.stages.grpo.steps.
    """
    out = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if is_table(field):
            out |= value
        elif not field.metadata.get("place", False):
            out[field.name] = value
    return out


def is_table(field: dataclasses.Field) -> bool:
    """Whether a field is declared as a table of configs by name: `field(metadata=TABLE)`."""
    return field.metadata.get("table", False)


def algorithm_fields(config) -> tuple[str, ...]:
    """Returns the fields that hold an object chosen in a config file.

    `GRPO.loss` does, and `GRPO.kl_coef` where it moves with the run.
    """
    moving = [
        name
        for name, hint in annotations(type(config)).items()
        # A Number, or one with more: float | Callable | Adaptive.
        if all(kind in typing.get_args(hint) for kind in typing.get_args(Number))
        and dataclasses.is_dataclass(getattr(config, name))
    ]
    # One that may be a number as well, as `Collect.temperature`, is an object only where it is one.
    chosen = [
        name
        for name in getattr(type(config), "ALGORITHM", ())
        if not isinstance(getattr(config, name), int | float)
    ]
    return (*chosen, *moving)


def flatten_fields(config, prefix: str = "", *, older: bool = False) -> dict[str, str]:
    """Returns every field as {"grpo.optimizer.lr": "1e-05", ...}.

    older: without the fields that came LATER and have their default, as states of before have it.

    The words are the same in every process: functions appear by their name and by what they
    enclose. The object of an algorithm adds its own type: {"grpo.loss": "Clipped"}.
    """
    if not dataclasses.is_dataclass(config):
        return {prefix: format_value(config)}
    out = {}
    unchanged = later_at_default(config) if older else set()
    for name, value in children(config).items():
        if name in unchanged:
            continue
        path = f"{prefix}.{name}" if prefix else name
        # TokenMean() and SequenceMean() have no fields: without their types they would be equal.
        if name in algorithm_fields(config):
            out[path] = type(value).__name__
        out |= flatten_fields(value, path, older=older)
    return out


def later_at_default(config) -> set[str]:
    """Returns the fields declared as LATER that have their default."""
    return {
        field.name
        for field in dataclasses.fields(config)
        if field.metadata.get("later", False)
        and getattr(config, field.name) == field.default
    }


def format_value(value) -> str:
    """Writes a value the same way in every process, without memory addresses."""
    if isinstance(value, tuple):
        comma = "," * (len(value) == 1)
        return f"({', '.join(map(format_value, value))}{comma})"
    if dataclasses.is_dataclass(value):
        fields = [
            f"{field.name}={format_value(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if not field.metadata.get("place", False)
        ]
        return f"{type(value).__name__}({', '.join(fields)})"
    # A partial: the function, then what it was given, by place and by name.
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.items()]
        return f"partial({', '.join(map(format_value, parts))})"
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, dict):
        items = [f"{format_value(k)}: {format_value(v)}" for k, v in value.items()]
        return f"{{{', '.join(items)}}}"
    if isinstance(value, str | int | float | bytes | None):
        return repr(value)
    return _format_object(value)


def _format_object(value) -> str:
    """Writes a function, or an object of a user's class: its name, and what it encloses."""
    # A closure, default arguments, the object of a bound method: two functions of one name that
    # hold different values must not look alike.
    enclosed = [
        cell.cell_contents for cell in getattr(value, "__closure__", None) or ()
    ]
    enclosed += getattr(value, "__defaults__", None) or ()
    bound_to = getattr(value, "__self__", None)
    if bound_to is not None:
        enclosed.append(bound_to)
    # An object of a class without fields that dataclasses know: everything in it.
    if not hasattr(value, "__qualname__") and hasattr(value, "__dict__"):
        enclosed.append(vars(value))
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{name}({', '.join(map(format_value, enclosed))})" if enclosed else name
