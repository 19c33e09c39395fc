"""Meshes, and the two tables that say on which mesh axes each array lies.

Model files name *logical* axes ("embed", "mlp", ...); only this file knows mesh axes. A mesh always
has the three axes `data, fsdp, tensor`, of size 1 where unused, all in Explicit mode: every array's
sharding is part of its type, and a mistake is an error at trace time, even on one CPU device.

What a mesh axis does:
            in training (TRAIN)                        in decoding (DECODE)
    data    deals out rows; weights stored in shards   deals out rows
    fsdp    deals out rows; weights stored in shards   tensor parallel
    tensor  tensor parallel                            tensor parallel

Training wants little tensor parallelism: its sums over devices wait. Decoding wants much: a chip
reads its share of the weights for every token. So fsdp changes sides, and one mesh serves both.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
Axes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Rules:
    """One layout: logical axis -> mesh axes (None: whole on every device).

    Weights are stored as the table says. Just before a layer runs, its weights are gathered over
    `text_gather` or `vision_gather` (what FSDP does), so what remains sharded is what tensor
    parallelism computes with.
    """

    # Activations.
    batch: Axes
    tiles: Axes
    # The language model. KV heads are the unit of tensor parallelism: a query head goes with its KV
    # head.
    vocab: Axes
    embed: Axes
    kv_heads: Axes
    mlp: Axes
    # The vision tower and the connector. Their 25 heads (InternViT-6B) do not divide by 2, 4 or 8,
    # so no head is ever split: each device runs whole tiles with whole weights (data parallelism
    # over tiles, which are independent sequences of 1,025 tokens), and weights are only *stored* in
    # shards.
    vision_embed: Axes
    vision_heads: Axes
    vision_mlp: Axes
    # Mesh axes over which weights are gathered before use.
    text_gather: tuple[str, ...]
    vision_gather: tuple[str, ...]

    def spec(self, *axes: str | None) -> PartitionSpec | None:
        """The PartitionSpec of an array with these logical axes; None outside a mesh, where none is
        needed.
        """
        if jax.sharding.get_abstract_mesh().empty:
            return None
        return PartitionSpec(
            *(None if axis is None else getattr(self, axis) for axis in axes)
        )

    def shards(self, axis: str) -> int:
        """Into how many parts the logical axis is split on the current mesh (1 outside a mesh)."""
        return mesh_size(jax.sharding.get_abstract_mesh(), getattr(self, axis))


# fmt: off
TRAIN = Rules(
    batch=("data", "fsdp"), tiles=("data", "fsdp", "tensor"),
    vocab="tensor", embed=("data", "fsdp"), kv_heads="tensor", mlp="tensor",
    vision_embed=("data", "fsdp"), vision_heads=None, vision_mlp="tensor",
    text_gather=("data", "fsdp"), vision_gather=("data", "fsdp", "tensor"),
)
# Decoding reads every weight for every token: text weights stay whole along `embed`, nothing is
# gathered. The tower, which runs once an image, stays as it is.
DECODE = dataclasses.replace(
    TRAIN,
    batch="data", vocab=("tensor", "fsdp"), embed=None, kv_heads=("tensor", "fsdp"),
    mlp=("tensor", "fsdp"), text_gather=(),
)
# On the way from TRAIN to DECODE: fsdp has changed sides (one all-to-all), data has still to be
# gathered. In one step the compiler gathers everything, and then throws most of it away.
BETWEEN = dataclasses.replace(DECODE, embed="data")
# fmt: on


def make_mesh(shape: tuple[int, int, int], devices=None) -> Mesh:
    """A `(data, fsdp, tensor)` mesh over `devices` (default: the first ones there are).

    Raises ValueError if there are fewer devices than the shape needs.
    """
    check_mesh_shape(shape)
    devices = jax.devices() if devices is None else list(devices)
    need = int(np.prod(shape))
    if len(devices) < need:
        raise ValueError(
            f"a mesh of data x fsdp x tensor = {shape} needs {need} devices, but there are "
            f"{len(devices)}; choose sizes whose product is at most {len(devices)}"
        )
    if jax.process_count() > 1 and need != len(devices):
        raise ValueError(
            f"a run of {jax.process_count()} processes uses all of their {len(devices)} devices, "
            f"and mesh {shape} has {need}; choose sizes whose product is {len(devices)}"
        )
    # Neighbours on an axis are neighbours in the machine, also where one of its axes is split.
    grid = mesh_utils.create_device_mesh(
        shape, devices[:need], allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=(AxisType.Explicit,) * 3)


def abstract_mesh(shape: tuple[int, int, int]) -> AbstractMesh:
    """The same mesh without devices, to trace and type-check a program for a machine that is not
    there.
    """
    check_mesh_shape(shape)
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Explicit,) * 3)


def check_mesh_shape(shape) -> None:
    if len(shape) != 3 or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(
            f"a mesh shape is three positive sizes (data, fsdp, tensor), not {shape!r}"
        )


def mesh_size(mesh, axes: Axes) -> int:
    """The number of devices along `axes` of `mesh`; 1 for None and for an empty mesh."""
    if axes is None or mesh.empty:
        return 1
    return int(
        np.prod(
            [mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes)]
        )
    )


def shardings(model: nnx.Module, rules: Rules, mesh) -> nnx.State:
    """A NamedSharding for each parameter, from its logical axes; the tree of `nnx.state(model)`.

    Raises ValueError, naming every parameter that does not divide, before anything is placed.
    """
    problems = []

    def place(path, variable):
        spec = PartitionSpec(
            *(None if axis is None else getattr(rules, axis) for axis in variable.axes)
        )
        for size, axis, mesh_axes in zip(
            variable.shape, variable.axes, spec, strict=True
        ):
            if size % mesh_size(mesh, mesh_axes):
                problems.append(
                    f"{'.'.join(map(str, path))}: axis {axis} of {size} cannot be split over "
                    f"{mesh_axes} = {mesh_size(mesh, mesh_axes)}"
                )
        return variable.replace(NamedSharding(mesh, spec))

    placed = nnx.map_state(place, nnx.state(model))
    if problems:
        raise ValueError(
            f"mesh {dict(mesh.shape)} does not divide the model's shapes; use smaller sizes:\n  "
            + "\n  ".join(problems)
        )
    return placed


def with_shardings(model: nnx.Module, rules: Rules, mesh) -> nnx.Module:
    """An abstract model (from `nnx.eval_shape`) whose leaves carry their shardings on `mesh`."""
    graph, state = nnx.split(model)
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        state,
        shardings(model, rules, mesh),
    )
    return nnx.merge(graph, state)


def gather(tree, axes: tuple[str, ...], dtype):
    """The weights of one layer in the compute dtype, whole along the mesh axes `axes`.

    The cast comes first, so that the all-gather moves the smaller numbers.
    """

    def whole(weight):
        weight = weight.astype(dtype)
        if not axes or jax.sharding.get_abstract_mesh().empty:
            return weight
        spec = jax.typeof(weight).sharding.spec
        return jax.reshard(weight, PartitionSpec(*(drop(entry) for entry in spec)))

    def drop(entry):
        kept = tuple(
            a
            for a in ((entry,) if isinstance(entry, str) else entry or ())
            if a not in axes
        )
        return kept[0] if len(kept) == 1 else kept or None

    return jax.tree.map(whole, tree)


def replicate(x: jax.Array) -> jax.Array:
    """`x` whole on every device."""
    return (
        x if jax.sharding.get_abstract_mesh().empty else jax.reshard(x, PartitionSpec())
    )


def reshape_rows(x: jax.Array, *shape: int) -> jax.Array:
    """`x` with all its axes but the first reshaped to `shape`; the first keeps its sharding.

    JAX does not infer the sharding of a reshape that splits or merges two axes at once; here none
    is at stake.
    """
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        sharding = PartitionSpec(jax.typeof(x).sharding.spec[0])
    return jnp.reshape(x, (x.shape[0], *shape), out_sharding=sharding)


def split_rows(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] -> [count, B / count, ...], the first axis dealt out as before.

    Said in words, because JAX would give mesh axes of size 1 to the second.
    """
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        spec = jax.typeof(x).sharding.spec
        sharding = PartitionSpec(spec[0], None, *spec[1:])
    return jnp.reshape(x, (count, -1, *x.shape[1:]), out_sharding=sharding)


