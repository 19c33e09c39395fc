"""Pallas kernels for TPU that decode on the stacked cache [L, B, K, S, H] of one device.

Both take the whole cache: `attend` reads one layer of it, `append` writes a token's keys and
values of all layers at once. No layer is ever sliced out or copied. Letters as in `layers.py`; S
is the number of slots in a row.

    attend   grid (rows, blocks of slots), the running softmax in the blocks of its outputs

                         block 0     block 1     block 2     block 3
        lengths[0] = 6   [x x x x]   [x x - -]       .           .
        lengths[1] = 9   [x x x x]   [x x x x]   [x - - -]       .
        lengths[2] = 0   [- - - -]       .           .           .

        x used   - fetched, never seen   . a step that does nothing and fetches nothing

    append   grid (rows, blocks of layers), one tile of slots each: read, one slot replaced,
             written back

XLA stores a cache whose heads are no multiple of 128 wide as [L, B, K, H, S], which needs less
padding (`as_stored`); the kernels take it in that order.

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

# Keys and values that a step fetches, at most; VMEM holds twice that, as the next step's are
# fetched meanwhile.
STEP_BYTES = 2**21


# -------------------------------------------------------------------------------------------------
# attend


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
    """Attends with one query a row to the first `lengths` slots of that row in `layer`.

    q [B, K, Q, H], not yet scaled; k_cache, v_cache [L, B, K, S, H] of the same dtype; layer
    int32[]; lengths int32[B]. With s = q k / sqrt(H), returns a partial softmax, all float32, which
    `merge_softmax` combines with those over other keys:

        out    [B, K, Q, H]  sum exp(s - top) v
        top    [B, K, Q]     max s, NEVER for a row of length 0
        total  [B, K, Q]     sum exp(s - top)

    A step fetches at most `block` slots; the contents of slots not in use are never seen.

    With rows and order, int32[B], query b attends to row rows[b] of a cache of any number of rows,
    and query order[0] is computed first. If the slots of a row are one block, neighbours in that
    order that share a row fetch it once.
    """
    B, K, Q, H = q.shape
    S = k_cache.shape[3]
    check(q.dtype, k_cache, v_cache)
    size = block_size(K, S, H, q.dtype.itemsize, block)
    lookup = () if rows is None else (order, rows)
    # Queries that share a row fetch it once if it is one block.
    is_shared = bool(lookup) and size == S
    fetched = min(B, k_cache.shape[1]) if is_shared else B

    def block_of_slots(step, s, layer, lengths, *lookup):
        b = query_of_step(step, lookup)
        row = lookup[1][b] if lookup else b
        index = layer[0]
        fetched = block_to_fetch(s, lengths[b], size)
        return index, row, 0, fetched, 0

    def block_of_query(step, s, layer, lengths, *lookup):
        return query_of_step(step, lookup), 0, 0, 0

    wide = pl.BlockSpec((None, K, Q, H), block_of_query)
    column = pl.BlockSpec((None, K, Q, 1), block_of_query)
    slots = block_spec((None, None, K, size, H), block_of_slots)
    column_shape = jax.ShapeDtypeStruct((B, K, Q, 1), jnp.float32)
    out_shape = jax.ShapeDtypeStruct(q.shape, jnp.float32)
    kernel = functools.partial(
        _attend,
        slot_axis=slot_axis(H),
        scale=H**-0.5,
        lookups=len(lookup),
    )
    call = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2 + len(lookup),
            grid=(B, pl.cdiv(S, size)),
            in_specs=[wide, slots, slots],
            out_specs=[wide, column, column],
        ),
        out_shape=[out_shape, column_shape, column_shape],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary")
        ),
        cost_estimate=_attend_cost(q, S, fetched),
        name="decode_attend",
        interpret=interpret,
    )
    scalars = (layer.reshape(1), jnp.minimum(lengths, S), *lookup)
    out, top, total = call(*scalars, q, as_stored(k_cache), as_stored(v_cache))
    return out, top[..., 0], total[..., 0]


def _attend_cost(q: jax.Array, S: int, fetched: int) -> pl.CostEstimate:
    """Returns what `attend` costs if all S slots of every row are in use.

    fetched: rows of the cache that come from memory.
    """
    B, K, Q, H = q.shape
    cache_bytes = 2 * fetched * K * S * H * q.dtype.itemsize
    # A query and its results: q and out are H wide, top and total are one float32 each.
    query_bytes = B * K * Q * (H * (q.dtype.itemsize + 4) + 8)
    return pl.CostEstimate(
        flops=4 * B * K * Q * S * H,
        transcendentals=B * K * Q * S,
        bytes_accessed=cache_bytes + query_bytes,
    )


def query_of_step(step, lookup):
    """Returns the query that a step computes. `lookup`: order and rows, or nothing."""
    return lookup[0][step] if lookup else step


def _attend(layer, lengths, *refs, slot_axis, scale, lookups):
    """Attends with one row's queries to one block of its slots.

    q [K, Q, H]; k, v [K, size, H] or [K, H, size]; out [K, Q, H]; top and total [K, Q, 1]. The
    outputs stay in VMEM over the steps of a row, and hold the softmax over its slots so far.
    """
    lookup = refs[:lookups]
    q, k, v, out, top, total = refs[lookups:]
    step = pl.program_id(1)
    size = k.shape[slot_axis]
    query = query_of_step(pl.program_id(0), lookup)
    # Slots in use from this block on: of 9 in blocks of 4, 9, 5, 1 and then -3.
    remaining = lengths[query] - step * size

    def is_used(shape, axis):
        return jax.lax.broadcasted_iota(jnp.int32, shape, axis) < remaining

    def matmul(x, y, contract):  # of x's last axis
        dims = (((1,), (contract,)), ((), ()))
        return jax.lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)

    @pl.when(step == 0)
    def _():
        out[...] = jnp.zeros_like(out)
        top[...] = jnp.full_like(top, NEVER)
        total[...] = jnp.zeros_like(total)

    @pl.when(remaining > 0)
    def _():
        for head in range(k.shape[0]):
            scores = matmul(q[head], k[head], 2 - slot_axis)  # [Q, size]
            scores = scores * scale
            scores = jnp.where(is_used(scores.shape, 1), scores, NEVER)
            # Selected, not only weighted with 0: 0 * nan is nan.
            is_value = is_used(v.shape[1:], slot_axis - 1)
            values = jnp.where(is_value, v[head], 0)
            # A larger maximum shrinks the sums so far: they were taken relative to the old one.
            top_before = top[head]
            block_top = jnp.max(scores, axis=1, keepdims=True)
            top[head] = jnp.maximum(top_before, block_top)
            weights = jnp.exp(scores - top[head])
            shrink = jnp.exp(top_before - top[head])
            shrunk_total = total[head] * shrink
            total[head] = shrunk_total + jnp.sum(weights, axis=1, keepdims=True)
            rounded = weights.astype(v.dtype)
            block_out = matmul(rounded, values, slot_axis - 1)
            out[head] = out[head] * shrink + block_out


# -------------------------------------------------------------------------------------------------
# append


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
    """Returns the caches with k_new[:, b], v_new[:, b] at slot slots[b] of row b.

    k_cache, v_cache [L, B, K, S, H]; k_new, v_new [L, B, K, H] of the same dtype; slots int32[B],
    not negative: a slot from S on writes nothing. In place where the caches are donated or carried.
    Memory moves in tiles, so the 8 (float32) or 16 (bfloat16) slots around it are read and written,
    or 128 where slots are the last axis.
    """
    L, B, K, S, H = k_cache.shape
    axis = slot_axis(H)
    itemsize = k_new.dtype.itemsize
    check(k_new.dtype, k_cache, v_cache)
    memory_tile = 32 // itemsize if axis == 1 else LANES
    tile = min(S, memory_tile)

    layers = layers_a_step(L, 4 * K * tile * H * itemsize)  # k and v, in and out

    def tile_of_slots(b, i, slots):
        slot = jnp.minimum(slots[b], S - 1)
        return i, b, 0, slot // tile, 0

    def entry_of_step(b, i, slots):
        return i, b, 0, 0, 0

    # An entry has one slot, on the axis where the cache has all of them.
    shape = (K, 1, H) if axis == 1 else (K, H, 1)
    entry = pl.BlockSpec((layers, None, *shape), entry_of_step)
    cache = block_spec((layers, None, K, tile, H), tile_of_slots)
    k_stored = as_stored(k_cache)
    v_stored = as_stored(v_cache)
    written = jax.ShapeDtypeStruct(k_stored.shape, k_cache.dtype)
    call = pl.pallas_call(
        functools.partial(_append, slot_axis=axis, count=S),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, L // layers),
            in_specs=[entry, entry, cache, cache],
            out_specs=[cache, cache],
        ),
        out_shape=[written, written],
        input_output_aliases={3: 0, 4: 1},  # inputs are counted with `slots` as 0
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel")
        ),
        cost_estimate=_append_cost(k_new, tile),
        name="decode_append",
        interpret=interpret,
    )
    k_entry = k_new.reshape(L, B, *shape)
    v_entry = v_new.reshape(L, B, *shape)
    k, v = call(slots, k_entry, v_entry, k_stored, v_stored)
    return as_stored(k, H), as_stored(v, H)


def _append_cost(k_new: jax.Array, tile: int) -> pl.CostEstimate:
    """Returns what `append` costs, with tiles of so many slots."""
    L, B, K, H = k_new.shape
    # Of each entry: its tile is read and written, and the entry itself is read.
    entry_bytes = (2 * tile + 1) * H * k_new.dtype.itemsize
    return pl.CostEstimate(
        flops=0,
        transcendentals=0,
        bytes_accessed=2 * L * B * K * entry_bytes,
    )


def _append(slots, k_new, v_new, k_old, v_old, k, v, *, slot_axis, count):
    """Replaces one slot in a tile of one row and some layers.

    k_new, v_new [L, K, 1, H] or [L, K, H, 1]; the others [L, K, tile, H] or [L, K, H, tile].
    """
    slot = slots[pl.program_id(0)]
    axis = slot_axis + 1
    # Slot 21 in tiles of 8 is entry 5 of tile 2; -1 is no entry: a slot past the end.
    tile = k.shape[axis]
    offset = jnp.where(slot < count, slot % tile, -1)
    places = jax.lax.broadcasted_iota(jnp.int32, k.shape, axis)
    is_slot = places == offset
    k[...] = jnp.where(is_slot, k_new[...], k_old[...])
    v[...] = jnp.where(is_slot, v_new[...], v_old[...])


# -------------------------------------------------------------------------------------------------
# blocks


def block_size(
    K: int,
    S: int,
    H: int,
    itemsize: int,
    block: int,
) -> int:
    """Returns the slots of a step: `block` or what STEP_BYTES allow, the same in every step.

    A multiple of 128, or all S; the last block may reach past S, where nothing is fetched or used.
    S 2,100 under a block of 2,048 takes two steps of 1,152 slots.
    """
    slot_bytes = 2 * K * H * itemsize
    limit = min(block, STEP_BYTES // slot_bytes)
    limit = limit // LANES * LANES
    steps = pl.cdiv(S, max(limit, LANES))
    size = pl.cdiv(S, steps)
    return min(S, size + -size % LANES)


def layers_a_step(layers: int, layer_bytes: int) -> int:
    """Returns how many layers a step takes: as many as STEP_BYTES allow and as divide `layers`.

    Of 64 layers of 100 KiB, 2 MiB hold 20; 16 divide 64.
    """
    limit = max(STEP_BYTES // layer_bytes, 1)
    candidates = range(1, min(limit, layers) + 1)
    return max(n for n in candidates if layers % n == 0)


def block_to_fetch(step: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Returns the block of slots that a step fetches: never one past the last in use.

    After that block it is the last one again, which is in memory already and not fetched again:
    for 5 slots in blocks of 4, steps 0 to 3 fetch blocks 0, 1, 1, 1.
    """
    final = pl.cdiv(length, size) - 1
    return jnp.minimum(step, jnp.maximum(final, 0))


