"""Parameters and FLOPs, counted once for all who ask."""

from r1v3_jax.config import ModelConfig, Run

# -------------------------------------------------------------------------------------------------
# what it adds up to


def model_flops(config: Run, tokens: int, keys: float, trainable: str = "all") -> float:
    """FLOPs of learning from `tokens` of text that see `keys` tokens on average: 6 N D and
    attention, as in PaLM (arXiv 2204.02311), appendix B; N is the language model without its
    embedding. 4 N D where it is frozen: its weights have no gradient. The tower is left out, and so
    is what is computed twice.
    """
    passes = 6 if {"all", "llm"} & set(trainable.split("+")) else 4
    t = config.model.text
    q, kv = t.heads * t.head_dim, t.kv_heads * t.head_dim
    weights = t.layers * t.embed * (2 * q + 2 * kv + 3 * t.mlp) + t.vocab_size * t.embed
    return (passes * weights + 12 * t.layers * q * keys) * tokens


def num_params(config: ModelConfig) -> int:
    """Parameters of a model, pad rows of the vocabulary not counted."""
    t = config.text
    q, kv = t.heads * t.head_dim, t.kv_heads * t.head_dim
    attention = (
        t.embed * (2 * q + 2 * kv)
        + t.qkv_bias * (q + 2 * kv)
        + t.qk_norm * 2 * t.head_dim
    )
    layer = attention + 3 * t.embed * t.mlp + 2 * t.embed
    total = (
        t.layers * layer
        + t.embed
        + (1 if t.tie_embeddings else 2) * t.vocab_size * t.embed
    )
    if config.vision is None:
        return total
    v = config.vision
    norm = v.embed * (2 if v.norm == "layer_norm" else 1)
    attention = (
        4 * v.embed**2 + v.embed + v.qkv_bias * 3 * v.embed + v.qk_norm * 2 * v.embed
    )
    layer = attention + 2 * v.embed * v.mlp + v.mlp + v.embed + 2 * norm + 2 * v.embed
    patch = 3 * v.patch_size**2 * v.embed + v.embed
    total += v.layers * layer + patch + v.embed + (v.patches + 1) * v.embed
    shuffled = 4 * v.embed
    return total + 2 * shuffled + shuffled * t.embed + t.embed + t.embed**2 + t.embed
