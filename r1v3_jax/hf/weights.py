"""Which tensor of a Hugging Face checkpoint is which of our parameters.

One table, read forwards by `load.py` and backwards by `save.py`. Four layouts: `original`, the
names of the original repositories (`vision_model`, `mlp1`); `hf`, those that transformers writes
(`vision_tower`, ...; the hub's `-hf` files); `memory`, those that transformers has in memory (a
leading `model.`); `text`, a language model alone (`model.layers`). Knows names and shapes; no files
and no devices.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import einops
import numpy as np
from flax import nnx

from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.models import build

# Letters as in models/layers.py, in lower case; `p` counts q, k, v of the fused projection; in the
# patch kernel (i j) are row and column within the patch and `a` the colours. "{}" is the layer. A
# name with "{p}" stands for three, in which `p` is q, k and v and the fused axis is split.
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


def _weights() -> dict[str, tuple[str, str, str]]:
    """Returns {ours: (original name, hf name, pattern)} of the three tables."""
    table = {}
    for ours, original, hf, pattern in VISION_WEIGHTS:
        names = (f"vision_model.{original}", f"vision_tower.{hf}")
        table[f"vision.{ours}"] = (*names, pattern)
    for ours, original, hf, pattern in CONNECTOR_WEIGHTS:
        names = (f"mlp1.{original}", f"multi_modal_projector.{hf}")
        table[f"connector.{ours}"] = (*names, pattern)
    for ours, name, pattern in LANGUAGE_WEIGHTS:
        names = (f"language_model.{name}",) * 2
        table[f"language.{ours}"] = (*names, pattern)
    return table


WEIGHTS = _weights()

# The parameters whose rows are padded in memory.
VOCAB = ("language.embedding", "language.head")
# A buffer that old checkpoints carry along.
NOT_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$")


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tensor of a file, and the part of our parameters that it is.

    That part is `einops.rearrange(tensor, pattern, **sizes)`.
    """

    param: str  # our parameter: "vision.blocks.qkv"
    index: tuple[int, ...]  # leading indices into it: layer, then q, k or v
    name: str  # of the tensor in the file
    pattern: str  # "(n h) c -> c n h"
    sizes: dict[str, int]  # of the pattern's letters

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the file."""
        return _shape(self.pattern.split("->")[0], self.sizes)

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """Returns a view of the file's `tensor` in our order of axes."""
        return einops.rearrange(tensor, self.pattern, **self.sizes)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Returns a copy of our `array` in the file's order of axes."""
        file_axes, our_axes = self.pattern.split("->")
        backwards = f"{our_axes} -> {file_axes}"
        return np.ascontiguousarray(einops.rearrange(array, backwards, **self.sizes))


def _shape(axes: str, sizes: dict[str, int]) -> tuple[int, ...]:
    """Returns the shape of one side of a pattern; a letter without a size is an axis of 1.

    "(k h) d", {k: 2, h: 4, d: 32}   ->   (8, 32)
    """
    shape = []
    for group, letter in re.findall(r"\(([^)]*)\)|(\w+)", axes):
        letters = (group or letter).split()
        shape.append(math.prod(sizes.get(letter, 1) for letter in letters))
    return tuple(shape)


def pieces(config: ModelConfig, layout: str) -> Iterator[Piece]:
    """Yields every tensor of a checkpoint in a layout, in the order of the model's parameters.

    Layouts: `original`, `hf`, `memory` or `text`.
    """
    sizes = _sizes(config)
    vision_layers = config.vision.layers if config.vision else 0
    layers = {"language": config.text.layers, "vision": vision_layers}
    model = build.abstract(config, Compute())
    for path, _ in nnx.to_flat_state(nnx.state(model)):
        param = ".".join(path)
        part = path[0]  # vision, connector or language
        original, hf, pattern = WEIGHTS[param]
        name = original if layout == "original" else name_in_layout(hf, layout)
        # The blocks' parameters are stacked: a file has a tensor for each layer.
        indices = [()]
        if "blocks" in path:
            indices = [(layer,) for layer in range(layers[part])]
        for index in indices:
            yield from _pieces_of_layer(param, index, name, pattern, sizes[part])


def _pieces_of_layer(
    param: str,
    index: tuple[int, ...],
    name: str,
    pattern: str,
    sizes: dict[str, int],
) -> Iterator[Piece]:
    """Yields the tensor of one layer of a parameter, or three for a q, k, v which the file has apart."""
    splits = [("", index, pattern)]
    if "{p}" in name:
        # "(p n h) c -> p c n h" of q, k and v together is "(n h) c -> c n h" of each.
        split_pattern = pattern.replace("p ", "")
        splits = [(p, (*index, i), split_pattern) for i, p in enumerate("qkv")]
    for p, split_index, split_pattern in splits:
        letters = re.findall("[a-z]", split_pattern)
        yield Piece(
            param=param,
            index=split_index,
            name=name.replace("{p}", p).format(*split_index),
            pattern=split_pattern,
            sizes={letter: sizes[letter] for letter in letters},
        )


def _sizes(config: ModelConfig) -> dict[str, dict[str, int]]:
    """Returns {part of the model: {letter of its patterns: size}}."""
    text = config.text
    vision = config.vision
    sizes = {
        "language": dict(
            v=text.vocab_size,
            d=text.embed,
            k=text.kv_heads,
            q=text.queries_per_kv,
            h=text.head_dim,
            f=text.mlp,
        )
    }
    if vision is not None:
        sizes["vision"] = dict(
            t=vision.patches + 1,
            c=vision.embed,
            n=vision.heads,
            h=vision.head_dim,
            f=vision.mlp,
            p=3,
            i=vision.patch_size,
            j=vision.patch_size,
            a=3,
        )
        sizes["connector"] = dict(s=4 * vision.embed, d=text.embed, e=text.embed)
    return sizes


def name_in_layout(name: str, layout: str) -> str:
    """Returns a name of the hf layout as it is in the `memory` or the `text` layout.

    The language model's names are the same in `original` and `hf`.
    """
    if layout == "text":
        return name.removeprefix("language_model.")
    if layout == "memory":
        # transformers keeps the head beside the language model, not in it.
        if name == "language_model.lm_head.weight":
            return "lm_head.weight"
        return "model." + name.replace("language_model.model.", "language_model.")
    return name
