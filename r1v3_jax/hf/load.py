"""A Hugging Face checkpoint directory -> our parameters.

    model = load("InternVL3-38B-hf", mesh=mesh)      # tensor by tensor into sharded arrays

Knows files and devices. Which tensor is which parameter is in `weights.py`, `config.json` in
`read_config.py`. Nothing here knows text or pixels.
"""

import collections
import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open

from r1v3_jax.config import Compute, ModelConfig, TextConfig
from r1v3_jax.files import read_json, why_unreadable
from r1v3_jax.hf.read_config import raise_problems, try_read_config
from r1v3_jax.hf.weights import NOT_WEIGHTS, Piece, name_in_layout, pieces
from r1v3_jax.models import build
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import shardings

# safetensors' names -> numpy's
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
INDEX = "model.safetensors.index.json"
HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"

# -------------------------------------------------------------------------------------------------
# onto the devices


def load(
    source,
    dtype: str | None = None,
    mesh=None,
    compute: Compute | None = None,
    rope_impl: str = "hf",
    vocab_multiple: int = TextConfig.vocab_multiple,
) -> R1V3:
    """Loads the model in a Hugging Face checkpoint onto the devices of a mesh.

    source: a checkpoint directory, or a Checkpoint that is open already.
    dtype: "float32" or "bfloat16" for the weights and the computation; default: as stored.
    mesh: default: the current mesh (`jax.set_mesh`), or one device.
    compute: in place of `dtype`, to choose more than it.
    rope_impl, vocab_multiple: of TextConfig; no config.json has them.

    Tensors are read one at a time, so that the host needs memory for the largest of them twice,
    whatever the model's size. Raises FileNotFoundError or ValueError with every problem of the
    directory, before any device is touched.
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
    arrays = _assemble(checkpoint, flatten_state(state), placement)
    state = nnx.map_state(
        lambda path, variable: variable.replace(arrays[".".join(path)]), state
    )
    return nnx.merge(graph, state)


def flatten_state(state) -> dict:
    """Returns {"language.blocks.q": its array (or shape, or sharding), ...}."""
    flat = nnx.to_flat_state(state)
    return {".".join(path): variable.get_value() for path, variable in flat}


def _assemble(
    checkpoint: "Checkpoint", abstract: dict, placement: dict
) -> dict[str, jax.Array]:
    """Reads the parameters from the pieces in the files.

    abstract: {parameter: shape and dtype}. placement: {parameter: sharding}; {}: one device.
    """
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
        if depth:
            # The buffer is donated: there are never two of it.
            part = _write(arrays[piece.param], part, np.asarray(piece.index, np.int32))
        # Once it is on the devices the host's copy is free, before the next is read.
        arrays[piece.param] = part.block_until_ready()
    return arrays


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


# -------------------------------------------------------------------------------------------------
# a directory, looked through


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor as the header of its file describes it."""

    path: Path
    shape: tuple[int, ...]
    dtype: str  # "F32", "BF16", ...

    def read(self, name: str) -> np.ndarray:
        # The file is opened anew each time: an open mapping keeps the pages of all that was read.
        with safe_open(self.path, framework="np") as file:
            return file.get_tensor(name)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory whose config and headers have been read and are right."""

    directory: Path
    config: ModelConfig
    pieces: list[Piece]  # all of the model's
    tensors: dict[str, Tensor]  # by their names in the files

    @classmethod
    def open(cls, directory) -> "Checkpoint":
        """Reads config.json and the headers, no weights.

        FileNotFoundError if there is no such directory, ValueError with every problem in it.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise FileNotFoundError(
                f"{directory}: no such directory; give a Hugging Face checkpoint directory"
            )
        problems: list[str] = []
        config = try_read_config(directory, problems)
        tensors, lost = _read_headers(directory, problems)
        # Without a config nothing is known of the tensors that should be there.
        if config is None:
            raise_problems(directory, problems)
        layout = _layout({*tensors, *(lost or ())}, config)
        if not problems:
            config = _resolve_tie(config, tensors, layout)
        expected = list(pieces(config, layout))
        _compare(expected, tensors, lost, config, layout, problems)
        raise_problems(directory, problems)
        return cls(directory, config, expected, tensors)

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor, in the dtype and the axes of its file."""
        return self.tensors[name].read(name)

    def dtype(self) -> str:
        """Returns what the weights are stored in; ValueError if the model cannot compute in it."""
        dtypes = sorted({self.tensors[piece.name].dtype for piece in self.pieces})
        if dtypes in (["F32"], ["BF16"]):
            return DTYPES[dtypes[0]]
        raise ValueError(
            f"{self.directory}: its tensors are {' and '.join(dtypes)}; say which dtype you want, "
            "float32 or bfloat16"
        )


def _read_headers(
    directory: Path, problems: list[str]
) -> tuple[dict[str, Tensor], set[str] | None]:
    """Reads the headers of all files: (name -> tensor, names in files that cannot be read).

    The second are known from the index alone: None if a file cannot be read and there is no index.
    """
    file_problems: list[str] = []
    paths, index = _weight_files(directory, file_problems)
    tensors: dict[str, Tensor] = {}
    readable = set()
    for path in paths:
        header = _read_header(path, file_problems)
        if header is None:
            continue
        readable.add(path.name)
        for name, tensor in header.items():
            if name in tensors:
                problems.append(
                    f"{name} is in both {tensors[name].path.name} and {path.name}"
                )
            tensors[name] = tensor
    problems += file_problems
    if file_problems and not index:
        return tensors, None
    return tensors, {name for name, file in index.items() if file not in readable}


def _weight_files(
    directory: Path, problems: list[str]
) -> tuple[list[Path], dict[str, str]]:
    """Returns the safetensors files of a checkpoint and its index, tensor -> file name.

    The index is empty if the checkpoint has none.
    """
    path = directory / INDEX
    # A dangling link is an index that was to be there: reading it makes the problem known.
    if not os.path.lexists(path):
        return _files_without_index(directory, problems), {}
    try:
        index = read_json(path).get("weight_map")
    except (ValueError, OSError) as error:
        problems.append(str(error).removeprefix(f"{directory}/"))
        return [], {}
    if not isinstance(index, dict) or not index:
        problems.append(f"{INDEX}: no weight_map")
        return [], {}
    index = {name: str(file) for name, file in index.items()}
    return _files_of_index(directory, index, problems), index


def _files_without_index(directory: Path, problems: list[str]) -> list[Path]:
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        pickle_paths = (*directory.glob("*.bin"), *directory.glob("*.pt*"))
        pickles = sorted(path.name for path in pickle_paths)
        hint = ""
        if pickles:
            hint = f"; {pickles[0]} is a pickle, which is never read: convert it"
        problems.append(f"no *.safetensors file{hint}")
    return paths


def _files_of_index(
    directory: Path, index: dict[str, str], problems: list[str]
) -> list[Path]:
    paths = []
    tensors_in = collections.Counter(index.values())
    for name, tensors in sorted(tensors_in.items()):
        # An index comes from elsewhere: it must not point at other files of this machine.
        if Path(name).name != name:
            problems.append(f"{INDEX}: {name!r} lies outside the directory")
        elif not name.endswith(".safetensors"):
            problems.append(
                f"{INDEX}: {name!r} is not a *.safetensors file; convert it"
            )
        elif not os.path.lexists(directory / name):
            problems.append(
                f"{name} is missing; the index places {tensors} tensors in it"
            )
        else:
            paths.append(directory / name)
    return paths


def _read_header(path: Path, problems: list[str]) -> dict[str, Tensor] | None:
    """Returns {name: tensor} of the weights in a file; None, and a problem, if it is damaged."""
    if reason := why_unreadable(path):
        problems.append(f"{path.name}: {reason}; download it again")
        return None
    if path.stat().st_size == 0:
        problems.append(f"{path.name} is empty (0 bytes); download it again")
        return None
    tensors = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():
                if NOT_WEIGHTS.search(name):
                    continue
                header = file.get_slice(name)
                shape = tuple(header.get_shape())
                tensors[name] = Tensor(path, shape, header.get_dtype())
    except (SafetensorError, OSError) as error:
        problems.append(
            f"{path.name} is cut short or damaged ({error}); download it again"
        )
        return None
    return tensors


def _layout(names: set[str], config: ModelConfig) -> str:
    """Returns the layout that the tensors' names have, see `weights.py`."""
    if config.vision is None:
        return "text"
    if any(name.startswith(("vision_model.", "mlp1.")) for name in names):
        return "original"
    if any(name.startswith("model.") for name in names):
        return "memory"
    return "hf"


