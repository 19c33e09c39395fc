"""Pallas kernels for TPU that decode on the stacked cache [L, B, K, S, H] of one device.

Both are given the whole cache: `attend` reads one layer of it, `append` writes a token's keys and
values of all layers at once. No layer is ever sliced out or copied. Letters as in `layers.py`; S
are the slots of a row.

    attend   grid (rows, blocks of slots), the running softmax in the blocks of its outputs

                         block 0     block 1     block 2     block 3
        lengths[0] = 6   [x x x x]   [x x - -]       .           .
        lengths[1] = 9   [x x x x]   [x x x x]   [x - - -]       .
        lengths[2] = 0   [- - - -]       .           .           .

        x used   - fetched, never seen   . a step that does nothing and fetches nothing

    append   grid (rows, blocks of layers), one tile of slots each: read, one slot replaced,
             written back

XLA stores a cache whose heads are no multiple of 128 wide as [L, B, K, H, S], which needs less
padding (`as_stored`); the kernels take it as it lies.

Any S is right, but choose a multiple of 128: one that is not even a multiple of 8 makes XLA store
the cache in yet another order, and copy it on the way into and out of every program.

What is absent: several devices (the caller wraps these in `shard_map`), a backward pass, pages.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1v3_jax.models.attention import LANES, NEVER

STEP_BYTES = 2**21  # of keys and values a step, at most; twice that stands in VMEM


@functools.partial(jax.jit, static_argnames=("block", "interpret"))
def attend(
    q: jax.Array,
    k_cache: jax.Array,
    v_cache: jax.Array,
    layer: jax.Array,
    lengths: jax.Array,
    rows: jax.Array | None = None,
    order: jax.Array | None = None,
    *,
    block: int = 2048,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One query a row against the first `lengths` slots of that row in `layer`.

    q [B, K, Q, H], not yet scaled; k_cache, v_cache [L, B, K, S, H] of the same dtype; layer
    int32[]; lengths int32[B]. With s = q k / sqrt(H), gives, all float32, what a softmax over these
    and other keys is put together from:

        out    [B, K, Q, H]  sum exp(s - top) v
        top    [B, K, Q]     max s, NEVER for a row of length 0
        total  [B, K, Q]     sum exp(s - top)

    `block` slots at most are fetched in a step; what lies in slots not in use is never seen.

    With rows and order, int32[B], query b goes against row rows[b] of a cache of any number of
    rows, and order[0] is served first. If the slots of a row are one block, neighbours in that
    order that share a row fetch it once.
    """
    B, K, Q, H = q.shape
    S, itemsize = k_cache.shape[3], q.dtype.itemsize
    check(q.dtype, k_cache, v_cache)
    size = block_size(K, S, H, itemsize, block)
    given = () if rows is None else (order, rows)

    def slots(step, s, layer, lengths, *given):
        b = query(step, given)
        row = given[1][b] if given else b
        return layer[0], row, 0, block_to_fetch(s, lengths[b], size), 0

    def row(width):
        return pl.BlockSpec(
            (None, K, Q, width),
            lambda step, s, layer, lengths, *given: (query(step, given), 0, 0, 0),
        )

    cache = block_spec((None, None, K, size, H), slots)
    column = jax.ShapeDtypeStruct((B, K, Q, 1), jnp.float32)
    out, top, total = pl.pallas_call(
        functools.partial(_attend, slot_axis=slot_axis(H), scale=H**-0.5, given=len(given)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2 + len(given),
            grid=(B, pl.cdiv(S, size)),
            in_specs=[row(H), cache, cache],
            out_specs=[row(H), row(1), row(1)],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, jnp.float32), column, column],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(  # of a full cache
            flops=4 * B * K * Q * S * H,
            transcendentals=B * K * Q * S,
            bytes_accessed=2 * B * K * S * H * itemsize + B * K * Q * (H * (itemsize + 4) + 8),
        ),
        name="decode_attend",
        interpret=interpret,
    )(
        layer.reshape(1), jnp.minimum(lengths, S), *given,
        q, as_stored(k_cache), as_stored(v_cache),
    )  # fmt: skip
    return out, top[..., 0], total[..., 0]


def query(step, given):
    """Which query a step serves: `given` are order and rows, or nothing."""
    return given[0][step] if given else step


def _attend(layer, lengths, *refs, slot_axis, scale, given):
    """One row, one block: q [K, Q, H]; k, v [K, size, H] or [K, H, size]; out [K, Q, H]; top and
    total [K, Q, 1].

    The outputs stay in VMEM over the steps of a row, and hold what is true of the slots so far.
    """
    given, (q, k, v, out, top, total) = refs[:given], refs[given:]
    step, size = pl.program_id(1), k.shape[slot_axis]
    left = (
        lengths[query(pl.program_id(0), given)] - step * size
    )  # slots in use from this block on

    def used(shape, axis):
        return jax.lax.broadcasted_iota(jnp.int32, shape, axis) < left

    def matmul(x, y, contract):  # of x's last axis
        dims = (((1,), (contract,)), ((), ()))
        return jax.lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)

    @pl.when(step == 0)
    def _():
        out[...] = jnp.zeros_like(out)
        top[...] = jnp.full_like(top, NEVER)
        total[...] = jnp.zeros_like(total)

    @pl.when(left > 0)
    def _():
        for head in range(k.shape[0]):
            scores = matmul(q[head], k[head], 2 - slot_axis) * scale  # [Q, size]
            scores = jnp.where(used(scores.shape, 1), scores, NEVER)
            # Selected, not only weighted with 0: 0 * nan is nan.
            values = jnp.where(used(v.shape[1:], slot_axis - 1), v[head], 0)
            before = top[head]
            top[head] = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
            weights, shrink = jnp.exp(scores - top[head]), jnp.exp(before - top[head])
            total[head] = total[head] * shrink + jnp.sum(weights, axis=1, keepdims=True)
            new = matmul(weights.astype(v.dtype), values, slot_axis - 1)
            out[head] = out[head] * shrink + new


