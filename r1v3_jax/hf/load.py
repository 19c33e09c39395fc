"""Hugging Face checkpoints in and out, as safetensors.

    model = load("InternVL3-38B-hf", mesh=mesh)          # tensor by tensor into sharded arrays
    save(model, "out", layout="original", tokenizer="InternVL3-38B-hf")

Knows files and devices; which tensor goes where is in `hf_weights.py`, `config.json` in
`hf_config.py`. Nothing here knows text or pixels.
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

from r1v3_jax import files
from r1v3_jax.config import Compute, ModelConfig, TextConfig
from r1v3_jax.hf import read_config
from r1v3_jax.hf.weights import NOT_WEIGHTS, Piece, pieces, renamed
from r1v3_jax.models import build, r1v3
from r1v3_jax.sharding import shardings

DTYPES = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}  # safetensors' names -> numpy's
INDEX = "model.safetensors.index.json"


# -------------------------------------------------------------------------------------------------
# in


def load(
    directory,
    dtype: str | None = None,
    mesh=None,
    compute: Compute | None = None,
    rope_impl: str = "hf",
    vocab_multiple: int = TextConfig.vocab_multiple,
) -> r1v3.R1V3:
    """The model in a Hugging Face checkpoint directory, its weights on the devices of `mesh`
    (default: the current mesh, `jax.set_mesh`, or one device).

    `dtype` ("float32" or "bfloat16", default: as stored) is that of the weights and of the
    computation; pass a whole `compute` instead to choose more. `rope_impl` and `vocab_multiple`,
    which no config.json says, are those of TextConfig. Tensors are read one at a time, so that the
    host needs memory for the largest of them twice, whatever the model's size.

    Raises FileNotFoundError or ValueError with every problem of the directory, before any device is
    touched.
    """
    return Checkpoint.open(directory).load(
        dtype, mesh, compute, rope_impl, vocab_multiple
    )


def flatten_state(state) -> dict:
    return {
        ".".join(path): variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }


def _assemble(
    checkpoint: "Checkpoint", abstract: dict, placed: dict
) -> dict[str, jax.Array]:
    """The parameters, from the pieces in the files. `abstract` are their shapes, `placed` their
    shardings.
    """
    arrays = _zeros(
        {p.param: abstract[p.param] for p in checkpoint.pieces if p.index}, placed
    )
    for piece in checkpoint.pieces:
        whole, sharding = abstract[piece.param], placed.get(piece.param)
        shape = whole.shape[len(piece.index) :]
        if piece.index and sharding is not None:
            spec = PartitionSpec(*sharding.spec[len(piece.index) :])
            sharding = NamedSharding(sharding.mesh, spec)
        part = _put(
            piece.to_ours(checkpoint.read(piece.name)), shape, whole.dtype, sharding
        )
        if piece.index:
            # The buffer is donated: there are never two of it.
            part = _write(arrays[piece.param], part, np.asarray(piece.index, np.int32))
        arrays[piece.param] = (
            part.block_until_ready()
        )  # the host's copy is gone before the next
    return arrays


def _zeros(wanted: dict, placed: dict) -> dict[str, jax.Array]:
    out = {name: placed[name] for name in wanted} if placed else None
    return jax.jit(
        lambda: {name: jnp.zeros(w.shape, w.dtype) for name, w in wanted.items()},
        out_shardings=out,
    )()


def _put(part: np.ndarray, shape: tuple[int, ...], dtype, sharding) -> jax.Array:
    """`part` on its devices, filled up with zero rows to `shape`. Each device's share is cut out,
    laid out and converted alone, and once for all devices that hold the same.
    """
    shares = {}

    def share(index):
        sizes = [len(range(n)[s]) for n, s in zip(shape, index, strict=True)]
        key = tuple((s.start, s.stop) for s in index)
        if key not in shares:
            there = part[index]
            shares[key] = np.zeros(sizes, dtype)
            shares[key][tuple(slice(n) for n in there.shape)] = there
        return shares[key]

    if sharding is None:
        return jax.device_put(share(tuple(slice(0, n) for n in shape)))
    return jax.make_array_from_callback(shape, sharding, share)


@jax.jit(donate_argnums=0)
def _write(buffer, part, index):
    start = [*index, *[0] * part.ndim]
    return jax.lax.dynamic_update_slice(
        buffer, part.reshape((1,) * len(index) + part.shape), start
    )


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor as the header of its file describes it."""

    path: Path
    shape: tuple[int, ...]
    dtype: str  # "F32", "BF16", ...

    def read(self, name: str) -> np.ndarray:
        # The file is opened anew: an open mapping keeps the pages of all that was read from it.
        with safe_open(self.path, framework="np") as file:
            return file.get_tensor(name)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory whose every header has been read and found right."""

    directory: Path
    config: ModelConfig
    pieces: list[Piece]
    tensors: dict[str, Tensor]

    @classmethod
    def open(cls, directory) -> "Checkpoint":
        """Reads config.json and the headers. FileNotFoundError if there is no such directory,
        ValueError with every problem in it.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise FileNotFoundError(
                f"{directory}: no such directory; give a Hugging Face checkpoint directory"
            )
        problems: list[str] = []
        config = read_config.collect(directory, problems)
        tensors, lost = _headers(directory, problems)
        if config is None:
            read_config.raise_problems(directory, problems)
        layout = _layout({*tensors, *(lost or ())}, config)
        if not problems:
            config = _resolve_tie(config, tensors, layout)
        wanted = list(pieces(config, layout))
        _compare(wanted, tensors, lost, config, layout, problems)
        read_config.raise_problems(directory, problems)
        return cls(directory, config, wanted, tensors)

    def load(
        self,
        dtype: str | None = None,
        mesh=None,
        compute: Compute | None = None,
        rope_impl: str = "hf",
        vocab_multiple: int = TextConfig.vocab_multiple,
    ) -> r1v3.R1V3:
        """The model; see `hf.load`."""
        if dtype is not None and compute is not None:
            raise ValueError(
                "pass dtype or compute, not both: compute.dtype and compute.param_dtype say it "
                "already"
            )
        if compute is None:
            dtype = str(jnp.dtype(self.dtype() if dtype is None else dtype))
            compute = Compute(dtype=dtype, param_dtype=dtype)
        text = dataclasses.replace(
            self.config.text, rope_impl=rope_impl, vocab_multiple=vocab_multiple
        )
        config = dataclasses.replace(self.config, text=text)
        graph, state = nnx.split(build.abstract(config, compute))
        mesh = jax.sharding.get_mesh() if mesh is None else mesh
        placed = {}
        if not mesh.empty:
            placed = flatten_state(
                shardings(nnx.merge(graph, state), compute.rules, mesh)
            )
        arrays = _assemble(self, flatten_state(state), placed)
        state = nnx.map_state(
            lambda path, variable: variable.replace(arrays[".".join(path)]), state
        )
        return nnx.merge(graph, state)

    def read(self, name: str) -> np.ndarray:
        return self.tensors[name].read(name)

    def dtype(self) -> str:
        """What the weights are stored in. ValueError if that is no dtype we compute in."""
        kinds = sorted({self.tensors[piece.name].dtype for piece in self.pieces})
        if kinds in (["F32"], ["BF16"]):
            return DTYPES[kinds[0]]
        raise ValueError(
            f"{self.directory}: its tensors are {' and '.join(kinds)}; say which dtype you want, "
            "float32 or bfloat16"
        )


