"""Program: a jitted function with the shapes it is given."""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Program:
    """name: of the jitted function; use: what it is for, and size: of its prompts, where it is
    compiled more than once; calls: a step of full size makes of it; trips: of its loop whose end
    depends on data, at most (1 where there is none), and what one is; resident: bytes on a chip
    meanwhile that it is not given; given: those of its arguments, which may lie beside other
    programs.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    use: str = ""
    size: str = ""
    calls: int = 1
    trips: int = 1
    trip: str = ""
    resident: int = 0
    given: int = 0

    @property
    def label(self) -> str:
        name = f"{self.use}_{self.name}" if self.use else self.name
        return f"{name}@{self.size}" if self.size else name

    @staticmethod
    def function(label: str) -> str:
        """The name of the jitted function of a label."""
        return label.partition("@")[0].removeprefix("probe_")


def concrete(shapes, mesh):
    """What `jax.eval_shape` gave, on the devices of `mesh`."""

    def put(x):
        spec = PartitionSpec() if x.sharding is None else x.sharding.spec
        return jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
        )

    return jax.tree.map(put, shapes)


def lower_on_mesh(
    mesh, lower: Callable[[], jax.stages.Lowered]
) -> Callable[[], jax.stages.Lowered]:
    def lowered():
        with jax.set_mesh(mesh):
            return lower()

    return lowered