def merge_rows(x: jax.Array) -> jax.Array:
    """[n, m, ...] -> [n * m, ...], the rows dealt out as the first axis was."""
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        spec = jax.typeof(x).sharding.spec
        sharding = PartitionSpec(spec[0], *spec[2:])
    return jnp.reshape(x, (-1, *x.shape[2:]), out_sharding=sharding)


def split_last(x: jax.Array, size: int) -> jax.Array:
    """[..., n * size] -> [..., n, size], the parts dealt out as their entries were."""
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        sharding = PartitionSpec(*jax.typeof(x).sharding.spec, None)
    return jnp.reshape(x, (*x.shape[:-1], -1, size), out_sharding=sharding)


def repeat_rows(x: jax.Array, count: int) -> jax.Array:
    """[J, ...] -> [count, ...], each row count / J times in a row, dealt out as before."""
    shape = (len(x), count // len(x), *x.shape[1:])
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        spec = jax.typeof(x).sharding.spec
        sharding = PartitionSpec(spec[0], None, *spec[1:])
    repeated = jax.lax.broadcast_in_dim(
        x, shape, (0, *range(2, x.ndim + 1)), out_sharding=sharding
    )
    return repeated.reshape(count, *x.shape[1:])


def each_shard(function, *args, like):
    """`function(*args)` of every device's own rows; what it gives is laid out as `like`."""
    if jax.sharding.get_abstract_mesh().empty:
        return function(*args)

    def specs(tree):
        return jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)

    local = jax.shard_map(
        function, in_specs=specs(args), out_specs=specs(like), check_vma=False
    )
    return local(*args)


def take_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x[rows], of [R, ...] and int32[B]; every device counts its own rows, and takes none of
    others.
    """
    return each_shard(lambda x, rows: x[rows], x, rows, like=x)


def shard_bytes(tree) -> int:
    """Bytes on one device of the arrays in a tree that carry their shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
        if getattr(x, "sharding", None) is not None
    )
