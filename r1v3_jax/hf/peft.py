"""Low-rank adapters -> a directory that `peft` loads on the exported base.

    save_adapters(model, "adapters", base="cold_start/done", with_connector=True)

    base = InternVLForConditionalGeneration.from_pretrained("export")     # of the base
    model = peft.PeftModel.from_pretrained(base, "adapters")

Knows names and files; which tensor is which parameter is in `weights.py`. What the format is was
read in peft 0.21: `adapter_config.json`, and `adapter_model.safetensors` with lora_A [rank, inputs]
and lora_B [outputs, rank] of each module.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from safetensors.numpy import save_file

from r1v3_jax.config import ModelConfig
from r1v3_jax.files import atomic_directory, first_process, follow_umask, write_settings
from r1v3_jax.hf.load import flatten_state
from r1v3_jax.hf.save import fetch
from r1v3_jax.hf.weights import Piece, pieces
from r1v3_jax.models.r1v3 import R1V3

CONNECTOR = "multi_modal_projector"  # of transformers' class


def save_adapters(
    model: R1V3, directory, *, base: str, with_connector: bool = False
) -> None:
    """Writes the adapters of a model in PEFT's format; an older directory is replaced.

    base: what they are for, in words or as a path: it becomes `base_model_name_or_path`.
    with_connector: whether the connector learnt too; then it is written whole. On several processes
    all of them call this, and the first one writes.
    """
    directory = Path(directory)
    if first_process():
        shutil.rmtree(directory, ignore_errors=True)
    multihost_utils.sync_global_devices("no adapters are there")
    arrays = flatten_state(nnx.state(model))
    # All layers of a matrix at once, on every process.
    factors = {n: fetch_all(x) for n, x in arrays.items() if ".adapters." in n}
    tensors = {}
    modules = []
    for module, piece in adapted_modules(model):
        a, b = factors_of(factors, piece)
        modules.append(module)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    if with_connector:
        for piece in pieces(model.config, layout_of(model.config)):
            if piece.param.startswith("connector."):
                tensor = piece.to_file(fetch(arrays[piece.param], piece))
                tensors[f"base_model.model.{piece.name}"] = tensor.astype(np.float32)
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": model.adapters.rank,
        "lora_alpha": model.adapters.scale * model.adapters.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": pattern_of(modules),
        "modules_to_save": [CONNECTOR] if with_connector else None,
    }
    with atomic_directory(directory) as (partial, writes_files):
        if writes_files:
            weights = partial / "adapter_model.safetensors"
            save_file(tensors, weights, metadata={"format": "pt"})
            write_settings(partial / "adapter_config.json", settings)
            follow_umask(partial)


def layout_of(config: ModelConfig) -> str:
    """Returns the layout of the names that transformers has in memory, where peft finds them."""
    return "text" if config.vision is None else "memory"


def adapted_modules(model: R1V3) -> Iterator[tuple[str, Piece]]:
    """Yields the names of the adapted modules and the tensor of each.

    ("model.language_model.layers.0.self_attn.q_proj", the piece of layer 0 of
    language.blocks.q).
    """
    names = flatten_state(nnx.state(model))
    for piece in pieces(model.config, layout_of(model.config)):
        if f"{adapter_name(piece.param)}.a" in names:
            yield piece.name.removesuffix(".weight"), piece


def adapter_name(param: str) -> str:
    """Returns where a parameter's factors are: "language.blocks.adapters.q"."""
    stack, _, name = param.rpartition(".")
    return f"{stack}.adapters.{name}"


def factors_of(factors: dict, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """Returns lora_A [rank, inputs] and lora_B [outputs, rank] of a module, float32.

    Of q, k and v of the tower, which we have fused, all three get the same A.
    """
    layer, *part = piece.index
    name = adapter_name(piece.param)
    a = factors[f"{name}.a"][layer]  # [inputs..., rank]
    b = factors[f"{name}.b"][layer]  # [rank, outputs...]
    if part:
        b = b[:, part[0]]
    rank = len(b)
    lora_a = a.reshape(-1, rank).T
    lora_b = b.reshape(rank, -1).T
    return np.ascontiguousarray(lora_a), np.ascontiguousarray(lora_b)


def fetch_all(array: jax.Array) -> np.ndarray:
    """Returns all of an array, on every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def pattern_of(modules: list[str]) -> str:
    r"""Returns the regular expression that matches these modules and no others.

    ["a.layers.0.q_proj", "a.layers.1.q_proj"] -> a\.layers\.\d+\.q_proj
    """
    kinds = [r"\d+".join(map(re.escape, re.split(r"\d+", name))) for name in modules]
    return "|".join(dict.fromkeys(kinds))
