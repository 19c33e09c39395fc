"""Meshes, and the two tables that assign mesh axes to the axes of every array.

Model files name *logical* axes ("embed", "mlp", ...); only this file knows mesh axes. A mesh always
has the three axes `data, fsdp, tensor`, of size 1 where unused, all in Explicit mode: every array's
sharding is part of its type, and a mistake is an error at trace time, even on one CPU device.

What a mesh axis does:
            in training (TRAIN)                    in decoding (DECODE)
    data    splits rows; weights stored in shards  splits rows
    fsdp    splits rows; weights stored in shards  tensor parallel
    tensor  tensor parallel                        tensor parallel

Training needs little tensor parallelism: its sums over devices make the devices wait. Decoding
needs much: a chip reads its share of the weights for every token. So fsdp changes its meaning, and
one mesh serves both. A matrix [embed 8, mlp 8] on a mesh data 2, fsdp 2, tensor 2, where chip 101
has data 1, fsdp 0, tensor 1:

    TRAIN, stored: 8 blocks of 2 x 4             DECODE: 4 blocks of 8 x 2, each twice
                 mlp 0-3  mlp 4-7                             mlp 0,1  2,3   4,5   6,7
    embed 0,1    000      001                    embed 0-7    000      010   001   011
    embed 2,3    010      011                    and again    100      110   101   111
    embed 4,5    100      101
    embed 6,7    110      111

In training a layer's matrix is gathered over data and fsdp just before the layer runs, and each
chip multiplies with 8 x 4. In decoding nothing is gathered, and each chip multiplies with 8 x 2.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
Axes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Rules:
    """A layout: logical axis -> mesh axes (None: whole on every device).

    Weights are stored as the table says. Just before a layer runs, its weights are gathered over
    `text_gather` or `vision_gather` (what FSDP does), so what remains sharded is what tensor
    parallelism computes with.
    """

    # Activations.
    batch: Axes  # rows of a batch, prompts, samples
    tiles: Axes  # of images
    # The language model. KV heads are the unit of tensor parallelism: a query head is on the device
    # of its KV head.
    vocab: Axes  # rows of the embedding and of the head
    embed: Axes  # the width of the model, an axis of every matrix
    kv_heads: Axes  # of q, k, v and out, and of caches
    mlp: Axes  # the hidden width of the MLP
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
        """Returns the PartitionSpec of an array with these logical axes; None outside a mesh."""
        if jax.sharding.get_abstract_mesh().empty:
            return None
        return self.placement(axes)

    def placement(self, axes: tuple[str | None, ...]) -> PartitionSpec:
        """Returns the mesh axes of these logical axes, on any mesh."""
        entries = [None if axis is None else getattr(self, axis) for axis in axes]
        return PartitionSpec(*entries)

    def shards(self, axis: str) -> int:
        """Returns the number of parts of a logical axis on the current mesh (1 outside a mesh)."""
        return mesh_size(jax.sharding.get_abstract_mesh(), getattr(self, axis))


TRAIN = Rules(
    batch=("data", "fsdp"),
    tiles=("data", "fsdp", "tensor"),
    vocab="tensor",
    embed=("data", "fsdp"),
    kv_heads="tensor",
    mlp="tensor",
    vision_embed=("data", "fsdp"),
    vision_heads=None,
    vision_mlp="tensor",
    text_gather=("data", "fsdp"),
    vision_gather=("data", "fsdp", "tensor"),
)
# Decoding reads every weight for every token: text weights stay whole along `embed`, nothing is
# gathered. The tower, which runs once an image, stays as it is.
DECODE = dataclasses.replace(
    TRAIN,
    batch="data",
    vocab=("tensor", "fsdp"),
    embed=None,
    kv_heads=("tensor", "fsdp"),
    mlp=("tensor", "fsdp"),
    text_gather=(),
)
# Halfway from TRAIN to DECODE: fsdp has changed its meaning (one all-to-all), data has still to be
# gathered. In one step the compiler gathers everything, and then throws most of it away.
BETWEEN = dataclasses.replace(DECODE, embed="data")


# -------------------------------------------------------------------------------------------------
# meshes


def make_mesh(shape: tuple[int, int, int], devices=None) -> Mesh:
    """Makes a `(data, fsdp, tensor)` mesh over the first of `devices` (default: all there are).

    ValueError if there are fewer devices than the shape needs, or if several processes would not
    use all of theirs.
    """
    check_mesh_shape(shape)
    devices = jax.devices() if devices is None else list(devices)
    need = math.prod(shape)
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
    # Neighbours on a mesh axis are neighbours in the machine. Two mesh axes may share one axis of
    # the machine, as 4 x 2 on a torus axis of 8.
    grid = mesh_utils.create_device_mesh(
        shape, devices[:need], allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=(AxisType.Explicit,) * 3)


def abstract_mesh(shape: tuple[int, int, int]) -> AbstractMesh:
    """Makes the same mesh without devices, to type-check programs for an absent machine."""
    check_mesh_shape(shape)
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Explicit,) * 3)


def check_mesh_shape(shape) -> None:
    """Raises ValueError unless the shape is three positive integers."""
    sizes = [n for n in shape if isinstance(n, int) and n > 0]
    if len(shape) != 3 or len(sizes) != 3:
        raise ValueError(
            f"a mesh shape is three positive sizes (data, fsdp, tensor), not {shape!r}"
        )


def mesh_size(mesh, axes: Axes) -> int:
    """Returns the number of devices along `axes` of `mesh`; 1 for None and for an empty mesh."""
    if mesh.empty:
        return 1
    return math.prod(mesh.shape[axis] for axis in _as_tuple(axes))


def _as_tuple(axes: Axes) -> tuple[str, ...]:
    """Returns the mesh axes of one entry of a PartitionSpec: None, a name or several."""
    if isinstance(axes, str):
        return (axes,)
    return axes or ()


# -------------------------------------------------------------------------------------------------
# weights


def shardings(model: nnx.Module, rules: Rules, mesh) -> nnx.State:
    """Returns a NamedSharding for each parameter, as a tree like `nnx.state(model)`.

    ValueError, naming every parameter that does not divide, before anything is placed.
    """
    problems = []

    def place(path, variable):
        spec = rules.placement(variable.axes)
        for size, axis, mesh_axes in zip(
            variable.shape, variable.axes, spec, strict=True
        ):
            parts = mesh_size(mesh, mesh_axes)
            if size % parts:
                name = ".".join(map(str, path))
                problems.append(
                    f"{name}: axis {axis} of {size} cannot be split over "
                    f"{mesh_axes} = {parts}"
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
    """Returns an abstract model (of `nnx.eval_shape`) whose leaves have shardings on `mesh`."""
    graph, state = nnx.split(model)

    def add_sharding(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    placed = shardings(model, rules, mesh)
    state = jax.tree.map(add_sharding, state, placed)
    return nnx.merge(graph, state)


def gather(tree, axes: tuple[str, ...], dtype):
    """Returns one layer's weights in the compute dtype, whole along the mesh axes `axes`.

    The cast comes first, so that the all-gather moves the smaller numbers.
    """

    def gather_weight(weight):
        weight = weight.astype(dtype)
        if not axes or jax.sharding.get_abstract_mesh().empty:
            return weight
        spec = jax.typeof(weight).sharding.spec
        remaining = [drop(entry) for entry in spec]
        return jax.reshard(weight, PartitionSpec(*remaining))

    # Without "data" and "fsdp": ("data", "fsdp") -> None, ("fsdp", "tensor") -> "tensor".
    def drop(entry):
        kept = tuple(axis for axis in _as_tuple(entry) if axis not in axes)
        return kept[0] if len(kept) == 1 else kept or None

    return jax.tree.map(gather_weight, tree)


def shard_bytes(tree) -> int:
    """Returns the bytes on one device of the arrays in a tree that carry their shardings."""
    total = 0
    for x in jax.tree.leaves(tree):
        if getattr(x, "sharding", None) is not None:
            shape = x.sharding.shard_shape(x.shape)
            total += math.prod(shape) * x.dtype.itemsize
    return total


# -------------------------------------------------------------------------------------------------
# rows
#
# JAX does not infer the sharding of a reshape that splits or merges axes. These state it: the first
# axis, the rows, stays split over the devices as it was.


def replicate(x: jax.Array) -> jax.Array:
    """Returns `x` whole on every device."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.reshard(x, PartitionSpec())