def _resolve_tie(
    config: ModelConfig, tensors: dict[str, Tensor], layout: str
) -> ModelConfig:
    """Returns `config` with tie_embeddings as the files have it.

    InternVLConfig says true by default, also of files with a head that differs from the embedding:
    transformers then keeps both, and so does this.
    """
    head = name_in_layout(HEAD, layout)
    embedding = name_in_layout(EMBEDDING, layout)
    both_stored = embedding in tensors and head in tensors
    if not config.text.tie_embeddings or not both_stored:
        return config
    if _equal(tensors, embedding, head):
        return config
    logging.warning(
        "tie_word_embeddings is true, but %s differs from %s; keeping both",
        head,
        embedding,
    )
    text = dataclasses.replace(config.text, tie_embeddings=False)
    return dataclasses.replace(config, text=text)


def _equal(tensors: dict[str, Tensor], a: str, b: str, step: int = 4096) -> bool:
    """Whether two tensors hold the same bytes, compared `step` rows at a time."""
    if (tensors[a].shape, tensors[a].dtype) != (tensors[b].shape, tensors[b].dtype):
        return False
    with (
        safe_open(tensors[a].path, framework="np") as file_a,
        safe_open(tensors[b].path, framework="np") as file_b,
    ):
        slice_a = file_a.get_slice(a)
        slice_b = file_b.get_slice(b)
        rows = tensors[a].shape[0]
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            if slice_a[part].tobytes() != slice_b[part].tobytes():
                return False
    return True


def _compare(
    expected: list[Piece],
    tensors: dict[str, Tensor],
    lost: set[str] | None,
    config: ModelConfig,
    layout: str,
    problems: list[str],
) -> None:
    """Adds the tensors that are missing, wrong or unknown to `problems`.

    What a file that cannot be read may hold (`lost`, see `_read_headers`) is not listed as missing:
    the file is listed already.
    """
    # 1. The tensors of the model.
    shapes = {piece.name: piece.shape for piece in expected}
    for name, shape in shapes.items():
        if name not in tensors:
            if lost is not None and name not in lost:
                problems.append(f"{name} {list(shape)} is missing")
            continue
        tensor = tensors[name]
        if tensor.shape != shape:
            problems.append(
                f"{tensor.path.name}: {name} has shape {list(tensor.shape)}; "
                f"config.json makes it {list(shape)}"
            )
        if tensor.dtype not in DTYPES:
            problems.append(
                f"{tensor.path.name}: {name} is {tensor.dtype}; wanted {', '.join(DTYPES)}"
            )

    # 2. Other tensors. Only the head of a tied embedding is no problem: it is the embedding.
    head = name_in_layout(HEAD, layout)
    for name in sorted(set(tensors) - set(shapes)):
        if not (config.text.tie_embeddings and name == head):
            problems.append(
                f"{tensors[name].path.name}: {name} is not a weight of this model"
            )
