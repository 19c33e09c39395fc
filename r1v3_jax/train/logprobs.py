"""Log-probabilities of tokens: of packed rows, and of samples behind prompts that are read once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1v3_jax.models.caches import PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import merge_rows, repeat_rows, split_rows, take_rows
from r1v3_jax.types import Batch, PromptBatch, SampleRows


def token_logprobs(
    model: R1V3, batch: Batch, *, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Returns log p of each token of a micro-batch given the tokens before it, and the entropy.

    float32[B, T] each. A row's first token has no prediction: 0. What precedes the first token of a
    later segment is another segment; such entries mean nothing and carry no loss weight.
    """
    images = None if batch.tiles is None else model.encode_images(batch.tiles)
    hidden = model(
        batch.tokens, batch.positions, batch.segment_ids, images, batch.image_index
    )
    # hidden     [ h0  h1  h2 ]   predicts the token to its right: targets are shifted left,
    # targets    [ t1  t2  t0 ]   and the results back to where their token is
    labels = batch.tokens if batch.labels is None else batch.labels
    shifted = model.logprobs(
        hidden, jnp.roll(labels, -1, axis=1), temperature=temperature
    )
    return tuple(jnp.roll(x, 1, axis=1).at[:, 0].set(0.0) for x in shifted)


def read_prompts(
    model: R1V3, prompts: PromptBatch, parts: int = 1
) -> tuple[jax.Array, PromptCache]:
    """Returns all that samples need of their prompts.

    That is the hidden state of each prompt's last token, float[P, D], and the prompts' cache. With
    several parts, of tiles and of prompts, one is computed after the other, and again for its
    backward pass.
    """
    rules = model.compute.rules
    images = None
    if prompts.tiles is not None:
        encode = map_in_chunks(model.encode_images, parts, rules.shards("tiles"))
        images = encode(prompts.tiles[0])

    def read(tokens, lengths, *image_index):
        last, cache = model.encode_prompts(tokens, lengths, images, *image_index)
        # The cache is [L, P, ...]; chunks are cut along the first axis, so prompts come first.
        k = jnp.swapaxes(cache.k, 0, 1)
        v = jnp.swapaxes(cache.v, 0, 1)
        return last, k, v

    rows = [prompts.tokens, prompts.lengths]
    if prompts.image_index is not None:
        rows.append(prompts.image_index)
    last, k, v = map_in_chunks(read, parts, rules.shards("batch"))(*rows)
    cache = PromptCache(
        k=jnp.swapaxes(k, 0, 1), v=jnp.swapaxes(v, 0, 1), lengths=prompts.lengths
    )
    return last, cache


def map_in_chunks(function: Callable, chunks: int, shards: int) -> Callable:
    """Applies `function` to its rows chunk by chunk, to save memory.

    Rows [R, ...] are split evenly over `shards` devices; each device's rows are cut into `chunks`
    parts, or the next smaller number that divides them.

        device 0: a b c d   device 1: e f g h   in two chunks:   a c | e g   then   b d | f h
    """

    def mapped(*rows):
        a_device = len(rows[0]) // shards
        count = max(n for n in range(1, chunks + 1) if a_device % n == 0)
        if count == 1:
            return function(*rows)
        # [R, ...] -> [count, R / count, ...]: every chunk has rows of all devices.
        cut = [jnp.swapaxes(split_rows(x, len(x) // count), 0, 1) for x in rows]
        out = jax.lax.map(jax.checkpoint(lambda chunk: function(*chunk)), cut)
        return jax.tree.map(lambda x: merge_rows(jnp.swapaxes(x, 0, 1)), out)

    return mapped


def sample_logprobs(
    model: R1V3,
    read: tuple[jax.Array, PromptCache],
    rows: SampleRows,
    *,
    temperature: float | jax.Array = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Returns log p of each token of a micro-batch of samples, and the entropy there.

    float32[B, T] each. read: the prompts, as `read_prompts` returns them.
    """
    hidden = hidden_before(model, read, rows)
    return model.logprobs(hidden, rows.tokens, temperature=temperature)


def hidden_before(
    model: R1V3, read: tuple[jax.Array, PromptCache], rows: SampleRows
) -> jax.Array:
    """Returns the hidden states that predict each token of a micro-batch, float[B, T, D].

    read: the prompts, as `read_prompts` returns them.
    """
    last, cache = read
    hidden = model.extend(
        rows.tokens, rows.positions, rows.segment_ids, cache, rows.prompt_of_row
    )
    # tokens        [  a   b  end  u  end  - ]   a token is predicted by what precedes it: for a
    # segment_ids   [  1   1   1   2   2   0 ]   sample's first token that is its prompt's last
    # hidden        [  pt  ha  hb  pt  hu    ]
    segment_before = jnp.roll(rows.segment_ids, 1, axis=1).at[:, 0].set(0)
    begins_sample = (rows.segment_ids != segment_before)[..., None]
    last = repeat_rows(take_rows(last, rows.prompt_of_row), len(hidden))[:, None]
    return jnp.where(begins_sample, last, jnp.roll(hidden, 1, axis=1))
