"""Weights alone, in our own layout."""

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
    flatten_fields = {
        "dtype": model.compute.param_dtype,
        "config": dataclasses.asdict(model.config),
    }
    with files.atomic_directory(directory) as (partial, first):
        if tokenizer is not None and first:
            (partial / "tokenizer").mkdir()
            tokenizer_files.copy_tokenizer(tokenizer, partial / "tokenizer")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / "weights", state)
        if first:
            checksums.write_sums(partial / "weights")
            files.write_json(partial / "model.json", flatten_fields)


def read_config(directory) -> tuple[ModelConfig, str]:
    """The ModelConfig of a checkpoint and the dtype of its weights, "float32" or "bfloat16".

    FileNotFoundError if there is no checkpoint of ours, ValueError if it is not of this version.
    """
    path = Path(directory) / "model.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give a checkpoint of this program, as tools/import_hf.py makes"
        )
    flatten_fields = files.read_json(path)
    try:
        config = dict(flatten_fields["config"])
        text = TextConfig(**config.pop("text"))
        vision = config.pop("vision")
        vision = None if vision is None else VisionConfig(**vision)
        dtype = Compute(
            param_dtype=flatten_fields["dtype"]
        ).param_dtype  # refuses any other
        return ModelConfig(text=text, vision=vision, **config), dtype
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a model description of this version ({error}); import the model again"
        ) from None


def load_weights(directory, *, compute: Compute | None = None, mesh=None) -> r1v3.R1V3:
    """The model in a checkpoint of ours, on the devices of `mesh` (default: the current mesh,
    `jax.set_mesh`, or one device).

    Without `compute`, in the dtype it was saved in; with it, in `compute.param_dtype`. ValueError
    or FileNotFoundError if a file is missing or has changed.
    """
    directory = Path(directory)
    config, dtype = read_config(directory)
    checksums.check_sums(directory / "weights")
    compute = Compute(dtype=dtype, param_dtype=dtype) if compute is None else compute
    graph, state = nnx.split(build.abstract(config, compute))
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    if mesh.empty:
        placed = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), state)
    else:
        placed = shardings(nnx.merge(graph, state), compute.rules, mesh)
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        state,
        placed,
    )
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
