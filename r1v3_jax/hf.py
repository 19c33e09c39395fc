"""Hugging Face safetensors in and out: one table, read forwards and backwards.

    model = load("InternVL3-38B-hf", mesh=mesh)          # tensor by tensor, straight into sharded arrays
    save(model, "out", layout="original", tokenizer="InternVL3-38B-hf")

Four layouts come in: the original repositories' (`vision_model`, `mlp1`), transformers' on disk
(`vision_tower`, ...; the hub's `-hf` files), its in-memory names (a leading `model.`), and a
language model alone (`model.layers`). Two go out: `hf` (on disk) and `original`. Knows names and
shapes; nothing of text or pixels.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import einops
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from huggingface_hub import split_state_dict_into_shards_factory
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from r1v3_jax import hf_config
from r1v3_jax.config import Compute, ModelConfig, num_params
from r1v3_jax.models import r1v3
from r1v3_jax.sharding import shardings

# Letters as in models/layers.py, in lower case; `p` counts q, k, v of the fused projection; in the
# patch kernel (i j) are row and column within the patch and `a` the colours. "{}" is the layer; a
# name with "{p}" stands for three, `p` running over q, k, v, the fused axis split.
# fmt: off
VISION_WEIGHTS = [
    # ours                     original: vision_model.                     hf: vision_tower.                                        original -> ours
    ("class_token",       "embeddings.class_embedding",              "embeddings.cls_token",                               "1 1 c -> c"),
    ("position",          "embeddings.position_embedding",           "embeddings.position_embeddings",                     "1 t c -> t c"),
    ("patch",             "embeddings.patch_embedding.weight",       "embeddings.patch_embeddings.projection.weight",      "c a i j -> (i j a) c"),
    ("patch_bias",        "embeddings.patch_embedding.bias",         "embeddings.patch_embeddings.projection.bias",        "c -> c"),
    ("blocks.norm1",      "encoder.layers.{}.norm1.weight",          "encoder.layer.{}.layernorm_before.weight",           "c -> c"),
    ("blocks.norm1_bias", "encoder.layers.{}.norm1.bias",            "encoder.layer.{}.layernorm_before.bias",             "c -> c"),
    ("blocks.qkv",        "encoder.layers.{}.attn.qkv.weight",       "encoder.layer.{}.attention.{p}_proj.weight",         "(p n h) c -> p c n h"),
    ("blocks.qkv_bias",   "encoder.layers.{}.attn.qkv.bias",         "encoder.layer.{}.attention.{p}_proj.bias",           "(p n h) -> p n h"),
    ("blocks.q_norm",     "encoder.layers.{}.attn.q_norm.weight",    "encoder.layer.{}.attention.q_norm.weight",           "c -> c"),
    ("blocks.k_norm",     "encoder.layers.{}.attn.k_norm.weight",    "encoder.layer.{}.attention.k_norm.weight",           "c -> c"),
    ("blocks.out",        "encoder.layers.{}.attn.proj.weight",      "encoder.layer.{}.attention.projection_layer.weight", "c (n h) -> n h c"),
    ("blocks.out_bias",   "encoder.layers.{}.attn.proj.bias",        "encoder.layer.{}.attention.projection_layer.bias",   "c -> c"),
    ("blocks.scale1",     "encoder.layers.{}.ls1",                   "encoder.layer.{}.lambda_1",                          "c -> c"),
    ("blocks.norm2",      "encoder.layers.{}.norm2.weight",          "encoder.layer.{}.layernorm_after.weight",            "c -> c"),
    ("blocks.norm2_bias", "encoder.layers.{}.norm2.bias",            "encoder.layer.{}.layernorm_after.bias",              "c -> c"),
    ("blocks.up",         "encoder.layers.{}.mlp.fc1.weight",        "encoder.layer.{}.mlp.fc1.weight",                    "f c -> c f"),
    ("blocks.up_bias",    "encoder.layers.{}.mlp.fc1.bias",          "encoder.layer.{}.mlp.fc1.bias",                      "f -> f"),
    ("blocks.down",       "encoder.layers.{}.mlp.fc2.weight",        "encoder.layer.{}.mlp.fc2.weight",                    "c f -> f c"),
    ("blocks.down_bias",  "encoder.layers.{}.mlp.fc2.bias",          "encoder.layer.{}.mlp.fc2.bias",                      "c -> c"),
    ("blocks.scale2",     "encoder.layers.{}.ls2",                   "encoder.layer.{}.lambda_2",                          "c -> c"),
]
CONNECTOR_WEIGHTS = [
    # ours         original: mlp1.  hf: multi_modal_projector.   -> ours; `s` is the width after the pixel shuffle, `e` is d
    ("norm",       "0.weight",      "layer_norm.weight",         "s -> s"),
    ("norm_bias",  "0.bias",        "layer_norm.bias",           "s -> s"),
    ("up",         "1.weight",      "linear_1.weight",           "d s -> s d"),
    ("up_bias",    "1.bias",        "linear_1.bias",             "d -> d"),
    ("down",       "3.weight",      "linear_2.weight",           "e d -> d e"),
    ("down_bias",  "3.bias",        "linear_2.bias",             "d -> d"),
]
LANGUAGE_WEIGHTS = [
    # ours             both: language_model.                              -> ours
    ("embedding",      "model.embed_tokens.weight",                       "v d -> v d"),
    ("blocks.norm1",   "model.layers.{}.input_layernorm.weight",          "d -> d"),
    ("blocks.q",       "model.layers.{}.self_attn.q_proj.weight",         "(k q h) d -> d k q h"),
    ("blocks.k",       "model.layers.{}.self_attn.k_proj.weight",         "(k h) d -> d k h"),
    ("blocks.v",       "model.layers.{}.self_attn.v_proj.weight",         "(k h) d -> d k h"),
    ("blocks.q_bias",  "model.layers.{}.self_attn.q_proj.bias",           "(k q h) -> k q h"),
    ("blocks.k_bias",  "model.layers.{}.self_attn.k_proj.bias",           "(k h) -> k h"),
    ("blocks.v_bias",  "model.layers.{}.self_attn.v_proj.bias",           "(k h) -> k h"),
    ("blocks.q_norm",  "model.layers.{}.self_attn.q_norm.weight",         "h -> h"),
    ("blocks.k_norm",  "model.layers.{}.self_attn.k_norm.weight",         "h -> h"),
    ("blocks.out",     "model.layers.{}.self_attn.o_proj.weight",         "d (k q h) -> k q h d"),
    ("blocks.norm2",   "model.layers.{}.post_attention_layernorm.weight", "d -> d"),
    ("blocks.gate",    "model.layers.{}.mlp.gate_proj.weight",            "f d -> d f"),
    ("blocks.up",      "model.layers.{}.mlp.up_proj.weight",              "f d -> d f"),
    ("blocks.down",    "model.layers.{}.mlp.down_proj.weight",            "d f -> f d"),
    ("norm",           "model.norm.weight",                               "d -> d"),
    ("head",           "lm_head.weight",                                  "v d -> v d"),
]
# fmt: on
WEIGHTS = {  # ours -> (original name, hf name, pattern)
    **{
        f"vision.{ours}": (f"vision_model.{original}", f"vision_tower.{hf}", pattern)
        for ours, original, hf, pattern in VISION_WEIGHTS
    },
    **{
        f"connector.{ours}": (f"mlp1.{original}", f"multi_modal_projector.{hf}", pattern)
        for ours, original, hf, pattern in CONNECTOR_WEIGHTS
    },
    **{
        f"language.{ours}": (f"language_model.{name}", f"language_model.{name}", pattern)
        for ours, name, pattern in LANGUAGE_WEIGHTS
    },
}

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
NOT_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$")  # a buffer that old checkpoints carry along
VOCAB = ("language.embedding", "language.head")  # their rows are padded in memory


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tensor of a file: where it lies in which of our parameters.

    `index` are the leading indices into the parameter (layer, then q/k/v); the rest of it is
    `einops.rearrange(tensor, pattern, **sizes)`.
    """

    param: str
    index: tuple[int, ...]
    name: str
    pattern: str
    sizes: dict[str, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the file."""
        return _shape(self.pattern.split("->")[0], self.sizes)

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        return einops.rearrange(tensor, self.pattern, **self.sizes)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        left, right = self.pattern.split("->")
        return np.ascontiguousarray(einops.rearrange(array, f"{right} -> {left}", **self.sizes))


def _shape(side: str, sizes: dict[str, int]) -> tuple[int, ...]:
    groups = re.findall(r"\(([^)]*)\)|(\w+)", side)
    return tuple(
        math.prod(sizes.get(axis, 1) for axis in (group or one).split()) for group, one in groups
    )


def pieces(config: ModelConfig, layout: str) -> Iterator[Piece]:
    """Every tensor of a checkpoint in a layout (`original`, `hf`, `memory` or `text`), in the
    model's order.
    """
    t, v = config.text, config.vision
    sizes = {
        "language": dict(
            v=t.vocab_size, d=t.embed, k=t.kv_heads, q=t.queries_per_kv, h=t.head_dim, f=t.mlp
        )
    }
    if v is not None:
        sizes["vision"] = dict(
            t=v.patches + 1,
            c=v.embed,
            n=v.heads,
            h=v.head_dim,
            f=v.mlp,
            p=3,
            i=v.patch_size,
            j=v.patch_size,
            a=3,
        )
        sizes["connector"] = dict(s=4 * v.embed, d=t.embed, e=t.embed)
    layers = {"language": t.layers, "vision": v.layers if v else 0}
    for path, _ in nnx.to_flat_state(nnx.state(r1v3.abstract(config, Compute()))):
        param = ".".join(path)
        original, hf, pattern = WEIGHTS[param]
        name = _rename(original if layout == "original" else hf, layout)
        stacked = [(i,) for i in range(layers[path[0]])] if "blocks" in path else [()]
        for index in stacked:
            parts = [("", index, pattern)]
            if "{p}" in name:
                parts = [(p, (*index, n), pattern.replace("p ", "")) for n, p in enumerate("qkv")]
            for part, at, form in parts:
                letters = {letter: sizes[path[0]][letter] for letter in re.findall("[a-z]", form)}
                yield Piece(param, at, name.replace("{p}", part).format(*index), form, letters)


def _rename(name: str, layout: str) -> str:
    """A name of the hf layout as transformers has it in memory, or of the language model alone."""
    if layout == "text":
        return name.removeprefix("language_model.")
    if layout == "memory":
        if name == "language_model.lm_head.weight":
            return "lm_head.weight"
        return "model." + name.replace("language_model.model.", "language_model.")
    return name


# ----------------------------------------------------------------------------------------------- in


def load(
    directory, dtype: str | None = None, mesh=None, compute: Compute | None = None
) -> r1v3.R1V3:
    """The model in a Hugging Face checkpoint directory, its weights on the devices of `mesh`
    (default: one device).

    `dtype` ("float32" or "bfloat16", default: as stored) is that of the weights and of the
    computation; pass a whole `compute` instead to choose more. Tensors are read one at a time, so
    that the host needs memory for the largest of them twice, whatever the model's size.

    Raises FileNotFoundError or ValueError with every problem of the directory, before any device is
    touched.
    """
    if dtype is not None and compute is not None:
        raise ValueError(
            "pass dtype or compute, not both: compute.dtype and compute.param_dtype say it already"
        )
    checkpoint = Checkpoint.open(directory)
    if compute is None:
        dtype = str(jnp.dtype(checkpoint.dtype() if dtype is None else dtype))
        compute = Compute(dtype=dtype, param_dtype=dtype)
    graph, state = nnx.split(r1v3.abstract(checkpoint.config, compute))
    placed = None if mesh is None else shardings(nnx.merge(graph, state), compute.rules, mesh)
    arrays = _assemble(checkpoint, state, placed)
    state = nnx.map_state(lambda path, variable: variable.replace(arrays[".".join(path)]), state)
    return nnx.merge(graph, state)


def _assemble(checkpoint: "Checkpoint", state, placed) -> dict[str, jax.Array]:
    flat = {".".join(path): variable.get_value() for path, variable in nnx.to_flat_state(state)}
    where = {} if placed is None else {
        ".".join(path): variable.get_value() for path, variable in nnx.to_flat_state(placed)
    }  # fmt: skip
    arrays: dict[str, jax.Array] = {}
    for piece in checkpoint.pieces:
        whole, sharding = flat[piece.param], where.get(piece.param)
        part = piece.to_ours(checkpoint.read(piece.name))
        if piece.param in VOCAB:
            part = _pad_rows(part, whole.shape[0])
        if not piece.index:
            arrays[piece.param] = _put(part, whole.dtype, sharding)
            continue
        if piece.param not in arrays:
            zeros = jax.jit(lambda w=whole: jnp.zeros(w.shape, w.dtype), out_shardings=sharding)
            arrays[piece.param] = zeros()
        if sharding is not None:
            sharding = NamedSharding(
                sharding.mesh, PartitionSpec(*sharding.spec[len(piece.index) :])
            )
        part = _put(part, whole.dtype, sharding)
        index = np.asarray(piece.index, np.int32)
        # The buffer is donated and one piece waited for before the next is read: never two copies.
        arrays[piece.param] = _write(arrays[piece.param], part, index).block_until_ready()
    return arrays


def _put(part: np.ndarray, dtype, sharding) -> jax.Array:
    """A host array on its devices, each device's share cut out, converted and laid out on its
    own.
    """

    def share(index):
        return np.ascontiguousarray(part[index]).astype(dtype, copy=False)

    if sharding is None:
        return jax.device_put(share(...))
    return jax.make_array_from_callback(part.shape, sharding, share)


@jax.jit(donate_argnums=0)
def _write(buffer, part, index):
    start = [*index, *[0] * part.ndim]
    return jax.lax.dynamic_update_slice(buffer, part.reshape((1,) * len(index) + part.shape), start)


def _pad_rows(x: np.ndarray, rows: int) -> np.ndarray:
    padded = np.zeros((rows, *x.shape[1:]), x.dtype)
    padded[: len(x)] = x
    return padded


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory whose every header has been read and found right."""

    directory: Path
    config: ModelConfig
    pieces: list[Piece]
    files: dict[str, Path]  # tensor -> file
    dtypes: dict[str, str]  # tensor -> "F32", ...

    @classmethod
    def open(cls, directory) -> "Checkpoint":
        directory = Path(directory)
        if not directory.is_dir():
            raise FileNotFoundError(
                f"{directory}: no such directory; give a Hugging Face checkpoint directory"
            )
        config = hf_config.read(directory)
        problems: list[str] = []
        headers: dict[str, tuple[Path, tuple[int, ...], str]] = {}
        for path in _files(directory, problems):
            for name, (shape, dtype) in _header(path, problems).items():
                if not NOT_WEIGHTS.search(name):
                    headers[name] = (path, shape, dtype)
        _refuse(directory, problems)
        layout = _layout(headers, config)
        head = "lm_head.weight" if layout in ("memory", "text") else "language_model.lm_head.weight"
        config = _resolve_tie(config, headers, head, layout)
        wanted = list(pieces(config, layout))
        _compare(wanted, headers, config, problems)
        _refuse(directory, problems)
        files = {name: path for name, (path, _, _) in headers.items()}
        dtypes = {piece.name: headers[piece.name][2] for piece in wanted}
        return cls(directory, config, wanted, files, dtypes)

    def read(self, name: str) -> np.ndarray:
        return _tensor(self.files[name], name)

    def dtype(self) -> str:
        kinds = sorted(set(self.dtypes.values()))
        if kinds in (["F32"], ["BF16"]):
            return DTYPES[kinds[0]]
        raise ValueError(
            f"{self.directory}: tensors are {', '.join(kinds)}; say which dtype you want, float32 or bfloat16"
        )


def _files(directory: Path, problems: list[str]) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        listed = hf_config.read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            problems.append(f"{index.name}: no weight_map")
            return []
        paths = [directory / name for name in sorted(set(map(str, listed.values())))]
        for path in paths:
            if path.parent != directory:
                problems.append(f"{index.name}: {path.name} lies outside the directory")
            elif not path.exists():
                lost = sum(name == path.name for name in listed.values())
                problems.append(f"{path.name} is missing; the index places {lost} tensors in it")
        return [path for path in paths if path.parent == directory and path.exists()]
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        pickled = sorted(path.name for path in directory.glob("*.bin"))
        hint = (
            f"; {pickled[0]} is a pickle, which is never read: convert it to safetensors"
            if pickled
            else ""
        )
        problems.append(f"no *.safetensors file{hint}")
    return paths


def _header(path: Path, problems: list[str]) -> dict[str, tuple[tuple[int, ...], str]]:
    if path.stat().st_size == 0:
        problems.append(f"{path.name} is empty (0 bytes); download it again")
        return {}
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except SafetensorError as error:
        problems.append(f"{path.name} is cut short or damaged ({error}); download it again")
        return {}


def _tensor(path: Path, name: str) -> np.ndarray:
    # Opened anew for each tensor: a mapping that stays open keeps the pages of all it has read.
    with safe_open(path, framework="np") as file:
        return file.get_tensor(name)


def _layout(names, config: ModelConfig) -> str:
    if config.vision is None:
        return "text"
    for layout, prefix in (
        ("original", "vision_model."),
        ("hf", "vision_tower."),
        ("memory", "model.vision_tower."),
    ):
        if any(name.startswith(prefix) for name in names):
            return layout
    return "hf"  # no tower at all: its tensors will be listed as missing


def _resolve_tie(config: ModelConfig, headers, head: str, layout: str) -> ModelConfig:
    """Whether the head is the embedding, from what the files hold.

    InternVLConfig says true by default, also above files with a head of its own: transformers then
    keeps both, and so does this.
    """
    tie = config.text.tie_embeddings
    if tie and head in headers:
        embedding = _rename("language_model.model.embed_tokens.weight", layout)
        if embedding in headers and headers[embedding][1:] == headers[head][1:]:
            a, b = (_tensor(headers[name][0], name) for name in (embedding, head))
            tie = a.tobytes() == b.tobytes()
        if not tie:
            logging.warning(
                "tie_word_embeddings is true, but %s differs from the embedding; keeping both", head
            )
    return dataclasses.replace(config, text=dataclasses.replace(config.text, tie_embeddings=tie))


def _compare(wanted: list[Piece], headers, config: ModelConfig, problems: list[str]) -> None:
    expected = {piece.name: piece.shape for piece in wanted}
    for name, shape in expected.items():
        if name not in headers:
            problems.append(f"{name} {list(shape)} is missing")
            continue
        path, got, dtype = headers[name]
        if got != shape:
            problems.append(
                f"{path.name}: {name} has shape {list(got)}; config.json makes it {list(shape)}"
            )
        if dtype not in DTYPES:
            problems.append(f"{path.name}: {name} is {dtype}; wanted {', '.join(DTYPES)}")
    for name in sorted(set(headers) - set(expected)):
        if not (config.text.tie_embeddings and name.endswith("lm_head.weight")):
            problems.append(f"{headers[name][0].name}: {name} is not a weight of this model")


SHOWN = 20  # problems listed one by one; a wrong config makes thousands


def _refuse(directory: Path, problems: list[str]) -> None:
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = "\n  ".join(problems[:SHOWN] + more)
        raise ValueError(f"{directory} cannot be loaded, {len(problems)} problem(s):\n  {listed}")


# ---------------------------------------------------------------------------------------------- out


def save(
    model: r1v3.R1V3,
    directory,
    layout: str = "hf",
    *,
    tokenizer=None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a Hugging Face checkpoint directory in the `hf` or the `original` layout.

    Weights in the dtype they are stored in, in safetensors of at most `max_shard_bytes`, with
    index, `config.json`, `generation_config.json`, `preprocessor_config.json`, SHA256SUMS; the head
    is always written, also a tied one. With `tokenizer`, a directory, its tokenizer files come
    along. The directory must not exist or be empty; it appears whole or not at all.
    """
    if layout not in hf_config.LAYOUTS:
        raise ValueError(f"layout {layout!r}; choose from {', '.join(hf_config.LAYOUTS)}")
    directory = hf_config.empty_directory(directory)
    config = model.config
    flat = {
        ".".join(path): variable.get_value()
        for path, variable in nnx.to_flat_state(nnx.state(model))
    }
    dtype = str(flat["language.embedding"].dtype)
    files = {"config.json": hf_config.write(config, layout, dtype), **_side_files(config)}
    partial = hf_config.partial_directory(directory)
    _write_weights(config, flat, partial, layout, max_shard_bytes)
    for name, value in files.items():
        (partial / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    if layout == "original" and config.vision is not None:
        (partial / f"{hf_config.ORIGINAL_MODULE}.py").write_text(
            hf_config.original_class(config), encoding="utf-8"
        )
    if tokenizer is not None:
        hf_config.copy_tokenizer(tokenizer, partial)
    sums = [f"{_sha256(path)}  {path.name}\n" for path in sorted(partial.iterdir())]
    (partial / "SHA256SUMS").write_text("".join(sums))
    os.replace(partial, directory)


def describe(model: r1v3.R1V3) -> str:
    """One line on a model: what it is, how large, in which dtype."""
    config = model.config
    kind = config.architecture if config.vision is not None else "a language model"
    return f"{kind}, {num_params(config):,} parameters, {model.compute.param_dtype}"


def _write_weights(
    config: ModelConfig, flat: dict[str, jax.Array], directory: Path, layout: str, limit: int
) -> None:
    tied = dataclasses.replace(config, text=dataclasses.replace(config.text, tie_embeddings=False))
    if config.text.tie_embeddings:
        flat = {**flat, "language.head": flat["language.embedding"]}
    plan = {
        piece.name: piece for piece in pieces(tied, layout if config.vision is not None else "text")
    }

    def size(piece: Piece) -> int:
        return math.prod(piece.shape) * flat[piece.param].dtype.itemsize

    split = split_state_dict_into_shards_factory(
        plan,
        get_storage_size=size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    for filename, names in split.filename_to_tensors.items():
        tensors = {
            name: plan[name].to_file(_fetch(flat[plan[name].param], plan[name])) for name in names
        }
        save_file(tensors, directory / filename, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _fetch(array: jax.Array, piece: Piece) -> np.ndarray:
    """One layer's worth of a parameter on the host, pad rows dropped."""
    for i in piece.index:
        array = jax.lax.index_in_dim(array, i, 0, keepdims=False)
    host = np.asarray(jax.device_get(array))
    return host[: piece.sizes["v"]] if piece.param in VOCAB else host


def _side_files(config: ModelConfig) -> dict[str, dict]:
    generation = {"eos_token_id": config.end_token_id, "pad_token_id": config.pad_token_id}
    if config.vision is None:
        return {"generation_config.json": generation}
    size = {"height": config.vision.image_size, "width": config.vision.image_size}
    preprocessor = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": config.max_tiles,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "crop_size": None,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    processor = {
        "processor_class": "InternVLProcessor",
        "image_seq_length": config.image_tokens_per_tile,
    }
    return {
        "generation_config.json": generation,
        "preprocessor_config.json": preprocessor,
        "processor_config.json": processor,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