def slot_axis(H: int) -> int:
    """Returns the axis of the slots in a stored row: 1 of [K, S, H], or 2 of [K, H, S]."""
    return 1 if H % LANES == 0 else 2


def as_stored(cache: jax.Array, head_dim: int | None = None) -> jax.Array:
    """Turns [L, B, K, S, H] into what XLA stores: the same, or [L, B, K, H, S]. A bitcast.

    With `head_dim` = H it turns what is stored back.
    """
    if slot_axis(head_dim or cache.shape[-1]) == 1:
        return cache
    return jnp.swapaxes(cache, 3, 4)


def block_spec(shape: tuple, index) -> pl.BlockSpec:
    """Returns the spec of a block [layers, rows, K, slots, H], in the order that is stored."""
    if slot_axis(shape[-1]) == 1:
        return pl.BlockSpec(shape, index)

    def turned(*args):
        *outer, slot, head = index(*args)
        return *outer, head, slot

    *outer_shape, slots, H = shape
    return pl.BlockSpec((*outer_shape, H, slots), turned)


def check(dtype, k_cache: jax.Array, v_cache: jax.Array):
    """Raises ValueError unless all dtypes are the same one of bfloat16 and float32."""
    is_same = dtype == k_cache.dtype == v_cache.dtype
    is_known = dtype in (jnp.bfloat16, jnp.float32)
    if not (is_same and is_known):
        raise ValueError(
            f"got {dtype} for caches of {k_cache.dtype} and {v_cache.dtype}; all must be bfloat16, "
            "or all float32"
        )
