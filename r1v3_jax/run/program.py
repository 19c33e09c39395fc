"""A jitted function with the shapes that a run gives it (`Program`), for the dry run."""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function with the shapes and shardings that a run gives it."""

    name: str  # of the jitted function
    lower: Callable[[], jax.stages.Lowered]
    # "probe" for the rollout programs of a probe, "reference" for a reference of another size,
    # "helper" for the model that a term of the reward asks, with the term's name as size, "drafts"
    # for a draft head's own.
    use: str = ""
    size: str = ""  # of its prompts, "1024x128", if it is compiled for several
    calls: int = 1  # in a step of full size
    trips: int = 1  # upper bound of its data-dependent loop; 1: it has none
    trip: str = ""  # what one trip is: "micro-batch", "token with a full cache"
    resident: int = (
        0  # bytes on a chip that are not its arguments: other weights, moments
    )
    given: int = 0  # bytes of its arguments that other programs may find beside them

    @property
    def label(self) -> str:
        """As it is printed and chosen by --dry_run_only: "probe_decode", "update@1024x128"."""
        name = f"{self.use}_{self.name}" if self.use else self.name
        return f"{name}@{self.size}" if self.size else name

    @staticmethod
    def function(label: str) -> str:
        """Returns the name of the jitted function of a label."""
        name = label.partition("@")[0]
        for use in ("probe_", "reference_", "helper_", "drafts_"):
            name = name.removeprefix(use)
        return name


def concrete(shapes, mesh):
    """Puts what `jax.eval_shape` returned on the devices of `mesh`."""

    def put(x):
        spec = PartitionSpec() if x.sharding is None else x.sharding.spec
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(put, shapes)


def lower_on_mesh(
    mesh, lower: Callable[[], jax.stages.Lowered]
) -> Callable[[], jax.stages.Lowered]:
    """Returns a function that lowers a program with `mesh` as the current mesh."""

    def lowered():
        with jax.set_mesh(mesh):
            return lower()

    return lowered
