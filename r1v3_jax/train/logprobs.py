"""Log p of tokens; prompts read once, samples behind them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1v3_jax.models.qwen2 import PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import merge_rows, repeat_rows, split_rows, take_rows
from r1v3_jax.types import Batch, PromptBatch, SampleRows


def token_logprobs(
    model: R1V3, batch: Batch, *, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """log p of each token of a micro-batch given those before it, and the entropy there: float32[B,
    T] each.

    A row's first token has no prediction: 0. What precedes the first token of a later segment is
    another segment; such entries mean nothing and carry no loss weight.
    """
    images = None if batch.tiles is None else model.encode_images(batch.tiles)
    hidden = model(
        batch.tokens, batch.positions, batch.segment_ids, images, batch.image_index
    )
    # hidden     [ h0  h1  h2 ]   predicts the token to its right: targets are shifted left,
    # targets    [ t1  t2  t0 ]   and the results back to where their token stands
    labels = batch.tokens if batch.labels is None else batch.labels
    out = model.logprobs(hidden, jnp.roll(labels, -1, axis=1), temperature=temperature)
    return tuple(jnp.roll(x, 1, axis=1).at[:, 0].set(0.0) for x in out)


def read_prompts(
    model: R1V3, prompts: PromptBatch, parts: int = 1
) -> tuple[jax.Array, PromptCache]:
    """The hidden state of each prompt's last token, float[P, D], and the prompts' cache: all that
    their samples need of them.

    With several parts, of tiles and of prompts, one is computed after the other, and again for its
    backward pass.
    """
    images = None
    if prompts.tiles is not None:
        images = map_in_chunks(
            model.encode_images, parts, model.compute.rules.shards("tiles")
        )(prompts.tiles[0])

    def read(*rows):
        last, cache = model.read(rows[0], rows[1], images, *rows[2:])
        return last, *(
            jnp.swapaxes(x, 0, 1) for x in (cache.k, cache.v)
        )  # prompts lead

    rows = (prompts.tokens, prompts.lengths, prompts.image_index)
    rows = [x for x in rows if x is not None]
    last, k, v = map_in_chunks(read, parts, model.compute.rules.shards("batch"))(*rows)
    k, v = jnp.swapaxes(k, 0, 1), jnp.swapaxes(v, 0, 1)
    return last, PromptCache(k=k, v=v, lengths=prompts.lengths)


def map_in_chunks(function: Callable, parts: int, shards: int) -> Callable:
    """`function` of rows [R, ...], computed for as many rows at a time as make `parts` of each
    device's, or the most below that which divide them.

        device 0: a b c d   device 1: e f g h   in two parts:   a c | e g   then   b d | f h
    """

    def whole(*rows):
        mine = len(rows[0]) // shards
        count = max(n for n in range(1, parts + 1) if mine % n == 0)
        if count == 1:
            return function(*rows)
        cut = [jnp.swapaxes(split_rows(x, len(x) // count), 0, 1) for x in rows]
        out = jax.lax.map(jax.checkpoint(lambda part: function(*part)), cut)
        return jax.tree.map(lambda x: merge_rows(jnp.swapaxes(x, 0, 1)), out)

    return whole


def sample_logprobs(
    model: R1V3,
    read: tuple[jax.Array, PromptCache],
    rows: SampleRows,
    *,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """log p of each token of a micro-batch of samples and the entropy there, float32[B, T] each,
    behind prompts as `read_prompts` left them.
    """
    last, cache = read
    hidden = model.extend(
        rows.tokens, rows.positions, rows.segment_ids, cache, rows.prompt_of_row
    )
    # tokens        [  a   b  end  u  end  - ]   a token is predicted by what stands before it:
    # segment_ids   [  1   1   1   2   2   0 ]   of a sample's first that is its prompt's last
    # hidden        [  pt  ha  hb  pt  hu    ]
    left = jnp.roll(rows.segment_ids, 1, axis=1).at[:, 0].set(0)
    begins = (rows.segment_ids != left)[..., None]
    last = repeat_rows(take_rows(last, rows.prompt_of_row), len(hidden))[:, None]
    before = jnp.where(begins, last, jnp.roll(hidden, 1, axis=1))
    return model.logprobs(before, rows.tokens, temperature=temperature)
