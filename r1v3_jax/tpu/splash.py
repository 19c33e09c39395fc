"""Estimates the kernels of splash attention from the shapes of their operands.

The compiler has no figure for a Pallas kernel, and these do not state their cost. The cycles are
those of jax's kernels in the compiler's low-level program (LLO) for v5p.
"""

import math
import re
from dataclasses import dataclass

from r1v3_jax.tpu import hlo
from r1v3_jax.tpu.chips import CHIPS, Chip


@dataclass(frozen=True)
class Kernel:
    """What one of the three kernels costs on a v5p."""

    tile_cycles: int  # for 512 queries x 512 keys, with 5% for waiting
    step_cycles: int  # of the grid
    row_cycles: int  # for 512 queries
    flops: float  # as a multiple of the forward pass's
    block: str  # name of its block size in the kernel's metadata


KERNELS = {
    "fwd": Kernel(1216, 450, 700, 1.0, "block_q"),
    "dq": Kernel(1613, 163, 215, 1.5, "block_q_dq"),
    "dkv": Kernel(2150, 332, 380, 2.0, "block_q_dkv"),
}
REACHED = 0.9  # of the speed that these cycles give


def kernel_of(op: hlo.Op) -> str | None:
    """Returns "fwd", "dq" or "dkv" if `op` is a splash kernel, else None."""
    match = re.match(r"splash_m[qh]a_(fwd|dq|dkv)", op.name)
    return match and match[1]


def cost(op: hlo.Op, ops: hlo.Ops, chip: Chip) -> tuple[float, float]:
    """Returns the seconds and FLOPs of a splash kernel."""
    name = kernel_of(op)
    kernel = KERNELS[name]
    shapes = [ops[operand].shape for operand in op.operands]
    arrays = [hlo.arrays(shape)[0] for shape in shapes]

    # 1. Sizes. The queries are the first array of numbers of highest rank, [mapped axes, heads, T,
    # H]; the keys have no heads, [mapped axes, S, H].
    numbers = [hlo.dims(array) for array in arrays if array[0] in "bf"]
    *mapped, heads, length, width = max(numbers, key=len)
    key_rank = len(mapped) + 2
    shapes_of_keys = (x for x in numbers if len(x) == key_rank and x[-1] == width)
    keys = next(shapes_of_keys)[-2]
    match = re.search(rf"{kernel.block}\W+(\d+)", op.text)
    stated_block = int(match[1]) if match else 1024
    block = min(stated_block, length)
    causal = _is_causal(op, arrays, length, block)

    # 2. Cycles of one head. Causal, 4 blocks of 512 queries against 4 of keys and 2 of the prompt
    # before them: 4 * 5 / 2 + 4 * 2 = 18 tiles.
    blocks = length / block
    prompt_blocks = (keys - length) / block
    own_pairs = blocks * (blocks + 1) / 2 if causal else blocks**2
    tiles = (own_pairs + prompt_blocks * blocks) * (block / 512) ** 2
    # The grid has a step for each pair of blocks, whether or not the mask leaves it out.
    steps = blocks * (blocks + prompt_blocks)
    cycles = (
        tiles * kernel.tile_cycles
        + steps * kernel.step_cycles
        + length / 512 * kernel.row_cycles
    )

    # 3. Seconds. The cores share what the kernel declares parallel: the axes over which it is
    # mapped, in the forward pass its heads too. 10 heads on 2 cores: 5 turns.
    rows = math.prod(mapped)
    parallel = rows * heads if name == "fwd" else rows
    rounds = math.ceil(parallel / chip.cores)
    turns = rounds * rows * heads / parallel
    # The cycles are v5p's, for heads of 128. Other chips are assumed to come as near their peak.
    v5p = CHIPS["v5p"]
    v5p_core_flops = v5p.flops / v5p.cores
    core_flops = chip.flops / chip.cores
    cycle_seconds = v5p_core_flops / core_flops / v5p.clock
    width_tiles = math.ceil(width / 128)
    seconds = turns * cycles * cycle_seconds * width_tiles / REACHED

    # 4. FLOPs: 4 a pair of query and key and number of the head's width, without the masked half.
    visible_keys = keys - length / 2 if causal else keys
    pairs = length * visible_keys
    flops = kernel.flops * 4 * pairs * width * rows * heads
    return seconds, flops


def _is_causal(op: hlo.Op, arrays: list[str], length: int, block: int) -> bool:
    """Tells whether a query sees only the keys of its own sequence that come before it."""
    integers = [array for array in arrays if array.startswith("s32")]
    # A causal mask is computed in the kernel from the positions of the queries. These are the only
    # integers along T besides the segments of queries and of keys. Other masks are assumed full.
    along_queries = [array for array in integers if length in hlo.dims(array)[-2:]]
    segments = 2 if "segmented" in op.name else 0
    if len(along_queries) > segments:
        return True
    # A mask passed in blocks, [n, block, ...], is that of samples behind prompts. The estimate is
    # for a sample that fills its row: it sees the whole prompt, and is causal itself.
    return any(hlo.dims(array)[1:2] == [block] for array in integers)