def _headers(
    directory: Path, problems: list[str]
) -> tuple[dict[str, Tensor], set[str] | None]:
    """Name -> tensor of all files; and the names that the files which cannot be read should hold.

    Those names are known from the index only: None where a file cannot be read and nothing says
    what was in it.
    """
    found: list[str] = []
    paths, index = _files(directory, found)
    tensors, read = {}, set()
    for path in paths:
        header = _header(path, found)
        if header is None:
            continue
        read.add(path.name)
        for name, tensor in header.items():
            if name in tensors:
                problems.append(
                    f"{name} is in both {tensors[name].path.name} and {path.name}"
                )
            tensors[name] = tensor
    problems += found
    if found and not index:
        return tensors, None
    return tensors, {name for name, file in index.items() if file not in read}


def _files(directory: Path, problems: list[str]) -> tuple[list[Path], dict[str, str]]:
    """The safetensors files that make up the checkpoint; and the index, tensor -> file, if any."""
    path = directory / INDEX
    if not os.path.lexists(path):
        paths = sorted(directory.glob("*.safetensors"))
        if not paths:
            pickles = sorted(
                p.name for p in (*directory.glob("*.bin"), *directory.glob("*.pt*"))
            )
            hint = (
                f"; {pickles[0]} is a pickle, which is never read: convert it"
                if pickles
                else ""
            )
            problems.append(f"no *.safetensors file{hint}")
        return paths, {}
    try:
        index = files.read_json(path).get("weight_map")
    except (ValueError, OSError) as error:
        problems.append(str(error).removeprefix(f"{directory}/"))
        return [], {}
    if not isinstance(index, dict) or not index:
        problems.append(f"{INDEX}: no weight_map")
        return [], {}
    index = {name: str(file) for name, file in index.items()}
    paths = []
    for name, tensors in sorted(collections.Counter(index.values()).items()):
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
    return paths, index


