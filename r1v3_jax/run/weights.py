"""Weights alone, in our own layout: what a stage hands on, and what tools read and write."""

import dataclasses
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from r1v3_jax import checksums, files
from r1v3_jax.config import Compute, ModelConfig, TextConfig, VisionConfig
from r1v3_jax.models import build, r1v3
from r1v3_jax.processing import tokenizer_files
from r1v3_jax.sharding import shardings


def save_weights(directory, model: r1v3.R1V3, *, tokenizer=None) -> None:
    """Writes the weights alone, with the tokenizer files of the directory `tokenizer`.

    `directory` must not exist or be empty; it appears whole or not at all.
    """
    state = nnx.to_pure_dict(nnx.state(model))
    description = {
        "dtype": model.compute.param_dtype,
        "config": dataclasses.asdict(model.config),
    }
    with files.atomic_directory(directory) as (partial, writes_files):
        if tokenizer is not None and writes_files:
            (partial / "tokenizer").mkdir()
            tokenizer_files.copy_tokenizer(tokenizer, partial / "tokenizer")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / "weights", state)
        if writes_files:
            checksums.write_sums(partial / "weights")
            files.write_json(partial / "model.json", description)


def read_config(directory) -> tuple[ModelConfig, str]:
    """Returns the ModelConfig of a checkpoint and the dtype of its weights.

    The dtype is "float32" or "bfloat16". FileNotFoundError if there is no checkpoint of ours,
    ValueError if it is not of this version.
    """
    path = Path(directory) / "model.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give a checkpoint of this program, as tools/import_hf.py makes"
        )
    description = files.read_json(path)
    try:
        fields = dict(description["config"])
        text = TextConfig(**fields.pop("text"))
        vision = fields.pop("vision")
        if vision is not None:
            vision = VisionConfig(**vision)
        config = ModelConfig(text=text, vision=vision, **fields)
        compute = Compute(param_dtype=description["dtype"])  # refuses any other dtype
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a model description of this version ({error}); import the model again"
        ) from None
    return config, compute.param_dtype


def load_weights(directory, *, compute: Compute | None = None, mesh=None) -> r1v3.R1V3:
    """Returns the model in a checkpoint of ours.

    Its arrays are on the devices of `mesh` (default: the current mesh, `jax.set_mesh`, or one
    device). Without `compute` they have the dtype they were saved in; with it,
    `compute.param_dtype`. ValueError or FileNotFoundError if a file is missing or has changed.
    """
    # 1. What is stored there.
    directory = Path(directory)
    config, dtype = read_config(directory)
    checksums.check_sums(directory / "weights")

    # 2. Where its arrays go.
    if compute is None:
        compute = Compute(dtype=dtype, param_dtype=dtype)
    graph, state = nnx.split(build.abstract(config, compute))
    if mesh is None:
        mesh = jax.sharding.get_mesh()
    if mesh.empty:
        placed = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), state)
    else:
        placed = shardings(nnx.merge(graph, state), compute.rules, mesh)

    # Each device reads its own part of each array.
    def with_sharding(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    target = jax.tree.map(with_sharding, state, placed)

    # 3. Read them.
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            weights = directory.resolve() / "weights"
            restored = checkpointer.restore(weights, nnx.to_pure_dict(target))
        except ValueError as error:
            raise ValueError(
                f"{directory}: weights and model.json disagree: {error}"
            ) from error
    nnx.replace_by_pure_dict(state, restored)
    return nnx.merge(graph, state)
