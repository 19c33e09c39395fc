"""Counts a model's parameters and the FLOPs of training it, from its config alone."""

from r1v3_jax.config import ModelConfig, Run, TextConfig, VisionConfig


def model_flops(
    config: Run,
    tokens: int,
    keys: float,
    trainable: str = "all",
) -> float:
    """Returns the FLOPs of learning from `tokens` of text that see `keys` tokens on average.

    6 N D and attention, as in PaLM (arXiv 2204.02311), appendix B; N is the language model without
    its embedding. The tower is left out, and so is what is computed twice.
    """
    # Forward 2, gradient of the activations 2, gradient of the weights 2; frozen weights have none.
    learns = {"all", "llm"} & set(trainable.split("+"))
    passes = 6 if learns else 4
    text = config.model.text
    query = text.heads * text.head_dim
    key = text.kv_heads * text.head_dim
    columns = 2 * query + 2 * key + 3 * text.mlp  # q, out; k, v; gate, up, down
    layer = text.embed * columns
    head = text.vocab_size * text.embed
    weights = text.layers * layer + head
    attention = 12 * text.layers * query * keys
    return (passes * weights + attention) * tokens


def num_params(config: ModelConfig) -> int:
    """Counts the parameters of a model, without the pad rows of the vocabulary."""
    # The connector: norm with bias, two matrices with bias; its input are 2 x 2 patches.
    total = _text_params(config.text)
    if config.vision is None:
        return total
    shuffled = 4 * config.vision.embed
    embed = config.text.embed
    norm = 2 * shuffled
    hidden = shuffled * embed + embed
    output = embed**2 + embed
    connector = norm + hidden + output
    return total + _vision_params(config.vision) + connector


def _text_params(text: TextConfig) -> int:
    query = text.heads * text.head_dim
    key = text.kv_heads * text.head_dim
    matrices = text.embed * (2 * query + 2 * key)  # q, out; k, v
    biases = text.qkv_bias * (query + 2 * key)
    qk_norms = text.qk_norm * 2 * text.head_dim
    mlp = 3 * text.embed * text.mlp  # gate, up, down
    norms = 2 * text.embed
    layer = matrices + biases + qk_norms + mlp + norms
    tables = 1 if text.tie_embeddings else 2
    table = text.vocab_size * text.embed
    last_norm = text.embed
    return text.layers * layer + last_norm + tables * table


def _vision_params(vision: VisionConfig) -> int:
    C = vision.embed
    matrices = 4 * C**2 + C  # q, k, v, out, and the bias of out
    biases = vision.qkv_bias * 3 * C
    qk_norms = vision.qk_norm * 2 * C
    hidden = C * vision.mlp + vision.mlp
    output = vision.mlp * C + C
    norms = 2 * C * (2 if vision.norm == "layer_norm" else 1)  # LayerNorm has a bias
    scales = 2 * C
    attention = matrices + biases + qk_norms
    layer = attention + hidden + output + norms + scales
    patch = 3 * vision.patch_size**2 * C + C
    class_token = C
    positions = (vision.patches + 1) * C
    return vision.layers * layer + patch + class_token + positions
