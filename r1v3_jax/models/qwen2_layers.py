"""The layers of the language model, stacked (`Block`), and one of them for a single CPU.

Knows weights, products, norms and positions; what a token attends to is given to it. Letters as in
`layers.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r1v3_jax.config import Compute, TextConfig
from r1v3_jax.models import lora
from r1v3_jax.models.layers import keep, param, rms_norm, rotate
from r1v3_jax.models.products import product, project


class Block(nnx.Module):
    """The layers, stacked along a first axis [L, ...]; called, inside a scan, on one of them."""

    def __init__(
        self,
        config: TextConfig,
        compute: Compute,
        rngs: nnx.Rngs,
        adapters: lora.Adapters | None = None,
    ):
        self.config = config
        self.compute = compute
        L = config.layers
        D = config.embed
        F = config.mlp
        K = config.kv_heads
        Q = config.queries_per_kv
        H = config.head_dim
        query = ("kv_heads", None, "head_dim")
        key = ("kv_heads", "head_dim")
        has_bias = config.qkv_bias
        has_norm = config.qk_norm

        def p(shape, axes, **init):
            shape = (L, *shape)
            axes = ("layers", *axes)
            return param(rngs, compute, shape, axes, **init)

        def ones(size):
            return p((size,), (None,), constant=1.0)

        # An output has D inputs. 2 L residual branches, each of variance 1 / 2 L, add up to 1.
        input_std = D**-0.5
        attention_std = (2 * L * K * Q * H) ** -0.5
        mlp_std = (2 * L * F) ** -0.5
        self.norm1 = ones(D)
        self.q = p((D, K, Q, H), ("embed", *query), std=input_std)
        self.k = p((D, K, H), ("embed", *key), std=input_std)
        self.v = p((D, K, H), ("embed", *key), std=input_std)
        self.q_bias = p((K, Q, H), query) if has_bias else None
        self.k_bias = p((K, H), key) if has_bias else None
        self.v_bias = p((K, H), key) if has_bias else None
        self.q_norm = ones(H) if has_norm else None
        self.k_norm = ones(H) if has_norm else None
        self.out = p((K, Q, H, D), (*query, "embed"), std=attention_std)
        self.norm2 = ones(D)
        self.gate = p((D, F), ("embed", "mlp"), std=input_std)
        self.up = p((D, F), ("embed", "mlp"), std=input_std)
        self.down = p((F, D), ("mlp", "embed"), std=mlp_std)
        self.adapters = lora.stack(self, adapters, compute, rngs)

    def __call__(self, x: jax.Array, angles, attend) -> jax.Array:
        """Applies the layer: float[B, T, D] -> float[B, T, D].

        `attend(q, k, v)` -> context [B, T, K, Q, H] is what differs between training, prefill and
        decoding.
        """
        spec = self.compute.rules.spec("batch", None, None)
        eps = self.config.norm_eps
        h = rms_norm(x, self.norm1[...], eps)
        context = attend(*self.qkv(h, angles))
        x = keep(x + self.attended(context), "middle")

        h = rms_norm(x, self.norm2[...], eps)
        gate, up = self.gate_and_up(h)
        hidden = jax.nn.silu(gate) * up
        compute = self.compute
        return x + product("btf,fd->btd", hidden, self.down, compute, out_sharding=spec)

    def qkv(self, h: jax.Array, angles) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns q [B, T, K, Q, H] and k, v [B, T, K, H], with biases, norms and positions."""
        q, k, v = self.projections(h)
        if self.config.qkv_bias:
            q = q + self.q_bias
            k = k + self.k_bias
            v = v + self.v_bias
        if self.config.qk_norm:
            eps = self.config.norm_eps
            q = rms_norm(q, self.q_norm[...], eps)
            k = rms_norm(k, self.k_norm[...], eps)
        q = keep(rotate(q, *angles), "q")
        k = keep(rotate(k, *angles), "k")
        return q, k, keep(v, "v")

    def projections(self, h: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the products of `qkv`, without biases, norms and positions."""
        q = product("btd,dkqh->btkqh", h, self.q, self.compute)
        k = product("btd,dkh->btkh", h, self.k, self.compute)
        v = product("btd,dkh->btkh", h, self.v, self.compute)
        return q, k, v

    def attended(self, context: jax.Array) -> jax.Array:
        """Returns float[B, T, D] for the context [B, T, K, Q, H] of all heads."""
        # Tensor parallelism: each device holds some heads and some of the MLP; this sum and that of
        # `down` run over all devices.
        compute = self.compute
        spec = compute.rules.spec("batch", None, None)
        return product("btkqh,kqhd->btd", context, self.out, compute, out_sharding=spec)

    def gate_and_up(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the MLP's two products of h, float[B, T, F] each."""
        gate = keep(project(h, self.gate[...], self.compute), "gate")
        up = keep(project(h, self.up[...], self.compute), "up")
        return gate, up


class MergedBlock(Block):
    """One layer, whose matrices of the same input are one matrix: for decoding on one CPU.

    Products are fewer and larger. The columns cannot be split over devices.
    """

    def __init__(self, block: Block):
        self.config = block.config
        self.compute = block.compute
        names = ("norm1", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm")
        for name in (*names, "norm2", "down"):
            setattr(self, name, getattr(block, name))
        self.qkv_weight = self._beside(block.q, block.k, block.v)
        self.gate_and_up_weight = self._beside(block.gate, block.up)
        spec = self.compute.rules.spec("mlp", "embed")
        flat = (-1, self.config.embed)
        self.out = jnp.reshape(block.out[...], flat, out_sharding=spec)

    def _beside(self, *weights) -> jax.Array:
        """Returns matrices [D, ...] side by side, [D, N]."""
        spec = self.compute.rules.spec("embed", "mlp")
        flat = [jnp.reshape(w[...], (len(w), -1), out_sharding=spec) for w in weights]
        return jnp.concatenate(flat, axis=1)

    def projections(self, h: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        c = self.config
        products = product("btd,dn->btn", h, self.qkv_weight, self.compute)
        ends = np.cumsum([c.kv_heads * c.queries_per_kv, c.kv_heads]) * c.head_dim
        q, k, v = jnp.split(products, ends, axis=-1)
        key = (*h.shape[:2], c.kv_heads, c.head_dim)
        query = (*key[:3], c.queries_per_kv, c.head_dim)
        key_spec = self.compute.rules.spec("batch", None, "kv_heads", None)
        query_spec = self.compute.rules.spec("batch", None, "kv_heads", None, None)
        q = jnp.reshape(q, query, out_sharding=query_spec)
        k = jnp.reshape(k, key, out_sharding=key_spec)
        return q, k, jnp.reshape(v, key, out_sharding=key_spec)

    def attended(self, context: jax.Array) -> jax.Array:
        compute = self.compute
        spec = compute.rules.spec("batch", None, None)
        flat = compute.rules.spec("batch", None, "kv_heads")
        context = jnp.reshape(context, (*context.shape[:2], -1), out_sharding=flat)
        return product("btn,nd->btd", context, self.out, compute, out_sharding=spec)

    def gate_and_up(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        products = product("btd,dn->btn", h, self.gate_and_up_weight, self.compute)
        return products[..., : self.config.mlp], products[..., self.config.mlp :]