def reshape_rows(x: jax.Array, *shape: int) -> jax.Array:
    """Reshapes all axes of `x` except the first to `shape`; they must not be sharded."""
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        sharding = PartitionSpec(jax.typeof(x).sharding.spec[0])
    shape = (x.shape[0], *shape)
    return jnp.reshape(x, shape, out_sharding=sharding)


def split_rows(x: jax.Array, count: int) -> jax.Array:
    """Splits rows into groups: [B, ...] -> [count, B / count, ...], sharded along the first axis.

    Stated, because JAX would give mesh axes of size 1 to the second axis.
    """
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        spec = jax.typeof(x).sharding.spec
        sharding = PartitionSpec(spec[0], None, *spec[1:])
    shape = (count, -1, *x.shape[1:])
    return jnp.reshape(x, shape, out_sharding=sharding)


def merge_rows(x: jax.Array) -> jax.Array:
    """Merges groups of rows: [n, m, ...] -> [n * m, ...], sharded as the first axis was."""
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        spec = jax.typeof(x).sharding.spec
        sharding = PartitionSpec(spec[0], *spec[2:])
    shape = (-1, *x.shape[2:])
    return jnp.reshape(x, shape, out_sharding=sharding)


def split_last(x: jax.Array, size: int) -> jax.Array:
    """Splits the last axis: [..., n * size] -> [..., n, size], sharded along n as it was."""
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        sharding = PartitionSpec(*jax.typeof(x).sharding.spec, None)
    shape = (*x.shape[:-1], -1, size)
    return jnp.reshape(x, shape, out_sharding=sharding)


def repeat_rows(x: jax.Array, count: int) -> jax.Array:
    """Repeats each row count / J times: [J, ...] -> [count, ...], [a b] -> [a a a b b b].

    Sharded as before.
    """
    shape = (len(x), count // len(x), *x.shape[1:])
    sharding = None
    if not jax.sharding.get_abstract_mesh().empty:
        spec = jax.typeof(x).sharding.spec
        sharding = PartitionSpec(spec[0], None, *spec[1:])
    dims = (0, *range(2, x.ndim + 1))  # the axes of x in `shape`; axis 1 is the copies
    repeated = jax.lax.broadcast_in_dim(x, shape, dims, out_sharding=sharding)
    return repeated.reshape(count, *x.shape[1:])


def each_shard(function, *args, like):
    """Calls `function(*args)` on every device's own rows; its results have the layout of `like`."""
    if jax.sharding.get_abstract_mesh().empty:
        return function(*args)

    def specs(tree):
        return jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)

    local = jax.shard_map(
        function, in_specs=specs(args), out_specs=specs(like), check_vma=False
    )
    return local(*args)


def take_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns x[rows], for x [R, ...] and int32[B] rows that count on their own device.

    On two devices with two rows each, [a b | c d] and [1 0 | 0 0] give [b a | c c].
    """
    return each_shard(lambda x, rows: x[rows], x, rows, like=x)
