"""What the compiler says of one program of a run (`Compiled`). Every figure is an estimate."""

import dataclasses

from r1v3_jax.run.program import Program
from r1v3_jax.tpu.estimate import Estimate
from r1v3_jax.tpu.torus import ACROSS


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler reports about one program, for one chip. Sizes in bytes."""

    program: Program
    arguments: int
    peak: int  # with the arrays of other programs that are on the chip meanwhile
    limit: int
    estimate: Estimate | None  # None: it does not fit

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit

    @property
    def bytes_across_slices(self) -> float:
        """Returns what a chip sends to other slices in one call; 0 with one slice."""
        collectives = self.estimate.collectives.items()
        return sum(c.bytes for kind, c in collectives if kind.endswith(ACROSS))

    @property
    def seconds(self) -> float:
        """Returns the time of one call.

        The decoding kernel reads the slots in use: on average over the loop half of the cache. The
        estimate is that of a full cache.
        """
        full = self.estimate.seconds
        if self.program.trips > 1:
            return full - self.estimate.parts["kernels"] / 2
        return full
