"""Reads the names of TPU slices: "v5p:4x4x8" is 128 chips of a v5p, in a torus of 4 x 4 x 8."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of a pod: chips whose links form a torus."""

    kind: str  # "v5p", "v5e" or "v6e"
    dims: tuple[int, ...]  # chips along each axis of the torus

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.dims))}"

    @property
    def chips(self) -> int:
        return math.prod(self.dims)

    @property
    def hosts(self) -> int:
        """Machines of the slice: 4 chips each, except that a small slice has a single one.

        A machine of a v5e or v6e can have 8 chips, one of a v5p 4.
        """
        if self.kind != "v5p" and self.chips <= 8:
            return 1
        return max(1, self.chips // 4)

    @property
    def accelerator_type(self) -> str:
        """Google's name of the slice: "v5litepod-8" has 8 chips, "v5p-256" has 128."""
        kind = "v5litepod" if self.kind == "v5e" else self.kind
        # The names of v5p slices count the two cores of each chip.
        count = 2 * self.chips if self.kind == "v5p" else self.chips
        return f"{kind}-{count}"


# Slices that Google rents, by kind: sizes of each axis. A v5p slice can also be any multiple of
# 4x4x4 with its sizes in rising order, such as 8x8x12.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
KINDS = {
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    "v5e": FLAT,
    "v6e": FLAT,
}


def parse(name: str) -> Slice:
    """Returns the slice of that name; ValueError, with names that would do, if there is none."""
    kind, _, sizes = name.partition(":")
    if kind not in KINDS:
        raise ValueError(
            f"topology {name!r}: kinds are {', '.join(KINDS)}, as in v5p:4x4x8"
        )
    dims = tuple(int(n) for n in sizes.split("x") if n.isdecimal())
    if sizes not in KINDS[kind] and not _is_large_v5p(kind, sizes, dims):
        multiples = ", or multiples of 4 in rising order" if kind == "v5p" else ""
        raise ValueError(
            f"topology {name!r}: {kind} has {', '.join(KINDS[kind])}{multiples}"
        )
    return Slice(kind, dims)


def _is_large_v5p(kind: str, sizes: str, dims: tuple[int, ...]) -> bool:
    if kind != "v5p" or len(dims) != 3:
        return False
    whole_cubes = all(n > 0 and n % 4 == 0 for n in dims)
    # Written back, so that 8x4x4 and 04x4x4 are refused.
    return whole_cubes and sizes == "x".join(map(str, sorted(dims)))