def _header(path: Path, problems: list[str]) -> dict[str, Tensor] | None:
    if why := files.not_a_file(path):
        problems.append(f"{path.name}: {why}; download it again")
        return None
    if path.stat().st_size == 0:
        problems.append(f"{path.name} is empty (0 bytes); download it again")
        return None
    try:
        with safe_open(path, framework="np") as file:
            slices = {
                n: file.get_slice(n) for n in file.keys() if not NOT_WEIGHTS.search(n)
            }
            return {
                n: Tensor(path, tuple(s.get_shape()), s.get_dtype())
                for n, s in slices.items()
            }
    except (SafetensorError, OSError) as error:
        problems.append(
            f"{path.name} is cut short or damaged ({error}); download it again"
        )
        return None


def _layout(names: set[str], config: ModelConfig) -> str:
    if config.vision is None:
        return "text"
    prefixes = (("original", ("vision_model.", "mlp1.")), ("memory", ("model.",)))
    for layout, prefix in prefixes:
        if any(name.startswith(prefix) for name in names):
            return layout
    return "hf"


def _resolve_tie(
    config: ModelConfig, tensors: dict[str, Tensor], layout: str
) -> ModelConfig:
    """Whether the head is the embedding, from what the files hold.

    InternVLConfig says true by default, also above files with a head of its own: transformers then
    keeps both, and so does this.
    """
    names = (
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    )
    embedding, head = (renamed(name, layout) for name in names)
    if (
        not config.text.tie_embeddings
        or embedding not in tensors
        or head not in tensors
    ):
        return config
    if _equal(tensors, embedding, head):
        return config
    logging.warning(
        "tie_word_embeddings is true, but %s differs from %s; keeping both",
        head,
        embedding,
    )
    return dataclasses.replace(
        config, text=dataclasses.replace(config.text, tie_embeddings=False)
    )


def _equal(tensors: dict[str, Tensor], a: str, b: str, step: int = 4096) -> bool:
    """Whether two tensors hold the same bytes, compared some rows at a time."""
    if (tensors[a].shape, tensors[a].dtype) != (tensors[b].shape, tensors[b].dtype):
        return False
    with (
        safe_open(tensors[a].path, framework="np") as file_a,
        safe_open(tensors[b].path, framework="np") as file_b,
    ):
        rows, of_a, of_b = tensors[a].shape[0], file_a.get_slice(a), file_b.get_slice(b)
        parts = [slice(i, min(i + step, rows)) for i in range(0, rows, step)]
        return all(of_a[part].tobytes() == of_b[part].tobytes() for part in parts)


def _compare(
    wanted: list[Piece],
    tensors: dict[str, Tensor],
    lost: set[str] | None,
    config: ModelConfig,
    layout: str,
    problems: list[str],
) -> None:
    """Adds what is missing, wrong and unknown. What files that cannot be read may hold (`lost`, see
    `_headers`) is not missing: the files are, and that is said already.
    """
    expected = {piece.name: piece.shape for piece in wanted}
    for name, shape in expected.items():
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
    head = renamed("language_model.lm_head.weight", layout)
    for name in sorted(set(tensors) - set(expected)):
        if not (config.text.tie_embeddings and name == head):
            problems.append(
                f"{tensors[name].path.name}: {name} is not a weight of this model"
            )
