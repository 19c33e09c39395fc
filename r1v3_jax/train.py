"""One update: what learns, the optimizer, and the jitted step that every stage shares.

Knows losses only as functions of a model and a micro-batch.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from r1v3_jax.config import Optimizer
from r1v3_jax.models.qwen2 import PromptCache
from r1v3_jax.models.r1v3 import R1V3
from r1v3_jax.sharding import merge_rows, repeat_rows, split_rows, take_rows
from r1v3_jax.types import Batch, PromptBatch, SampleRows

PARTS = {"llm": "language", "connector": "connector", "vision": "vision"}


def trainable(names: str) -> Callable:
    """A path predicate for what learns: "all", or parts joined by "+": "connector",
    "llm+connector", ...

    Raises ValueError for a part that does not exist.
    """
    wanted = list(PARTS) if names == "all" else names.split("+")
    if unknown := [name for name in wanted if name not in PARTS]:
        raise ValueError(
            f"trainable {names!r}: no part {unknown[0]!r}; name all, or some of "
            f"{', '.join(PARTS)} joined by +"
        )
    roots = {PARTS[name] for name in wanted}
    return lambda path, value: path[0] in roots


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: int32[], updates applied; model: all weights; optimizer: moments of the trainable ones
    only.
    """

    step: jax.Array
    model: R1V3
    optimizer: optax.OptState


def make_optimizer(config: Optimizer, total_steps: int) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip; linear warm-up, then constant or cosine to
    `final_lr_fraction`.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            schedule(config, total_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(decays, params),
        ),
    )


def decays(path, _) -> bool:
    """Weight decay is for matrices: norms, biases and layer scales are left alone."""
    name = next(str(key.key) for key in reversed(path) if isinstance(key, jax.tree_util.DictKey))
    return not any(part in name for part in ("norm", "bias", "scale"))


def schedule(config: Optimizer, total_steps: int) -> optax.Schedule:
    """Learning rate by step. Defined beyond `total_steps` too, where it stays at its last value."""
    decay = max(total_steps - config.warmup_steps, 1)
    after = (
        optax.cosine_decay_schedule(config.lr, decay, config.final_lr_fraction)
        if config.schedule == "cosine"
        else optax.constant_schedule(config.lr)
    )
    warmup = optax.linear_schedule(
        0.0 if config.warmup_steps else config.lr, config.lr, max(config.warmup_steps, 1)
    )
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def create(model: R1V3, optimizer: optax.GradientTransformation, learns: Callable) -> TrainState:
    """A fresh state at step 0. Frozen parts have no optimizer state."""
    params = nnx.split(model, learns, ...)[1]
    return TrainState(step=jnp.int32(0), model=model, optimizer=jax.jit(optimizer.init)(params))


def release(model: R1V3) -> None:
    """Frees the arrays of a model that a restored state replaces: its callers still hold it."""
    for array in jax.tree.leaves(nnx.state(model)):
        array.delete()


def summed_gradients(loss: Callable, args: tuple, batch, count=None):
    """Gradients with respect to `args`, and metrics, added up in float32 over the micro-batches of
    a batch: its first `count` (int32[]; None: all N).

    loss: `(*args, micro_batch) -> (loss, metrics)`; each array of `batch` is [N, ...].
    """
    gradient = jax.value_and_grad(loss, argnums=tuple(range(len(args))), has_aux=True)

    def accumulate(i, total):
        (value, metrics), grads = gradient(*args, micro_batch(batch, i))
        return jax.tree.map(
            lambda t, x: t + x.astype(t.dtype), total, (grads, {"loss": value, **metrics})
        )

    value, metrics = jax.eval_shape(lambda: loss(*args, micro_batch(batch, 0)))
    zeros = jax.tree.map(
        lambda x: jnp.zeros_like(x, jnp.float32), (args, {"loss": value, **metrics})
    )
    count = len(jax.tree.leaves(batch)[0]) if count is None else count
    return jax.lax.fori_loop(0, count, accumulate, zeros)


