"""The parts that a model is assembled from: a vision tower, a connector, a language model.

A part is taken from a Hugging Face checkpoint (`whole_checkpoint`), from a model of ours
(`whole_model`), or from a directory with a tower alone (`open_tower`): InternViT, or DINOv2,
whose blocks are InternViT's. Knows names, shapes and files; what becomes of the parts is in
`assemble.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from r1v3_jax.config import TINY, ModelConfig, VisionConfig
from r1v3_jax.files import read_json
from r1v3_jax.hf.checkpoint import (
    DTYPES,
    Checkpoint,
    Tensor,
    compare,
    read_headers,
    unwrapped,
)
from r1v3_jax.hf.load import flatten_state
from r1v3_jax.hf.read_config import raise_problems, vision_fields
from r1v3_jax.hf.save import fetch
from r1v3_jax.hf.weights import Piece, pieces
from r1v3_jax.models.r1v3 import R1V3

# model_type of a tower alone.
INTERNVIT = ("intern_vit_6b", "internvl_vision")
DINOV2 = "dinov2"

# transformers' name in InternVL -> its name in DINOv2.
DINOV2_NAMES = (
    ("vision_tower.", ""),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.projection_layer.", ".attention.output.dense."),
    (".lambda_1", ".layer_scale1.lambda1"),
    (".lambda_2", ".layer_scale2.lambda1"),
)
FINAL_NORM = ("layernorm.weight", "layernorm.bias")
MASK_TOKEN = "embeddings.mask_token"  # of its training alone


@dataclasses.dataclass(frozen=True)
class Made:
    """A tensor that is computed when it is read; it stands where a file's `Tensor` does."""

    shape: tuple[int, ...]
    dtype: str  # "F32", "BF16", ..., as in the header of a file
    make: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """Computes the numbers, in the file's order of axes."""
        return self.make()


@dataclasses.dataclass(frozen=True)
class Part:
    """What is taken from one place: tensors, and which of our parameters they are."""

    origin: str  # a directory, for messages
    pieces: list[Piece]
    tensors: dict[str, Tensor | Made]  # one for each piece, by its name

    def read_ours(self, param: str) -> np.ndarray:
        """Reads a parameter that is one tensor, in our order of axes."""
        (piece,) = (piece for piece in self.pieces if piece.param == param)
        return piece.to_ours(self.tensors[piece.name].read())


@dataclasses.dataclass(frozen=True)
class Tower:
    """A vision tower, and what follows its last block if something does."""

    part: Part
    config: VisionConfig  # at the image size that is wanted
    side: int  # patches a side that its position embedding has
    final_norm: tuple[Tensor, Tensor] | None = None  # weight and bias, DINOv2's
    dropped: tuple[str, ...] = ()  # tensors that are known and not taken


# -------------------------------------------------------------------------------------------------
# parts of whole models


@dataclasses.dataclass(frozen=True)
class Whole:
    """A model that parts are taken from."""

    config: ModelConfig
    part: Callable[[str], Part]  # of "vision", "connector" or "language"


def whole_checkpoint(checkpoint: Checkpoint) -> Whole:
    """Returns the model in a Hugging Face checkpoint; its tensors are read from the files."""

    def part(name: str) -> Part:
        chosen = [x for x in checkpoint.pieces if x.param.startswith(f"{name}.")]
        tensors = {piece.name: checkpoint.tensors[piece.name] for piece in chosen}
        return Part(str(checkpoint.directory), chosen, tensors)

    return Whole(checkpoint.config, part)


def whole_model(
    config: ModelConfig, dtype: str, load: Callable[[], R1V3], origin: str
) -> Whole:
    """Returns a model that `load` returns; it is called when the first tensor is read.

    dtype: of its weights, "float32" or "bfloat16".
    """
    layout = "text" if config.vision is None else "original"
    (file_dtype,) = (key for key, value in DTYPES.items() if value == dtype)

    @functools.cache
    def arrays() -> dict[str, jax.Array]:
        return flatten_state(nnx.state(load()))

    def read(piece: Piece) -> np.ndarray:
        return piece.to_file(fetch(arrays()[piece.param], piece))

    def part(name: str) -> Part:
        chosen = [x for x in pieces(config, layout) if x.param.startswith(f"{name}.")]
        tensors = {
            x.name: Made(x.shape, file_dtype, functools.partial(read, x))
            for x in chosen
        }
        return Part(origin, chosen, tensors)

    return Whole(config, part)


def tower_of(whole: Whole, image_size: int | None) -> Tower:
    """Returns the tower of a whole model, for images of `image_size` pixels (None: its own)."""
    part = whole.part("vision")
    vision = whole.config.vision
    size = vision.image_size if image_size is None else image_size
    if size % (2 * vision.patch_size):
        raise ValueError(_odd_size(part.origin, size, vision.patch_size))
    config = dataclasses.replace(vision, image_size=size)
    return Tower(part, config, math.isqrt(vision.patches))


# -------------------------------------------------------------------------------------------------
# towers alone


def is_tower(directory: Path) -> bool:
    """Returns whether the config.json of a directory is that of a vision tower alone."""
    path = directory / "config.json"
    model_type = read_json(path).get("model_type") if path.is_file() else None
    return model_type in (*INTERNVIT, DINOV2)


