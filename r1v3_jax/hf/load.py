"""A Hugging Face checkpoint directory -> our parameters.

    model = load("InternVL3-38B-hf", mesh=mesh)      # tensor by tensor into sharded arrays

Knows devices. The directory and its files are in `checkpoint.py`. Nothing here knows text or
pixels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from r1v3_jax.config import Compute, TextConfig
from r1v3_jax.hf.checkpoint import Checkpoint, shortened
from r1v3_jax.models import build
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import shardings


def load(
    source,
    dtype: str | None = None,
    mesh=None,
    compute: Compute | None = None,
    rope_impl: str = "hf",
    vocab_multiple: int = TextConfig.vocab_multiple,
    allow_nonfinite: bool = False,
) -> R1V3:
    """Loads the model in a Hugging Face checkpoint onto the devices of a mesh.

    source: a checkpoint directory, or a Checkpoint that is open already.
    dtype: "float32" or "bfloat16" for the weights and the computation; default: as stored.
    mesh: default: the current mesh (`jax.set_mesh`), or one device.
    compute: in place of `dtype`, to choose more than it.
    rope_impl, vocab_multiple: of TextConfig; no config.json has them.
    allow_nonfinite: for a look at weights that hold nan or inf.

    Tensors are read one at a time, so that the host needs memory for the largest of them twice,
    whatever the model's size. Raises FileNotFoundError or ValueError with every problem of the
    directory, before any device is touched; and ValueError, once all is read, with the tensors that
    hold nan or inf in the dtype they are wanted in.
    """
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.open(source)

    # 1. What no config.json has: how to compute.
    if dtype is not None and compute is not None:
        raise ValueError(
            "pass dtype or compute, not both: compute.dtype and compute.param_dtype say it "
            "already"
        )
    if compute is None:
        dtype = str(jnp.dtype(checkpoint.dtype() if dtype is None else dtype))
        compute = Compute(dtype=dtype, param_dtype=dtype)
    text = dataclasses.replace(
        checkpoint.config.text, rope_impl=rope_impl, vocab_multiple=vocab_multiple
    )
    config = dataclasses.replace(checkpoint.config, text=text)

    # 2. The shapes of the parameters, and where each of them is placed.
    graph, state = nnx.split(build.abstract(config, compute))
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    placement = {}
    if not mesh.empty:
        abstract_model = nnx.merge(graph, state)
        placement = flatten_state(shardings(abstract_model, compute.rules, mesh))

    # 3. The parameters themselves.
    arrays, nonfinite = _assemble(checkpoint, flatten_state(state), placement)
    if nonfinite and not allow_nonfinite:
        raise ValueError(
            f"{checkpoint.directory}: nan or inf in {shortened(nonfinite)}; such weights compute "
            "nothing. Take another checkpoint, or pass allow_nonfinite=True "
            "(tools/import_hf.py --allow_nonfinite) to look at these"
        )
    state = nnx.map_state(
        lambda path, variable: variable.replace(arrays[".".join(path)]), state
    )
    return nnx.merge(graph, state)


def flatten_state(state) -> dict:
    """Returns {"language.blocks.q": its array (or shape, or sharding), ...}."""
    flat = nnx.to_flat_state(state)
    return {".".join(path): variable.get_value() for path, variable in flat}


def _assemble(
    checkpoint: Checkpoint, abstract: dict, placement: dict
) -> tuple[dict[str, jax.Array], list[str]]:
    """Reads the parameters from the pieces in the files.

    abstract: {parameter: shape and dtype}. placement: {parameter: sharding}; {}: one device.
    Returns {parameter: array}, and the names of the tensors with a number that is not finite.
    """
    nonfinite = []
    # Parameters of several pieces begin as zeros, and are filled piece by piece.
    stacked = {p.param: abstract[p.param] for p in checkpoint.pieces if p.index}
    arrays = _zeros(stacked, placement)
    for piece in checkpoint.pieces:
        parameter = abstract[piece.param]
        sharding = placement.get(piece.param)
        # Layer 3 of blocks.q [64, 5120, 8, 5, 128] is a piece with index (3,), of shape
        # [5120, 8, 5, 128], split over the devices as these four axes are.
        depth = len(piece.index)
        shape = parameter.shape[depth:]
        if depth and sharding is not None:
            spec = PartitionSpec(*sharding.spec[depth:])
            sharding = NamedSharding(sharding.mesh, spec)
        # The tensor has no name here: a name would keep it while the next one is read.
        part = _put(
            piece.to_ours(checkpoint.read(piece.name)), shape, parameter.dtype, sharding
        )
        # Asked of the devices, after the cast: a host would need longer than its disk.
        if not bool(all_finite(part)):
            nonfinite.append(piece.name)
        if depth:
            # The buffer is donated: there are never two of it.
            part = _write(arrays[piece.param], part, np.asarray(piece.index, np.int32))
        # Once it is on the devices the host's copy is free, before the next is read.
        arrays[piece.param] = part.block_until_ready()
    return arrays, nonfinite


@jax.jit
def all_finite(x: jax.Array) -> jax.Array:
    """Returns bool[]: whether no number of `x` is nan or inf."""
    return jnp.isfinite(x).all()


def _zeros(abstract: dict, placement: dict) -> dict[str, jax.Array]:
    out = {name: placement[name] for name in abstract} if placement else None
    return jax.jit(
        lambda: {name: jnp.zeros(p.shape, p.dtype) for name, p in abstract.items()},
        out_shardings=out,
    )()


def _put(tensor: np.ndarray, shape: tuple[int, ...], dtype, sharding) -> jax.Array:
    """Places `tensor` on its devices, filled up with zero rows to `shape`.

    Each device's share is cut out and converted by itself, once for all devices that hold the same
    share: the host never has a converted copy of the whole tensor.
    """
    shares = {}

    def share(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple((axis.start, axis.stop) for axis in index)
        if key not in shares:
            # 331 rows padded to 1024, the share of rows 256 to 512: `filled` has 75 rows, the
            # share 256.
            filled = tensor[index]
            sizes = [
                len(range(size)[axis]) for size, axis in zip(shape, index, strict=True)
            ]
            shares[key] = np.zeros(sizes, dtype)
            shares[key][tuple(slice(size) for size in filled.shape)] = filled
        return shares[key]

    if sharding is None:
        return jax.device_put(share(tuple(slice(0, size) for size in shape)))
    return jax.make_array_from_callback(shape, sharding, share)


@jax.jit(donate_argnums=0)
def _write(buffer, part, index):
    """Puts `part` into `buffer` at the leading indices `index`."""
    start = [*index, *[0] * part.ndim]
    part = part.reshape((1,) * len(index) + part.shape)
    return jax.lax.dynamic_update_slice(buffer, part, start)
