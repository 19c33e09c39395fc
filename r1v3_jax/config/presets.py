"""The published models by name, and two tiny ones for tests.

    from r1v3_jax.config import PRESETS
    config = PRESETS["r1v3_38b"]

Dimensions: `config.json` of the OpenGVLab/InternVL3 family and of Skywork-R1V3 (its language
model's tail was never published; the family's values stand in).
"""

import dataclasses

from r1v3_jax.config.model import ModelConfig, TextConfig, VisionConfig

INTERNVIT_300M = VisionConfig()
INTERNVIT_6B = VisionConfig(
    embed=3200,
    layers=45,
    heads=25,
    mlp=12800,
    norm="rms_norm",
    qkv_bias=False,
    qk_norm=True,
)


def _internvl3(
    vision: VisionConfig, embed: int, layers: int, heads: int, kv_heads: int, mlp: int
) -> ModelConfig:
    # Every InternVL3 language model is a Qwen2.5 with dynamic RoPE scaling of factor 2 and an
    # untied head.
    head_dim = 64 if embed == 896 else 128
    text = TextConfig(
        embed=embed,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp=mlp,
        rope_factor=2.0,
    )
    return ModelConfig(text=text, vision=vision)


# fmt: off
#                                                   embed layers heads kv    mlp
INTERNVL3_1B = _internvl3(INTERNVIT_300M,             896,  24,   14,   2,   4864)
INTERNVL3_2B = _internvl3(INTERNVIT_300M,            1536,  28,   12,   2,   8960)
INTERNVL3_8B = _internvl3(INTERNVIT_300M,            3584,  28,   28,   4,  18944)
INTERNVL3_14B = _internvl3(INTERNVIT_300M,           5120,  48,   40,   8,  13824)
INTERNVL3_38B = _internvl3(INTERNVIT_6B,             5120,  64,   40,   8,  27648)
INTERNVL3_78B = _internvl3(INTERNVIT_6B,             8192,  80,   64,   8,  29568)
# fmt: on
R1V3_38B = dataclasses.replace(INTERNVL3_38B, architecture="SkyworkR1VChatModel")

# The two towers and the two language models in miniature, with the shape ratios of the real ones.
TINY = ModelConfig(
    text=TextConfig(
        vocab_size=331,
        embed=32,
        layers=2,
        heads=8,
        kv_heads=4,
        head_dim=8,
        mlp=64,
        rope_theta=1e4,
        max_positions=512,
    ),
    vision=VisionConfig(
        image_size=28,
        patch_size=7,
        embed=40,
        layers=2,
        heads=5,
        mlp=80,
        norm="rms_norm",
        qkv_bias=False,
        qk_norm=True,
    ),
    image_token_id=9,
    end_token_id=2,
    pad_token_id=0,
    architecture="SkyworkR1VChatModel",
)
TINY_300M = dataclasses.replace(
    TINY,
    text=dataclasses.replace(
        TINY.text, layers=3, qkv_bias=False, qk_norm=True, head_dim=16
    ),
    vision=VisionConfig(
        image_size=28, patch_size=7, embed=48, layers=3, heads=4, mlp=96
    ),
    architecture="InternVLChatModel",
)

PRESETS = {
    "r1v3_38b": R1V3_38B,
    "internvl3_1b": INTERNVL3_1B,
    "internvl3_2b": INTERNVL3_2B,
    "internvl3_8b": INTERNVL3_8B,
    "internvl3_14b": INTERNVL3_14B,
    "internvl3_38b": INTERNVL3_38B,
    "internvl3_78b": INTERNVL3_78B,
    "tiny": TINY,
    "tiny_300m": TINY_300M,
}
