"""Checkpoints of our own: weights by Orbax, and what they are the weights of.

CHECKPOINT/
  weights/      Orbax; each device writes and reads its own shards
  tokenizer/    the tokenizer's files, as they came
  model.json    ModelConfig and dtype
"""

import dataclasses
import json
import os
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from r1v3_jax import hf_config
from r1v3_jax.config import Compute, ModelConfig, TextConfig, VisionConfig
from r1v3_jax.models import r1v3
from r1v3_jax.sharding import shardings


def save_weights(directory, model: r1v3.R1V3, *, tokenizer=None) -> None:
    """Writes the weights alone, with the tokenizer files of the directory `tokenizer`.

    `directory` must not exist or be empty; it appears whole or not at all.
    """
    directory = hf_config.empty_directory(directory)
    partial = hf_config.partial_directory(directory)
    if tokenizer is not None:
        (partial / "tokenizer").mkdir()
        hf_config.copy_tokenizer(tokenizer, partial / "tokenizer")
    state = nnx.to_pure_dict(nnx.state(model))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(partial.resolve() / "weights", state)
    dtype = model.compute.param_dtype
    described = {"dtype": dtype, "config": dataclasses.asdict(model.config)}
    (partial / "model.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, directory)


def read_config(directory) -> tuple[ModelConfig, str]:
    """The ModelConfig of a checkpoint and the dtype of its weights. ValueError if it is none of
    ours.
    """
    path = Path(directory) / "model.json"
    described = hf_config.read_json(path)
    try:
        config = dict(described["config"])
        text = TextConfig(**config.pop("text"))
        vision = config.pop("vision")
        vision = None if vision is None else VisionConfig(**vision)
        return ModelConfig(text=text, vision=vision, **config), described["dtype"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a model description of this version ({error}); import the model again"
        ) from None


def load_weights(directory, *, compute: Compute | None = None, mesh=None) -> r1v3.R1V3:
    """The model in a checkpoint of ours, on the devices of `mesh` (default: one device).

    Without `compute`, in the dtype it was saved in; with it, in `compute.param_dtype`.
    """
    directory = Path(directory)
    config, dtype = read_config(directory)
    if not (directory / "weights").is_dir():
        raise FileNotFoundError(
            f"{directory}/weights: no such directory; the checkpoint is incomplete"
        )
    compute = Compute(dtype=dtype, param_dtype=dtype) if compute is None else compute
    graph, state = nnx.split(r1v3.abstract(config, compute))
    if mesh is None:
        placed = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), state)
    else:
        placed = shardings(nnx.merge(graph, state), compute.rules, mesh)
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        placed,
    )
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(directory.resolve() / "weights", nnx.to_pure_dict(target))
    nnx.replace_by_pure_dict(state, restored)
    return nnx.merge(graph, state)
