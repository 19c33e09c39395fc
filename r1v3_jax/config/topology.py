"""TPU slices by name: "v5p:4x4x8" is 128 chips."""

import dataclasses
import functools


@dataclasses.dataclass(frozen=True)
class Slice:
    """kind: "v5p", ...; dims: chips along each axis of the torus; `name` has both."""

    kind: str
    dims: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.dims))}"

    @property
    def chips(self) -> int:
        return functools.reduce(lambda a, b: a * b, self.dims)

    @property
    def hosts(self) -> int:
        """Machines of the slice: 4 chips each, up to 8 in one where a v5e or v6e slice has no
        more.
        """
        return 1 if self.kind != "v5p" and self.chips <= 8 else max(1, self.chips // 4)

    @property
    def accelerator_type(self) -> str:
        """What Google calls it: v5p counts the two cores of a chip."""
        count = 2 * self.chips if self.kind == "v5p" else self.chips
        return f"{'v5litepod' if self.kind == 'v5e' else self.kind}-{count}"


# Slices that Google rents, by kind: sizes of each axis. From 4x4x4 on any v5p slice whose sizes are
# multiples of 4.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


KINDS = {
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    "v5e": FLAT,
    "v6e": FLAT,
}


def parse(name: str) -> Slice:
    """The slice of that name; ValueError if there is none, with names that would do."""
    kind, _, sizes = name.partition(":")
    if kind not in KINDS:
        raise ValueError(
            f"topology {name!r}: kinds are {', '.join(KINDS)}, as in v5p:4x4x8"
        )
    dims = tuple(int(n) for n in sizes.split("x") if n.isdecimal())
    large = kind == "v5p" and len(dims) == 3 and all(n and n % 4 == 0 for n in dims)
    if sizes not in KINDS[kind] and not (
        large and sizes == "x".join(map(str, sorted(dims)))
    ):
        more = ", or multiples of 4 in rising order" if kind == "v5p" else ""
        raise ValueError(
            f"topology {name!r}: {kind} has {', '.join(KINDS[kind])}{more}"
        )
    return Slice(kind, dims)
