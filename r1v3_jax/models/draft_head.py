"""A draft head: guesses the tokens behind the next one from the policy's last hidden state.

One layer of the policy's own kind behind a matrix that joins what the policy knew (its last hidden
state) with what it has said since (the token). Embedding, last product and vocabulary are the
policy's: the head has no copy of them. It has no cache: it sees the hidden state, in which the
policy has gathered all that came before, and its own guesses of this pass.

    policy   ... p q r        hidden state h, which predicts a: it is drawn
    head     h, a -> g1       predicts b
             g1, b -> g2      predicts c, and attends to (h, a) too

So it is one step of EAGLE (arXiv 2401.15077) without the cache, or of Hydra (arXiv 2402.05109) with
a whole layer. Letters as in `layers.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute, TextConfig
from r1v3_jax.models.layers import param, rms_norm, rope_angles
from r1v3_jax.models.products import product
from r1v3_jax.models.qwen2_layers import Block
from r1v3_jax.sharding import gather

# Keys and values of one guess, [B, T, K, H] each.
Seen = tuple[tuple[jax.Array, jax.Array], ...]


class DraftHead(nnx.Module):
    """Guesses for passes of `tokens` tokens: the drawn one and `tokens` - 1 guesses."""

    def __init__(
        self, config: TextConfig, compute: Compute, rngs: nnx.Rngs, tokens: int
    ):
        self.config = dataclasses.replace(config, layers=1)
        self.compute = compute
        self.tokens = tokens
        D = config.embed
        self.hidden_norm = param(rngs, compute, (D,), (None,), constant=1.0)
        self.token_norm = param(rngs, compute, (D,), (None,), constant=1.0)
        # The first half of its rows reads the hidden state, the second the token.
        fuse = (2 * D, D)
        self.fuse = param(rngs, compute, fuse, ("mlp", "embed"), std=(2 * D) ** -0.5)
        self.block = Block(self.config, compute, rngs)
        self.norm = param(rngs, compute, (D,), (None,), constant=1.0)

    def __call__(
        self, hidden: jax.Array, embedded: jax.Array, seen: Seen = ()
    ) -> tuple[jax.Array, Seen]:
        """Returns the hidden states that predict the tokens behind these, and what was seen.

        hidden: float[B, T, D], what predicted the tokens; embedded: float[B, T, D], their
        embeddings. The T places of a row know nothing of each other. seen: what the calls before
        have returned, for the second guess and those behind it.
        """
        rules = self.compute.rules
        eps = self.config.norm_eps
        rows = rules.spec("batch", None, None)
        weights = gather(nnx.state(self), rules.text_gather, hidden.dtype)
        head = nnx.merge(nnx.graphdef(self), weights)

        # 1. What the policy knew and what it said, as one vector.
        parts = (
            rms_norm(hidden, head.hidden_norm[...], eps),
            rms_norm(embedded, head.token_norm[...], eps),
        )
        joined = jnp.concatenate(parts, axis=-1)
        split = rules.spec("batch", None, "mlp")
        if split is not None:
            joined = jax.reshard(joined, split)
        x = product("btf,fd->btd", joined, head.fuse, self.compute, out_sharding=rows)

        # 2. One layer. Only differences of positions matter, and they are those of the guesses.
        place = jnp.full(x.shape[:2], len(seen), jnp.int32)
        angles = rope_angles(place, self.config)
        found = []

        def attend(q, k, v):
            found.append((*seen, (k, v)))
            return attend_to_guesses(q, found[0])

        block = jax.tree.map(lambda weight: weight[0], head.block)
        x = block(x, angles, attend)
        return rms_norm(x, head.norm[...], eps), found[0]


def attend_to_guesses(q: jax.Array, seen: Seen) -> jax.Array:
    """Returns attention of each place to its own guesses: q [B, T, K, Q, H] -> the same shape."""
    keys = jnp.stack([k for k, _ in seen], axis=2)  # [B, T, S, K, H]
    values = jnp.stack([v for _, v in seen], axis=2)
    exact = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("btkqh,btskh->btkqs", q, keys, **exact)
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1)
    rounded = weights.astype(values.dtype)
    return jnp.einsum("btkqs,btskh->btkqh", rounded, values, **exact).astype(q.dtype)
