"""Describes TPU chips: their peaks, and how much of them programs reach.

Knows nothing of programs. What was compared with measurements: `estimate.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One chip: peaks as published, all rates per second."""

    name: str
    flops: float  # of bfloat16, at peak
    clock: float  # Hz, of the compiler's `estimated_cycles`
    cores: int  # that share its memory and, mostly, its work
    hbm: float  # bytes
    hbm_gib: float  # that a program may use, as the compiler reports it
    link: float  # bytes, one way, of one link to a neighbour
    axes: int  # of the torus that the links form
    network: float  # bytes, one way, to other slices: its share of its host's
    streamed: float  # part of `hbm` at which a matrix is read for a few rows

    @property
    def reached_flops(self) -> float:
        return REACHED * self.flops

    @property
    def reached_hbm(self) -> float:
        return REACHED * self.hbm

    @property
    def streamed_hbm(self) -> float:
        """Bytes a second of a matrix that is multiplied by the few rows of a decoded token."""
        return self.streamed * self.hbm

    @property
    def attended_hbm(self) -> float:
        """Bytes a second of keys and values that a decoded token attends to."""
        return ATTENDED * self.hbm

    def rings(self, dims: Sequence[int]) -> list[bool]:
        """Tells which axes of a slice close to a ring (scaling-book, tpus.md).

        In three dimensions all axes of a slice made of whole 4x4x4 cubes: 4x4x8 has three rings,
        2x4x4 none. In two dimensions an axis of 16 chips: 8x16 has one ring.
        """
        whole_cubes = all(size % 4 == 0 for size in dims)
        return [whole_cubes if self.axes == 3 else size == 16 for size in dims]


# FLOP/s and bytes/s: cloud.google.com/tpu/docs. Links: 90% of the nominal 100, 50, 100 GB/s of the
# scaling-book. Clock: the one at which the matrix units have the published peak (v5p: 2 cores x 4
# units of 128 x 128). Usable memory: what the compiler refuses to exceed. Network, "data center
# network bandwidth" of cloud.google.com/tpu/docs: v5p 50 Gbit/s a chip; v5e 6.4 and v6e 25.6 Tbit/s
# for a pod of 256 chips.
#
# Streamed: fitted to published decoding steps (`published.py`). v6e: those of SGLang-JAX and vLLM.
# v5e: jax-llm-examples with Llama-3.1-70B in 8 bits, a plain loop in JAX, takes 12.5 ms a token, of
# which the weights alone take 10.8 at all of the 819 GB/s. v5p: as v6e; none was published.
# fmt: off
CHIPS = {
    "v5p": Chip("v5p", 459e12, 1.75e9, 2, 2765e9, 95.74, 90e9, 3, 6.25e9, 0.68),
    "v5e": Chip("v5e", 197e12, 1.50e9, 1, 819e9, 15.75, 45e9, 2, 3.125e9, 0.95),
    "v6e": Chip("v6e", 918e12, 1.75e9, 1, 1640e9, 31.25, 90e9, 2, 12.5e9, 0.68),
}
# fmt: on

# The part of peak FLOP/s and of peak bytes/s that is reached. That of FLOP/s was read off
# MaxText's 32B recipe (84.7%).
REACHED = 0.85

# The part of peak bytes/s at which keys and values are read, by kernels and by products of the
# compiler's: what SGLang-JAX's steps grow by with rows and with prompts (`published.py`).
ATTENDED = 0.40

OP_SECONDS = 1e-6  # to start and finish an op
# The same of an op that moves less than SMALL_BYTES. A decoded token has two thousand of those: at
# 1e-6 each they would take more than jax-llm-examples' whole step leaves beside its weights.
SMALL_OP_SECONDS = 0.4e-6
SMALL_BYTES = 2**16
HOP_SECONDS = 1e-6  # from a chip to its neighbour
NETWORK_SECONDS = 1e-4  # from a slice to another, assumed
HOST_RATE = 16e9  # bytes/s between a chip and its host, nominal (scaling-book)