def check_is_visual(directory: Path) -> None:
    """Raises ValueError if a config.json is of neither a tower nor a model that has one."""
    path = directory / "config.json"
    model_type = read_json(path).get("model_type") if path.is_file() else None
    known = ("internvl", "internvl_chat", "skywork_chat", *INTERNVIT, DINOV2)
    if model_type is not None and model_type not in known:
        raise ValueError(
            f"{directory}: model_type {model_type!r} has no tower of InternViT's form; wanted "
            f"{', '.join(known)}"
        )


def open_tower(directory: Path, image_size: int | None) -> Tower:
    """Opens a directory that holds a tower alone; reads headers, no weights.

    image_size: pixels a side of the images that it will see; None: those it was trained with.
    ValueError with every problem of the directory.
    """
    raw = read_json(directory / "config.json")
    is_dinov2 = raw["model_type"] == DINOV2
    layout = "original" if raw["model_type"] == "intern_vit_6b" else "hf"
    problems: list[str] = []

    # 1. The config, at the image size that is wanted.
    fields = _tower_fields(raw, directory)
    trained = fields["image_size"]
    side, rest = divmod(trained, fields["patch_size"])
    if rest:
        raise ValueError(
            f"{directory}: config.json: image_size {trained} is not a multiple of patch_size "
            f"{fields['patch_size']}; {side * fields['patch_size']} would do"
        )
    size = image_size or trained
    if size % (2 * fields["patch_size"]):
        raise ValueError(_odd_size(directory, size, fields["patch_size"]))
    config = VisionConfig(**{**fields, "image_size": size})

    # 2. The tensors.
    tensors, lost = unwrapped(*read_headers(directory, problems))
    expected = [
        dataclasses.replace(
            piece,
            name=_dinov2_name(piece.name) if is_dinov2 else _bare_name(piece.name),
            sizes=_with_side(piece, side),
        )
        # Of a whole model with this tower; its language model does not matter.
        for piece in pieces(dataclasses.replace(TINY, vision=config), layout)
        if piece.param.startswith("vision.")
    ]
    known = (*FINAL_NORM, MASK_TOKEN) if is_dinov2 else ()
    compare(expected, tensors, lost, known, problems)
    if is_dinov2:
        problems += _check_norm(tensors, config.embed)
    raise_problems(directory, problems)
    chosen = {piece.name: tensors[piece.name] for piece in expected}
    return Tower(
        Part(str(directory), expected, chosen),
        config,
        side,
        tuple(tensors[name] for name in FINAL_NORM) if is_dinov2 else None,
        (MASK_TOKEN,) if MASK_TOKEN in tensors else (),
    )


def _tower_fields(raw: dict, directory: Path) -> dict:
    """Reads the fields of a VisionConfig. ValueError with every problem of config.json."""
    problems: list[str] = []
    fields = {}
    try:
        if raw["model_type"] == DINOV2:
            fields = _dinov2_fields(raw, problems)
        else:
            original = raw["model_type"] == "intern_vit_6b"
            fields = vision_fields(raw, original, problems)
    except (AttributeError, KeyError, TypeError) as error:
        problems.append(f"a value of a type that no config has ({error})")
    raise_problems(directory, [f"config.json: {problem}" for problem in problems])
    return fields


def _odd_size(origin, size: int, patch: int) -> str:
    pair = 2 * patch
    would_do = max(size // pair, 1) * pair
    return (
        f"{origin}: {size} pixels are not an even number of patches of {patch}, and the connector "
        f"merges 2 x 2 of them; --image_size={would_do} would do"
    )


def _bare_name(name: str) -> str:
    return name.removeprefix("vision_model.").removeprefix("vision_tower.")


def _dinov2_name(name: str) -> str:
    for internvl, dinov2 in DINOV2_NAMES:
        name = name.replace(internvl, dinov2)
    return name


def _with_side(piece: Piece, side: int) -> dict[str, int]:
    """Returns the sizes of a piece of a tower whose position embedding has `side` x `side`."""
    if piece.param != "vision.position":
        return piece.sizes
    return {**piece.sizes, "t": 1 + side * side}


def _dinov2_fields(raw: dict, problems: list[str]) -> dict:
    """Reads the fields of a VisionConfig from DINOv2's config.json.

    They are InternViT's under the names of transformers' InternVLVisionConfig, so they are read as
    such. What InternViT cannot do is refused.
    """
    if raw.get("use_swiglu_ffn"):
        problems.append(
            "use_swiglu_ffn is true; only the towers with an MLP (small, base, large) are "
            "InternViT's form"
        )
    as_internvl = {
        **raw,
        "attention_bias": raw.get("qkv_bias", True),
        "norm_type": "layer_norm",
        "use_mask_token": False,
    }
    if isinstance(raw.get("hidden_size"), int):
        as_internvl["intermediate_size"] = int(
            raw["hidden_size"] * raw.get("mlp_ratio", 4)
        )
    return vision_fields(as_internvl, False, problems)


def _check_norm(tensors: dict[str, Tensor], width: int) -> list[str]:
    """Returns the problems of DINOv2's final norm."""
    problems = []
    for name in FINAL_NORM:
        if name not in tensors:
            problems.append(f"{name} [{width}] is missing")
        elif tensors[name].shape != (width,) or tensors[name].dtype not in DTYPES:
            problems.append(
                f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}; wanted [{width}]"
            )
    return problems
