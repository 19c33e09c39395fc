"""InternViT, the vision tower: tiles -> one embedding a patch.

One definition for the published two: 300M (LayerNorm, qkv bias) and 6B (RMSNorm, no qkv bias,
RMSNorm of q and k over the full width). There is no norm after the last block. Each tile is a
sequence of its own (class token and patches), so the tower runs data-parallel over tiles; see
`sharding.Rules`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute, VisionConfig
from r1v3_jax.models.attention import attention, splash_attention
from r1v3_jax.models.layers import keep, layer_norm, param, remat, rms_norm
from r1v3_jax.sharding import gather, reshape_rows


class Block(nnx.Module):
    """The layers, stacked along a first axis [L, ...]; called, inside a scan, on one of them."""

    def __init__(self, config: VisionConfig, compute: Compute, rngs: nnx.Rngs):
        self.config, self.compute = config, compute
        L, C, N, H, F = (
            config.layers,
            config.embed,
            config.heads,
            config.head_dim,
            config.mlp,
        )

        def p(shape, axes, **init):
            return param(rngs, compute, (L, *shape), ("layers", *axes), **init)

        def norm():
            bias = p((C,), (None,)) if config.norm == "layer_norm" else None
            return p((C,), (None,), constant=1.0), bias

        self.norm1, self.norm1_bias = norm()
        self.qkv = p(
            (3, C, N, H),
            (None, "vision_embed", "vision_heads", "head_dim"),
            std=C**-0.5,
        )
        self.qkv_bias = (
            p((3, N, H), (None, "vision_heads", "head_dim"))
            if config.qkv_bias
            else None
        )
        self.q_norm = p((C,), (None,), constant=1.0) if config.qk_norm else None
        self.k_norm = p((C,), (None,), constant=1.0) if config.qk_norm else None
        self.out = p(
            (N, H, C),
            ("vision_heads", "head_dim", "vision_embed"),
            std=(2 * L * C) ** -0.5,
        )
        self.out_bias = p((C,), (None,))
        self.scale1 = p((C,), (None,), constant=1.0)  # layer scale
        self.norm2, self.norm2_bias = norm()
        self.up = p((C, F), ("vision_embed", "vision_mlp"), std=C**-0.5)
        self.up_bias = p((F,), ("vision_mlp",))
        self.down = p((F, C), ("vision_mlp", "vision_embed"), std=(2 * L * F) ** -0.5)
        self.down_bias = p((C,), (None,))
        self.scale2 = p((C,), (None,), constant=1.0)

    def norm(self, x, weight, bias):
        if self.config.norm == "layer_norm":
            return layer_norm(x, weight, bias, self.config.norm_eps)
        return rms_norm(x, weight, self.config.norm_eps)

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[I, T, C] -> float[I, T, C], T = 1 + patches."""
        x = x + self.scale1 * self.attend(self.norm(x, self.norm1, self.norm1_bias))
        h = keep(
            jnp.einsum(
                "itc,cf->itf", self.norm(x, self.norm2, self.norm2_bias), self.up
            ),
            "up",
        )
        h = jax.nn.gelu(h + self.up_bias, approximate=False)
        return x + self.scale2 * (
            jnp.einsum("itf,fc->itc", h, self.down) + self.down_bias
        )

    def attend(self, x: jax.Array) -> jax.Array:
        q, k, v = jnp.einsum("itc,pcnh->pitnh", x, self.qkv)
        if self.config.qkv_bias:
            q, k, v = q + self.qkv_bias[0], k + self.qkv_bias[1], v + self.qkv_bias[2]
        if self.config.qk_norm:
            q, k = self.wide_norm(q, self.q_norm), self.wide_norm(k, self.k_norm)
        q, k, v = (
            keep(q[:, :, :, None], "q"),
            keep(k, "k"),
            keep(v, "v"),
        )  # one query head a key head
        if self.compute.attention == "splash":
            ones = jnp.ones_like(q[:, :, 0, 0, 0], jnp.int32)
            spec = self.compute.rules.spec("tiles", None, None, None, None)
            context = splash_attention(q, k, v, ones, causal=False, q_spec=spec)
        else:
            context = keep(attention(q, k, v, None), "context")
        return (
            jnp.einsum("itnh,nhc->itc", context[:, :, :, 0], self.out) + self.out_bias
        )

    def wide_norm(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        """RMSNorm over all heads at once: the statistics are of the full width N * H, not of one
        head.
        """
        flat = x.reshape(*x.shape[:2], -1)
        return rms_norm(flat, weight, self.config.qk_norm_eps).reshape(x.shape)


class InternViT(nnx.Module):
    def __init__(self, config: VisionConfig, compute: Compute, rngs: nnx.Rngs):
        self.config, self.compute = config, compute
        C, pixels = config.embed, 3 * config.patch_size**2
        self.patch = param(
            rngs, compute, (pixels, C), (None, "vision_embed"), std=pixels**-0.5
        )
        self.patch_bias = param(rngs, compute, (C,), (None,))
        self.class_token = param(rngs, compute, (C,), (None,), std=0.5)
        self.position = param(
            rngs, compute, (1 + config.patches, C), (None, None), std=0.5
        )
        self.blocks = Block(config, compute, rngs)

    def __call__(self, tiles: jax.Array) -> jax.Array:
        """float[I, S, S, 3] normalised pixels -> float[I, patches, C] in reading order, class token
        dropped.
        """
        config, rules, dtype = (
            self.config,
            self.compute.rules,
            jnp.dtype(self.compute.dtype),
        )
        weights = gather(
            (
                self.patch[...],
                self.patch_bias[...],
                self.class_token[...],
                self.position[...],
            ),
            rules.vision_gather,
            dtype,
        )
        patch, patch_bias, class_token, position = weights
        x = (
            jnp.einsum(
                "itp,pc->itc", patches(tiles.astype(dtype), config.patch_size), patch
            )
            + patch_bias
        )
        # [class, patch, patch, ...] + position; the class token rides on position 0, whose patch is
        # zero.
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 0))) + position.at[0].add(class_token)

        def layer(x, block):
            return gather(block, rules.vision_gather, dtype)(x), None

        x, _ = jax.lax.scan(remat(layer, self.compute.remat), x, self.blocks)
        return x[:, 1:]


def patches(tiles: jax.Array, size: int) -> jax.Array:
    """[I, S, S, 3] -> [I, (S/size)^2, size*size*3]: patches in reading order, each (row, column,
    channel).
    """
    side = tiles.shape[1] // size
    x = reshape_rows(tiles, side, size, side, size, 3).swapaxes(
        2, 3
    )  # [I, row, column, row in patch, ...]
    return reshape_rows(x, side * side, size * size * 3)
