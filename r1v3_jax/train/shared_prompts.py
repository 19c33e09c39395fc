"""Gradients of losses over samples whose prompts are read once."""

from collections.abc import Callable

import jax

from r1v3_jax.models.caches import PromptCache
from r1v3_jax.slices import sum_over_slices
from r1v3_jax.train.logprobs import read_prompts
from r1v3_jax.train.update import summed_gradients
from r1v3_jax.types import PolicyBatch


def gradients(
    loss: Callable,
    model: Callable,
    params,
    batch: PolicyBatch,
    prompt_parts: int,
    *,
    finish: Callable = lambda metrics: metrics,
):
    """Returns the gradients of a whole batch, and its metrics, added up over micro-batches.

    Prompts are read once, forward and backward, whatever the number of their samples; the
    micro-batches add up the gradients with respect to what they use of the prompts.

        params -> keys, values and last states of the prompts -> loss of each micro-batch
               ----------------------------------------------->

    loss: `(model, read, rows) -> (loss, metrics)`; `read` is what `logprobs.read_prompts` returns,
    `rows` one micro-batch of `types.SampleRows`. model: see `train.update.make_update`. finish:
    makes the metrics of the batch of those sums.
    """

    def read(params):
        last, cache = read_prompts(model(params), batch.prompts, prompt_parts)
        return last, cache.k, cache.v

    def loss_of_rows(params, prompts, rows):
        last, k, v = prompts
        cache = PromptCache(k=k, v=v, lengths=batch.prompts.lengths)
        return loss(model(params), (last, cache), rows)

    # 1. Forward through the prompts.
    prompts, pull_back = jax.vjp(read, params)

    # 2. Forward and backward through the samples.
    (grads, prompt_grads), metrics = summed_gradients(
        loss_of_rows, (params, prompts), batch.rows, batch.used
    )
    metrics = finish(sum_over_slices(metrics))

    # 3. Backward through the prompts.
    prompt_grads = jax.tree.map(lambda g, x: g.astype(x.dtype), prompt_grads, prompts)
    (through_prompts,) = pull_back(prompt_grads)
    grads = jax.tree.map(lambda g, x: g + x.astype(g.dtype), grads, through_prompts)
    return sum_over_slices(grads), metrics
