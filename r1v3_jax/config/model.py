"""What a model is (`ModelConfig`) and how it is run (`Compute`).

A `ModelConfig` holds what a checkpoint's `config.json` holds: it fixes the mathematics and travels
with the weights. A `Compute` changes none of the mathematics: number format, memory against
recomputation, layout.
"""

import dataclasses
from typing import Annotated, Literal

from r1v3_jax.fields import PositiveFloat, PositiveInt, at_least, check
from r1v3_jax.sharding import TRAIN, Rules


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower, InternViT.

    There are two published forms: 300M (LayerNorm, qkv bias) and 6B (RMSNorm, no qkv bias,
    qk-norm).
    """

    image_size: PositiveInt = 448  # pixels a side; every tile is resized to it
    patch_size: PositiveInt = 14
    embed: PositiveInt = 1024
    layers: PositiveInt = 24
    heads: PositiveInt = 16
    mlp: PositiveInt = 4096
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_eps: PositiveFloat = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False  # RMSNorm over the full width, before the head split
    qk_norm_eps: PositiveFloat = 1e-6

    @property
    def head_dim(self) -> int:
        return self.embed // self.heads

    @property
    def patches(self) -> int:
        """Patches a tile, without the class token."""
        return (self.image_size // self.patch_size) ** 2

    def __post_init__(self):
        check(self)
        if self.embed % self.heads:
            raise ValueError(
                f"vision embed {self.embed} does not divide into {self.heads} heads"
            )
        patches, rest = divmod(self.image_size, self.patch_size)
        if rest or patches % 2:
            raise ValueError(
                f"image_size {self.image_size} must be an even number of patches of "
                f"{self.patch_size} pixels: the pixel shuffle merges 2 x 2 patches"
            )


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Qwen2 (qkv bias) or Qwen3 (per-head qk-norm). A Llama without biases is the same model."""

    vocab_size: PositiveInt = 151674  # Qwen2.5's 151,665 tokens and InternVL's 9
    embed: PositiveInt = 5120
    layers: PositiveInt = 64
    heads: PositiveInt = 40
    kv_heads: PositiveInt = 8
    head_dim: PositiveInt = 128
    mlp: PositiveInt = 27648
    norm_eps: PositiveFloat = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False  # Qwen3: RMSNorm over each head
    tie_embeddings: bool = False  # the head is the embedding
    rope_theta: PositiveFloat = 1e6
    rope_factor: Annotated[float, at_least(1)] = (
        1.0  # `factor` of dynamic RoPE scaling; 1 where there is none
    )
    # What a `dynamic` rope_scaling means below `max_positions`. hf: nothing, theta stays.
    # vllm_static: vLLM scales theta at every length (Skywork's own evaluation ran on vLLM); see
    # `layers.rope_base`.
    rope_impl: Literal["hf", "vllm_static"] = "hf"
    max_positions: PositiveInt = 32768
    # Rows of the embedding and the head are padded to a multiple of this: 151,674 divides by no
    # power of two above 2, and of 1,024 each of 8 devices gets whole rows of a TPU's 128 lanes. The
    # logits of pad rows are masked, their weights never leave the program.
    vocab_multiple: PositiveInt = 1024

    @property
    def padded_vocab(self) -> int:
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def queries_per_kv(self) -> int:
        return self.heads // self.kv_heads

    def __post_init__(self):
        check(self)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} query heads do not divide over {self.kv_heads} kv heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: RoPE turns pairs")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A vision-language model, or (vision None) the language model alone."""

    text: TextConfig
    vision: VisionConfig | None
    image_token_id: int | None = 151667  # <IMG_CONTEXT>: where an image embedding goes
    end_token_id: int = 151645  # <|im_end|>
    pad_token_id: int = 151643  # <|endoftext|>
    max_tiles: PositiveInt = 12  # tiles an image, without the thumbnail
    # Name of the exported class in the original layout; vLLM knows both.
    architecture: Literal["SkyworkR1VChatModel", "InternVLChatModel"] = (
        "InternVLChatModel"
    )

    @property
    def image_tokens_per_tile(self) -> int:
        return self.vision.patches // 4

    def __post_init__(self):
        check(self)
        if (self.vision is None) != (self.image_token_id is None):
            raise ValueError(
                f"image_token_id {self.image_token_id!r} goes with a vision tower: "
                "set both or neither"
            )
        for name in ("image_token_id", "end_token_id", "pad_token_id"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.text.vocab_size:
                raise ValueError(
                    f"{name} {token} is outside the vocabulary of {self.text.vocab_size} tokens"
                )


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is run. Two runs that differ only here compute the same function."""

    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of activations, of weights in use
    )
    param_dtype: Literal["float32", "bfloat16"] = "float32"  # of stored weights
    # What a layer keeps for the backward pass, by name; see `layers.REMAT`.
    remat: Literal["none", "dots", "attention", "full"] = "attention"
    # What a product with weights is in bfloat16 before it is rounded. wide: float32, for CPUs with
    # bfloat16 units (AMX), which are not used else; see `models.products`.
    products: Literal["narrow", "wide"] = "narrow"
    # How whole rows attend. splash: a Pallas kernel, TPU only. cudnn: NVIDIA GPU, bfloat16 only.
    attention: Literal["reference", "splash", "cudnn"] = "reference"
    logprob_chunk: PositiveInt = 512  # tokens a row whose logits exist at one time
    rules: Rules = TRAIN

    __post_init__ = check


def check_attention(model: ModelConfig, compute: Compute) -> None:
    """Raises ValueError if `compute.attention` is a kernel that does not take this model."""
    if compute.attention != "cudnn":
        return
    if compute.dtype != "bfloat16":
        raise ValueError(
            f"Compute.attention 'cudnn' takes numbers of 16 bits, and Compute.dtype is "
            f"{compute.dtype!r}; dtype 'bfloat16' would do, or attention 'reference'"
        )
    for part in (model.text, model.vision):
        if part is not None and (part.head_dim % 8 or part.head_dim > 256):
            raise ValueError(
                f"Compute.attention 'cudnn' takes heads of 8, 16, 24, ... 256 numbers, and "
                f"{type(part).__name__} has heads of {part.head_dim}; attention 'reference' "
                "would do"
            )
