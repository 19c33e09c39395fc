"""Estimates the kernels of splash attention from the shapes of their operands.

The compiler has no figure for a Pallas kernel, and these do not state their cost. The cycles are
those of jax's kernels in the compiler's low-level program (LLO) for v5p.
"""

import math
import re
from dataclasses import dataclass

from r1v3_jax.tpu import hlo
from r1v3_jax.tpu.chips import CHIPS, Chip
from r1v3_jax.tpu.hlo import Op, Ops


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


def kernel_of(op: Op) -> str | None:
    """Returns "fwd", "dq" or "dkv" if `op` is a splash kernel, else None."""
    match = re.match(r"splash_m[qh]a_(fwd|dq|dkv)", op.name)
    return match and match[1]


@dataclass(frozen=True)
class Call:
    """The sizes of one call of a kernel."""

    rows: int  # over which it is mapped
    heads: int
    queries: int
    keys: int  # those of the prompt come first
    width: int  # of a head
    block: int  # queries, and keys, of a block
    is_causal: (
        bool  # a query sees only the keys of its own sequence before it, and the prompt
    )


def cost(op: Op, ops: Ops, chip: Chip) -> tuple[float, float]:
    """Returns the seconds and FLOPs of a splash kernel."""
    name = kernel_of(op)
    kernel = KERNELS[name]
    call = read_call(op, ops, kernel)

    # 1. Seconds. The cores share what the kernel declares parallel: the rows over which it is
    # mapped, in the forward pass its heads too. 10 heads on 2 cores: 5 turns.
    parallel = call.rows
    if name == "fwd":
        parallel *= call.heads
    rounds = math.ceil(parallel / chip.cores)
    turns = rounds * call.rows * call.heads / parallel
    # The cycles are v5p's, for heads of 128. Other chips are assumed to come as near their peak.
    v5p = CHIPS["v5p"]
    v5p_core_flops = v5p.flops / v5p.cores
    core_flops = chip.flops / chip.cores
    cycle_seconds = v5p_core_flops / core_flops / v5p.clock
    width_tiles = math.ceil(call.width / 128)
    cycles = cycles_of_a_head(call, kernel)
    seconds = turns * cycles * cycle_seconds * width_tiles / REACHED

    # 2. FLOPs: 4 a pair of query and key and number of the head's width, without the masked half.
    visible_keys = call.keys
    if call.is_causal:
        visible_keys -= call.queries / 2
    pairs = call.queries * visible_keys
    flops = kernel.flops * 4 * pairs * call.width * call.rows * call.heads
    return seconds, flops


def read_call(op: Op, ops: Ops, kernel: Kernel) -> Call:
    """Reads the sizes from the shapes of the operands, and the block from the metadata."""
    shapes = [ops[operand].shape for operand in op.operands]
    arrays = [hlo.arrays(shape)[0] for shape in shapes]
    # The queries are the first array of numbers of highest rank, [mapped axes, heads, T, H]; the
    # keys have no heads, [mapped axes, S, H].
    numbers = [hlo.dims(array) for array in arrays if array[0] in "bf"]
    *mapped, heads, queries, width = max(numbers, key=len)
    key_rank = len(mapped) + 2
    of_keys = (x for x in numbers if len(x) == key_rank and x[-1] == width)
    keys = next(of_keys)[-2]
    match = re.search(rf"{kernel.block}\W+(\d+)", op.text)
    stated_block = int(match[1]) if match else 1024
    block = min(stated_block, queries)
    return Call(
        rows=math.prod(mapped),
        heads=heads,
        queries=queries,
        keys=keys,
        width=width,
        block=block,
        is_causal=_is_causal(op, arrays, queries, block),
    )


def cycles_of_a_head(call: Call, kernel: Kernel) -> float:
    """Returns the cycles of a v5p for one head of one row.

    Causal, 4 blocks of 512 queries, 4 of keys, and 2 of the prompt: 4 * 5 / 2 + 4 * 2 = 18 tiles.
    """
    blocks = call.queries / call.block
    prompt_blocks = (call.keys - call.queries) / call.block
    own_pairs = blocks**2
    if call.is_causal:
        own_pairs = blocks * (blocks + 1) / 2
    tiles_a_pair = (call.block / 512) ** 2
    tiles = (own_pairs + prompt_blocks * blocks) * tiles_a_pair
    # The grid has a step for each pair of blocks, whether or not the mask leaves it out.
    steps = blocks * (blocks + prompt_blocks)
    return (
        tiles * kernel.tile_cycles
        + steps * kernel.step_cycles
        + call.queries / 512 * kernel.row_cycles
    )


def _is_causal(op: Op, arrays: list[str], queries: int, block: int) -> bool:
    """Tells from the integers among the operands whether the mask is causal."""
    integers = [array for array in arrays if array.startswith("s32")]
    sizes = [hlo.dims(array) for array in integers]
    # A causal mask is computed in the kernel from the positions of the queries. These are the only
    # integers along T besides the segments of queries and of keys. Other masks are assumed full.
    along_queries = [size for size in sizes if queries in size[-2:]]
    segments = 2 if "segmented" in op.name else 0
    if len(along_queries) > segments:
        return True
    # A mask passed in blocks, [n, block, ...], is that of samples after prompts. The estimate is
    # for a sample that fills its row: it sees the whole prompt, and is causal itself.
    return any(size[1:2] == [block] for size in sizes)
