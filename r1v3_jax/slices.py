"""What runs on each of several slices by itself, and the little that they tell each other.

A slice's chips are joined by fast links, and slices by the network of the data centre. Inside
`each_slice` there is no other slice: what is written for one runs on each of several. Outside of it
arrays are whole, as ever: their rows are split over slices first (`sharding.Rules`).
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1v3_jax.sharding import AXES, SLICES, axes_of, entry_of, without_slices


def each_slice(function, *args, like):
    """Calls `function(*args)` on every slice with its own rows, and all weights.

    Inside, the mesh is that of one slice: no array is split over slices, `Rules` leave that axis
    out, and a loop ends when its own rows are done. With one slice it is a plain call.

    like: trees of arrays with the layouts of the results, or PartitionSpecs. A result that is not
    split over slices must be the same on all of them (`sum_over_slices`, `max_over_slices`).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if SLICES not in mesh.axis_names:
        return function(*args)

    def layout(x):
        return x if isinstance(x, PartitionSpec) else jax.typeof(x).sharding.spec

    leaves, tree = jax.tree.flatten(args)
    given = tuple(layout(leaf) for leaf in leaves)
    wanted = jax.tree.map(layout, like)

    def function_of_leaves(*leaves):
        return function(*jax.tree.unflatten(tree, leaves))

    # `shard_map` over one of several Explicit axes makes its arguments whole along the others. So
    # the others are Auto where it begins and ends, and Explicit again inside.
    inside = jax.sharding.explicit_axes(
        function_of_leaves, axes=AXES, in_sharding=tuple(map(without_slices, given))
    )
    of_slices = jax.shard_map(
        inside,
        in_specs=tuple(map(only_slices, given)),
        out_specs=jax.tree.map(only_slices, wanted),
        axis_names={SLICES},
        check_vma=False,
    )
    whole = jax.sharding.auto_axes(of_slices, axes=(SLICES, *AXES), out_sharding=wanted)
    return whole(*leaves)


def only_slices(spec: PartitionSpec) -> PartitionSpec:
    """Leaves only the slices: P(("slices", "data"), "fsdp") -> P("slices", None)."""
    entries = [entry_of(a for a in axes_of(entry) if a == SLICES) for entry in spec]
    return PartitionSpec(*entries)


def sum_over_slices(tree):
    """Adds up what the slices have, in `each_slice`; elsewhere returns the tree as it is."""
    return jax.lax.psum(tree, SLICES) if in_one_slice() else tree


def max_over_slices(x: jax.Array) -> jax.Array:
    """Returns the largest that a slice has, in `each_slice`; elsewhere `x` as it is."""
    return jax.lax.pmax(x, SLICES) if in_one_slice() else x


def share_of_slice(count: jax.Array) -> jax.Array:
    """Returns how many of `count` fall to a slice, rounded up; outside `each_slice` all of them."""
    if not in_one_slice():
        return count
    return -(-count // jax.lax.axis_size(SLICES))


def number_rows(count: int, spec: PartitionSpec | None) -> jax.Array:
    """Returns int32[count], the numbers of a slice's rows among those of all slices.

    2 slices with 4 rows each: [0 1 2 3] on the first, [4 5 6 7] on the second.
    """
    rows = jax.lax.broadcasted_iota(jnp.int32, (count,), 0, out_sharding=spec)
    return rows + count * jax.lax.axis_index(SLICES) if in_one_slice() else rows


def in_one_slice() -> bool:
    """Whether the caller runs inside `each_slice`, on a mesh of several slices."""
    return SLICES in jax.sharding.get_abstract_mesh().manual_axes
