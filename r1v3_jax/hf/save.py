"""Our parameters -> a Hugging Face checkpoint directory.

    save(model, "out", layout="original", tokenizer="InternVL3-38B-hf")

Knows devices and files. Which tensor is which parameter is in `weights.py`, `config.json` in
`write_config.py`, the other files in `processor_files.py`.
"""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from huggingface_hub import split_state_dict_into_shards_factory
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from r1v3_jax.checksums import write_sums
from r1v3_jax.config import ModelConfig
from r1v3_jax.files import atomic_directory, follow_umask, write_settings
from r1v3_jax.hf.checkpoint import INDEX, shortened
from r1v3_jax.hf.load import all_finite, flatten_state
from r1v3_jax.hf.processor_files import write_processor_files
from r1v3_jax.hf.read_config import LAYOUTS
from r1v3_jax.hf.weights import VOCAB, Piece, pieces
from r1v3_jax.hf.write_config import config_json
from r1v3_jax.models.flops import num_params
from r1v3_jax.models.r1v3 import R1V3


def save(
    model: R1V3,
    directory,
    layout: str = "hf",
    *,
    tokenizer=None,
    chat_template: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    allow_nonfinite: bool = False,
) -> None:
    """Writes a Hugging Face checkpoint directory in the `hf` or the `original` layout.

    The directory must not exist or be empty; it appears whole or not at all. It holds the weights
    in the dtype they are stored in, in safetensors files of at most `max_shard_bytes` and their
    index; `config.json`, `generation_config.json`, `preprocessor_config.json`, SHA256SUMS. The head
    is always written, also a tied one.

    tokenizer: a directory whose tokenizer files are copied. chat_template: Jinja in place of their
    own template. allow_nonfinite: for a look at weights that hold nan or inf, which are refused
    with a ValueError otherwise, before anything is written. On several processes all of them call
    this, and the first one writes.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    arrays = flatten_state(nnx.state(model))
    nonfinite = _nonfinite(model.config, arrays, layout)
    if nonfinite and not allow_nonfinite:
        raise ValueError(
            f"nan or inf in {shortened(nonfinite)}; such weights compute nothing. Export an "
            "earlier checkpoint, or pass allow_nonfinite=True "
            "(tools/export_hf.py --allow_nonfinite) to look at these"
        )
    dtype = str(arrays["language.embedding"].dtype)
    settings = config_json(model.config, layout, dtype)
    with atomic_directory(directory) as (partial, writes_files):
        if writes_files:
            write_processor_files(
                partial, model.config, layout, tokenizer, chat_template
            )
        _write_weights(
            model.config, arrays, partial, layout, max_shard_bytes, writes_files
        )
        if writes_files:
            # Last, so that what an interrupted save leaves behind does not load.
            write_settings(partial / "config.json", settings)
            write_sums(partial)
            follow_umask(partial)


def describe(model: R1V3) -> str:
    """Returns one line on a model: what it is, how large, in which dtype."""
    config = model.config
    kind = config.architecture if config.vision is not None else "a language model"
    return f"{kind}, {num_params(config):,} parameters, {model.compute.param_dtype}"


def _nonfinite(
    config: ModelConfig, arrays: dict[str, jax.Array], layout: str
) -> list[str]:
    """Returns the names that tensors with nan or inf would have in the files."""
    bad = {name for name, array in arrays.items() if not bool(all_finite(array))}
    if not bad:
        return []
    names = []
    for piece in pieces(config, layout if config.vision is not None else "text"):
        # A parameter of all layers is many tensors: which of them?
        index = np.asarray(piece.index, np.int32)
        if piece.param in bad and not bool(
            all_finite(_take(arrays[piece.param], index))
        ):
            names.append(piece.name)
    return names


def _write_weights(
    config: ModelConfig,
    arrays: dict[str, jax.Array],
    directory: Path,
    layout: str,
    max_shard_bytes: int,
    writes_files: bool,
) -> None:
    """Writes the shards and their index. All processes fetch, the first one writes.

    arrays: our parameters, {name: array}.
    """
    # 1. Which tensors there are. A tied head is the embedding once more.
    if config.text.tie_embeddings:
        text = dataclasses.replace(config.text, tie_embeddings=False)
        config = dataclasses.replace(config, text=text)
        arrays = {**arrays, "language.head": arrays["language.embedding"]}
    layout = layout if config.vision is not None else "text"
    plan = {piece.name: piece for piece in pieces(config, layout)}

    # 2. Which file each of them goes into.
    def size_in_bytes(piece: Piece) -> int:
        return math.prod(piece.shape) * arrays[piece.param].dtype.itemsize

    split = split_state_dict_into_shards_factory(
        plan,
        get_storage_size=size_in_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )

    # 3. One file at a time: no more than its tensors are in the host's memory.
    for filename, names in split.filename_to_tensors.items():
        tensors = {}
        for name in names:
            piece = plan[name]
            array = fetch(arrays[piece.param], piece)
            if writes_files:
                tensors[name] = piece.to_file(array)
        if writes_files:
            save_file(tensors, directory / filename, metadata={"format": "pt"})
    if writes_files and split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_settings(directory / INDEX, index)


def fetch(array: jax.Array, piece: Piece) -> np.ndarray:
    """Copies a piece of a parameter to every host, without the vocabulary's pad rows."""
    # A process cannot read what only another process's devices hold.
    everywhere = not array.is_fully_addressable
    index = np.asarray(piece.index, np.int32)
    part = np.asarray(_take(array, index, everywhere=everywhere))
    return part[: piece.sizes["v"]] if piece.param in VOCAB else part


@functools.partial(jax.jit, static_argnames="everywhere")
def _take(array, index, *, everywhere: bool = False):
    for i in index:
        array = jax.lax.dynamic_index_in_dim(array, i, 0, keepdims=False)
    if everywhere:
        mesh = jax.typeof(array).sharding.mesh
        array = jax.reshard(array, NamedSharding(mesh, PartitionSpec()))
    return array
