"""Whether the sizes of a stage fit the mesh and the model of a run."""

import math

AXES = ("data", "fsdp", "tensor")


def check_splits(mesh: tuple[int, int, int], name: str, count: int, axes: str) -> None:
    """Raises ValueError unless `count` splits evenly over the named axes of the mesh.

    axes: names joined by spaces, as "data fsdp".
    """
    sizes = dict(zip(AXES, mesh, strict=True))
    parts = math.prod(sizes[axis] for axis in axes.split())
    if count % parts:
        nearest = -(-count // parts) * parts
        raise ValueError(
            f"{name} = {count} does not split over {' x '.join(axes.split())} = {parts} of "
            f"mesh {mesh}; {nearest} would do"
        )


def check_positions(
    run, name: str, length: int, *, room_for: str, taken: int = 0
) -> None:
    """Raises ValueError if `length` tokens are more than the model has positions for.

    taken: how many of them are fixed; the message names what is left for `room_for`.
    """
    positions = run.model.text.max_positions
    if length <= positions:
        return
    if taken:
        verb, change = "exceed", f"at most {positions - taken} {room_for} would do"
    else:
        verb, change = "exceeds", f"{positions} would do"
    raise ValueError(
        f"{name} = {length} {verb} the model's {positions} positions; {change}"
    )


def check_tiles(run, name: str, tiles: int) -> None:
    """Raises ValueError unless the tile slots split over all devices, at least one each."""
    if not tiles:
        raise ValueError(
            f"{name} = 0: this model has a vision tower, whose programs take at least one "
            f"tile a device; {math.prod(run.mesh)} would do"
        )
    check_splits(run.mesh, name, tiles, "data fsdp tensor")


# What a stage may train, as `trainable` names it.
PARTS = ("llm", "connector", "vision")


def parts_of(trainable: str) -> tuple[str, ...]:
    """Returns the parts that `trainable` names: all, or some joined by "+".

    ValueError for a part that does not exist.
    """
    parts = PARTS if trainable == "all" else tuple(trainable.split("+"))
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(
            f"trainable {trainable!r}: no part {unknown[0]!r}; name all, or some of "
            f"{', '.join(PARTS)} joined by +"
        )
    return parts


def check_trainable(name: str, trainable: str, model) -> None:
    """Raises ValueError if stage `name` trains parts that the model does not have."""
    try:
        parts = parts_of(trainable)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None
    if model.vision is None and "llm" not in parts:
        raise ValueError(
            f"{name}.trainable is {trainable!r}, and the model is a language model alone; 'llm' "
            "would do"
        )
