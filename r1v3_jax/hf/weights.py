"""Where each tensor of a Hugging Face checkpoint lies in which of our parameters.

One table, read forwards by `hf.load` and backwards by `hf.save`. Four layouts: the original
repositories' (`vision_model`, `mlp1`), transformers' on disk (`vision_tower`, ...; the hub's `-hf`
files), its in-memory names (a leading `model.`), and a language model alone (`model.layers`).
Knows names and shapes; no files and no devices.
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
        f"connector.{ours}": (
            f"mlp1.{original}",
            f"multi_modal_projector.{hf}",
            pattern,
        )
        for ours, original, hf, pattern in CONNECTOR_WEIGHTS
    },
    **{
        f"language.{ours}": (
            f"language_model.{name}",
            f"language_model.{name}",
            pattern,
        )
        for ours, name, pattern in LANGUAGE_WEIGHTS
    },
}

VOCAB = ("language.embedding", "language.head")  # their rows are padded in memory
NOT_WEIGHTS = re.compile(
    r"rotary_emb\.inv_freq$"
)  # a buffer that old checkpoints carry along


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
        """A view of `tensor` in our order of axes."""
        return einops.rearrange(tensor, self.pattern, **self.sizes)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        left, right = self.pattern.split("->")
        return np.ascontiguousarray(
            einops.rearrange(array, f"{right} -> {left}", **self.sizes)
        )


def _shape(side: str, sizes: dict[str, int]) -> tuple[int, ...]:
    groups = re.findall(r"\(([^)]*)\)|(\w+)", side)
    return tuple(
        math.prod(sizes.get(axis, 1) for axis in (group or one).split())
        for group, one in groups
    )


def pieces(config: ModelConfig, layout: str) -> Iterator[Piece]:
    """Every tensor of a checkpoint in a layout (`original`, `hf`, `memory` or `text`), in the
    model's order.
    """
    t, v = config.text, config.vision
    sizes = {
        "language": dict(
            v=t.vocab_size,
            d=t.embed,
            k=t.kv_heads,
            q=t.queries_per_kv,
            h=t.head_dim,
            f=t.mlp,
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
    for path, _ in nnx.to_flat_state(nnx.state(build.abstract(config, Compute()))):
        param = ".".join(path)
        original, hf, pattern = WEIGHTS[param]
        name = renamed(original if layout == "original" else hf, layout)
        stacked = [(i,) for i in range(layers[path[0]])] if "blocks" in path else [()]
        for index in stacked:
            parts = [("", index, pattern)]
            if "{p}" in name:
                parts = [
                    (p, (*index, n), pattern.replace("p ", ""))
                    for n, p in enumerate("qkv")
                ]
            for part, at, form in parts:
                letters = {
                    letter: sizes[path[0]][letter]
                    for letter in re.findall("[a-z]", form)
                }
                yield Piece(
                    param, at, name.replace("{p}", part).format(*index), form, letters
                )


def renamed(name: str, layout: str) -> str:
    """A name of the hf layout as transformers has it in memory, or of the language model alone."""
    if layout == "text":
        return name.removeprefix("language_model.")
    if layout == "memory":
        if name == "language_model.lm_head.weight":
            return "lm_head.weight"
        return "model." + name.replace("language_model.model.", "language_model.")
    return name