def micro_batch(batch, i: jax.Array):
    """Number i of the N micro-batches in arrays [N, ...]."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), batch)


def gradients(loss_fn: Callable):
    """For `make_update`: of a loss `(model, micro_batch) -> (loss, metrics)`."""

    def of_batch(model: Callable, params, batch):
        (grads,), metrics = summed_gradients(
            lambda params, micro: loss_fn(model(params), micro), (params,), batch
        )
        return grads, metrics

    return of_batch


def make_update(
    gradients: Callable,
    optimizer: optax.GradientTransformation,
    learns: Callable,
    lr: optax.Schedule,
):
    """The jitted step `(state, batch) -> (state, metrics)`; the state is donated.

    gradients: `(model, params, batch) -> (grads, metrics)` for the whole batch, metrics with its
    loss; `model(params)` is the model with these weights where it learns. A step whose loss,
    gradient, update or moments are not finite changes nothing; its `finite` is 0 and the caller
    decides.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch) -> tuple[TrainState, dict[str, jax.Array]]:
        graph, params, frozen = nnx.split(state.model, learns, ...)
        grads, metrics = gradients(lambda params: nnx.merge(graph, params, frozen), params, batch)
        norm = optax.tree.norm(grads)
        updates, moments = optimizer.update(grads, state.optimizer, params)
        update_norm = optax.tree.norm(updates)
        # Moments too: an infinite second moment makes an update of 0, which looks well.
        sums = [jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(moments)]
        finite = jnp.isfinite(jnp.stack([norm, metrics["loss"], update_norm, *sums])).all()
        changed = optax.apply_updates(params, updates)
        params, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (changed, moments),
            (params, state.optimizer),
        )
        metrics |= {
            "grad_norm": norm,
            "update_norm": update_norm,
            "lr": lr(state.step),
            "finite": finite.astype(jnp.float32),
        }
        model = nnx.merge(graph, params, frozen)
        return TrainState(step=state.step + finite, model=model, optimizer=moments), metrics

    return update


def token_logprobs(
    model: R1V3, batch: Batch, *, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """log p of each token of a micro-batch given those before it, and the entropy there: float32[B,
    T] each.

    A row's first token has no prediction: 0. What precedes the first token of a later segment is
    another segment; such entries mean nothing and carry no loss weight.
    """
    images = None if batch.tiles is None else model.encode_images(batch.tiles)
    hidden = model(batch.tokens, batch.positions, batch.segment_ids, images, batch.image_index)
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
        images = in_parts(model.encode_images, parts, model.compute.rules.shards("tiles"))(
            prompts.tiles[0]
        )

    def read(*rows):
        last, cache = model.read(rows[0], rows[1], images, *rows[2:])
        return last, *(jnp.swapaxes(x, 0, 1) for x in (cache.k, cache.v))  # prompts lead

    rows = (prompts.tokens, prompts.lengths, prompts.image_index)
    rows = [x for x in rows if x is not None]
    last, k, v = in_parts(read, parts, model.compute.rules.shards("batch"))(*rows)
    k, v = jnp.swapaxes(k, 0, 1), jnp.swapaxes(v, 0, 1)
    return last, PromptCache(k=k, v=v, lengths=prompts.lengths)


def in_parts(function: Callable, parts: int, shards: int) -> Callable:
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
    model: R1V3, read: tuple[jax.Array, PromptCache], rows: SampleRows, *, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """log p of each token of a micro-batch of samples and the entropy there, float32[B, T] each,
    behind prompts as `read_prompts` left them.
    """
    last, cache = read
    hidden = model.extend(rows.tokens, rows.positions, rows.segment_ids, cache, rows.owner)
    # tokens        [  a   b  end  u  end  - ]   a token is predicted by what stands before it:
    # segment_ids   [  1   1   1   2   2   0 ]   of a sample's first that is its prompt's last
    # hidden        [  pt  ha  hb  pt  hu    ]
    left = jnp.roll(rows.segment_ids, 1, axis=1).at[:, 0].set(0)
    begins = (rows.segment_ids != left)[..., None]
    last = repeat_rows(take_rows(last, rows.owner), len(hidden))[:, None]
    before = jnp.where(begins, last, jnp.roll(hidden, 1, axis=1))
    return model.logprobs(before, rows.tokens, temperature=temperature)