@functools.partial(jax.jit, static_argnames=("interpret",))
def append(
    k_cache: jax.Array,
    v_cache: jax.Array,
    k_new: jax.Array,
    v_new: jax.Array,
    slots: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The caches [L, B, K, S, H] with k_new, v_new [L, B, K, H] at slot slots[b] of row b.

    In place where the caches are donated or carried. slots int32[B], not negative; a slot from S on
    writes nothing. Memory moves in tiles, so the 8 (float32) or 16 (bfloat16) slots around it are
    read and written, or 128 where the slots lie last.
    """
    L, B, K, S, H = k_cache.shape
    axis, itemsize = slot_axis(H), k_new.dtype.itemsize
    check(k_new.dtype, k_cache, v_cache)
    tile = min(S, 32 // itemsize if axis == 1 else LANES)

    most = max(
        STEP_BYTES // (4 * K * tile * H * itemsize), 1
    )  # keys and values, in and out
    layers = max(n for n in range(1, min(most, L) + 1) if L % n == 0)

    def place(b, i, slots):
        return i, b, 0, jnp.minimum(slots[b], S - 1) // tile, 0

    shape = (K, 1, H) if axis == 1 else (K, H, 1)
    new = pl.BlockSpec((layers, None, *shape), lambda b, i, slots: (i, b, 0, 0, 0))
    cache = block_spec((layers, None, K, tile, H), place)
    stored = as_stored(k_cache), as_stored(v_cache)
    written = pl.pallas_call(
        functools.partial(_append, slot_axis=axis, count=S),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, L // layers),
            in_specs=[new, new, cache, cache],
            out_specs=[cache] * 2,
        ),
        out_shape=[jax.ShapeDtypeStruct(stored[0].shape, k_cache.dtype)] * 2,
        input_output_aliases={3: 0, 4: 1},  # counting `slots`
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel")
        ),
        cost_estimate=pl.CostEstimate(
            flops=0,
            transcendentals=0,
            bytes_accessed=2 * L * B * K * (2 * tile + 1) * H * itemsize,
        ),
        name="decode_append",
        interpret=interpret,
    )(slots, k_new.reshape(L, B, *shape), v_new.reshape(L, B, *shape), *stored)
    return as_stored(written[0], H), as_stored(written[1], H)


def _append(slots, k_new, v_new, k_old, v_old, k, v, *, slot_axis, count):
    """One row, some layers: k_new, v_new [L, K, 1, H] or [L, K, H, 1]; the others their tile of
    slots.
    """
    slot, axis = slots[pl.program_id(0)], slot_axis + 1
    offset = jnp.where(slot < count, slot % k.shape[axis], -1)
    here = jax.lax.broadcasted_iota(jnp.int32, k.shape, axis) == offset
    k[...] = jnp.where(here, k_new[...], k_old[...])
    v[...] = jnp.where(here, v_new[...], v_old[...])


# -------------------------------------------------------------------------------------------------
# blocks


def block_size(K: int, S: int, H: int, itemsize: int, block: int) -> int:
    """Slots a step: `block` or what STEP_BYTES allow, evened out over the steps of a full row.

    A multiple of 128, or all S; the last block may reach past S, where nothing is fetched or used.
    """
    most = min(block, STEP_BYTES // (2 * K * H * itemsize)) // LANES * LANES
    size = pl.cdiv(S, pl.cdiv(S, max(most, LANES)))
    return min(S, size + -size % LANES)


def block_to_fetch(step: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Past the last block in use, that block again: what is there already is not fetched again."""
    return jnp.minimum(step, jnp.maximum(pl.cdiv(length, size) - 1, 0))


def slot_axis(H: int) -> int:
    """Where the slots are in a block of a row as stored: 1 of [K, S, H], or 2 of [K, H, S]."""
    return 1 if H % LANES == 0 else 2


def as_stored(cache: jax.Array, head_dim: int | None = None) -> jax.Array:
    """[L, B, K, S, H] -> the same or [L, B, K, H, S], and back when given H: a bitcast."""
    return (
        cache
        if slot_axis(head_dim or cache.shape[-1]) == 1
        else jnp.swapaxes(cache, 3, 4)
    )


def block_spec(shape: tuple, index) -> pl.BlockSpec:
    """A block [layers, rows, K, slots, H] and its index, turned to what is stored."""
    if slot_axis(shape[-1]) == 1:
        return pl.BlockSpec(shape, index)

    def turned(*args):
        *rest, slot, head = index(*args)
        return *rest, head, slot

    return pl.BlockSpec((*shape[:3], shape[4], shape[3]), turned)


def check(dtype, k_cache: jax.Array, v_cache: jax.Array):
    if not dtype == k_cache.dtype == v_cache.dtype or dtype not in (
        jnp.bfloat16,
        jnp.float32,
    ):
        raise ValueError(
            f"got {dtype} for caches of {k_cache.dtype} and {v_cache.dtype}; all must be bfloat16, "
            "or all float32"
        )
