"""InternViT, the vision tower: tiles -> one embedding a patch.

One definition for the two published towers: 300M (LayerNorm, qkv bias) and 6B (RMSNorm, no qkv
bias, RMSNorm of q and k over the full width). There is no norm after the last block. Each tile is a
sequence of its own (class token and patches), so the tower runs data-parallel over tiles; see
`sharding.Rules`. Letters as in `layers.py`; here T = 1 + patches.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute, VisionConfig
from r1v3_jax.models import lora
from r1v3_jax.models.attention import attention, splash_attention
from r1v3_jax.models.attention_cudnn import cudnn_tiles
from r1v3_jax.models.layers import keep, layer_norm, param, remat, rms_norm
from r1v3_jax.models.products import product
from r1v3_jax.sharding import each_shard, gather, reshape_rows


class Block(nnx.Module):
    """The layers, stacked along a first axis [L, ...]; called, inside a scan, on one of them."""

    def __init__(
        self,
        config: VisionConfig,
        compute: Compute,
        rngs: nnx.Rngs,
        adapters: lora.Adapters | None = None,
    ):
        self.config = config
        self.compute = compute
        L = config.layers
        C = config.embed
        N = config.heads
        H = config.head_dim
        F = config.mlp
        embed = ("vision_embed",)
        heads = ("vision_heads", "head_dim")
        mlp = ("vision_mlp",)

        def p(shape, axes, **init):
            shape = (L, *shape)
            axes = ("layers", *axes)
            return param(rngs, compute, shape, axes, **init)

        def ones():
            return p((C,), (None,), constant=1.0)

        def norm():
            is_layer_norm = config.norm == "layer_norm"
            bias = p((C,), (None,)) if is_layer_norm else None
            return ones(), bias

        # An output has C or F inputs. 2 L residual branches, each of variance 1 / 2 L, add up to 1.
        input_std = C**-0.5
        attention_std = (2 * L * C) ** -0.5
        mlp_std = (2 * L * F) ** -0.5
        self.norm1, self.norm1_bias = norm()
        self.qkv = p((3, C, N, H), (None, *embed, *heads), std=input_std)
        self.qkv_bias = p((3, N, H), (None, *heads)) if config.qkv_bias else None
        self.q_norm = ones() if config.qk_norm else None
        self.k_norm = ones() if config.qk_norm else None
        self.out = p((N, H, C), (*heads, *embed), std=attention_std)
        self.out_bias = p((C,), (None,))
        self.scale1 = ones()  # layer scale
        self.norm2, self.norm2_bias = norm()
        self.up = p((C, F), (*embed, *mlp), std=input_std)
        self.up_bias = p((F,), mlp)
        self.down = p((F, C), (*mlp, *embed), std=mlp_std)
        self.down_bias = p((C,), (None,))
        self.scale2 = ones()
        self.adapters = lora.stack(self, adapters, compute, rngs)

    def norm(self, x, weight, bias):
        if self.config.norm == "layer_norm":
            return layer_norm(x, weight, bias, self.config.norm_eps)
        return rms_norm(x, weight, self.config.norm_eps)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer: float[I, T, C] -> float[I, T, C]."""
        # Two residual branches, each behind a norm and scaled by a learnt vector.
        normed = self.norm(x, self.norm1, self.norm1_bias)
        x = x + self.scale1 * self.attend(normed)

        normed = self.norm(x, self.norm2, self.norm2_bias)
        hidden = keep(product("itc,cf->itf", normed, self.up, self.compute), "up")
        hidden = jax.nn.gelu(hidden + self.up_bias, approximate=False)
        mlp = product("itf,fc->itc", hidden, self.down, self.compute)
        mlp = mlp + self.down_bias
        return x + self.scale2 * mlp

    def attend(self, x: jax.Array) -> jax.Array:
        """Attends within each tile: float[I, T, C] -> float[I, T, C]."""
        # One product for the three: p counts query, key, value.
        q, k, v = product("itc,pcnh->pitnh", x, self.qkv, self.compute)
        if self.config.qkv_bias:
            q = q + self.qkv_bias[0]
            k = k + self.qkv_bias[1]
            v = v + self.qkv_bias[2]
        if self.config.qk_norm:
            q = self.wide_norm(q, self.q_norm)
            k = self.wide_norm(k, self.k_norm)
        q = keep(q[:, :, :, None], "q")  # one query head a key head
        k = keep(k, "k")
        v = keep(v, "v")
        if self.compute.attention == "splash":
            # All tokens of a tile are one segment.
            tokens = q[:, :, 0, 0, 0]
            segment_ids = jnp.ones_like(tokens, jnp.int32)
            spec = self.compute.rules.spec("tiles", None, None, None, None)
            context = splash_attention(q, k, v, segment_ids, causal=False, q_spec=spec)
        elif self.compute.attention == "cudnn":
            context = each_shard(cudnn_tiles, q, k, v, like=q)
        else:
            context = keep(attention(q, k, v, None), "context")
        context = context[:, :, :, 0]
        return product("itnh,nhc->itc", context, self.out, self.compute) + self.out_bias

    def wide_norm(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        """Applies RMSNorm over all heads at once: its statistics are of the full width N * H."""
        flat = x.reshape(*x.shape[:2], -1)
        normed = rms_norm(flat, weight, self.config.qk_norm_eps)
        return normed.reshape(x.shape)


class InternViT(nnx.Module):
    """Patch embedding, class token, positions and layers."""

    def __init__(
        self,
        config: VisionConfig,
        compute: Compute,
        rngs: nnx.Rngs,
        adapters: lora.Adapters | None = None,
    ):
        self.config = config
        self.compute = compute
        C = config.embed
        pixels = 3 * config.patch_size**2
        tokens = 1 + config.patches
        std = pixels**-0.5

        def p(shape, axes, **init):
            return param(rngs, compute, shape, axes, **init)

        self.patch = p((pixels, C), (None, "vision_embed"), std=std)
        self.patch_bias = p((C,), (None,))
        self.class_token = p((C,), (None,), std=0.5)
        self.position = p((tokens, C), (None, None), std=0.5)
        self.blocks = Block(config, compute, rngs, adapters)

    def __call__(self, tiles: jax.Array) -> jax.Array:
        """Encodes tiles: float[I, S, S, 3] normalised pixels -> float[I, patches, C].

        Patches are in reading order; the class token is dropped.
        """
        config = self.config
        axes = self.compute.rules.vision_gather
        dtype = jnp.dtype(self.compute.dtype)
        weights = (
            self.patch[...],
            self.patch_bias[...],
            self.class_token[...],
            self.position[...],
        )
        patch, patch_bias, class_token, position = gather(weights, axes, dtype)
        pixels = patches(tiles.astype(dtype), config.patch_size)
        x = product("itp,pc->itc", pixels, patch, self.compute) + patch_bias
        # [class, patch, patch, ...] + position; the class token is added to position 0, where the
        # patch is zero.
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))
        x = x + position.at[0].add(class_token)

        # The layers are one stack [L, ...]: compiled once, gathered one at a time.
        def layer(x, block):
            weights = lora.multiplied_out(block)
            return gather(weights, axes, dtype)(x), None

        layer = remat(layer, self.compute.remat)
        x, _ = jax.lax.scan(layer, x, self.blocks)
        return x[:, 1:]


def patches(tiles: jax.Array, size: int) -> jax.Array:
    """Cuts tiles into patches in reading order: [I, S, S, 3] -> [I, (S/size)^2, size*size*3].

    The pixels of a patch are in the order (row, column, channel).
    """
    side = tiles.shape[1] // size
    # [I, patch row, row, patch column, column, 3] -> patch row and column first.
    x = reshape_rows(tiles, side, size, side, size, 3)
    x = x.swapaxes(2, 3)
    return reshape_rows(x, side * side, size * size * 3)
