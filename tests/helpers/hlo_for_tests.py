"""Small HLO programs for the tests of the estimate, and what a v5p reaches."""

import itertools

import pytest

from r1v3_jax.tpu.chips import CHIPS
from r1v3_jax.tpu.estimate import Estimate, estimate

V5P = CHIPS["v5p"]
V5E = CHIPS["v5e"]
MATRIX = 0.85 * 459e12  # FLOP/s that v5p reaches
MEMORY = 0.85 * 2765e9  # bytes/s that v5p reaches
US = 1e-6  # for an op, and for a hop from chip to chip
CUBE = list(itertools.product(range(4), repeat=3))  # partitions 0 to 3: a ring along z
RING = "replica_groups=[16,4]<=[64], use_global_device_ids=true"

WEIGHTS = """
    %x = bf16[4096,8192]{1,0:T(8,128)(2,1)} parameter(0)
    %w = bf16[8192,4096]{1,0:T(8,128)(2,1)} parameter(1)
"""
MATMUL = "bf16[4096,4096]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
MATMUL_FLOPS = 2 * 4096 * 8192 * 4096
MATMUL_S = MATMUL_FLOPS / MATRIX  # 705 us


def run(
    entry: str, computations: str = "", *, chip=V5P, coords=CUBE, **options
) -> Estimate:
    """Estimates a module with these ops, of which the last line is the root."""
    ops = [line.strip() for line in entry.strip().splitlines()]
    ops[-1] = "ROOT " + ops[-1]
    body = "\n".join("  " + op for op in ops)
    hlo = (
        "HloModule test, is_scheduled=true\n"
        f"{computations}\n"
        f"ENTRY %main () -> f32[] {{\n{body}\n}}\n"
    )
    result = estimate(hlo, chip=chip, coords=coords, **options)
    assert sum(result.parts.values()) == pytest.approx(result.seconds)
    return result
