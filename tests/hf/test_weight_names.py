"""Names and shapes of the tensors are the published ones."""

import numpy as np
import torch
from checkpoints_for_tests import (
    read_tensors,
    vision_language,
    write_checkpoint,
)

from r1v3_jax import hf
from r1v3_jax.config import PRESETS, TINY, TINY_300M
from r1v3_jax.hf.weights import pieces
from r1v3_jax.models.flops import num_params


def original_scheme(
    *, layers, rms, qkv_bias, qk_norm, text_layers, q_bias, head_norm
) -> set[str]:
    """Names of Skywork-R1V3's and InternVL3's files."""
    names = {
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.position_embedding",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.patch_embedding.bias",
        "mlp1.0.weight",
        "mlp1.0.bias",
        "mlp1.1.weight",
        "mlp1.1.bias",
        "mlp1.3.weight",
        "mlp1.3.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
    }
    for i in range(layers):
        block = f"vision_model.encoder.layers.{i}"
        names |= {
            f"{block}.attn.qkv.weight",
            f"{block}.attn.proj.weight",
            f"{block}.attn.proj.bias",
            f"{block}.mlp.fc1.weight",
            f"{block}.mlp.fc1.bias",
            f"{block}.mlp.fc2.weight",
            f"{block}.mlp.fc2.bias",
            f"{block}.norm1.weight",
            f"{block}.norm2.weight",
            f"{block}.ls1",
            f"{block}.ls2",
        }
        if not rms:
            names |= {f"{block}.norm1.bias", f"{block}.norm2.bias"}
        if qkv_bias:
            names |= {f"{block}.attn.qkv.bias"}
        if qk_norm:
            names |= {f"{block}.attn.q_norm.weight", f"{block}.attn.k_norm.weight"}
    for i in range(text_layers):
        block = f"language_model.model.layers.{i}"
        names |= {
            f"{block}.self_attn.q_proj.weight",
            f"{block}.self_attn.k_proj.weight",
            f"{block}.self_attn.v_proj.weight",
            f"{block}.self_attn.o_proj.weight",
            f"{block}.mlp.gate_proj.weight",
            f"{block}.mlp.up_proj.weight",
            f"{block}.mlp.down_proj.weight",
            f"{block}.input_layernorm.weight",
            f"{block}.post_attention_layernorm.weight",
        }
        if q_bias:
            names |= {f"{block}.self_attn.{p}_proj.bias" for p in "qkv"}
        if head_norm:
            names |= {f"{block}.self_attn.{p}_norm.weight" for p in "qk"}
    return names


def test_original_names_of_both_towers_are_the_published_ones():
    rms = {piece.name for piece in pieces(TINY, "original")}
    assert rms == original_scheme(
        layers=2,
        rms=True,
        qkv_bias=False,
        qk_norm=True,
        text_layers=2,
        q_bias=True,
        head_norm=False,
    )
    layer_norm = {piece.name for piece in pieces(TINY_300M, "original")}
    assert layer_norm == original_scheme(
        layers=3,
        rms=False,
        qkv_bias=True,
        qk_norm=False,
        text_layers=3,
        q_bias=False,
        head_norm=True,
    )


def test_r1v3_38b_has_the_published_shapes_and_size():
    """Shapes: Skywork-R1V3's files. 38,388,164,992 parameters."""
    shapes = {p.name: p.shape for p in pieces(PRESETS["r1v3_38b"], "original")}
    vision, text = "vision_model.encoder.layers.44", "language_model.model.layers.63"
    wanted = {
        "vision_model.embeddings.class_embedding": (1, 1, 3200),
        "vision_model.embeddings.position_embedding": (1, 1025, 3200),
        "vision_model.embeddings.patch_embedding.weight": (3200, 3, 14, 14),
        f"{vision}.attn.qkv.weight": (9600, 3200),
        f"{vision}.attn.q_norm.weight": (3200,),
        f"{vision}.attn.k_norm.weight": (3200,),
        f"{vision}.attn.proj.weight": (3200, 3200),
        f"{vision}.mlp.fc1.weight": (12800, 3200),
        f"{vision}.mlp.fc2.weight": (3200, 12800),
        f"{vision}.ls1": (3200,),
        "mlp1.0.weight": (12800,),
        "mlp1.1.weight": (5120, 12800),
        "mlp1.3.weight": (5120, 5120),
        "language_model.model.embed_tokens.weight": (151674, 5120),
        "language_model.lm_head.weight": (151674, 5120),
        f"{text}.self_attn.q_proj.weight": (5120, 5120),
        f"{text}.self_attn.k_proj.weight": (1024, 5120),
        f"{text}.self_attn.q_proj.bias": (5120,),
        f"{text}.mlp.gate_proj.weight": (27648, 5120),
        f"{text}.mlp.down_proj.weight": (5120, 27648),
    }
    assert {name: shapes[name] for name in wanted} == wanted
    assert (
        sum(np.prod(shape, dtype=np.int64) for shape in shapes.values())
        == 38_388_164_992
    )
    assert num_params(PRESETS["r1v3_38b"]) == 38_388_164_992
    assert f"{vision.replace('44', '45')}.ls1" not in shapes


def test_the_fused_qkv_is_q_then_k_then_v(tmp_path):
    """The rows of transformers' three projections, one below the other; biases too."""
    source = vision_language("layernorm-qwen3", seed=5)
    write_checkpoint(tmp_path / "in", source, "hf", "float32")
    hf.save(hf.load(tmp_path / "in"), tmp_path / "out", "original")
    got = read_tensors(tmp_path / "out")
    for i, layer in enumerate(source.model.vision_tower.encoder.layer):
        q, k, v = layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj
        name = f"vision_model.encoder.layers.{i}.attn.qkv"
        assert torch.equal(
            got[f"{name}.weight"], torch.cat([q.weight, k.weight, v.weight])
        )
        assert torch.equal(got[f"{name}.bias"], torch.cat([q.bias, k.bias, v.bias]))
