"""Arrays -> safetensors, index, companions."""

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

from r1v3_jax import checksums, files
from r1v3_jax.config import ModelConfig
from r1v3_jax.hf import processor_files, read_config, write_config
from r1v3_jax.hf.load import INDEX, flatten_state
from r1v3_jax.hf.weights import VOCAB, Piece, pieces
from r1v3_jax.models import r1v3
from r1v3_jax.models.flops import num_params

# -------------------------------------------------------------------------------------------------
# out


def save(
    model: r1v3.R1V3,
    directory,
    layout: str = "hf",
    *,
    tokenizer=None,
    chat_template: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a Hugging Face checkpoint directory in the `hf` or the `original` layout.

    Weights in the dtype they are stored in, in safetensors of at most `max_shard_bytes`, with
    index, `config.json`, `generation_config.json`, `preprocessor_config.json`, SHA256SUMS; the head
    is always written, also a tied one. With `tokenizer`, a directory, its tokenizer files come
    along, with `chat_template` (Jinja) in place of their own template. The directory must not exist
    or be empty; it appears whole or not at all. On several processes all of them call it, and the
    first one writes.
    """
    if layout not in read_config.LAYOUTS:
        raise ValueError(
            f"layout {layout!r}; choose from {', '.join(read_config.LAYOUTS)}"
        )
    flat = flatten_state(nnx.state(model))
    config_json = write_config.write(
        model.config, layout, str(flat["language.embedding"].dtype)
    )
    with files.atomic_directory(directory) as (partial, first):
        if first:
            processor_files.write(
                partial, model.config, layout, tokenizer, chat_template
            )
        _write_weights(model.config, flat, partial, layout, max_shard_bytes, first)
        if first:
            # Last, so that what an interrupted save leaves behind does not load.
            files.write_json(partial / "config.json", config_json)
            checksums.write_sums(partial)


def describe(model: r1v3.R1V3) -> str:
    """One line on a model: what it is, how large, in which dtype."""
    config = model.config
    kind = config.architecture if config.vision is not None else "a language model"
    return f"{kind}, {num_params(config):,} parameters, {model.compute.param_dtype}"


def _write_weights(
    config: ModelConfig,
    flat: dict[str, jax.Array],
    directory: Path,
    layout: str,
    limit: int,
    first: bool,
) -> None:
    """The shards and their index. All processes fetch, the first one writes."""
    if config.text.tie_embeddings:
        text = dataclasses.replace(config.text, tie_embeddings=False)
        config = dataclasses.replace(config, text=text)
        flat = {**flat, "language.head": flat["language.embedding"]}
    layout = layout if config.vision is not None else "text"
    plan = {piece.name: piece for piece in pieces(config, layout)}
    split = split_state_dict_into_shards_factory(
        plan,
        get_storage_size=lambda p: math.prod(p.shape) * flat[p.param].dtype.itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    for filename, names in split.filename_to_tensors.items():
        tensors = {}
        for name in names:
            array = _fetch(flat[plan[name].param], plan[name])
            if first:
                tensors[name] = plan[name].to_file(array)
        if first:
            save_file(tensors, directory / filename, metadata={"format": "pt"})
    if first and split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        files.write_json(directory / INDEX, index)


def _fetch(array: jax.Array, piece: Piece) -> np.ndarray:
    """A piece of a parameter on every host, pad rows dropped."""
    # A process cannot read what only another's devices hold.
    everywhere = not array.is_fully_addressable
    host = np.asarray(
        _take(array, np.asarray(piece.index, np.int32), everywhere=everywhere)
    )
    return host[: piece.sizes["v"]] if piece.param in VOCAB else host


@functools.partial(jax.jit, static_argnames="everywhere")
def _take(array, index, *, everywhere: bool):
    for i in index:
        array = jax.lax.dynamic_index_in_dim(array, i, 0, keepdims=False)
    if everywhere:
        array = jax.reshard(
            array, NamedSharding(jax.typeof(array).sharding.mesh, PartitionSpec())
        )
    return array
