"""Counts what a step has to compute, and runs its matrix products and nothing else."""

import jax
import jax.numpy as jnp
from shapes import Shape

from r1v3_jax.tpu.chips import CHIPS

# Dense bfloat16 FLOP/s, from the vendors' data sheets. A key is a part of jax's `device_kind`; the
# first that is in it counts.
PEAK_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6": CHIPS["v6e"].flops,
}


def peak_flops() -> float | None:
    """Returns the peak of this process's devices; None if it is not known, as of a CPU."""
    kind = jax.devices()[0].device_kind
    for part, peak in PEAK_FLOPS.items():
        if part in kind:
            return peak
    return None


def flops(shape: Shape) -> dict[str, float]:
    """Counts the FLOPs of a step that reads each prompt once a group.

    Counted is what has to be computed, not what is: two a weight and token, causal attention, the
    head for sampled tokens only; backward is twice forward (PaLM, arXiv 2204.02311, appendix B).
    """
    text = shape.model.text
    samples = shape.prompts * shape.group_size
    prompt = shape.prompt_tokens
    sampled = shape.new_tokens
    query_width = text.heads * text.head_dim
    key_width = text.kv_heads * text.head_dim

    # 1. Weights: 2 FLOPs for each weight of the layers and each token, and for the head.
    layer_weights = text.embed * (2 * query_width + 2 * key_width + 3 * text.mlp)
    weights = text.layers * layer_weights
    tokens = shape.prompts * prompt + samples * sampled
    head_weights = text.vocab_size * text.embed
    forward = 2 * weights * tokens + 2 * head_weights * samples * sampled

    # 2. Attention: 4 for each pair of a query and a key, and number of the queries. A prompt sees
    # half of itself; a sample the whole prompt and half of itself.
    pairs_of_prompt = prompt**2 / 2
    pairs_of_sample = prompt * sampled + sampled**2 / 2
    pairs = shape.prompts * pairs_of_prompt + samples * pairs_of_sample
    forward += 4 * text.layers * query_width * pairs

    # 3. The tower and the connector.
    vision = shape.model.vision
    if vision is not None:
        positions = vision.patches + 1
        tower = vision.layers * (4 * vision.embed**2 + 2 * vision.embed * vision.mlp)
        connector = (4 * vision.embed + text.embed) * text.embed * vision.patches / 4
        attention = 2 * vision.layers * vision.embed * positions**2
        tile = tower * positions + attention + connector
        forward += shape.prompts * 2 * tile
    return {"rollout": float(forward), "update": 3.0 * forward, "step": 4.0 * forward}


@jax.jit
def products(
    layers: list[dict], head: jax.Array, x: jax.Array, tokens: jax.Array
) -> jax.Array:
    """Multiplies rows float[B, D] with the matrices of all layers and the head, `tokens` times.

    layers: 2-D matrices by name. head: [V, D]. Each product depends on the one before, or the
    compiler would leave it out.
    """

    def token(_, x):
        for weights in layers:
            query = x @ weights["q"]
            key = x @ weights["k"]
            value = x @ weights["v"]
            x = query @ weights["out"] + jnp.max(key) + jnp.max(value)
            x = (x @ weights["gate"] * (x @ weights["up"])) @ weights["down"]
            x = x / jnp.max(jnp.abs(x))
        return x + jnp.max(x @ head.T)

    return jax.lax.fori_loop(0, tokens, token, x)
