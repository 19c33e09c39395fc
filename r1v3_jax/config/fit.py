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
