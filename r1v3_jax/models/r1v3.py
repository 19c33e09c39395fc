"""The vision-language model: InternViT -> pixel shuffle -> connector -> Qwen, for training, scoring
and sampling.

One definition serves all three, so that sampler and trainer cannot drift apart. Knows ids, pixels
and embeddings; no text, no files.

    model = R1V3(config, Compute(), nnx.Rngs(0))
    images = model.encode_images(tiles)                                    # once an image
    hidden = model(tokens, positions, segment_ids, images, image_index)    # packed rows
    logprobs, entropy = model.logprobs(hidden, targets)
    last, prompt = model.read(tokens, lengths, images, image_index)        # prompts; behind them
    hidden = model.extend(tokens, positions, segment_ids, prompt, owner)   # samples that are there,
    logits, cache = model.decode(tokens, cache)                            # or one more token

Text-only models have `vision` None and take no images.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.models.internvit import InternViT
from r1v3_jax.models.layers import layer_norm, param
from r1v3_jax.models.qwen2 import Cache, PromptCache, Qwen2
from r1v3_jax.sharding import gather, replicate, reshape_rows


class Connector(nnx.Module):
    """`mlp1`: LayerNorm, linear, GELU, linear; from four merged patches to one token embedding."""

    def __init__(self, config: ModelConfig, compute: Compute, rngs: nnx.Rngs):
        self.compute = compute
        C, D = 4 * config.vision.embed, config.text.embed
        self.norm = param(rngs, compute, (C,), (None,), constant=1.0)
        self.norm_bias = param(rngs, compute, (C,), (None,))
        self.up = param(
            rngs, compute, (C, D), ("vision_embed", "vision_mlp"), std=C**-0.5
        )
        self.up_bias = param(rngs, compute, (D,), (None,))
        self.down = param(
            rngs, compute, (D, D), ("vision_embed", "vision_mlp"), std=D**-0.5
        )
        self.down_bias = param(rngs, compute, (D,), (None,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[I, M, 4C] -> float[I, M, D]."""
        w = gather(self, self.compute.rules.vision_gather, x.dtype)
        x = layer_norm(
            x, w.norm, w.norm_bias, 1e-5
        )  # torch's default eps, not the tower's 1e-6
        x = jax.nn.gelu(
            jnp.einsum("imc,cd->imd", x, w.up) + w.up_bias, approximate=False
        )
        return jnp.einsum("imd,de->ime", x, w.down) + w.down_bias


def pixel_shuffle(x: jax.Array) -> jax.Array:
    """Merges 2 x 2 patches: [I, R*R, C] -> [I, R/2*R/2, 4C] (ps_version v2).

    patches   a b   ->   one token [a, b, c, d]: row offset, then column offset, then channel
              c d
    """
    side, channels = math.isqrt(x.shape[1]), x.shape[2]
    x = reshape_rows(x, side // 2, 2, side // 2, 2, channels).swapaxes(
        2, 3
    )  # [I, i, j, row, column, C]
    return reshape_rows(x, side * side // 4, 4 * channels)


class R1V3(nnx.Module):
    def __init__(self, config: ModelConfig, compute: Compute, rngs: nnx.Rngs):
        self.config, self.compute = config, compute
        self.vision = (
            None if config.vision is None else InternViT(config.vision, compute, rngs)
        )
        self.connector = (
            None if config.vision is None else Connector(config, compute, rngs)
        )
        self.language = Qwen2(config.text, compute, rngs)

    def encode_images(self, tiles: jax.Array) -> jax.Array:
        """float[I, S, S, 3] normalised pixels -> float[I, M, D], the embeddings of M tokens a tile.

        On a mesh I must be a multiple of its devices (pad with any tile; `image_index` never points
        at it).
        """
        size, shards = self.config.vision.image_size, self.compute.rules.shards("tiles")
        if tiles.shape[1:] != (size, size, 3):
            raise ValueError(
                f"tiles are {tiles.shape}; this model takes [I, {size}, {size}, 3]"
            )
        if tiles.shape[0] % shards:
            raise ValueError(
                f"{tiles.shape[0]} tiles cannot be split over {shards} devices; pad to a multiple"
            )
        return self.connector(pixel_shuffle(self.vision(tiles)))

    def embed(self, tokens, image_embeddings=None, image_index=None) -> jax.Array:
        """int32[B, T] -> float[B, T, D], image embeddings in their places.

        image_embeddings: float[I, M, D]; image_index: int32[B, T], the row of the flattened [I * M,
        D] that goes there, -1 where there is text (`tokens.image_index` makes it). Rows may share
        an image.
        """
        x = self.language.embed(tokens)
        if image_embeddings is None:
            return x
        flat = replicate(image_embeddings.reshape(-1, image_embeddings.shape[-1]))
        spec = self.compute.rules.spec("batch", None, None)
        images = flat.at[jnp.maximum(image_index, 0)].get(out_sharding=spec)
        return jnp.where((image_index >= 0)[..., None], images.astype(x.dtype), x)

    def __call__(
        self, tokens, positions, segment_ids, image_embeddings=None, image_index=None
    ) -> jax.Array:
        """Packed rows, int32[B, T] each -> hidden states float[B, T, D], for `logits` or
        `logprobs`.

        tokens       [ a  b  c  x  y  - ]
        segment_ids  [ 1  1  1  2  2  0 ]   0 is padding; segments never see each other
        positions    [ 0  1  2  0  1  0 ]   within the segment
        """
        x = self.embed(tokens, image_embeddings, image_index)
        return self.language(x, positions, segment_ids)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float[B, T, D] -> float32[B, T, padded_vocab]; see `Qwen2.logits`."""
        return self.language.logits(hidden)

    def logprobs(
        self, hidden: jax.Array, targets: jax.Array, *, temperature: float = 1.0
    ):
        """log p(targets) and entropy, float32[B, T] each, in chunks; see `Qwen2.logprobs`."""
        return self.language.logprobs(hidden, targets, temperature=temperature)

    def read(
        self, tokens, lengths, image_embeddings=None, image_index=None
    ) -> tuple[jax.Array, PromptCache]:
        """Prompts int32[P, T], padded on the right, of int32[P] lengths -> the hidden state of each
        one's last token, float[P, D], and their cache.
        """
        return self.language.prefill(
            self.embed(tokens, image_embeddings, image_index), lengths
        )

    def prefill(
        self, tokens, lengths, image_embeddings=None, image_index=None
    ) -> tuple[jax.Array, PromptCache]:
        """As `read`, with the logits that follow each prompt: float32[P, padded_vocab]."""
        last, cache = self.read(tokens, lengths, image_embeddings, image_index)
        return self.logits(last[:, None])[:, 0], cache

    def extend(
        self, tokens, positions, segment_ids, prompt: PromptCache, owner
    ) -> jax.Array:
        """Samples int32[B, T] packed into rows behind their prompts -> hidden states float[B, T,
        D]; see `Qwen2.extend`.
        """
        x = self.language.embed(tokens)
        return self.language.extend(x, positions, segment_ids, prompt, owner)

    def new_cache(self, prompt: PromptCache, **sizes) -> Cache:
        """An empty cache for samples of these prompts; see `Qwen2.new_cache`."""
        return self.language.new_cache(prompt, **sizes)

    def decode(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """int32[B], the last token of each sample -> the logits of the next, float32[B,
        padded_vocab], and the cache with the token appended.
        """
        hidden, cache = self.language.decode(
            self.language.embed(tokens[:, None])[:, 0], cache
        )
        return self.logits(hidden[:, None])[:, 0], cache
