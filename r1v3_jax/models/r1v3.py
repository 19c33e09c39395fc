"""The vision-language model: InternViT -> pixel shuffle -> connector -> Qwen.

One definition serves training, scoring and sampling, so that sampler and trainer cannot drift
apart. Knows ids, pixels and embeddings; no text, no files.

    model = R1V3(config, Compute(), nnx.Rngs(0))
    images = model.encode_images(tiles)                                    # once an image
    hidden = model(tokens, positions, segment_ids, images, image_index)    # packed rows
    logprobs, entropy = model.logprobs(hidden, targets)

    last, prompt = model.encode_prompts(tokens, lengths, images, image_index)
    hidden = model.extend(tokens, positions, segment_ids, prompt, prompt_of_row)  # known samples
    cache = model.new_cache(prompt, group_size=8, max_tokens=64)
    logits, cache = model.decode(tokens, cache)                            # one more token

Text-only models have `vision` None and take no images. Letters as in `layers.py`.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from r1v3_jax.config import Compute, ModelConfig
from r1v3_jax.models.caches import Cache, PromptCache
from r1v3_jax.models.internvit import InternViT
from r1v3_jax.models.joined_cache import JoinedCache
from r1v3_jax.models.layers import layer_norm, param
from r1v3_jax.models.lora import Adapters
from r1v3_jax.models.products import product
from r1v3_jax.models.qwen2 import Qwen2
from r1v3_jax.sharding import gather, look_up, replicate, reshape_rows

CONNECTOR_EPS = 1e-5  # torch's default for LayerNorm, not the tower's 1e-6


class Connector(nnx.Module):
    """`mlp1`: LayerNorm, linear, GELU, linear; from four merged patches to one token embedding."""

    def __init__(
        self,
        config: ModelConfig,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        self.compute = compute
        C = 4 * config.vision.embed
        D = config.text.embed
        matrix = ("vision_embed", "vision_mlp")

        def p(shape, axes, **init):
            return param(rngs, compute, shape, axes, **init)

        self.norm = p((C,), (None,), constant=1.0)
        self.norm_bias = p((C,), (None,))
        self.up = p((C, D), matrix, std=C**-0.5)
        self.up_bias = p((D,), (None,))
        self.down = p((D, D), matrix, std=D**-0.5)
        self.down_bias = p((D,), (None,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps merged patches to embeddings: float[I, M, 4C] -> float[I, M, D]."""
        # The weights are stored split over the devices; here they are whole, for this call.
        w = gather(self, self.compute.rules.vision_gather, x.dtype)
        x = layer_norm(x, w.norm, w.norm_bias, CONNECTOR_EPS)
        hidden = product("imc,cd->imd", x, w.up, self.compute)
        hidden = jax.nn.gelu(hidden + w.up_bias, approximate=False)
        return product("imd,de->ime", hidden, w.down, self.compute) + w.down_bias


