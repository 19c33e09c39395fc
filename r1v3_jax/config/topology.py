"""Reads the names of TPU slices: "v5p:4x4x8" is 128 chips of a v5p, in a torus of 4 x 4 x 8.

Several of them in one run: "2 x v5p:4x4x8". The chips of a slice are joined by fast links; slices
reach each other by the network of the data centre, which is slower by two orders of magnitude.
"""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Topology:
    """The chips of a run: one slice of a pod, whose links form a torus, or several alike."""

    kind: str  # "v5p", "v5e" or "v6e"
    dims: tuple[int, ...]  # chips of a slice along each axis of its torus
    slices: int = 1

    @property
    def slice_name(self) -> str:
        """The name of one slice: "v5p:4x4x8"."""
        return f"{self.kind}:{'x'.join(map(str, self.dims))}"

    @property
    def name(self) -> str:
        """What `parse` reads: "v5p:4x4x8", "2 x v5p:4x4x8"."""
        several = f"{self.slices} x " if self.slices > 1 else ""
        return several + self.slice_name

    @property
    def chips_a_slice(self) -> int:
        return math.prod(self.dims)

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slices * self.chips_a_slice

    @property
    def hosts(self) -> int:
        """Machines of all slices: 4 chips each, except that a small slice has a single one.

        A machine of a v5e or v6e can have 8 chips, one of a v5p 4.
        """
        if self.kind != "v5p" and self.chips_a_slice <= 8:
            return self.slices
        return self.slices * max(1, self.chips_a_slice // 4)

    @property
    def accelerator_type(self) -> str:
        """Google's name of one slice: "v5litepod-8" has 8 chips, "v5p-256" has 128."""
        kind = "v5litepod" if self.kind == "v5e" else self.kind
        # The names of v5p slices count the two cores of each chip.
        cores = 2 if self.kind == "v5p" else 1
        return f"{kind}-{cores * self.chips_a_slice}"


# Slices that Google rents, by kind: sizes of each axis. A v5p slice can also be any multiple of
# 4x4x4 with its sizes in rising order, such as 8x8x12.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
KINDS = {
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    "v5e": FLAT,
    "v6e": FLAT,
}


def parse(name: str) -> Topology:
    """Reads a slice, or several: "v5p:4x4x8", "2 x v5p:4x4x8", "2xv5p:4x4x8".

    ValueError, with names that would do, if there is no such slice or no such number of them.
    """
    # 1. How many slices: "2 x v5p:4x4x8" -> "2", "v5p:4x4x8". A name alone is one slice.
    several = re.fullmatch(r"(\S*?) ?x ?([a-z]\w*:.*)", name)
    count, slice_name = several.groups() if several else ("1", name)
    # Written back, so that 0, 02, -1 and "two" are refused.
    if not count.isdecimal() or count != str(int(count)) or count == "0":
        raise ValueError(
            f"topology {name!r}: {count!r} is no number of slices; 2 x {slice_name} would do"
        )

    # 2. Which slice.
    kind, _, sizes = slice_name.partition(":")
    if kind not in KINDS:
        raise ValueError(
            f"topology {name!r}: kinds are {', '.join(KINDS)}, as in v5p:4x4x8, or in "
            "2 x v5p:4x4x8 for two slices"
        )
    dims = tuple(int(n) for n in sizes.split("x") if n.isdecimal())
    if sizes not in KINDS[kind] and not _is_large_v5p(kind, sizes, dims):
        multiples = ", or multiples of 4 in rising order" if kind == "v5p" else ""
        raise ValueError(
            f"topology {name!r}: {kind} has {', '.join(KINDS[kind])}{multiples}"
        )
    return Topology(kind, dims, int(count))


def _is_large_v5p(kind: str, sizes: str, dims: tuple[int, ...]) -> bool:
    if kind != "v5p" or len(dims) != 3:
        return False
    whole_cubes = all(n > 0 and n % 4 == 0 for n in dims)
    # Written back, so that 8x4x4 and 04x4x4 are refused.
    return whole_cubes and sizes == "x".join(map(str, sorted(dims)))
