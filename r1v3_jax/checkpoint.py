"""Checkpoints of our own: weights by Orbax, and what they are the weights of.

CHECKPOINT/
  weights/      Orbax; each device writes and reads its own shards. SHA256SUMS lies with them:
                Orbax restores a damaged file without a word
  tokenizer/    the tokenizer's files, as they came
  model.json    ModelConfig and dtype
"""

import dataclasses
import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from r1v3_jax import hf_config, hf_files
from r1v3_jax.config import Compute, ModelConfig, TextConfig, VisionConfig
from r1v3_jax.models import r1v3
from r1v3_jax.sharding import shardings


def save_weights(directory, model: r1v3.R1V3, *, tokenizer=None) -> None:
    """Writes the weights alone, with the tokenizer files of the directory `tokenizer`.

    `directory` must not exist or be empty; it appears whole or not at all.
    """
    state = nnx.to_pure_dict(nnx.state(model))
    described = {"dtype": model.compute.param_dtype, "config": dataclasses.asdict(model.config)}
    with hf_files.whole_directory(directory) as (partial, first):
        if tokenizer is not None and first:
            (partial / "tokenizer").mkdir()
            hf_config.copy_tokenizer(tokenizer, partial / "tokenizer")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / "weights", state)
        if first:
            hf_files.write_sums(partial / "weights")
            hf_config.write_json(partial / "model.json", described)


def read_config(directory) -> tuple[ModelConfig, str]:
    """The ModelConfig of a checkpoint and the dtype of its weights, "float32" or "bfloat16".

    FileNotFoundError if there is no checkpoint of ours, ValueError if it is not of this version.
    """
    path = Path(directory) / "model.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give a checkpoint of this program, as tools/import_hf.py makes"
        )
    described = hf_config.read_json(path)
    try:
        config = dict(described["config"])
        text = TextConfig(**config.pop("text"))
        vision = config.pop("vision")
        vision = None if vision is None else VisionConfig(**vision)
        dtype = Compute(param_dtype=described["dtype"]).param_dtype  # refuses any other
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
    hf_files.check_sums(directory / "weights")
    compute = Compute(dtype=dtype, param_dtype=dtype) if compute is None else compute
    graph, state = nnx.split(r1v3.abstract(config, compute))
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    if mesh.empty:
        placed = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), state)
    else:
        placed = shardings(nnx.merge(graph, state), compute.rules, mesh)
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        placed,
    )
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            weights = directory.resolve() / "weights"
            restored = checkpointer.restore(weights, nnx.to_pure_dict(target))
        except ValueError as error:
            raise ValueError(f"{directory}: weights and model.json disagree: {error}") from error
    nnx.replace_by_pure_dict(state, restored)
    return nnx.merge(graph, state)


class States:
    """Training states of one stage: `directory`/STEP, each whole or not there.

    A state is the weights, the optimizer's moments and the step; `extra` is JSON beside it: the
    position in the data, what was measured so far. Random keys are functions of seed and step, so
    there is no other state.
    """

    def __init__(self, directory, *, keep: int = 2):
        self.directory, self.keep = Path(directory), keep

    def steps(self) -> list[int]:
        """Steps that can be restored, in order."""
        found = self.directory.glob("*/extra.json") if self.directory.is_dir() else ()
        return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())

    def save(self, step: int, state, extra: dict) -> None:
        """Writes `state` (a pytree of arrays) and drops all but the newest `keep`. An existing step
        is left alone.
        """
        target = self.directory / str(step)
        if target.exists():
            return
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        with hf_files.whole_directory(target) as (partial, first):
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(partial / "state", leaves)
            if first:
                hf_config.write_json(partial / "extra.json", extra)
        if first:
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(self.directory / str(old))

    def restore(self, step: int, like):
        """The state of `step` on the devices that `like`, a state of the same shapes, lies on; and
        its extra.
        """
        leaves, treedef = jax.tree.flatten(like)
        abstract = {
            str(i): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for i, x in enumerate(leaves)
        }
        path = (self.directory / str(step)).resolve()
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(path / "state", abstract)
        state = jax.tree.unflatten(treedef, [restored[str(i)] for i in range(len(leaves))])
        return state, hf_config.read_json(path / "extra.json")