def pixel_shuffle(x: jax.Array) -> jax.Array:
    """Merges 2 x 2 patches: [I, R*R, C] -> [I, R/2*R/2, 4C] (ps_version v2).

    patches   a b   ->   one token [a, b, c, d]: row offset, then column offset, then channel
              c d
    """
    channels = x.shape[2]
    side = math.isqrt(x.shape[1])
    half = side // 2
    # [I, i, row, j, column, C] -> [I, i, j, row, column, C]: patch (2 i + row, 2 j + column).
    x = reshape_rows(x, half, 2, half, 2, channels)
    x = x.swapaxes(2, 3)
    return reshape_rows(x, side * side // 4, 4 * channels)


class R1V3(nnx.Module):
    """The whole model; `vision` and `connector` are None if it reads text only."""

    def __init__(
        self,
        config: ModelConfig,
        compute: Compute,
        rngs: nnx.Rngs,
        adapters: Adapters | None = None,
    ):
        """Makes a model; adapters: None for whole matrices."""
        self.config = config
        self.compute = compute
        self.adapters = adapters

        def adapters_of(part: str) -> Adapters | None:
            return adapters if adapters and part in adapters.parts else None

        vision = None
        connector = None
        if config.vision is not None:
            vision = InternViT(config.vision, compute, rngs, adapters_of("vision"))
            connector = Connector(config, compute, rngs)
        self.vision = vision
        self.connector = connector
        self.language = Qwen2(config.text, compute, rngs, adapters_of("language"))

    def encode_images(self, tiles: jax.Array) -> jax.Array:
        """Returns the embeddings of M tokens a tile: float[I, S, S, 3] pixels -> float[I, M, D].

        Pixels are normalised. On a mesh I must be a multiple of its devices (pad with any tile;
        `image_index` never points at it).
        """
        size = self.config.vision.image_size
        shards = self.compute.rules.shards("tiles")
        if tiles.shape[1:] != (size, size, 3):
            raise ValueError(
                f"tiles are {tiles.shape}; this model takes [I, {size}, {size}, 3]"
            )
        # The tower has no tensor parallelism: every device encodes whole tiles.
        if tiles.shape[0] % shards:
            raise ValueError(
                f"{tiles.shape[0]} tiles cannot be split over {shards} devices; pad to a multiple"
            )
        return self.connector(pixel_shuffle(self.vision(tiles)))

    def embed(self, tokens, image_embeddings=None, image_index=None) -> jax.Array:
        """Returns float[B, T, D] for int32[B, T] tokens, with image embeddings in their places.

        image_embeddings: float[I, M, D]; image_index: int32[B, T], the row of the flattened [I * M,
        D] that goes there, -1 where there is text (made by `tokenizer.image_index`). Rows may share
        an image. With M = 256, the first token of tile 2 has index 512.
        """
        x = self.language.embed(tokens)
        if image_embeddings is None:
            return x
        # Any row may need any image, and its tile may be on another device.
        width = image_embeddings.shape[-1]
        flat = replicate(image_embeddings.reshape(-1, width))
        spec = self.compute.rules.spec("batch", None, None)
        images = look_up(flat, jnp.maximum(image_index, 0), spec)
        # The token id at an image's place is the image token's; its embedding is replaced.
        is_image = (image_index >= 0)[..., None]
        return jnp.where(is_image, images.astype(x.dtype), x)

    def __call__(
        self, tokens, positions, segment_ids, image_embeddings=None, image_index=None
    ) -> jax.Array:
        """Runs packed rows: int32[B, T] each -> hidden states float[B, T, D].

        They are for `logits` or `logprobs`.

        tokens       [ a  b  c  x  y  - ]
        segment_ids  [ 1  1  1  2  2  0 ]   0 is padding; segments never see each other
        positions    [ 0  1  2  0  1  0 ]   within the segment
        """
        x = self.embed(tokens, image_embeddings, image_index)
        return self.language(x, positions, segment_ids)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32[B, T, padded_vocab] for float[B, T, D]; see `Qwen2.logits`."""
        return self.language.logits(hidden)

    def logprobs(
        self,
        hidden: jax.Array,
        targets: jax.Array,
        *,
        temperature: float | jax.Array = 1.0,
    ):
        """Returns log p(targets) and entropy, float32[B, T] each; see `Qwen2.logprobs`."""
        return self.language.logprobs(hidden, targets, temperature=temperature)

    def encode_prompts(
        self, tokens, lengths, image_embeddings=None, image_index=None
    ) -> tuple[jax.Array, PromptCache]:
        """Returns the hidden state of each prompt's last token, float[P, D], and their cache.

        tokens int32[P, T], padded on the right; lengths int32[P].
        """
        # The tower has run before: a prompt is read once, whatever the number of its samples.
        x = self.embed(tokens, image_embeddings, image_index)
        return self.language.prefill(x, lengths)

    def prefill(
        self, tokens, lengths, image_embeddings=None, image_index=None
    ) -> tuple[jax.Array, PromptCache]:
        """Returns the logits after each prompt, float32[P, padded_vocab], and the prompts' cache.

        Arguments as in `encode_prompts`.
        """
        last, cache = self.encode_prompts(
            tokens, lengths, image_embeddings, image_index
        )
        return self.logits(last[:, None])[:, 0], cache

    def extend(
        self, tokens, positions, segment_ids, prompt: PromptCache, prompt_of_row
    ) -> jax.Array:
        """Runs samples, packed into rows that continue their prompts.

        int32[B, T] each -> hidden states float[B, T, D]; see `Qwen2.extend`.
        """
        # Samples are text: their images are in the prompts, which the cache holds.
        x = self.language.embed(tokens)
        return self.language.extend(x, positions, segment_ids, prompt, prompt_of_row)

    def new_cache(self, prompt: PromptCache, **sizes) -> Cache | JoinedCache:
        """Returns a cache without tokens for samples of these prompts; see `Qwen2.new_cache`."""
        return self.language.new_cache(prompt, **sizes)

    def decode(
        self, tokens: jax.Array, cache: Cache | JoinedCache, layers=None
    ) -> tuple[jax.Array, Cache | JoinedCache]:
        """Appends one token to each sample and returns the logits of the token after it.

        tokens int32[B], the last of each sample -> float32[B, padded_vocab], and the cache. layers:
        see `Qwen2.decode`.
        """
        # The layers and the head take rows of tokens: here rows of one.
        x = self.language.embed(tokens[:, None])[:, 0]
        hidden, cache = self.language.decode(x, cache, layers)
        return self.logits(hidden[:, None])[:, 0], cache

    def decode_several(
        self, tokens: jax.Array, cache: Cache
    ) -> tuple[jax.Array, jax.Array, Cache]:
        """Writes T tokens of each sample and returns the logits of the token after each.

        tokens int32[B, T] -> float32[B, T, padded_vocab], the hidden states that they are of,
        float[B, T, D], and the cache; see `Qwen2.decode_several` for its lengths.
        """
        x = self.language.embed(tokens)
        hidden, cache = self.language.decode_several(x, cache)
        return self.logits(hidden), hidden, cache
